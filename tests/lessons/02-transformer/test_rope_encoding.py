"""Hidden tests of rope_encoding: the frequencies.

The truth is what `transformers` makes of a scaling; with the formulas below the known mistakes are made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rope_encoding_helpers import THETA_MISTAKES, theta, usable
from shared import each, nearly, on_inputs

FREQUENCIES = pytest.mark.question("rope_frequencies")


# ---------------------------------------------------------------------------------------------- the truth


def of_transformers(dim, base, scaling):
    """What `transformers` makes of these rope parameters, without its attention factor."""
    config = SimpleNamespace(
        rope_parameters={"rope_theta": base, **scaling}, head_dim=dim, hidden_size=dim, num_attention_heads=1,
        max_position_embeddings=4096, standardize_rope_params=lambda: None,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[scaling["type"]](config, "cpu")[0].double()


def ntk(dim, base, s, plain=theta, power=lambda dim: dim / (dim - 2)):
    return plain(dim, base * s["factor"] ** power(dim))


@dataclass(frozen=True)
class Yarn:
    """YaRN's frequencies as a list of steps, which are right; a mistake replaces one."""

    plain: Callable = theta
    betas: Callable = lambda s: (s.get("beta_fast", 32), s.get("beta_slow", 1))
    pair: Callable = lambda dim, base, turns: dim * math.log(turns / (2 * math.pi)) / (2 * math.log(base))
    rounded: Callable = lambda low, high, truncate: (math.floor(low), math.ceil(high)) if truncate else (low, high)
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


# ---------------------------------------------------------------------------------------------- mistakes of scaling

SHAPE_MISTAKES = {
    "each frequency comes twice in a row; there should be one for each pair": lambda dim, base: theta(
        dim, base
    ).repeat_interleave(2),
    "the frequencies come twice; there should be one for each pair": lambda dim, base: theta(dim, base).repeat(2),
    "there is a frequency for each dimension; there should be one for each pair": lambda dim, base: (
        base ** -(torch.arange(dim, dtype=torch.float64) / dim)
    ),
}


