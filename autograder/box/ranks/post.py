"""A rank's message that it begins an operation, checked by the grader: whatever it holds comes from student code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import BadReply
from .collectives import COLLECTIVES, REDUCING, REDUCTIONS, ROOTED

_LONGEST_NAME = 200  # of a group: the broker keeps it
_MOST_TAG = 1 << 31  # torch's own has 32 bits
# What else there was would be words that nobody counts.
_FIELDS = frozenset("post id group ranks tensors root reduction peer tag".split())


@dataclass(frozen=True)
class Message:
    """An operation that a rank began, as the grader saw it: what `student.on(ranks=…).traffic` lists.

    Attributes:
        rank: who. operation: "all_reduce", "send" … ranks: the members of its group.
        peer: the other side of a send or receive, the root of a broadcast and its like; None for the others.
        shapes: of the tensors that the rank gave to it. bytes: their size in all, and of a tag that is not 0.
        news: about how many bytes of the tensors' values the rank had not sent before in this call (news.py): next to none of zeros.
    """

    rank: int
    operation: str
    ranks: tuple[int, ...]
    peer: int | None
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    news: int


@dataclass(frozen=True)
class Post:
    """What a rank posts.

    Attributes:
        name: "send", "recv" or a collective. number: the rank's own, for this operation.
        group: its name and its members, `ranks`. tensors: what the rank gives.
        root: place in ranks. peer: a rank, of sends and receives; None receives from any. tag: of sends and receives.
    """

    name: str
    number: int
    group: tuple[str, tuple[int, ...]]
    tensors: list[torch.Tensor]
    root: int | None
    reduction: str | None
    peer: int | None
    tag: int

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.group[1]

    def message(self, rank: int, news: int) -> Message:
        peer = self.peer if self.root is None else self.ranks[self.root]
        shapes = tuple(tuple(tensor.shape) for tensor in self.tensors)
        return Message(rank, self.name, self.ranks, peer, shapes, size_of(self.tensors) + size_of_tag(self.tag), news)


def read(message: dict, rank: int, size: int) -> Post:
    """The post in a message of `rank`, one of `size`.

    Raises:
        BadReply: there is none in it.
    """
    get: Callable[[str], Any] = message.get  # of any type, until it is checked
    name, ranks, tensors = get("post"), get("ranks"), get("tensors")
    root, peer = get("root"), get("peer")
    group, reduction = get("group"), get("reduction")
    good = (
        _FIELDS.issuperset(message)
        and type(name) is str
        and (name in COLLECTIVES or name in ("send", "recv"))
        and type(message.get("id")) is int
        and type(message.get("tag")) is int
        and (abs(message["tag"]) < _MOST_TAG if name in ("send", "recv") else message["tag"] == 0)
        and _is_name(group)
        and type(ranks) is list
        and all(type(each) is int and 0 <= each < size for each in ranks)
        and rank in ranks
        and len(set(ranks)) == len(ranks)
        and _is_place(root, ranks, wanted=name in ROOTED)
        and _is_place(peer, ranks, wanted=name == "send")
        and (type(reduction) is str and reduction in REDUCTIONS if name in REDUCING else reduction is None)
    )
    if not good:
        raise BadReply("a rank sent something that is not a message between ranks")
    if name in ("send", "recv") and (len(ranks) == 1 or (peer is not None and ranks[peer] == rank)):
        raise BadReply(f"rank {rank} calls {name} with itself")
    if not (type(tensors) is list and all(type(tensor) is torch.Tensor for tensor in tensors)):
        raise BadReply(f"rank {rank} gives {name} something that cannot be sent")
    peer = None if peer is None else ranks[peer]
    return Post(name, message["id"], (group, tuple(ranks)), tensors, root, reduction, peer, message["tag"])


_SIZE = 8  # bytes of one size of a shape, as the wire could send it


def size_of(tensors) -> int:
    """Bytes of tensors in all; of one without elements its sizes are what it says."""
    return sum(tensor.numel() * tensor.element_size() or tensor.dim() * _SIZE for tensor in tensors)


_TENSOR = 1024  # bytes that a tensor costs besides its own


def weight_of(tensors) -> int:
    """Bytes that it takes to keep them."""
    return size_of(tensors) + _TENSOR * len(tensors)


def size_of_tag(tag: int) -> int:
    """Bytes that a tag can say: who receives by one tag of 256 is told a byte, without a tensor."""
    return tag.bit_length() // 8 + 1 if tag else 0


def _is_name(text):
    return type(text) is str and len(text) <= _LONGEST_NAME


def _is_place(place, ranks, wanted):
    return (type(place) is int and 0 <= place < len(ranks)) or (place is None and not wanted)
