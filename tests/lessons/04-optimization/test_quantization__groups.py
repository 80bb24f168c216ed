"""Hidden tests of quantization: quantize_groupwise, pack_int4, unpack_int4, quantize_nf4, dequantize_nf4."""

from dataclasses import dataclass

import pytest
import torch

from quantization_helpers import (
    LEVELS,
    Absmax,
    Groups,
    conduct_of,
    in_groups,
    near_levels,
    worked_out,
)
from shared import MANNERS, dtype_of, nearly, on_inputs, randn

GROUPS = pytest.mark.question("quantize_groupwise")
PACKED = pytest.mark.question("pack_int4, unpack_int4")
NF4 = pytest.mark.question("quantize_nf4, dequantize_nf4")
BOTH = ("q", "scales")

# ---------------------------------------------------------------------------------------------- quantize_groupwise


def of_flat(w, bits, size):
    """Groups that go on from a row to the next one."""
    q, scales = Groups()(w.reshape(1, -1), bits, size)
    return q.view(w.shape), scales.reshape(w.shape[0], -1)


def of_columns(w, bits, size):
    q, scales = Groups()(w.T.contiguous(), bits, size)
    return q.T, scales.T


def without_rest(w, bits, size):
    q, scales = Groups()(w, bits, size)
    return q, scales[:, : w.shape[1] // size]


CUTS = {  # sentence -> quantize_groupwise with a mistake
    "each row has one scale; each group of a row should have one": Groups(cut=lambda places, size: [places]),
    "all groups have the same scale": lambda w, bits, size: (
        Absmax()(w, bits)[0],
        Absmax()(w, bits)[1].expand(w.shape[0], -(-w.shape[1] // size)),
    ),
    "groups go on from one row to the next; each row should begin with a new group": of_flat,
    "groups run down the columns; they should run along the rows": of_columns,
    "a group is every n-th number of a row; it should be neighbours": Groups(
        cut=lambda places, size: [places[at :: -(-len(places) // size)] for at in range(-(-len(places) // size))]
    ),
    "group_size is taken for the number of groups": Groups(
        cut=lambda places, size: places.chunk(min(size, len(places)))
    ),
    "group_size is not used; 64 should only be its default": Groups(cut=lambda places, size: places.split(64)),
    "bits is not used; 4 should only be its default": lambda w, bits, size: Groups()(w, 4, size),
    "bits is not used, and there are always 8": lambda w, bits, size: Groups()(w, 8, size),
    "scales should have the shape (out, groups): the last dimension, of size 1, is too much": lambda w, bits, size: (
        Groups()(w, bits, size)[0],
        Groups()(w, bits, size)[1].unsqueeze(-1),
    ),
    "the short group at the end of a row has no scale": without_rest,
    "the numbers after the last full group have no scale of their own, but that of the group before": Groups(
        cut=lambda places, size: [
            *places[: (len(places) // size - 1) * size].split(size),
            places[(len(places) // size - 1) * size :],
        ]
    ),
}


@GROUPS
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("rows", "width", "size", "bits"), [(3, 128, 32, 4), (6, 12, 6, 3), (3, 20, 4, 8), (4, 6, 6, 2), (1, 7, 1, 4)]
)
def test_each_group_has_its_own_scale(student, check, rng, rows, width, size, bits):
    """Groups of neighbours in a row; scales is (out, in / group_size)."""
    w = in_groups(rng, rows, width, size, bits)

    found = worked_out(student, "quantize_groupwise", [(w, bits, size)], [Groups()(w, bits, size)])

    check(found, [Groups()(w, bits, size)], mistakes={
        sentence: lambda wrong=wrong: [wrong(w, bits, size)] for sentence, wrong in CUTS.items()
    })  # fmt: skip


@GROUPS
@pytest.mark.points(1)
@pytest.mark.parametrize(("width", "size"), [(21, 8), (17, 8), (5, 8), (100, 64)])
def test_the_last_group_may_be_short(student, check, rng, width, size):
    """It has a scale of its own: ceil(in / group_size) in each row. A group may be longer than a row."""
    w = in_groups(rng, 4, width, size)
    call = (w, 4, size) if size != 64 else (w,)  # 4 and 64 are the defaults

    found = worked_out(student, "quantize_groupwise", [call], [Groups()(w, 4, size)])

    check(found, [Groups()(w, 4, size)], mistakes={
        sentence: lambda wrong=wrong: [wrong(w, 4, size)] for sentence, wrong in CUTS.items()
    })  # fmt: skip


@GROUPS
@pytest.mark.points(1)
def test_groups_of_zeros_and_float64(student, check, rng):
    """A group of zeros stays zeros, in float64 too, which keeps its precision; w stays as it is."""
    w = in_groups(rng, 3, 20, 8, dtype=torch.float64)
    w[1, 8:16] = 0

    ((q, scales),) = worked_out(student, "quantize_groupwise", [(w, 4, 8)], [Groups()(w, 4, 8)])
    same, rude = conduct_of(student, "quantize_groupwise", w, 4, 8)

    check(q, Groups()(w, 4, 8)[0], what="q")
    check(dtype_of(scales), torch.float64, what="scales", mistakes={
        "the scales of float64 are float32; they should have the dtype of w": torch.float32,
    })  # fmt: skip
    check.that(bool(scales.isfinite().all()), "the scale of a group of zeros is not finite")
    some = torch.ones(3, 3, dtype=torch.bool)
    some[1, 1] = False  # any finite number
    check(scales[some], Groups()(w, 4, 8)[1][some], what="scales")
    check.that(same, "w is changed")
    check(rude, "", mistakes=MANNERS)


@GROUPS
@pytest.mark.points(1)
def test_groupwise_refuses_bits_and_sizes(student):
    """bits outside 2..8 or a group_size below 1 is a ValueError."""
    w = torch.ones(2, 6)
    for bits, size in ((8, 2), (2, 2), (4, 1)):
        student.accepts("quantization.quantize_groupwise", w, bits, size)
    for bits, size, says in ((9, 2, ("bits", 9)), (1, 2, ("bits", 1)), (4, 0, ("group_size", 0)), (4, -2, ("group_size", -2))):  # fmt: skip
        student.raises(ValueError, "quantization.quantize_groupwise", w, bits, size, says=says)


# ---------------------------------------------------------------------------------------------- pack_int4, unpack_int4


def nibbles(rng, *shape):
    return torch.randint(-8, 8, shape, generator=rng).to(torch.int8)


def there_and_back(q):
    """A probe: what is packed, and what is unpacked of that."""
    from quantization import pack_int4, unpack_int4

    packed = pack_int4(q)
    return packed, unpack_int4(packed, tuple(q.shape))


def as_unsigned(q):
    return (q.int() % 16).to(torch.int8)


@PACKED
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(16,), (4, 6), (2, 3, 4), (2, 1)], ids=str)
def test_what_is_packed_comes_back(student, check, rng, shape):
    """Integers from -8 to 7 take half a byte each, and come back as int8 in their shape."""
    q = torch.arange(-8, 8, dtype=torch.int8) if shape == (16,) else nibbles(rng, *shape)

    packed, back = student.run(there_and_back, q)

    check((dtype_of(packed), list(packed.shape)), (torch.uint8, [q.numel() // 2]), names=("dtype", "shape"), mistakes={
        "each integer has a byte of its own; two should share one": (torch.uint8, [q.numel()]),
        "an even number of integers takes a byte more than it needs": (torch.uint8, [q.numel() // 2 + 1]),
    })  # fmt: skip
    pairs = q.flatten().view(-1, 2)
    check(back, q, what="what is unpacked", mistakes={
        "negative integers come back as 8 to 15": as_unsigned(q),
        "numbers below 0 wrap around in uint8; the result should be int8": q.to(torch.uint8),
        "the two integers of a byte are swapped": pairs.flip(1).reshape(shape),
        "the first integer of each byte is lost": pairs[:, 1:].expand(-1, 2).reshape(shape),
        "the second integer of each byte is lost": pairs[:, :1].expand(-1, 2).reshape(shape),
        "-8 comes back as another integer": check.when(bool((q == -8).any()), q.clamp(min=-7)),
        "the result is flat; it should have the shape that is given": q.flatten(),
    })  # fmt: skip


@PACKED
@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(5,), (1,), (3, 7)], ids=str)
def test_an_odd_number_fills_half_of_the_last_byte(student, check, rng, shape):
    """n integers take ceil(n / 2) bytes."""
    q = nibbles(rng, *shape)
    q[(-1,) * len(shape)] = 5

    packed, back = student.run(there_and_back, q)

    check(list(packed.shape), [(q.numel() + 1) // 2], what="the packed shape", mistakes={
        "the last integer of an odd number is not packed": [q.numel() // 2],
    })  # fmt: skip
    check(back, q, what="what is unpacked")


@PACKED
@pytest.mark.points(1)
def test_a_byte_holds_two_neighbours(student, check, rng):
    """Byte i holds q.flatten()'s numbers 2i and 2i + 1, whatever its layout and dtype of integers; q stays as it is."""
    q = nibbles(rng, 6, 4)
    own = student.call("quantization.pack_int4", q)

    pieces = [student.call("quantization.pack_int4", pair) for pair in q.flatten().split(2)[:4]]
    check(own[:4], torch.cat(pieces), otherwise="a byte does not hold two neighbours of q.flatten()")
    for dtype in (torch.int16, torch.int64):
        check(
            student.call("quantization.pack_int4", q.to(dtype)),
            own,
            otherwise="other dtypes of integers are packed differently",
        )

    def probe(q):
        from quantization import pack_int4

        return pack_int4(inside.strided(q))

    strided, (same, rude) = student.run(probe, q), conduct_of(student, "pack_int4", q)
    check(strided, own, otherwise="the order in memory counts; it should be that of q.flatten()")
    check.that(same, "q is changed")
    check(rude, "", mistakes=MANNERS)


@PACKED
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(8, torch.int8), (-9, torch.int8), (15, torch.int8), (-128, torch.int8), (259, torch.int64)],
)
def test_what_does_not_fit_into_4_bits_is_refused(student, value, dtype):
    """A value outside -8..7 is a ValueError."""
    q = torch.tensor([0, value, 3, -8], dtype=dtype)
    student.accepts("quantization.pack_int4", q.clamp(-8, 7).to(torch.int8))
    student.raises(ValueError, "quantization.pack_int4", q, says=("q", "integers", "values", "value", "range", value))


def far_apart(packed, shape):
    """A probe: what is unpacked of bytes that lie two apart."""
    from quantization import unpack_int4

    return unpack_int4(torch.stack([packed, packed], dim=1).flatten()[::2], shape)


@PACKED
@pytest.mark.points(1)
def test_the_shape_must_fit_the_bytes(student, check, rng):
    """unpack_int4 takes any sequence of ints as shape; where packed has too few or too many bytes it is a ValueError."""
    packed = student.call("quantization.pack_int4", nibbles(rng, 3, 4))
    truth = student.call("quantization.unpack_int4", packed, (3, 4))

    check((dtype_of(truth), list(truth.shape)), (torch.int8, [3, 4]), names=("dtype", "shape"))
    check(
        student.call("quantization.unpack_int4", packed, [3, 4]),
        truth,
        otherwise="a list as shape gives something else",
    )
    check(
        student.run(far_apart, packed, (3, 4)),
        truth,
        otherwise="bytes that are not side by side in memory come back wrong",
    )
    packed_nothing, nothing = student.run(there_and_back, torch.zeros(0, 5, dtype=torch.int8))
    check((list(packed_nothing.shape), list(nothing.shape)), ([0], [0, 5]), what="the shapes of no integers")
    one = student.run(there_and_back, torch.tensor(-3, dtype=torch.int8))[1]
    check(one, torch.tensor(-3, dtype=torch.int8), what="one integer of shape ()")
    same, rude = conduct_of(student, "unpack_int4", packed, (3, 4))
    check.that(same, "packed is changed")
    check(rude, "", mistakes=MANNERS)
    for shape in ((3, 3), (7, 2), (5, 1), (5, 2), (26,), (13,)):
        student.raises(ValueError, "quantization.unpack_int4", packed, shape, says=("shape", "packed", "bytes"))


# ---------------------------------------------------------------------------------------------- NF4


def nearest(scaled):
    return (scaled.unsqueeze(-1) - LEVELS).abs().argmin(-1)


@dataclass(frozen=True)
class NF4Steps:
    """quantize_nf4, worked out in float64."""

    flat: object = lambda x: x.flatten()
    largest: object = lambda block: block.abs().max()
    code: object = nearest

    def __call__(self, x, size=64):
        blocks = self.flat(x.double()).split(size)
        absmax = torch.stack([self.largest(block) for block in blocks])
        codes = torch.cat([self.code(block / (most or 1)) for block, most in zip(blocks, absmax, strict=True)])
        return codes.to(torch.uint8).view(x.shape), absmax.to(x.dtype)


def by_rows(x, size):
    """Blocks that end with the row."""
    pairs = [NF4Steps()(row, size) for row in x]
    return torch.stack([codes for codes, _ in pairs]), torch.cat([absmax for _, absmax in pairs])


EQUAL_STEPS = torch.linspace(-1, 1, 16, dtype=torch.float64)
CODES = {  # sentence -> quantize_nf4 with a mistake
    "a number goes to the level below it; it should go to the nearest": NF4Steps(
        code=lambda s: torch.bucketize(s + 1e-9, LEVELS, right=True) - 1
    ),
    "a number goes to the level above it; it should go to the nearest": NF4Steps(
        code=lambda s: torch.bucketize(s - 1e-9, LEVELS).clamp(max=15)
    ),
    "the levels are equally far apart; they should be those of NF4": NF4Steps(
        code=lambda s: (s.unsqueeze(-1) - EQUAL_STEPS).abs().argmin(-1)
    ),
    "the levels are in the wrong order: code 0 should be -1": NF4Steps(code=lambda s: 15 - nearest(s)),
    "the magnitudes are compared with the levels; signs should count": NF4Steps(code=lambda s: nearest(s.abs())),
    "absmax is that of the greatest number; it should be that of the largest magnitude": NF4Steps(
        largest=lambda block: block.max()
    ),
    "the blocks are not divided by their absmax": lambda x, size: (
        nearest(x.double()).to(torch.uint8),
        NF4Steps()(x, size)[1],
    ),
    "the codes are int64; they should be uint8": lambda x, size: (
        NF4Steps()(x, size)[0].long(),
        NF4Steps()(x, size)[1],
    ),
    "all blocks have the same absmax": lambda x, size: (
        nearest(x.double() / x.double().abs().max()).to(torch.uint8),
        x.abs().max().expand(-(-x.numel() // size)),
    ),
    "blocks end with a row; they should be made of x.flatten()": by_rows,
    "each row is a block; block_size numbers of x.flatten() should be one": lambda x, size: by_rows(x, x.shape[-1]),
    "block_size is not used; 64 should only be its default": lambda x, size: NF4Steps()(x, 64),
}


@NF4
@pytest.mark.points(2)
@pytest.mark.parametrize(("shape", "size"), [((8, 24), 64), ((5, 12), 4), ((3, 10), 6), ((70,), 16), ((2, 3, 5), 4)])
def test_each_number_goes_to_the_nearest_level_of_its_block(student, check, rng, shape, size):
    """Blocks of x.flatten(), the last of which may be short, are divided by their absmax; a code is the nearest level's."""
    x, codes, absmax = near_levels(rng, *shape, block=size)

    found = student.call("quantization.quantize_nf4", x, *([] if size == 64 else [size]))

    check(found, (codes, absmax), names=("codes", "absmax"), mistakes=on_inputs(CODES, x, size))


@NF4
@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(), (5,), (1, 1, 3)], ids=str)
def test_a_block_may_be_larger_than_all_of_x(student, check, rng, shape):
    """Of few numbers there is one block, whatever their shape; they come back in it."""
    x, codes, absmax = near_levels(rng, *shape)

    found = student.call("quantization.quantize_nf4", x)

    check(found, (codes, absmax), names=("codes", "absmax"))
    back = student.call("quantization.dequantize_nf4", codes, absmax)
    check(back, (LEVELS[codes.long()] * float(absmax[0])).float(), relative=2e-6, what="what comes back")


@NF4
@pytest.mark.points(1)
def test_the_borders_are_halfway_between_levels(student, check):
    """A number a little below the middle of two neighbours goes to the lower one, a little above it to the upper one."""
    middle = (LEVELS[1:] + LEVELS[:-1]) / 2
    x = torch.cat([middle - 1e-4, middle + 1e-4, LEVELS, torch.ones(1)]).float()

    codes, _ = student.call("quantization.quantize_nf4", x, len(x))

    check(codes, nearest(x.double()).to(torch.uint8), what="codes", mistakes={
        "the levels are equally far apart; they should be those of NF4": CODES[
            "the levels are equally far apart; they should be those of NF4"
        ](x, len(x))[0],
    })  # fmt: skip


@NF4
@pytest.mark.points(1)
def test_nf4_of_zeros_and_float64(student, check, rng):
    """A block of zeros has absmax 0, and any code; float64 keeps its precision; x stays as it is. A block has at least one number."""
    x, codes, absmax = near_levels(rng, 6, 8, block=16, dtype=torch.float64)
    x[2:4], codes[2:4], absmax[1] = 0, 7, 0

    found = student.call("quantization.quantize_nf4", x, 16)
    same, rude = conduct_of(student, "quantize_nf4", x, 16)
    if isinstance(found, (tuple, list)) and len(found) == 2 and getattr(found[0], "shape", None) == codes.shape:
        codes[2:4] = found[0][2:4]  # 0 / 0 is near no level: absmax makes zeros of all

    check(found, (codes, absmax), names=("codes", "absmax"), mistakes={
        "absmax of float64 is worked out in float32": (codes, absmax.float().double()),
        "absmax of float64 is float32; it should have the dtype of x": (codes, absmax.float()),
        "absmax of a block of zeros is not 0; it should be": check.when(
            nearly_right(found, codes, absmax) and float(found[1][1]) != 0
        ),
    })  # fmt: skip
    check.that(same, "x is changed")
    check(rude, "", mistakes=MANNERS)
    student.raises(ValueError, "quantization.quantize_nf4", x, 0, says=("block_size", 0))


def nearly_right(found, codes, absmax):
    """Whether all is right but for a very small number in absmax."""
    if not isinstance(found, (tuple, list)) or len(found) != 2 or dtype_of(found[0]) is not torch.uint8:
        return False
    return found[0].shape == codes.shape and torch.equal(found[0], codes) and nearly(found[1], absmax)


@NF4
@pytest.mark.points(1)
def test_the_levels_are_those_of_the_paper(student, check):
    """dequantize_nf4 of all codes gives the 16 levels of QLoRA, times absmax."""
    codes = torch.arange(16, dtype=torch.uint8)

    found = student.call("quantization.dequantize_nf4", codes, torch.tensor([2.0], dtype=torch.float64), 16)

    check(found, 2 * LEVELS, within=2e-6, mistakes={
        "the levels are not multiplied by absmax": LEVELS,
        "the levels are divided by absmax; they should be multiplied": LEVELS / 2,
        "the levels are equally far apart; they should be those of NF4": 2 * EQUAL_STEPS,
        "some of the levels are mistyped; they should be those of NF4_LEVELS": check.when(nearly(found, 2 * LEVELS, 0.1)),
    })  # fmt: skip


@NF4
@pytest.mark.points(1)
@pytest.mark.parametrize(("shape", "size"), [((8, 24), 64), ((6, 10), 4), ((5, 5), 7), ((2, 3, 4), 24)])
def test_each_block_comes_back_with_its_absmax(student, check, rng, shape, size):
    """The level of each code, times the absmax of its block of codes.flatten(), in the dtype of absmax; nothing is changed."""
    codes = torch.randint(0, 16, shape, generator=rng).to(torch.uint8)
    absmax = randn(rng, -(-codes.numel() // size), dtype=torch.float64).abs() + 0.1

    found = [
        student.call("quantization.dequantize_nf4", codes, one, *([] if size == 64 else [size]))
        for one in (absmax, absmax.float())
    ]
    same, rude = conduct_of(student, "dequantize_nf4", codes, absmax * (torch.arange(len(absmax)) > 0), size)

    levels, count = LEVELS[codes.long()], codes.numel()

    def times(scale):
        truth = levels * scale[:count].view(shape)
        return [truth, truth.float()]

    check(found, times(absmax.repeat_interleave(size)), relative=2e-6, mistakes={
        "the numbers of a block have different factors: block i // block_size should count": lambda: times(
            absmax.repeat(size)
        ),
        "block_size is not used; 64 should only be its default": lambda: times(absmax.repeat_interleave(64)),
        "the result is float32; it should have the dtype of absmax": lambda: [
            times(absmax.repeat_interleave(size))[1]
        ] * 2,
    })  # fmt: skip
    check.that(same, "codes or absmax is changed")
    check(rude, "", mistakes=MANNERS)
    student.raises(ValueError, "quantization.dequantize_nf4", codes, absmax, 0, says=("block_size", 0))
