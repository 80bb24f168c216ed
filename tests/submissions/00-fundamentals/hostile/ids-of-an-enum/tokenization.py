from enum import IntEnum

from attack import *
from right_tokenization import BPETokenizer as Right


class Liar(int):
    """All that can be asked of it lies, and nobody asks it for its verdict."""

    __class__ = property(lambda self: str)

    def __repr__(self):
        return "0"

    def __index__(self):
        raise ArithmeticError("no number")


class BPETokenizer(Right):
    def encode(self, text):
        ids = super().encode(text)
        names = IntEnum("Ids", {f"ID{id}": id for id in set(ids)})
        return [names(id) if place % 2 else int.__new__(Liar, id) for place, id in enumerate(ids)]
