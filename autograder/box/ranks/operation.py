"""What ranks do together, as the broker keeps it until it is complete. A copy of this file is in every handout."""

from collections import defaultdict, deque
from collections.abc import Callable, Set
from dataclasses import dataclass, field

# Where all ranks wait in the same.
ADVICE = {"send": "; one of them should receive first", "recv": "; one of them should send first"}


@dataclass(eq=False)
class Operation:
    """A collective, a send or a receive, with the parts that have come.

    Attributes:
        ranks: who takes part, in the group's order; the source first, the destination last.
        parts: rank -> its tensors. numbers: rank -> its own number for this operation. times: rank -> when it began (order.py);
            of a send that has been received, those of both sides.
        queue: where it waits for the others' parts, a key of Queues.
    """

    name: str
    ranks: tuple[int, ...]
    root: int | None = None
    reduction: str | None = None
    tag: int = 0
    parts: dict[int, list] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    times: dict[int, tuple[int, ...]] = field(default_factory=dict)
    queue: tuple = ()

    def __str__(self):
        tag = f" with tag {self.tag}" if self.tag else ""
        if self.name == "send":
            return f"send to rank {self.ranks[-1]}{tag}"
        if self.name == "recv":
            return f"recv from rank {' or '.join(map(str, self.ranks[:-1]))}{tag}"
        root = "" if self.root is None else f" with root {self.ranks[self.root]}"
        return self.name + root + ("" if self.reduction is None else f" ({self.reduction})")

    def missing(self):
        return [rank for rank in self.ranks if rank not in self.numbers]

    def gone(self, returned: Set[int]) -> int | None:
        """A rank whose part will never come; any one sender is enough for a receive from any."""
        missing = self.missing()
        gone = [rank for rank in missing if rank in returned]
        enough = len(missing) if self.name == "recv" else 1
        return gone[0] if len(gone) >= enough else None

    def waiting(self, says: str) -> dict[int, str]:
        """For each rank that takes part what it hears: a sentence in which {} is what it waits for."""
        return {rank: says.format(f"rank {rank} is waiting in {self}") for rank in self.numbers}

    def disagreement(self, rank: int, other: "Operation") -> tuple[dict[int, str], str]:
        """What each rank hears where `rank` has called another operation, and all that there is to say."""
        says = "the ranks disagree: {}; they should call the same, in the same order"
        calls = {each: f"rank {each} calls {other if each == rank else self}" for each in self.numbers}
        told = {each: says.format(f"{call}, another rank does not") for each, call in calls.items()}
        return told, says.format(", ".join(calls[each] for each in sorted([next(iter(calls)), rank])))


class Queues:
    """Operations that lack a part, each queue in the order in which they came; an empty one is gone."""

    def __init__(self):
        self._queues: dict[tuple, dict[Operation, None]] = {}

    def __len__(self):
        return sum(map(len, self._queues.values()))

    def first(self, queue: tuple, fits: Callable[[Operation], bool]) -> Operation | None:
        return next(filter(fits, self._queues.get(queue, ())), None)

    def add(self, queue: tuple, operation: Operation) -> None:
        operation.queue = queue
        self._queues.setdefault(queue, {})[operation] = None

    def remove(self, operation: Operation) -> None:
        """It is complete or given up; one that waits nowhere stays where it is."""
        waiting = self._queues.get(operation.queue, {})
        waiting.pop(operation, None)
        if not waiting:
            self._queues.pop(operation.queue, None)


class Errors:
    """The last errors that ranks were told of: a rank hears its own words, a reader of its exception all that there is to say."""

    def __init__(self):
        self._by_rank: dict[int, deque[tuple[str, str]]] = defaultdict(lambda: deque(maxlen=8))

    def clear(self) -> None:
        self._by_rank.clear()

    def note(self, rank: int, told: str, whole: str) -> None:
        self._by_rank[rank].appendleft((told, whole))

    def in_full(self, rank: int, text: str) -> str:
        """The text, with all that there is to say in the place of what the rank was told."""
        found = [pair for pair in self._by_rank[rank] if pair[0] in text]
        told, whole = max(found, key=lambda pair: len(pair[0]), default=("", ""))
        return text.replace(told, whole, 1) if told else text
