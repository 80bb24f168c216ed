"""Hidden tests of rope_encoding.

The truth: scaled frequencies are those of `transformers`; rotations are worked out in float64 by `turn`. Its angles and
keywords, and those of `theta`, `yarn` and `llama3`, make the mistakes that are known.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FREQUENCIES = pytest.mark.question("rope_frequencies")
APPLY = pytest.mark.question("apply_rope")
LAYER = pytest.mark.question("RoPEEncoding")


def uniform(rng, *shape, dtype=torch.float32):
    return torch.rand(shape, generator=rng, dtype=dtype) * 2 - 1


def check_dtype(check, value, dtype):
    other = {torch.float32: torch.float64, torch.float64: torch.float32}[dtype]
    name, of_x = str(other).removeprefix("torch."), str(dtype).removeprefix("torch.")
    found = value.dtype if isinstance(value, torch.Tensor) else None
    check(found, dtype, mistakes={f"the result is {name} though x is {of_x}": other})


def judge(check, fact, wrong):
    """Something that is so or not, and what it means if it is not."""
    check(bool(fact), True, mistakes={wrong: False})


def places(rng, *shape, below=200):
    """Random positions from 1 on, so that every one turns something."""
    return torch.randint(1, below, shape, generator=rng)


# ---------------------------------------------------------------------------------------------- frequencies: the truth


def theta(dim, base=10000.0, exponent=lambda i, dim: 2 * i / dim):
    return base ** -exponent(torch.arange(dim // 2, dtype=torch.float64), dim)


def theta_mistakes(dim, base):
    return {
        "the exponent is i / dim: it lacks the factor 2 of base^(-2i / dim)": theta(dim, base, lambda i, dim: i / dim),
        "the exponent is 4i / dim: the factor 2 is in it twice": theta(dim, base, lambda i, dim: 4 * i / dim),
        "the exponent is positive: a pair turns by base^(-2i / dim), slower and slower": 1 / theta(dim, base),
        "i is counted from 1: the first pair turns by one radian": theta(dim, base, lambda i, dim: 2 * (i + 1) / dim),
        "the frequencies are spread over dim / 2 - 1 steps: the exponent is -2i / dim": lambda: theta(
            dim, base, lambda i, dim: i / (dim / 2 - 1)
        ),
        "base is ignored: it is 10000 only by default": theta(dim),
        "the default of base is not 10000": theta(dim, 1000.0),
        "the frequencies are divided by 2π: they are radians": theta(dim, base) / (2 * math.pi),
        "wavelengths are returned: it is radians for one position": 2 * math.pi / theta(dim, base),
        "the slowest pair comes first: it is the last": theta(dim, base).flip(0),
        "each frequency comes twice in a row: there is one for each pair": theta(dim, base).repeat_interleave(2),
        "the frequencies come twice: there is one for each pair": theta(dim, base).repeat(2),
        "there is a frequency for each dimension: there is one for each pair": base
        ** -(torch.arange(dim, dtype=torch.float64) / dim),
    }


def yarn(dim, base, scaling, *, rounding="own", clamp=True, dims=None, full=2 * math.pi, half=2, swapped=False,
         defaults=False, reverse=False, step=1, periods=False):  # fmt: skip
    """YaRN's frequencies by their formula; the keywords are what one can get wrong."""
    factor, length = scaling["factor"], scaling["original_max_position_embeddings"]
    betas = (32, 1) if defaults else (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1))
    betas = betas[::-1] if swapped else betas
    low, high = (dim * math.log(length / (beta * full)) / (half * math.log(base)) for beta in betas)
    if rounding == "other":
        low, high = math.ceil(low), math.floor(high)
    elif rounding == "always" or (rounding == "own" and scaling.get("truncate", True)):
        low, high = math.floor(low), math.ceil(high)
    if clamp:
        low, high = max(low, 0), min(high, (dims or dim) - 1)
    ramp = ((torch.arange(dim // 2).double() * step - low) / (high - low)).clamp(0, 1)
    ramp = 1 - ramp if reverse else ramp
    plain = theta(dim, base)
    if periods:
        return 1 / ((1 - ramp) / plain + ramp * factor / plain)
    return (1 - ramp) * plain + ramp * plain / factor


def llama3(dim, base, scaling, *, full=2 * math.pi, middle="smooth", exchange=False):
    """Llama 3's frequencies, by wavelengths."""
    factor, length = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    plain = theta(dim, base)
    wavelength = full / plain
    smooth = (length / wavelength - low) / (high - low)
    smooth = 1 - smooth if middle == "reversed" else smooth
    between = {"kept": plain, "divided": plain / factor}.get(middle, (1 - smooth) * plain / factor + smooth * plain)
    ends = (plain, plain / factor) if exchange else (plain / factor, plain)
    return torch.where(wavelength > length / low, ends[0], torch.where(wavelength < length / high, ends[1], between))


def of_transformers(dim, base, scaling):
    """What `transformers` makes of these rope parameters, without its attention factor."""
    config = SimpleNamespace(
        rope_parameters={"rope_theta": base, **scaling}, head_dim=dim, hidden_size=dim, num_attention_heads=1,
        max_position_embeddings=4096, standardize_rope_params=lambda: None,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[scaling["type"]](config, "cpu")[0].double()


def check_frequencies(check, value, truth, mistakes):
    """Compares in proportion: the slowest pair is thousands of times slower than the first. float64 is welcome too."""

    def proportion(freq):
        right_kind = isinstance(freq, torch.Tensor) and freq.shape == truth.shape and not freq.is_complex()
        return (freq.double() / truth).float() if right_kind else freq

    values = {
        s: (lambda wrong=wrong: proportion(wrong() if callable(wrong) else wrong)) for s, wrong in mistakes.items()
    }
    check(proportion(value), proportion(truth), terms=16, mistakes=values)


def check_scaled(student, check, dim, base, scaling, truth, mistakes):
    """The scaled frequencies, and that the dict stays as it was. truth and mistakes are worked out afterwards."""

    def probe(dim, base, scaling):
        from rope_encoding import rope_frequencies

        return rope_frequencies(dim, base, scaling), scaling

    freq, after = student.run(probe, dim, base, scaling)

    plain, factor = theta(dim, base), scaling["factor"]
    check_frequencies(check, freq, truth(dim, base, scaling), mistakes(dim, base, scaling) | {
        "scaling is ignored": plain,
        "all frequencies are divided by factor, as linear scaling does": plain / factor,
        "base is multiplied by factor^(dim / (dim - 2)), as NTK scaling does": lambda: theta(dim, base * factor ** (dim / (dim - 2))),
        "the frequencies are multiplied by factor: they are divided": plain * factor,
    } | theta_mistakes(dim, base))  # fmt: skip
    check(after, scaling, otherwise="the dict scaling is changed")


# ---------------------------------------------------------------------------------------------- rope_frequencies


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize(("dim", "base"), [(8, None), (6, 500.0), (2, 10000.0), (64, 500000.0)])
def test_each_pair_has_its_frequency(student, check, dim, base):
    """Pair i turns by base^(-2i / dim) a position; base is 10000 by default."""
    freq = student.call("rope_encoding.rope_frequencies", dim, *([] if base is None else [base]))

    base = base or 10000.0
    check_frequencies(check, freq, theta(dim, base), theta_mistakes(dim, base))


@FREQUENCIES
@pytest.mark.points(1)
def test_linear_scaling_divides_the_frequencies(student, check, rng):
    """{"type": "linear"}: frequencies / factor."""
    factor = 2.0 + 6 * torch.rand((), generator=rng).item()
    check_scaled(student, check, 16, 20000.0, {"type": "linear", "factor": factor}, of_transformers, lambda dim, base, s: {
        "base is divided by factor: the frequencies are": theta(dim, base / factor),
        "base is multiplied by factor: the frequencies are divided by it": theta(dim, base * factor),
    })  # fmt: skip


@FREQUENCIES
@pytest.mark.points(1)
@pytest.mark.parametrize("dim", [12, 64])
def test_ntk_scaling_raises_the_base(student, check, rng, dim):
    """{"type": "ntk"}: base · factor^(dim / (dim - 2))."""
    factor = 2.0 + 6 * torch.rand((), generator=rng).item()

    def truth(dim, base, scaling, power=dim / (dim - 2)):
        return theta(dim, base * factor**power)

    check_scaled(student, check, dim, 20000.0, {"type": "ntk", "factor": factor}, truth, lambda dim, base, s: {
        "base is multiplied by factor: the power dim / (dim - 2) is missing": truth(dim, base, s, 1),
        "the power of factor is upside down: it is dim / (dim - 2)": truth(dim, base, s, (dim - 2) / dim),
        "the power of factor is dim / (dim - 1): it is dim / (dim - 2)": truth(dim, base, s, dim / (dim - 1)),
        "the power of factor lacks dim: it is dim / (dim - 2)": truth(dim, base, s, 1 / (dim - 2)),
        "half of dim stands in the power of factor: it is dim / (dim - 2)": lambda: truth(dim, base, s, dim / (dim - 4)),
        "base is divided: it is multiplied by factor^(dim / (dim - 2))": truth(dim, base, s, -dim / (dim - 2)),
        "the frequencies are divided by factor besides: NTK scaling changes base only": truth(dim, base, s) / factor,
    })  # fmt: skip


def yarn_mistakes(dim, base, s):
    growth = 0.1 * math.log(s["factor"]) + 1
    return {
        "the ramp is reversed: fast pairs stay as they are, slow ones are divided by factor": yarn(dim, base, s, reverse=True),
        "beta_fast and beta_slow are swapped": lambda: yarn(dim, base, s, swapped=True),
        "beta_fast and beta_slow are ignored: 32 and 1 are their defaults": yarn(dim, base, s, defaults=True),
        "the ends of the ramp are not rounded: the first down, the second up": yarn(dim, base, s, rounding=None),
        "the ends of the ramp are rounded the wrong way: the first down, the second up": lambda: yarn(dim, base, s, rounding="other"),
        "truncate is ignored: False leaves the ends of the ramp as they are": yarn(dim, base, s, rounding="always"),
        "the ends of the ramp are not limited to 0..dim - 1": yarn(dim, base, s, clamp=False),
        "the end of the ramp is limited to dim / 2 - 1: `transformers` limits it to dim - 1": lambda: yarn(dim, base, s, dims=dim // 2),
        "the turns of a pair lack 2π: a full turn is 2π": yarn(dim, base, s, full=1.0),
        "the ends of the ramp are twice as far: they divide by 2 ln(base)": yarn(dim, base, s, half=1),
        "the ramp runs over the dimensions: it runs over the pairs": yarn(dim, base, s, step=2),
        "the wavelengths are blended: it is the frequencies": yarn(dim, base, s, periods=True),
        "the frequencies are multiplied by YaRN's attention factor: that belongs to the scores": yarn(dim, base, s) * growth,
    }  # fmt: skip


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize("dim", [64, 32])
def test_yarn_leaves_fast_pairs_and_slows_down_slow_ones(student, check, rng, dim):
    """{"type": "yarn"}: the frequencies of `transformers`, with the default settings."""
    factor = 3.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": 4096}
    check_scaled(student, check, dim, 10000.0, scaling, of_transformers, yarn_mistakes)


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
    check_scaled(
        student, check, dim, base, {"type": "yarn", "factor": factor, **settings}, of_transformers, yarn_mistakes
    )


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("dim", "base", "low", "high", "length"), [(128, 5e5, 1.0, 4.0, 8192), (32, 1e4, 2.0, 9.0, 1024)]
)
def test_llama3_slows_down_long_waves(student, check, rng, dim, base, low, high, length):
    """{"type": "llama3"}: the frequencies of `transformers`."""
    factor = 3.0 + 6 * torch.rand((), generator=rng).item()
    scaling = {"type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    scaling["original_max_position_embeddings"] = length
    check_scaled(student, check, dim, base, scaling, of_transformers, lambda dim, base, s: {
        "waves of middle length are left as they are: they are blended": llama3(dim, base, s, middle="kept"),
        "waves of middle length are divided by factor: they are blended": llama3(dim, base, s, middle="divided"),
        "the blend of middle waves is reversed: the longer the wave, the more it is slowed down": llama3(dim, base, s, middle="reversed"),
        "low_freq_factor and high_freq_factor are swapped": theta(dim, base) * (1 + 1 / s["factor"]) - llama3(dim, base, s),
        "short waves are slowed down and long ones stay: it is the other way round": llama3(dim, base, s, exchange=True),
        "the wavelength lacks 2π: it is 2π / frequency": llama3(dim, base, s, full=1.0),
        "original_max_position_embeddings is ignored": llama3(dim, base, s | {"original_max_position_embeddings": 2048}),
    })  # fmt: skip


@FREQUENCIES
@pytest.mark.points(2)
@pytest.mark.parametrize("missing", [
    "linear factor", "ntk factor", "yarn factor", "yarn original_max_position_embeddings", "llama3 factor",
    "llama3 low_freq_factor", "llama3 high_freq_factor", "llama3 original_max_position_embeddings", "linear type",
])  # fmt: skip
def test_a_missing_key_of_scaling_is_refused(student, missing):
    """A key that the type of scaling needs and that is missing is a ValueError."""
    kind, key = missing.split()
    scaling = {"type": kind, "factor": 4.0}
    if kind in ("yarn", "llama3"):
        scaling |= {"original_max_position_embeddings": 64}
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    del scaling[key]

    student.raises(ValueError, "rope_encoding.rope_frequencies", 8, 10000.0, scaling, says=(key, "scaling"))


@FREQUENCIES
@pytest.mark.points(1)
def test_an_odd_dim_and_an_unknown_type_are_refused(student):
    """An odd dim and an unknown type of scaling are ValueErrors."""
    unknown = {"type": "spiral", "factor": 2.0}
    student.raises(ValueError, "rope_encoding.rope_frequencies", 7, says=("dim", 7))
    student.raises(
        ValueError, "rope_encoding.rope_frequencies", 8, 10000.0, unknown, says=("scaling", "type", "spiral")
    )


# ---------------------------------------------------------------------------------------------- rotations: the truth


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


def angles_of(positions, dim, base=10000.0):
    return positions.double()[..., None] * theta(dim, base)


def turn_mistakes(x, positions, base=10000.0, pairs="neighbours"):
    """What students make of x at positions that broadcast to its shape without D."""
    T, D = x.shape[-2:]
    angles = angles_of(positions, D, base)
    other = {"neighbours": "halves", "halves": "neighbours"}[pairs]

    def made(angles=angles, pairs=pairs, **wrong):
        return lambda: turn(x, angles, pairs, **wrong)

    speeds = {s: wrong for s, wrong in theta_mistakes(D, base).items() if not callable(wrong) and len(wrong) == D // 2}
    return {
        "nothing is turned: x comes back": x,
        f"{other} are turned as pairs: it is {pairs} with this value of interleaved": made(pairs=other),
        "the pairs are turned backwards: the signs of the sines are wrong": made(signs=(1, -1)),
        "the second number of a pair lacks its minus: a becomes a cos - b sin": made(signs=(1, 1)),
        "the sine of the second number has the wrong sign: b becomes a sin + b cos": made(signs=(-1, -1)),
        "the second number of a pair is made of the first one's new value: it is its old one": made(late=True),
        "the sines are missing: a pair (a, b) becomes (a cos - b sin, a sin + b cos)": made(signs=(0, 0)),
        "cosine and sine are swapped": made(math.pi / 2 - angles),
        "the turned pairs are put together in another order than they were taken apart": made(back=other),
        "the table of angles is laid out for other pairs than those that are turned": made(table=other),
        "positions are ignored: 0 to T - 1 is taken": made(angles_of(torch.arange(T), D, base)),
        "positions are counted from 1": made(angles_of(positions + 1, D, base)),
        "all pairs turn at the same speed": made(positions.double()[..., None].expand_as(angles)),
        "the turned vector is added to x": lambda: x + turn(x, angles, pairs),
        "positions run along the heads: T is the last dimension but one": lambda: turn(
            x.transpose(-2, -3), angles, pairs
        ).transpose(-2, -3),
    } | {s: made(positions.double()[..., None] * wrong) for s, wrong in speeds.items()}  # fmt: skip


# ---------------------------------------------------------------------------------------------- apply_rope

# With 8 numbers the wavelengths are whole turns, and with these nothing would be turned.
SHAPES = [(2, 3, 5, 12), (3, 4, 6), (7, 4), (2, 4, 4, 10), (1, 2, 1, 6), (2, 2, 3, 4, 6), (3, 2)]


@APPLY
@pytest.mark.points(3)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_neighbours_are_turned_as_in_the_paper(student, check, rng, shape):
    """Pairs (0, 1), (2, 3), … are turned by position · frequency."""
    x, positions = uniform(rng, *shape), places(rng, shape[-2])
    turned = student.call("rope_encoding.apply_rope", x, positions)

    check_dtype(check, turned, torch.float32)
    truth = turn(x, angles_of(positions, shape[-1]))
    check(turned, truth, dtype=torch.float32, within=1e-5, mistakes=turn_mistakes(x, positions))


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_are_turned_as_in_transformers(student, check, rng, shape):
    """interleaved=False turns the pairs (0, dim / 2), (1, dim / 2 + 1), …"""
    x, positions = uniform(rng, *shape), places(rng, shape[-2])
    turned = student.call("rope_encoding.apply_rope", x, positions, 500.0, False)

    truth = turn(x, angles_of(positions, shape[-1], 500.0), "halves")
    mistakes = turn_mistakes(x, positions, 500.0, "halves")
    check(turned, truth, dtype=torch.float32, within=1e-5, mistakes=mistakes)


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize(
    "shape", [(3, 4, 6), (3, 2, 4, 8), (3, 3, 3, 6), (2, 4, 2, 4), (1, 2, 3, 4), (2, 3, 2, 4, 6)], ids=str
)
@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_each_sequence_has_its_own_positions(student, check, rng, shape, pairs):
    """positions (B, T) give each sequence its own row, the same for all of its heads."""
    x, positions = uniform(rng, *shape), places(rng, shape[0], shape[-2])
    turned = student.call("rope_encoding.apply_rope", x, positions, interleaved=pairs == "neighbours")

    by_row = positions.view(shape[0], *[1] * (len(shape) - 3), shape[-2])
    check(turned, turn(x, angles_of(by_row, shape[-1]), pairs), dtype=torch.float32, within=1e-5, mistakes={
        "every sequence gets the positions of the first": lambda: turn(x, angles_of(positions[0], shape[-1]), pairs),
        "the rows of positions are given to the heads: there is one for each sequence": lambda: turn(
            x, angles_of(positions, shape[-1]), pairs
        ),
        "the rows of positions are read as columns": lambda: turn(x, angles_of(by_row.mT, shape[-1]), pairs),
    } | turn_mistakes(x, by_row, pairs=pairs))  # fmt: skip


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize("interleaved", [True, False])
def test_far_positions_are_turned_as_exactly_as_near_ones(student, check, rng, interleaved):
    """The result is right to 1e-5 up to position 4095."""
    x, positions = uniform(rng, 4096, 14), torch.arange(4096)
    turned = student.call("rope_encoding.apply_rope", x, positions, 10000.0, interleaved)

    truth = turn(x, angles_of(positions, 14), "neighbours" if interleaved else "halves")
    check(turned[:20], truth[:20], dtype=torch.float32, within=1e-5)  # what is wrong here is another mistake
    coarse = turn(x, angles_of(positions.bfloat16(), 14), "neighbours" if interleaved else "halves")
    coincide = {"positions are rounded to bfloat16, in which those above 256 coincide; keep them exact": coarse}
    check(turned, truth, dtype=torch.float32, within=0.02, mistakes=coincide)  # what is wrong so far is not rounding
    rounded = "the angles of far positions are not exact enough: work them out in float64"
    check(turned, truth, dtype=torch.float32, within=1e-5, otherwise=rounded)


ROUNDED = "gradcheck fails: x is rounded to float32 on its way though it is float64"


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize("interleaved", [True, False])
def test_apply_rope_keeps_dtype_inputs_and_gradients(student, check, rng, interleaved):
    """float64 stays float64, gradients are turned back, and x, positions and torch's state are left alone."""

    def probe(x, positions, cotangent, interleaved):
        from rope_encoding import apply_rope

        apply_rope(2 * x, positions + 1, 50.0, interleaved)  # a cache must not remember this
        result, after, changed, printed = inside.manners(apply_rope, x, positions, interleaved=interleaved)
        leaf = x.clone().requires_grad_()
        slopes = inside.gradients([apply_rope(leaf, positions, interleaved=interleaved)], [cotangent], [leaf])
        row = x[0, :1].clone().requires_grad_()
        exact = torch.autograd.gradcheck(
            lambda row: apply_rope(row, positions, interleaved=interleaved), row, raise_exception=False
        )
        return result, after, changed, printed, slopes[0], exact

    x, cotangent = uniform(rng, 2, 2, 3, 5, 6, dtype=torch.float64)
    positions = places(rng, 5)
    turned, after, changed, printed, slope, exact = student.run(probe, x, positions, cotangent, interleaved)

    pairs, angles = "neighbours" if interleaved else "halves", angles_of(positions, 6)
    check_dtype(check, turned, torch.float64)
    check(turned, turn(x, angles, pairs), within=1e-5, mistakes=turn_mistakes(x, positions, pairs=pairs))
    check(after[0], x, otherwise="x is changed in place")
    check(after[1], positions, otherwise="positions are changed in place")
    no_gradient = {"no gradient reaches x": torch.zeros_like(x)}
    check(slope, turn(cotangent, -angles, pairs), within=1e-5, mistakes=no_gradient)
    judge(check, exact, ROUNDED)
    judge(check, not changed and not printed, "the function prints, or changes the global state of torch")


@APPLY
@pytest.mark.points(1)
def test_an_odd_dimension_cannot_be_turned(student):
    """An odd last dimension of x is a ValueError."""
    names = ("dim", "x", "d_model", "D", "head_dim", 5)
    student.raises(ValueError, "rope_encoding.apply_rope", torch.zeros(2, 3, 5), torch.arange(3), says=names)


# ---------------------------------------------------------------------------------------------- RoPEEncoding


@LAYER
@pytest.mark.points(3)
@pytest.mark.parametrize("shape", [(2, 3, 5, 12), (3, 4, 6), (2, 4, 4, 10), (1, 6, 4), (2, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("interleaved", [None, False])
def test_the_layer_turns_by_place(student, check, rng, shape, interleaved):
    """forward turns x (B, T, D) or (B, H, T, D) by the positions 0 to T - 1."""

    def probe(x, base, interleaved):
        from rope_encoding import RoPEEncoding

        D, T = x.shape[-1], x.shape[-2]
        return RoPEEncoding(D)(x) if interleaved is None else RoPEEncoding(D, T, base, interleaved)(x)

    x = uniform(rng, *shape)
    turned = student.run(probe, x, 300.0, interleaved)

    pairs, base = ("neighbours", 10000.0) if interleaved is None else ("halves", 300.0)
    positions = torch.arange(shape[-2])
    check_dtype(check, turned, torch.float32)
    check(turned, turn(x, angles_of(positions, shape[-1], base), pairs), dtype=torch.float32, within=1e-5, mistakes={
        "the rows of the table are taken by the first dimensions of x: T is the last but one": lambda: turn(
            x, angles_of(torch.arange(shape[1])[:, None], shape[-1], base), pairs
        ),
    } | turn_mistakes(x, positions, base, pairs))  # fmt: skip


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 2, 4, 8), (3, 3, 3, 6)], ids=str)
@pytest.mark.parametrize("per_sequence", [False, True])
def test_the_layer_takes_positions(student, check, rng, shape, per_sequence):
    """positions (T,) or (B, T) replace 0 to T - 1."""

    def probe(x, positions, interleaved):
        from rope_encoding import RoPEEncoding

        return RoPEEncoding(x.shape[-1], 12, interleaved=interleaved)(x, positions)

    x, positions = uniform(rng, *shape), places(rng, *([shape[0]] if per_sequence else []), shape[-2], below=11)
    positions[..., 0], positions[..., 1] = 11, 0
    turned = student.run(probe, x, positions, per_sequence)

    by_row = positions.view(shape[0], *[1] * (len(shape) - 3), shape[-2]) if per_sequence else positions
    pairs = "neighbours" if per_sequence else "halves"
    check(turned, turn(x, angles_of(by_row, shape[-1]), pairs), dtype=torch.float32, within=1e-5, mistakes={
        "every sequence gets the positions of the first": lambda: turn(x, angles_of(positions[0], shape[-1]), pairs),
        "the rows of positions are given to the heads: there is one for each sequence": lambda: turn(
            x, angles_of(positions, shape[-1]), pairs
        ),
    } | turn_mistakes(x, by_row, pairs=pairs))  # fmt: skip


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("interleaved", [True, False])
def test_the_layers_far_positions_are_as_exact(student, check, rng, interleaved):
    """The layer is right to 1e-5 up to position 4095."""

    def probe(x, interleaved):
        from rope_encoding import RoPEEncoding

        return RoPEEncoding(x.shape[-1], 4096, interleaved=interleaved)(x)

    x = uniform(rng, 1, 4096, 14)
    turned = student.run(probe, x, interleaved)

    truth = turn(x, angles_of(torch.arange(4096), 14), "neighbours" if interleaved else "halves")
    check(turned[:, :20], truth[:, :20], dtype=torch.float32, within=1e-5)
    check(turned, truth, dtype=torch.float32, within=0.02)  # rounding does no more
    rounded = "the angles of far positions are not exact enough: work them out in float64"
    check(turned, truth, dtype=torch.float32, within=1e-5, otherwise=rounded)


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("bad", ["too long", "negative", "max_len", "one of a batch"])
def test_positions_outside_the_table_are_refused(student, bad):
    """T > max_len and a position outside 0..max_len - 1 are ValueErrors; the last position is not."""

    def probe(T, positions):
        from rope_encoding import RoPEEncoding

        return RoPEEncoding(4, 8)(torch.zeros(2, 3, T, 4), positions)

    positions = {
        "too long": None,
        "negative": torch.tensor([0, -1, 2]),
        "max_len": torch.tensor([6, 7, 8]),
        "one of a batch": torch.tensor([[0, 1, 2], [7, 9, 3]]),
    }[bad]
    values = {"too long": (9, 8), "negative": (-1,), "max_len": (8,), "one of a batch": (9,)}[bad]
    student.raises(
        ValueError, probe, 9 if positions is None else 3, positions, says=("max_len", "positions", "x", *values)
    )
    student.run(probe, 8, None)
    student.run(probe, 3, torch.tensor([7, 0, 7]))


@LAYER
@pytest.mark.points(1)
def test_the_default_table_has_2048_positions(student, check):
    """By default positions 0..2047 are there, and no more."""

    def probe(length):
        from rope_encoding import RoPEEncoding

        return list(inside.a_tensor(RoPEEncoding(4)(torch.ones(1, length, 4))).shape)

    check(student.run(probe, 2048), [1, 2048, 4])
    student.raises(ValueError, probe, 2049, says=("max_len", "positions", "x", 2049, 2048))


@LAYER
@pytest.mark.points(1)
def test_an_odd_d_model_is_refused(student):
    """An odd d_model is a ValueError."""

    def probe():
        from rope_encoding import RoPEEncoding

        RoPEEncoding(5, 8)(torch.zeros(1, 3, 5))

    student.raises(ValueError, probe, says=("d_model", "dim", 5))


@LAYER
@pytest.mark.points(2)
def test_nothing_is_saved_or_trained(student, check):
    """The layer has no parameters and no state, before and after it was used."""

    def probe():
        from rope_encoding import RoPEEncoding

        layer = RoPEEncoding(6, 10)
        counts = [len(list(layer.parameters())), len(layer.state_dict())]
        layer(torch.zeros(1, 4, 6))
        return [*counts, len(list(layer.parameters())), len(layer.state_dict())]

    parameters, saved, *later = student.run(probe)

    judge(check, parameters == 0, "the layer has parameters: nothing in it is learned")
    judge(check, saved == 0, "the cache is saved with the state: register it with persistent=False")
    check(later, [0, 0])


@LAYER
@pytest.mark.points(2)
def test_each_call_stands_for_itself(student, check, rng):
    """A layer keeps nothing of earlier calls: lengths, dtypes and other layers do not matter; gradients flow."""

    def probe(x, cotangent):
        from rope_encoding import RoPEEncoding

        layer, other = RoPEEncoding(6, 10), RoPEEncoding(6, 10, base=50.0)
        short = layer(x[:, :, :2])
        strided, (after, *_), changed, printed = inside.manners(layer, x)
        results = [layer(x.double()), layer(x[:, 0]), other(x), layer(x[:, :, :3])]
        leaf = x.double().requires_grad_()
        (slope,) = inside.gradients([layer(leaf)], [cotangent], [leaf])
        row = x[:1, 0].double().requires_grad_()
        exact = torch.autograd.gradcheck(layer, row, raise_exception=False)
        return short, results, slope, strided, after, changed or printed, exact

    x, cotangent = uniform(rng, 2, 3, 5, 6), uniform(rng, 2, 3, 5, 6, dtype=torch.float64)
    short, results, slope, strided, after, rude, exact = student.run(probe, x, cotangent)

    angles = angles_of(torch.arange(5), 6)
    truth, of_other = turn(x, angles), turn(x, angles_of(torch.arange(5), 6, 50.0))
    check(after, x, otherwise="x is changed in place")
    check(short, truth[:, :, :2], dtype=torch.float32, within=1e-5)
    check_dtype(check, results[0], torch.float64)
    check(results[0], truth, within=1e-5)
    check(results[1:], [truth[:, 0], of_other, truth[:, :, :3]], dtype=torch.float32, within=1e-5, mistakes={
        "layers share one cache: each has its own base": [truth[:, 0], truth, truth[:, :, :3]],
    })  # fmt: skip
    check(slope, turn(cotangent, -angles), within=1e-5, mistakes={"no gradient reaches x": torch.zeros_like(cotangent)})
    judge(check, exact, ROUNDED)
    check(strided, truth, dtype=torch.float32, within=1e-5)
    judge(check, not rude, "the layer prints, or changes the global state of torch")


@LAYER
@pytest.mark.gpu
@pytest.mark.points(1)
def test_rope_follows_device_and_dtype(student, check, rng, device):
    """On a GPU everything stays there, and bfloat16 stays bfloat16."""

    def probe(x, positions):
        from rope_encoding import RoPEEncoding, apply_rope

        layer = RoPEEncoding(x.shape[-1], 600).to(x.device)
        return [apply_rope(x, positions), layer(x, positions)], [
            apply_rope(x.bfloat16(), positions),
            layer(x.bfloat16(), positions),
        ]

    x, positions = uniform(rng, 2, 3, 5, 8), places(rng, 2, 5, below=600)
    full, half = student.run(probe, x, positions)

    truth = turn(x, angles_of(positions[:, None], 8))
    check(full, [truth, truth], dtype=torch.float32, within=1e-5)
    check(half, [truth, truth], dtype=torch.bfloat16, terms=1)