YARN_MISTAKES = {  # sentence -> the step that is wrong
    "the ramp is reversed; fast pairs should stay as they are, and slow ones should be divided by factor": dict(
        blend=lambda plain, ramp, factor: ramp * plain + (1 - ramp) * plain / factor
    ),
    "beta_fast and beta_slow are swapped": dict(betas=lambda s: (s.get("beta_slow", 1), s.get("beta_fast", 32))),
    "beta_fast and beta_slow are ignored; 32 and 1 should only be their defaults": dict(betas=lambda s: (32, 1)),
    "the ends of the ramp are not rounded; the first should be rounded down, the second up": dict(
        rounded=lambda low, high, truncate: (low, high)
    ),
    "the ends of the ramp are rounded the wrong way; the first should be rounded down, the second up": dict(
        rounded=lambda low, high, truncate: (math.ceil(low), math.floor(high))
    ),
    "truncate is ignored; with False the ends of the ramp should not be rounded": dict(
        rounded=lambda low, high, truncate: (math.floor(low), math.ceil(high))
    ),
    "the ends of the ramp are not limited; they should be within 0..dim - 1": dict(
        limited=lambda low, high, dim: (low, high)
    ),
    "the end of the ramp is limited to dim / 2 - 1; it should be limited to dim - 1, as in `transformers`": dict(
        limited=lambda low, high, dim: (max(low, 0), min(high, dim // 2 - 1))
    ),
    "the factor 2π is missing in the turns of a pair; a full turn should be 2π": dict(
        pair=lambda dim, base, turns: dim * math.log(turns) / (2 * math.log(base))
    ),
    "the ends of the ramp are divided by ln(base); they should be divided by 2 ln(base)": dict(
        pair=lambda dim, base, turns: dim * math.log(turns / (2 * math.pi)) / math.log(base)
    ),
    "the ramp runs over the dimensions; it should run over the pairs": dict(
        ramp=lambda i, low, high: ((2 * i - low) / (high - low)).clamp(0, 1)
    ),
    "the wavelengths are blended; the frequencies should be blended": dict(
        blend=lambda plain, ramp, factor: 1 / ((1 - ramp) / plain + ramp * factor / plain)
    ),
    "the frequencies are multiplied by YaRN's attention factor; it should not be part of them": dict(
        blend=lambda plain, ramp, factor: ((1 - ramp) * plain + ramp * plain / factor) * (0.1 * math.log(factor) + 1)
    ),
}


def frequencies(value, truth, mistakes):
    """For `check(**…)`: in proportion, as the slowest pair is thousands of times slower than the first. float64 is welcome."""

    def proportion(freq):
        right_kind = isinstance(freq, torch.Tensor) and freq.shape == truth.shape and not freq.is_complex()
        return (freq.double() / truth).float() if right_kind else freq

    values = {"value": proportion(value), "expected": proportion(truth), "mistakes": each(mistakes, proportion)}
    return values | {"terms": 16}


def scaled(student, dim, base, scaling, formula, mistakes, truth=None):
    """For `check(**…)`: what rope_frequencies makes of a scaling.

    The truth is truth(dim, base, scaling), or formula's. Where the student's own frequencies without scaling are wrong, it
    may be formula's value for these. mistakes: sentence -> the steps of formula that are wrong.
    """

    def probe(dim, base, raised, scaling):
        from rope_encoding import rope_frequencies

        own = [inside.or_none(rope_frequencies, dim, base) for base in (base, raised)]
        return rope_frequencies(dim, base, dict(scaling)), own

    factor, raised = scaling["factor"], base * scaling["factor"] ** (dim / (dim - 2))
    value, own = student.run(probe, dim, base, raised, scaling)

    plain = theta(dim, base)
    expected = (truth or formula)(dim, base, scaling)
    if all(usable(freq, dim) for freq in own):
        of_own = formula(dim, base, scaling, lambda dim, asked: own[asked != base].double())
        if nearly(value / of_own, torch.ones(dim // 2), 1e-4) and not nearly(
            of_own / own[0], torch.ones(dim // 2), 0.01
        ):
            expected = of_own
    return frequencies(value, expected, {s: partial(formula, dim, base, scaling, **steps) for s, steps in mistakes.items()} | {
        "scaling is ignored": plain,
        "all frequencies are divided by factor, as in linear scaling": plain / factor,
        "base is multiplied by factor^(dim / (dim - 2)), as in NTK scaling; this type of scaling should leave base as it is": theta(dim, raised),
        "the frequencies are multiplied by factor; they should be divided by it": plain * factor,
    } | on_inputs(THETA_MISTAKES | SHAPE_MISTAKES, dim, base))  # fmt: skip


# ---------------------------------------------------------------------------------------------- rope_frequencies


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize(("dim", "base"), [(8, None), (6, 500.0), (2, 10000.0), (64, 500000.0)])
def test_each_pair_has_its_frequency(student, check, dim, base):
    """Pair i turns by base^(-2i / dim) a position; base is 10000 by default."""
    freq = student.call("rope_encoding.rope_frequencies", dim, *([] if base is None else [base]))

    base = base or 10000.0
    check(**frequencies(freq, theta(dim, base), on_inputs(THETA_MISTAKES | SHAPE_MISTAKES, dim, base)))


@FREQUENCIES
@pytest.mark.points(1)
def test_linear_scaling_divides_the_frequencies(student, check, rng):
    """{"type": "linear"}: frequencies / factor."""
    factor = 2.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "linear", "factor": factor}

    def linear(dim, base, s, plain=theta):
        return plain(dim, base) / s["factor"]

    check(**scaled(student, 16, 20000.0, scaling, linear, {
        "base is divided by factor; the frequencies should be divided by it": dict(
            plain=lambda dim, base: factor * theta(dim, base / factor)
        ),
        "base is multiplied by factor; the frequencies should be divided by it": dict(
            plain=lambda dim, base: factor * theta(dim, base * factor)
        ),
    }, of_transformers))  # fmt: skip


@FREQUENCIES
@pytest.mark.points(1)
@pytest.mark.parametrize("dim", [12, 64])
def test_ntk_scaling_raises_the_base(student, check, rng, dim):
    """{"type": "ntk"}: base · factor^(dim / (dim - 2))."""
    factor = 2.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "ntk", "factor": factor}
    check(**scaled(student, dim, 20000.0, scaling, ntk, {
        "base is multiplied by factor; it should be multiplied by factor^(dim / (dim - 2))": dict(power=lambda dim: 1),
        "the exponent of factor is (dim - 2) / dim; it should be dim / (dim - 2)": dict(power=lambda dim: (dim - 2) / dim),
        "the exponent of factor is dim / (dim - 1); it should be dim / (dim - 2)": dict(power=lambda dim: dim / (dim - 1)),
        "the exponent of factor is 1 / (dim - 2); it should be dim / (dim - 2)": dict(power=lambda dim: 1 / (dim - 2)),
        "the exponent of factor has dim / 2 for dim; it should be dim / (dim - 2)": dict(power=lambda dim: dim / (dim - 4)),
        "base is divided by factor^(dim / (dim - 2)); it should be multiplied by it": dict(power=lambda dim: -dim / (dim - 2)),
        "the frequencies are divided by factor too; NTK scaling should change base only": dict(
            plain=lambda dim, base: theta(dim, base) / factor
        ),
    }))  # fmt: skip


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize("dim", [64, 32])
def test_yarn_leaves_fast_pairs_and_slows_down_slow_ones(student, check, rng, dim):
    """{"type": "yarn"}: the frequencies of `transformers`, with the default settings."""
    factor = 3.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": 4096}
    check(**scaled(student, dim, 10000.0, scaling, yarn, YARN_MISTAKES, of_transformers))


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize(("dim", "base", "settings"), [
    (64, 1e6, {"original_max_position_embeddings": 32768, "beta_fast": 16, "beta_slow": 3}),
    (48, 1e5, {"original_max_position_embeddings": 8192, "truncate": False}),
    (48, 1e5, {"original_max_position_embeddings": 8192, "truncate": True, "attention_factor": 2.5}),
    (8, 1e4, {"original_max_position_embeddings": 66}),
    (16, 1e4, {"original_max_position_embeddings": 2048, "beta_fast": 8, "beta_slow": 8, "truncate": False}),
    (8, 1e2, {"original_max_position_embeddings": 30000, "beta_fast": 4000}),
    (8, 1e4, {"original_max_position_embeddings": 6}),  # the ramp begins and ends at the pair 0
])  # fmt: skip
def test_yarn_has_settings(student, check, rng, dim, base, settings):
    """{"type": "yarn"}: beta_fast, beta_slow and truncate count; the ramp stays within 0..dim - 1, and may be a step."""
    factor = 3.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "yarn", "factor": factor, **settings}
    check(**scaled(student, dim, base, scaling, yarn, YARN_MISTAKES, of_transformers))


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("dim", "base", "low", "high", "length"), [(128, 5e5, 1.0, 4.0, 8192), (32, 1e4, 2.0, 9.0, 1024)]
)
def test_llama3_slows_down_long_waves(student, check, rng, dim, base, low, high, length):
    """{"type": "llama3"}: the frequencies of `transformers`."""

    def llama3(dim, base, s, plain=theta, wave=lambda plain: 2 * math.pi / plain, blend=lambda short, plain, slow: short * plain + (1 - short) * slow):  # fmt: skip
        """Llama 3's frequencies. short: 1 for short waves, 0 for long ones, and between them in the middle."""
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        plain = plain(dim, base)
        short = ((s["original_max_position_embeddings"] / wave(plain) - low) / (high - low)).clamp(0, 1)
        return blend(short, plain, plain / s["factor"])

    mistakes = {
        "waves of middle length are left as they are; they should be blended": dict(
            blend=lambda short, plain, slow: torch.where(short > 0, plain, slow)
        ),
        "waves of middle length are divided by factor; they should be blended": dict(
            blend=lambda short, plain, slow: torch.where(short < 1, slow, plain)
        ),
        "the blend of middle waves is reversed; the longer the wave, the more it should be slowed down": dict(
            blend=lambda short, plain, slow: torch.where(
                (short > 0) & (short < 1), (1 - short) * plain + short * slow, torch.where(short > 0, plain, slow)
            )
        ),
        "low_freq_factor and high_freq_factor are swapped": dict(
            blend=lambda short, plain, slow: plain + slow - short * plain - (1 - short) * slow
        ),
        "short waves are slowed down and long ones are not; it should be the other way round": dict(
            blend=lambda short, plain, slow: torch.where(
                (short > 0) & (short < 1), short * plain + (1 - short) * slow, torch.where(short > 0, slow, plain)
            )
        ),
        "the wavelength is 1 / frequency; it should be 2π / frequency": dict(wave=lambda plain: 1 / plain),
    }
    factor = 3.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    scaling["original_max_position_embeddings"] = length
    check(**scaled(student, dim, base, scaling, llama3, mistakes, of_transformers))


