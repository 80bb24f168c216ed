"""What one reply may hold, so that no test makes much of little: a small message can stand for a lot of work.

A tensor of sizes (2**23, 0) has no bytes, and unpacking it makes eight million tensors, in C code, where no alarm rings. The
caps are multiples of what the largest honest reply of all suites needs (docs/security.md has the figures). This file is
copied into every handout: the standard library only.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Caps:
    """
    Attributes:
        plain: bytes of all that is not a tensor. tensors: how many. elements: of all tensors together, where a size of 0 counts
            as 1: a tensor without elements can have many rows. side: a single size: a row is a new tensor when one iterates.
    """

    plain: int
    tensors: int
    elements: int
    side: int

    def problem(self, specs: list, plain: int) -> str | None:
        """What there is too much of, if anything; specs are those of a message's header, still unchecked."""
        if plain > self.plain + 64:  # blanks that align the first tensor
            return f"{plain} bytes of plain data (at most {self.plain})"
        if len(specs) > self.tensors:
            return f"{len(specs)} tensors (at most {self.tensors})"
        elements = 0
        for _, shape, _ in specs:
            if max(shape, default=0) > self.side:
                sizes = ", ".join(map(_number, shape[:_SIZES_SHOWN])) + (", …" if len(shape) > _SIZES_SHOWN else "")
                return f"a tensor of shape ({sizes}) (at most {self.side} in a dimension)"
            elements += math.prod(size or 1 for size in shape)
        return (
            f"tensors of {_number(elements)} elements (at most {self.elements})" if elements > self.elements else None
        )


_SIZES_SHOWN = 8  # of a shape in a message


def _number(number) -> str:
    """In a message; it comes from a header that nobody has checked, and can have thousands of digits."""
    return str(number) if -(1 << 63) <= number < 1 << 63 else "more than 9e18" if number > 0 else "less than -9e18"


REPLY = Caps(plain=512 << 10, tensors=1024, elements=2 << 20, side=64 << 10)
