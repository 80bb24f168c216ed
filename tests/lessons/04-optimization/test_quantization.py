"""Hidden tests of quantization: quantize_absmax, quantize_affine, dequantize.

Inputs are far from halfway between two integers, where either is right; but where only the size of the error is tested.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from quantization_helpers import Absmax, conduct_of, on_a_grid, scales_of_rows
from shared import MANNERS, dtype_of, has_nan, on_inputs, randn

ABSMAX = pytest.mark.question("quantize_absmax")
AFFINE = pytest.mark.question("quantize_affine, dequantize")
BOTH = ("q", "scale")

# ---------------------------------------------------------------------------------------------- quantize_absmax

STEPS = {  # sentence -> the formula with a step replaced
    "the scale is max |x| / 2^(bits - 1); it should be max |x| / (2^(bits - 1) - 1)": Absmax(
        greatest=lambda bits: 2 ** (bits - 1)
    ),
    "the scale is max |x| / (2^bits - 1), as for integers without a sign": Absmax(greatest=lambda bits: 2**bits - 1),
    "bits is not used; 8 should only be its default": Absmax(greatest=lambda bits: 127, limit=lambda bits: 127),
    "x / scale is cut off; it should be rounded to the nearest integer": Absmax(whole=torch.trunc),
    "x / scale is rounded down; it should be rounded to the nearest integer": Absmax(whole=torch.floor),
    "the scale is that of the greatest number; it should be that of the largest magnitude": Absmax(
        largest=lambda x, over: x.amax(over, keepdim=True)
    ),
    "the scale is half the distance from the least to the greatest number; it should be that of the largest magnitude": Absmax(
        largest=lambda x, over: (x.amax(over, keepdim=True) - x.amin(over, keepdim=True)) / 2
    ),
    "the scale is that of the mean magnitude; it should be that of the largest": Absmax(
        largest=lambda x, over: x.abs().mean(over, keepdim=True)
    ),
}


def inverse_scale(x, bits=8, dim=None):
    q, scale = Absmax()(x, bits, dim)
    return q, 1 / scale


CODES = {
    "the codes are floating point; they should be int8": lambda x: (Absmax()(x)[0].float(), Absmax()(x)[1]),
}
INVERTED = {"the scale is 127 / max |x|; it should be max |x| / 127, so that scale · q is x": inverse_scale}


@ABSMAX
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(7, 9), (1, 50), (2, 3, 5), (40, 50), ()], ids=str)
def test_the_largest_magnitude_becomes_127(student, check, rng, shape):
    """With 8 bits and one scale: q in ±127, and scale · q is x but for half a step."""
    x = on_a_grid(rng, 1, torch.Size(shape).numel(), scale=0.03).view(shape)

    check(
        student.call("quantization.quantize_absmax", x),
        Absmax()(x),
        names=BOTH,
        mistakes=on_inputs(STEPS | INVERTED | CODES, x),
    )


@ABSMAX
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [4, 2, 3, 7])
def test_fewer_bits_have_fewer_integers(student, check, rng, bits):
    """q is in ±(2^(bits - 1) - 1)."""
    x = on_a_grid(rng, 1, 60, bits=bits)

    found = student.call("quantization.quantize_absmax", x, bits)

    check(found, Absmax()(x, bits), names=BOTH, mistakes=on_inputs(STEPS, x, bits))


@ABSMAX
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 5), 1), ((4, 6), 0), ((3, 4), -1), ((2, 3, 4), 1), ((3, 2, 4), -3), ((2, 3, 4), 2)], ids=str
)
def test_each_slice_has_its_own_scale(student, check, rng, shape, dim):
    """With dim the maximum runs over dim, and scale keeps it with size 1."""
    last = [n for at, n in enumerate(shape) if at != dim % len(shape)]
    slices = torch.Size(last).numel()
    x = on_a_grid(rng, slices, shape[dim], scale=scales_of_rows(rng, slices)).view(*last, shape[dim]).movedim(-1, dim)

    found = student.call("quantization.quantize_absmax", x, 8, dim)

    q, scale = Absmax()(x, 8, dim)
    others = tuple(at for at in range(len(shape)) if at != dim % len(shape))
    whole_q, whole_scale = Absmax()(x)
    check(found, (q, scale), names=BOTH, mistakes={
        "all of x has one scale; dim should part it": (whole_q, whole_scale),
        "all of x has one scale, of size 1 in each dimension": (whole_q, whole_scale.view([1] * len(shape))),
        "the maximum runs over the other dimensions; it should run over dim": Absmax()(x, 8, others),
        "scale has lost dim; it should keep it with size 1": (q, scale.squeeze(dim)),
    })  # fmt: skip


@ABSMAX
@pytest.mark.points(1)
@pytest.mark.parametrize("dim", [None, 1])
def test_zeros_stay_zeros(student, check, rng, dim):
    """Where all numbers under a scale are 0, so are q and scale · q; other rows are as they would be without."""
    x = torch.zeros(3, 4)
    if dim == 1:
        x[1] = on_a_grid(rng, 1, 4)[0]

    q, scale = student.call("quantization.quantize_absmax", x, 8, dim)

    check.that(not has_nan(scale) and bool(torch.as_tensor(scale).isfinite().all()), "the scale of zeros is not finite")
    check(q, Absmax()(x, 8, dim)[0], what="q", otherwise="zeros do not stay zeros, or change other rows")


@ABSMAX
@pytest.mark.points(1)
def test_tiny_numbers_have_a_tiny_scale(student, check, rng):
    """Numbers of 1e-20 are quantized as well as others."""
    x = on_a_grid(rng, 1, 30, scale=1e-22)

    found = student.call("quantization.quantize_absmax", x)

    q, scale = Absmax()(x)
    check(found, (q, scale), names=BOTH, mistakes={
        f"{least:g} is added to the scale, or it is at least that; only a scale of 0 should be changed": check.when(
            nearly_least(found, least)
        )
        for least in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
    })  # fmt: skip


def nearly_least(found, least):
    """Whether the scale is `least`, or that of a largest magnitude of `least`; beside them the right one is nothing."""
    value = found[1] if isinstance(found, (tuple, list)) and len(found) == 2 else None
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        return False
    return any(abs(float(value) - wrong) <= 1e-3 * wrong for wrong in (least, least / 127))


@ABSMAX
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_error_is_at_most_half_a_step(student, check, rng, bits):
    """|x - scale · q| <= scale / 2 plus rounding, whatever x is; q is a whole number in ±(2^(bits - 1) - 1)."""
    for dtype in (torch.float32, torch.float64):
        x = randn(rng, 40, 25, dtype=dtype)
        q, scale = student.call("quantization.quantize_absmax", x, bits, 0)

        check((dtype_of(q), dtype_of(scale)), (torch.int8, dtype), names=BOTH)
        check.that(scale.shape == (1, 25), "scale does not have the shape (1, n) for dim=0")
        eps = torch.finfo(dtype).eps
        bound = scale.double() * (0.5 + 1e-5) + 4 * eps * x.abs().max()
        check.that(bool(((q.double() * scale.double() - x.double()).abs() <= bound).all()), "the error is too large")
        check.that(int(q.abs().max()) <= 2 ** (bits - 1) - 1, "an integer of q is too large")


@ABSMAX
@pytest.mark.points(1)
def test_absmax_keeps_the_dtype_and_leaves_x_as_it_is(student, check, rng):
    """float64 is quantized in float64. x may have any layout and stays as it is, and so does torch."""
    x = on_a_grid(rng, 4, 6, scale=0.1, dtype=torch.float64)

    found = student.call("quantization.quantize_absmax", x, dim=1)
    conduct = [conduct_of(student, "quantize_absmax", x, *options) for options in [(8, 1), ()]]

    q, scale = Absmax()(x, 8, 1)
    check(found, (q, scale), names=BOTH, mistakes={
        "the scale of float64 is float32; it should have the dtype of x": (q, scale.float()),
        "the scale of float64 is worked out in float32": (q, scale.float().double()),
    })  # fmt: skip
    for same, rude in conduct:
        check.that(same, "x is changed")
        check(rude, "", mistakes=MANNERS)


@ABSMAX
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [9, 1, 0, 16])
def test_absmax_refuses_other_bits(student, bits):
    """bits outside 2..8 is a ValueError."""
    student.accepts("quantization.quantize_absmax", torch.ones(3), 8 if bits > 8 else 2)
    student.raises(ValueError, "quantization.quantize_absmax", torch.ones(3), bits, says=("bits", bits))


# ---------------------------------------------------------------------------------------------- quantize_affine


@dataclass(frozen=True)
class Affine:
    """q uint8, scale and zero_point of x, worked out in float64."""

    lo: object = lambda x: x.amin().clamp(max=0)
    hi: object = lambda x: x.amax().clamp(min=0)
    levels: object = lambda bits: 2**bits - 1
    whole: object = torch.round
    zero_point: object = lambda lo, scale: round(-lo / scale)
    code: object = lambda steps, zero_point, whole: whole(steps) + zero_point
    span: object = lambda lo, hi: hi - lo

    def __call__(self, x, bits=8):
        wide = x.double()
        lo, hi = self.lo(wide), self.hi(wide)
        scale = self.span(lo, hi) / self.levels(bits)
        zero_point = self.zero_point(float(lo), float(scale))
        q = self.code(wide / scale, zero_point, self.whole).clamp(0, 255).to(torch.uint8)
        return [q, scale.to(x.dtype), zero_point]


AFFINE_STEPS = {  # sentence -> the formula with a step replaced
    "bits is not used; 8 should only be its default": Affine(levels=lambda bits: 255),
    "the scale is (hi - lo) / 2^bits; it should be (hi - lo) / (2^bits - 1)": Affine(levels=lambda bits: 2**bits),
    "the scale is (hi - lo) / (2^(bits - 1) - 1), as for integers with a sign": Affine(
        levels=lambda bits: 2 ** (bits - 1) - 1
    ),
    "x / scale is cut off; it should be rounded to the nearest integer": Affine(whole=torch.trunc),
    "x / scale is rounded down; it should be rounded to the nearest integer": Affine(whole=torch.floor),
    "-lo / scale is rounded after x / scale is added; the zero point should be rounded alone, so that 0.0 is exact": Affine(
        code=lambda steps, z, whole: whole(steps - steps.min())
    ),
    "zero_point is -lo / scale cut off; it should be rounded": Affine(zero_point=lambda lo, scale: int(-lo / scale)),
    "zero_point has the wrong sign: it should be round(-lo / scale)": Affine(
        zero_point=lambda lo, scale: round(lo / scale), code=lambda steps, z, whole: whole(steps) - z
    ),
    "the zero point is not added to q": Affine(code=lambda steps, z, whole: whole(steps)),
    "zero_point is not rounded; it should be an integer": Affine(
        zero_point=lambda lo, scale: -lo / scale, code=lambda steps, z, whole: whole(steps + z)
    ),
}
NO_ZERO = {
    "the range is from the least to the greatest number; it should hold 0 too": Affine(
        lo=lambda x: x.amin(),
        hi=lambda x: x.amax(),
        zero_point=lambda lo, scale: round(min(255, max(0, -lo / scale))),
        code=lambda steps, z, whole: whole(steps - steps.min()),
    ),
    "the range is from the least to the greatest number, and zero_point is outside of it; it should hold 0 too": Affine(
        lo=lambda x: x.amin(), hi=lambda x: x.amax()
    ),
}


def from_below_zero(rng, bits, below, numbers=60):
    """Numbers from -(below ± 0.3) steps of 0.02 on, over the whole range, with a 0.0, and far from halfway between integers."""
    levels = 2**bits - 1
    steps = torch.randint(levels + 1, (numbers,), generator=rng) + 0.8 * torch.rand(numbers, generator=rng) - 0.4
    least = -below - 0.3 if below % 2 == 0 else -below + 0.3
    steps = (steps - below).clamp(least, levels + least)
    steps[:3] = torch.tensor([0.0, least, levels + least])
    return (steps[torch.randperm(numbers, generator=rng)].double() * 0.02).float()


def integer(value):
    """A tensor of one integer as an int; anything else as it is."""
    whole = isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point()
    return int(value) if whole and value.dtype is not torch.bool else value


def affine(student, *arguments):
    """[q, scale, zero_point] of the student, where zero_point is an int if it is an integer of any kind."""
    found = student.call("quantization.quantize_affine", *arguments)
    return [*found[:2], *map(integer, found[2:])] if isinstance(found, (tuple, list)) else found


THREE = ("q", "scale", "zero_point")


@AFFINE
@pytest.mark.points(2)
@pytest.mark.parametrize(("bits", "below"), [(8, 90), (4, 9), (8, 3), (2, 1), (5, 20)])
def test_the_whole_range_is_used(student, check, rng, bits, below):
    """The least number becomes 0, the greatest 2^bits - 1, and 0.0 becomes zero_point."""
    x = from_below_zero(rng, bits, below)

    found = affine(student, x, bits)

    check(found, Affine()(x, bits), names=THREE, mistakes=on_inputs(AFFINE_STEPS, x, bits))


@AFFINE
@pytest.mark.points(1)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_holds_zero(student, check, rng, sign):
    """It begins at 0.0 if all numbers are positive, and ends there if all are negative."""
    steps = torch.randint(100, 255, (40,), generator=rng) + 0.8 * torch.rand(40, generator=rng) - 0.4
    steps[7] = 255.0
    x = sign * 0.02 * steps

    check(affine(student, x), Affine()(x), names=THREE, mistakes=on_inputs(NO_ZERO, x))


@AFFINE
@pytest.mark.points(1)
@pytest.mark.parametrize("value", [3.0, -3.0, 0.0])
def test_a_constant_comes_back(student, check, value):
    """A tensor of one number only, 0.0 among them, has a finite scale and comes back."""
    found = affine(student, torch.full((2, 3), value))

    q, scale, zero_point = found
    check((dtype_of(q), dtype_of(scale)), (torch.uint8, torch.float32), names=BOTH)
    check.that(type(zero_point) is int and 0 <= zero_point <= 255, "zero_point is not an integer from 0 to 255")
    check.that(bool(scale.isfinite().all()), "the scale of a constant is not finite")
    if value:
        check(scale, torch.tensor(3 / 255), what="the scale", mistakes={
            "the scale of a constant is the constant; it should be (hi - lo) / 255 for a range that holds 0": torch.tensor(value),
        })  # fmt: skip
    check((q.double() - zero_point) * scale.double(), torch.full((2, 3), value, dtype=torch.float64), within=1e-5, what="what comes back")  # fmt: skip


@AFFINE
@pytest.mark.points(1)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_no_code_leaves_the_range(student, check, bits):
    """Where -lo / scale is halfway between two integers, one end of the range is half a step outside: it is clamped."""
    levels = 2**bits - 1
    x = torch.linspace(-1, 1, 2 * levels + 1)

    q, scale, zero_point = affine(student, x, bits)

    errors = ((q.double() - zero_point) * float(scale) - x).abs()
    check.that(int(q.max()) <= levels, "a code is above 2^bits - 1: clamp to the range")
    check.that(float(errors.max()) < 0.5, "a code outside of the range wraps around: clamp to the range")
    check.that(float(errors.max()) <= 0.501 * float(scale), "the error is larger than half a step")


@AFFINE
@pytest.mark.points(1)
def test_affine_keeps_the_dtype_and_leaves_x_as_it_is(student, check, rng):
    """The error is at most half a step, in float64 too; x may have any layout and stays as it is. bits outside 2..8 is refused."""
    for dtype, size in ((torch.float32, 1), (torch.float64, 1), (torch.float32, 1e-20)):
        x = (randn(rng, 8, 30, dtype=dtype) + 0.5) * size
        q, scale, zero_point = affine(student, x)
        check((dtype_of(q), dtype_of(scale)), (torch.uint8, dtype), names=BOTH, mistakes={
            "the scale of float64 is float32; it should have the dtype of x": (torch.uint8, torch.float32),
        })  # fmt: skip
        truth = (x.double().amax() - x.double().amin()) / 255
        check(scale, truth.to(dtype), what="scale")
        back = (q.double() - zero_point) * scale.double()
        # The ends of the range may be half a step outside of the integers, as 0.0 is exact.
        check.that(bool(((back - x.double()).abs() <= 0.50001 * scale.double() + 8 * size * torch.finfo(dtype).eps).all()), "the error is larger than half a step")  # fmt: skip
    same, rude = conduct_of(student, "quantize_affine", x)
    check.that(same, "x is changed")
    check(rude, "", mistakes=MANNERS)
    for bits in (9, 1):
        student.raises(ValueError, "quantization.quantize_affine", torch.ones(3), bits, says=("bits", bits))


# ---------------------------------------------------------------------------------------------- dequantize


@AFFINE
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["uint8", "int8", "a tensor"])
def test_the_way_back_is_scale_times_q_minus_zero_point(student, check, rng, kind):
    """(q - zero_point) · scale for uint8 and int8, with an int or a tensor as zero_point: nothing wraps around."""
    dtype, low = (torch.int8, -127) if kind == "int8" else (torch.uint8, 0)
    q = torch.randint(low, low + 255, (4, 30), generator=rng).to(dtype)
    zero_point, scale = 100, torch.tensor(0.05)

    found = student.call("quantization.dequantize", q, scale, torch.tensor(100) if kind == "a tensor" else zero_point)

    steps = q.double()
    check(found, 0.05 * (steps - zero_point), dtype=torch.float32, mistakes={
        "q - zero_point wraps around: convert q before you subtract": 0.05 * (q - zero_point).double(),
        "zero_point is not used": 0.05 * steps,
        "zero_point is added; it should be subtracted": 0.05 * (steps + zero_point),
        "zero_point is subtracted from scale · q; it should be subtracted from q": 0.05 * steps - zero_point,
        "q is divided by scale; it should be multiplied": (steps - zero_point) / 0.05,
    })  # fmt: skip


@AFFINE
@pytest.mark.points(1)
def test_the_way_back_is_in_the_dtype_of_scale(student, check, rng):
    """scale may be (n, 1), (1, n) or (); the result has its dtype. The arguments stay as they are."""
    q = torch.randint(-127, 128, (5, 5), generator=rng).to(torch.int8)
    scales = scales_of_rows(rng, 5)
    for scale in (scales, scales.T.contiguous(), scales.float(), scales[0, 0]):
        found = student.call("quantization.dequantize", q, scale)
        truth = q.double() * scale.double()
        mistakes = {
            "the result has the wrong dtype: it should be that of scale": check.when(
                isinstance(found, torch.Tensor) and found.dtype != scale.dtype
            ),
            "scale is used along the wrong dimension": partial(lambda s: q.double() * s.T.double(), scale),
        }
        check(found, truth.to(scale.dtype), mistakes=mistakes)
    for codes in (q, q.int(), q.long()):
        same, rude = conduct_of(student, "dequantize", codes, scales, 3)
        check.that(same, "q or scale is changed")
        check(rude, "", mistakes=MANNERS)


@pytest.mark.gpu
@ABSMAX
@pytest.mark.points(1)
def test_bfloat16_is_quantized_on_the_gpu(student, check, rng, device):
    """On the GPU, in bfloat16 too, the error is at most half a step plus rounding."""
    x = randn(rng, 30, 20).bfloat16()

    q, scale = student.on(device=device).call("quantization.quantize_absmax", x, 8, 1)

    check((dtype_of(q), dtype_of(scale)), (torch.int8, torch.bfloat16), names=BOTH)
    back = q.double().cpu() * scale.double().cpu()
    bound = 0.51 * scale.double().cpu() + 4 * torch.finfo(torch.bfloat16).eps * float(x.abs().max())
    check.that(bool(((back - x.double()).abs() <= bound).all()), "the error is too large")
