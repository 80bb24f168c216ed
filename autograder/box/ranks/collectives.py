"""What each rank gets from a collective, given what each rank put in: pure functions of tensors, run by the grader.

The tensors are plain ones that came through the wire. Everything is reduced in the order of the ranks, so that all of them
get the same bits.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import torch

REDUCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "avg": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}
Lists = list[list[torch.Tensor]]  # one list of tensors a rank


class Disagreement(Exception):
    """The ranks' parts do not make one collective."""


def combine(name: str, given: Lists, ranks: Sequence[int], root: int | None, reduction: str | None) -> Lists:
    """The results of each rank.

    Args:
        name: a key of COLLECTIVES. given: the tensors of each rank. ranks: their names, for messages.
        root: place of the root among them. reduction: how tensors become one, a key of REDUCTIONS.

    Raises:
        Disagreement: the parts do not fit together.
    """
    try:
        return COLLECTIVES[name](_Parts(given, ranks, root, reduction))
    except (RuntimeError, TypeError) as error:  # torch's own: a dtype that it cannot add
        raise Disagreement(str(error)) from None


class _Parts:
    """The parts of one collective."""

    def __init__(self, given, ranks, root, reduction):
        self.given, self.ranks, self.root, self.reduction = given, ranks, root, reduction

    def together(self):
        return functools.reduce(operator.add, self.given)

    def columns(self) -> Lists:
        """What each rank is given by all: given[j][i] goes to rank i."""
        for rank, tensors in zip(self.ranks, self.given, strict=True):
            if len(tensors) != len(self.ranks):
                raise Disagreement(f"rank {rank} gives {len(tensors)} tensors to {len(self.ranks)} ranks")
        return [list(column) for column in zip(*self.given, strict=True)]

    def reduced(self, given: Lists) -> list[torch.Tensor]:
        """The tensors of all ranks as one list."""
        reduction = REDUCTIONS[self.reduction]
        for rank, tensors in zip(self.ranks, given, strict=True):
            if _kinds(tensors) != _kinds(given[0]):
                first, other = _listed(given[0]), _listed(tensors)
                raise Disagreement(f"rank {self.ranks[0]} gives {first}, rank {rank} gives {other}")
        totals = [functools.reduce(reduction, tensors) for tensors in zip(*given, strict=True)]
        return [total / len(given) for total in totals] if self.reduction == "avg" else totals

    def for_all(self, tensors) -> Lists:
        return [tensors] * len(self.ranks)

    def for_root(self, tensors) -> Lists:
        return [tensors if place == self.root else [] for place in range(len(self.ranks))]


def _broadcast(parts):
    source = parts.given[parts.root]
    return [[] if place == parts.root else source for place in range(len(parts.ranks))]


def _scatter(parts):
    source = parts.given[parts.root]
    if len(source) != len(parts.ranks):
        raise Disagreement(f"the root gives {len(source)} tensors to {len(parts.ranks)} ranks")
    return [[tensor] for tensor in source]


def _reduce_scatter(parts):
    return [parts.reduced([[tensor] for tensor in column]) for column in parts.columns()]


COLLECTIVES = {
    "barrier": lambda parts: parts.for_all([]),
    "broadcast": _broadcast,
    "all_reduce": lambda parts: parts.for_all(parts.reduced(parts.given)),
    "reduce": lambda parts: parts.for_root(parts.reduced(parts.given)),
    "all_gather": lambda parts: parts.for_all(parts.together()),
    "gather": lambda parts: parts.for_root(parts.together()),
    "scatter": _scatter,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": lambda parts: parts.columns(),
}
ROOTED = ("broadcast", "reduce", "gather", "scatter")
REDUCING = ("all_reduce", "reduce", "reduce_scatter")


def _kinds(tensors):
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


def _listed(tensors):
    kinds = [f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in _kinds(tensors[:3])]
    return ", ".join(kinds) or "nothing"