KEYS = {  # of each type of scaling, with a value
    "linear": {"factor": 4.0},
    "ntk": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
}


@FREQUENCIES
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", KEYS)
def test_the_dict_scaling_stays_as_it_was(student, check, kind):
    """rope_frequencies only reads the caller's dict."""

    def probe(scaling):
        from rope_encoding import rope_frequencies

        first, second = (inside.a_tensor(rope_frequencies(8, 10000.0, given)) for given in (dict(scaling), scaling))
        return scaling, bool((first > 0).all()) and torch.equal(first, second)

    scaling = {"type": kind, **KEYS[kind], "another key": 1}
    after, are_frequencies = student.run(probe, scaling)

    check(after, scaling, otherwise="the dict scaling is changed; it should stay as it was")
    check.that(are_frequencies, "the frequencies are not all positive, or a second call gives different ones")


@FREQUENCIES
@pytest.mark.points(1)
@pytest.mark.parametrize("missing", [*(f"{kind} {key}" for kind in KEYS for key in KEYS[kind]), "linear type"])
def test_a_missing_key_of_scaling_is_refused(student, missing):
    """A key that the type of scaling needs and that is missing is a ValueError."""
    kind, key = missing.split()
    scaling = {"type": kind, **KEYS[kind]}
    student.accepts("rope_encoding.rope_frequencies", 8, 10000.0, scaling)
    del scaling[key]

    student.raises(ValueError, "rope_encoding.rope_frequencies", 8, 10000.0, scaling, says=(key, "scaling"))


@FREQUENCIES
@pytest.mark.points(1)
def test_an_odd_dim_and_an_unknown_type_are_refused(student):
    """An odd dim and an unknown type of scaling are ValueErrors."""
    unknown = {"type": "spiral", "factor": 2.0}
    student.accepts("rope_encoding.rope_frequencies", 6)
    student.accepts("rope_encoding.rope_frequencies", 8, 10000.0, {**unknown, "type": "linear"})
    student.raises(ValueError, "rope_encoding.rope_frequencies", 7, says=("dim", 7))
    student.raises(
        ValueError, "rope_encoding.rope_frequencies", 8, 10000.0, unknown, says=("scaling", "type", "spiral")
    )
