"""What ranks do together, as the broker keeps it until it is complete. A copy of this file is in every handout."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Operation:
    """A collective, a send or a receive, with the parts that have come.

    Attributes:
        ranks: who takes part, in the group's order; the source first, the destination last.
        parts: rank -> its tensors. numbers: rank -> its own number for this operation.
    """

    name: str
    ranks: tuple[int, ...]
    root: int | None = None
    reduction: str | None = None
    tag: int = 0
    parts: dict[int, list] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)

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
