"""What the hidden tests of rope_encoding share: the frequencies in float64, and the mistakes that are known.

Where the student's own frequencies are wrong, a rotation by them is right in its own test; and where apply_rope is wrong,
a layer that turns as it does. So a mistake costs the tests that are about it.
"""

import math
from functools import partial

import torch


def theta(dim, base=10000.0, exponent=lambda i, dim: 2 * i / dim):
    return base ** -exponent(torch.arange(dim // 2, dtype=torch.float64), dim)


THETA_MISTAKES = {  # sentence -> a function of (dim, base)
    "the exponent is -i / dim; it should be -2i / dim": partial(theta, exponent=lambda i, dim: i / dim),
    "the exponent is -4i / dim; it should be -2i / dim": partial(theta, exponent=lambda i, dim: 4 * i / dim),
    "the exponent is positive; it should be -2i / dim, so that each pair turns more slowly than the one before": partial(theta, exponent=lambda i, dim: -2 * i / dim),
    "i is counted from 1; it should start at 0, so that the first pair turns by one radian": partial(theta, exponent=lambda i, dim: 2 * (i + 1) / dim),
    "the exponent is -i / (dim / 2 - 1); it should be -2i / dim": partial(theta, exponent=lambda i, dim: i / (dim / 2 - 1)),
    "base is ignored; 10000 should only be its default": lambda dim, base: theta(dim),
    "base is 1000 by default; it should be 10000": lambda dim, base: theta(dim, 1000.0),
    "the frequencies are divided by 2π; they should be in radians": lambda dim, base: theta(dim, base) / (2 * math.pi),
    "wavelengths are returned; it should be the radians by which a pair turns from one position to the next": lambda dim, base: 2 * math.pi / theta(dim, base),
    "the slowest pair comes first; it should come last": lambda dim, base: theta(dim, base).flip(0),
}  # fmt: skip


def usable(freq, dim):
    """Whether one can turn by these frequencies of the student's, right or wrong."""
    is_tensor = isinstance(freq, torch.Tensor) and freq.shape == (dim // 2,) and freq.is_floating_point()
    return is_tensor and bool((freq.isfinite() & (freq > 0)).all())
