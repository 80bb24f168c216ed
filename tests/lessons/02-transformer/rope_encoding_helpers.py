"""What the hidden tests of rope_encoding share: frequencies and rotations in float64, and the mistakes that are known.

Where the student's own frequencies are wrong, a rotation by them is right in its own test; and where apply_rope is wrong,
a layer that turns as it does. So a mistake costs the tests that are about it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shared import each, nearly

# ---------------------------------------------------------------------------------------------- frequencies: the truth


def theta(dim, base=10000.0, exponent=lambda i, dim: 2 * i / dim):
    return base ** -exponent(torch.arange(dim // 2, dtype=torch.float64), dim)


THETA_MISTAKES = {  # sentence -> a function of (dim, base)
    "the exponent is -i / dim; it should be -2i / dim": partial(theta, exponent=lambda i, dim: i / dim),
    "the exponent is -4i / dim; it should be -2i / dim": partial(theta, exponent=lambda i, dim: 4 * i / dim),
    "the exponent is positive; it should be -2i / dim, so that each pair turns more slowly than the one before": partial(
        theta, exponent=lambda i, dim: -2 * i / dim
    ),
    "i is counted from 1; it should start at 0, so that the first pair turns by one radian": partial(
        theta, exponent=lambda i, dim: 2 * (i + 1) / dim
    ),
    "the exponent is -i / (dim / 2 - 1); it should be -2i / dim": partial(
        theta, exponent=lambda i, dim: i / (dim / 2 - 1)
    ),
    "base is ignored; 10000 should only be its default": lambda dim, base: theta(dim),
    "base is 1000 by default; it should be 10000": lambda dim, base: theta(dim, 1000.0),
    "the frequencies are divided by 2π; they should be in radians": lambda dim, base: theta(dim, base) / (2 * math.pi),
    "wavelengths are returned; it should be the radians by which a pair turns from one position to the next": lambda dim, base: (
        2 * math.pi / theta(dim, base)
    ),
    "the slowest pair comes first; it should come last": lambda dim, base: theta(dim, base).flip(0),
}


def of_transformers(dim, base, scaling):
    """What `transformers` makes of these rope parameters, without its attention factor."""
    config = SimpleNamespace(
        rope_parameters={"rope_theta": base, **scaling}, head_dim=dim, hidden_size=dim, num_attention_heads=1,
        max_position_embeddings=4096, standardize_rope_params=lambda: None,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[scaling["type"]](config, "cpu")[0].double()


def linear_scaling(dim, base, s, plain=theta):
    return plain(dim, base) / s["factor"]


def ntk(dim, base, s, plain=theta, power=lambda dim: dim / (dim - 2)):
    return plain(dim, base * s["factor"] ** power(dim))


def rounded(low, high, truncate):
    return (math.floor(low), math.ceil(high)) if truncate else (low, high)


@dataclass(frozen=True)
class Yarn:
    """YaRN's frequencies as a list of steps, which are right; a mistake replaces one."""

    plain: Callable = theta
    betas: Callable = lambda s: (s.get("beta_fast", 32), s.get("beta_slow", 1))
    pair: Callable = lambda dim, base, turns: dim * math.log(turns / (2 * math.pi)) / (2 * math.log(base))
    rounded: Callable = rounded
    limited: Callable = lambda low, high, dim: (max(low, 0), min(high, dim - 1))
    ramp: Callable = lambda i, low, high: ((i - low) / (high - low)).clamp(0, 1)
    blend: Callable = lambda plain, ramp, factor: (1 - ramp) * plain + ramp * plain / factor


def yarn(dim, base, s, plain=theta, **steps):
    do, length = Yarn(plain, **steps), s["original_max_position_embeddings"]
    low, high = (do.pair(dim, base, length / beta) for beta in do.betas(s))
    low, high = do.limited(*do.rounded(low, high, s.get("truncate", True)), dim)
    high += 0.001 * (low == high)  # a step, without a division by zero
    ramp = do.ramp(torch.arange(dim // 2).double(), low, high)
    return do.blend(do.plain(dim, base), ramp, s["factor"])


def llama3(dim, base, s, plain=theta, wave=lambda plain: 2 * math.pi / plain, blend=lambda short, plain, slow: short * plain + (1 - short) * slow):  # fmt: skip
    """Llama 3's frequencies. short: 1 for short waves, 0 for long ones, and between them in the middle."""
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    plain = plain(dim, base)
    short = ((s["original_max_position_embeddings"] / wave(plain) - low) / (high - low)).clamp(0, 1)
    return blend(short, plain, plain / s["factor"])


# ---------------------------------------------------------------------------------------------- frequencies: compared


def frequencies(value, truth, mistakes):
    """For `check(**…)`: in proportion, as the slowest pair is thousands of times slower than the first. float64 is welcome."""

    def proportion(freq):
        right_kind = isinstance(freq, torch.Tensor) and freq.shape == truth.shape and not freq.is_complex()
        return (freq.double() / truth).float() if right_kind else freq

    return {
        "value": proportion(value),
        "expected": proportion(truth),
        "terms": 16,
        "mistakes": each(mistakes, proportion),
    }


def usable(freq, dim):
    """Whether one can turn by these frequencies of the student's, right or wrong."""
    is_tensor = isinstance(freq, torch.Tensor) and freq.shape == (dim // 2,) and freq.is_floating_point()
    return is_tensor and bool((freq.isfinite() & (freq > 0)).all())


# ---------------------------------------------------------------------------------------------- rotations


def angles_of(positions, dim, base=10000.0):
    return positions.double()[..., None] * theta(dim, base)


def turn(x, angles, pairs="neighbours", *, back=None, signs=(-1, 1), table=None, late=False):
    """x with its pairs turned, in float64. angles broadcast to (..., T, D / 2); the other keywords are mistakes:

    back: how the pairs are put together; signs: of the two sines; late: the new first number makes the second; table:
    how a table of D angles is laid out, if not as the pairs are.
    """
    x = x.double()
    if table is not None:
        doubled = angles.repeat_interleave(2, -1) if table == "neighbours" else torch.cat([angles, angles], -1)
        quarter = turn(x, torch.full((1, x.shape[-1] // 2), math.pi / 2), pairs)
        return x * doubled.cos() + quarter * doubled.sin()
    a, b = (x[..., 0::2], x[..., 1::2]) if pairs == "neighbours" else x.chunk(2, dim=-1)
    first = a * angles.cos() + signs[0] * b * angles.sin()
    turned = [first, b * angles.cos() + signs[1] * (first if late else a) * angles.sin()]
    return torch.stack(turned, -1).flatten(-2) if (back or pairs) == "neighbours" else torch.cat(turned, -1)


def own_rotations(x, positions, base, pairs, freq, applied):
    """(x turned by the student's own parts, how exactly that is known), if these turn x at all, and frequencies are wrong."""
    D, found = x.shape[-1], []
    if usable(freq, D) and not nearly(freq / theta(D, base), torch.ones(D // 2)):
        angles = positions.double()[..., None] * freq.double()
        found.append((turn(x, angles, pairs), 1e-5 + 2e-7 * angles.max().item()))  # freq is float32
    if isinstance(applied, torch.Tensor) and applied.shape == x.shape:
        found.append((applied.double(), 1e-5))
    return [
        (turned, exact)
        for turned, exact in found
        if exact < 0.1 and 0.3 < turned.norm() / x.norm() < 3 and not nearly(turned, x, 0.001)
    ]


def nearly_one(value, other, within=1e-5):
    return isinstance(value, torch.Tensor) and nearly(value, other, within)
