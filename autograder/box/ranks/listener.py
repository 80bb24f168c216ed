"""What ranks tell that talk over real gloo (box/inside/gloo.py): the traffic of their call, its times, and what each is doing now.

It stands where the broker stands when grading, and has no part in what it hears of. For authors and in handouts, never for
grades: nothing here guards against forgery. A copy of this file is in every handout.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import BadReply
from .news import News
from .post import Message


@dataclass
class Event:
    """Something that took time on a rank, for pictures only: no verdict depends on it.

    Attributes:
        rank: whose. name: of the operation, or what `span` was given. is_span: whether it is the latter.
        begin, end: seconds since the call began; an operation that never ended has end None.
        waited: since when the rank did nothing else than wait for its end; None if it never did.
        ranks: the members of its group. peer: as of a Message. tag, group: what parts sends from others.
        bytes: that the rank gave to it.
    """

    rank: int
    name: str
    is_span: bool
    begin: float
    end: float | None
    waited: float | None = None
    ranks: tuple[int, ...] = ()
    peer: int | None = None
    tag: int = 0
    group: str = ""
    bytes: int = 0

    def __str__(self):
        if self.name in ("send", "recv"):
            other = "any rank" if self.peer is None else f"rank {self.peer}"
            return f"{self.name} {'to' if self.name == 'send' else 'from'} {other}"
        return self.name + ("" if self.peer is None else f" with root {self.peer}")


class Listener:
    """Hears one team of `size` ranks, for as long as their processes live.

    Attributes:
        traffic: the operations since the last `begin`, in the order in which they were heard of. events: all that took time.
    """

    patience_s: float | None = 2.0  # gloo tells nobody that a rank has given up: who waits for it would wait for ever

    def __init__(self, size: int):
        self._size = size
        self.begin()

    def begin(self) -> None:
        """All ranks run again."""
        self._start = time.perf_counter()
        self.traffic: list[Message] = []
        self._news = News()
        self.events: list[Event] = []
        self._open: dict[tuple[int, int], Event] = {}  # (rank, its number for the operation)
        self._returned: set[int] = set()
        self._failed: set[int] = set()

    def returned(self, rank: int) -> None:
        self._returned.add(rank)

    def in_full(self, rank: int, text: str) -> str:
        """A text of the rank's as it is: gloo itself says what is wrong."""
        return text

    def failed(self, rank: int) -> bool:
        """Whether gloo let an operation of the rank fail: mostly since another rank is gone."""
        return rank in self._failed

    def lost(self, rank: int) -> str:
        """What the rank is told of a message that would be lost over gloo: nothing, here it was lost."""
        return ""

    def handle(self, rank: int, message: dict[str, Any]) -> None:
        """Takes one message of a rank."""
        try:
            self._hear(rank, message)
        except (KeyError, TypeError, ValueError):
            raise BadReply("a rank sent something that is not a message about its operations") from None

    def answers(self) -> Iterator[tuple[int, dict]]:
        """None: nobody asks."""
        return iter(())

    def __str__(self):
        return self.doing(range(self._size))

    def doing(self, ranks: Iterable[int]) -> str:
        return ", ".join(f"rank {rank} {self._doing(rank)}" for rank in ranks)

    def _doing(self, rank):
        if rank in self._returned:
            return "has returned"
        waits = [event for (whose, _), event in self._open.items() if whose == rank and event.waited is not None]
        return f"is waiting in {waits[-1]}" if waits else "computes"

    def _hear(self, rank, message):
        if "span" in message:
            begin, end = message["from"] - self._start, message["to"] - self._start
            self.events.append(Event(rank, message["span"], True, begin, end))
        elif "begin" in message:
            self._begins(rank, message)
        elif "wait" in message:
            if (rank, message["wait"]) in self._open:
                self._open[rank, message["wait"]].waited = message["at"] - self._start
        elif (rank, message["end"]) in self._open:
            self._open.pop((rank, message["end"])).end = message["at"] - self._start
            if message["failed"]:
                self._failed.add(rank)

    def _begins(self, rank, message):
        ranks, name = tuple(message["ranks"]), message["begin"]
        place = message["peer"] if message["root"] is None else message["root"]
        peer = None if place is None else ranks[place]
        event = Event(rank, name, False, message["at"] - self._start, None, None, ranks, peer)
        event.tag, event.group, event.bytes = message["tag"], message["group"], message["bytes"]
        self._open[rank, message["id"]] = event
        self.events.append(event)
        heads = [
            head for head in message["heads"] if isinstance(head, torch.Tensor)
        ]  # gloo carries more dtypes than the wire
        shapes, news = tuple(map(tuple, message["shapes"])), self._news.of(rank, heads)
        self.traffic.append(Message(rank, name, ranks, peer, shapes, message["bytes"], news))
