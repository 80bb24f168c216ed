"""Hidden tests of rope_encoding: apply_rope and RoPEEncoding. The truth is worked out in float64 by `turn`."""

import math

import pytest
import torch

from rope_encoding_helpers import THETA_MISTAKES, theta, usable
from shared import MANNERS, dtype_of, nearly, on_inputs, single

APPLY = pytest.mark.question("apply_rope")
LAYER = pytest.mark.question("RoPEEncoding")


def uniform(rng, *shape, dtype=torch.float32):
    return torch.rand(shape, generator=rng, dtype=dtype) * 2 - 1


def places(rng, *shape, below=100):
    """Random positions from 1 on, so that every one turns something."""
    return torch.randint(1, below, shape, generator=rng)


# ---------------------------------------------------------------------------------------------- the truth


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


# ---------------------------------------------------------------------------------------------- known mistakes

OTHER = {"neighbours": "halves", "halves": "neighbours"}
TURN_MISTAKES = {  # sentence -> a function of (x, positions that broadcast to its shape without D, angles, pairs)
    "nothing is turned; x comes back as it was": lambda x, positions, angles, pairs: x,
    "the pairs are turned backwards; the signs of both sines should be swapped": lambda x, positions, angles, pairs: (
        turn(x, angles, pairs, signs=(1, -1))
    ),
    "a becomes a cos + b sin; it should become a cos - b sin": lambda x, positions, angles, pairs: turn(
        x, angles, pairs, signs=(1, 1)
    ),
    "b becomes b cos - a sin; it should become a sin + b cos": lambda x, positions, angles, pairs: turn(
        x, angles, pairs, signs=(-1, -1)
    ),
    "the second number of a pair is computed from the new value of the first; it should be computed from the old one": lambda x, positions, angles, pairs: (
        turn(x, angles, pairs, late=True)
    ),
    "the sines are missing; a pair (a, b) should become (a cos - b sin, a sin + b cos)": lambda x, positions, angles, pairs: (
        turn(x, angles, pairs, signs=(0, 0))
    ),
    "cosine and sine are swapped": lambda x, positions, angles, pairs: turn(x, math.pi / 2 - angles, pairs),
    "the turned pairs are put back in the wrong order; each number should return to its place": lambda x, positions, angles, pairs: (
        turn(x, angles, pairs, back=OTHER[pairs])
    ),
    "the table of angles is laid out for other pairs than those that are turned": lambda x, positions, angles, pairs: (
        turn(x, angles, pairs, table=OTHER[pairs])
    ),
    "all pairs turn at the same speed": lambda x, positions, angles, pairs: turn(
        x, positions.double()[..., None].expand_as(angles), pairs
    ),
    "the turned vector is added to x": lambda x, positions, angles, pairs: x + turn(x, angles, pairs),
    "positions run along the heads; they should run along T, the last dimension but one": lambda x, positions, angles, pairs: (
        turn(x.transpose(-2, -3), angles, pairs).transpose(-2, -3)
    ),
}


def rotation(value, x, positions, base=10000.0, pairs="neighbours", *, freq=None, applied=None, more=None):
    """For `check(**…)`: value against x, turned at positions that broadcast to its shape without D. Its dtype is for other
    tests.

    freq, applied: what the student's own rope_frequencies and apply_rope give here. Where they are wrong, what agrees with
    them is right: their own tests say what is wrong with them. more: known mistakes besides.
    """
    D, T = x.shape[-1], x.shape[-2]
    angles, value = angles_of(positions, D, base), single(value)
    truth = turn(x, angles, pairs)
    expected, within = truth, 1e-5
    for other, exact in own_rotations(x, positions, base, pairs, freq, applied):
        if nearly_one(value, other, exact) and not nearly_one(value, truth):
            expected, within = other, 2 * exact

    def at(positions, speeds=theta):
        return lambda: turn(x, positions.double()[..., None] * speeds(D, base), pairs)

    known = {
        f"{OTHER[pairs]} are turned as pairs; with this value of interleaved it should be {pairs}": lambda: turn(x, angles, OTHER[pairs]),
        **(more or {}),
        **on_inputs(TURN_MISTAKES, x, positions, angles, pairs),
        "positions are ignored: those used are always 0 to T - 1": at(torch.arange(T)),
        "positions are counted from 1; they should be taken as they are": at(positions + 1),
        **{sentence: at(positions, speeds) for sentence, speeds in THETA_MISTAKES.items()},
    }  # fmt: skip
    return {"value": value, "expected": expected, "dtype": torch.float32, "within": within, "mistakes": known}


PER_SEQUENCE = {  # what positions (B, T) may be taken for: a function of (positions, the same by row)
    "every sequence gets the positions of the first; each should get its own": lambda positions, by_row: positions[0],
    "the rows of positions are given to the heads; there should be one for each sequence": lambda positions, by_row: (
        positions
    ),
    "the rows of positions are read as columns; each row should belong to one sequence": lambda positions, by_row: (
        by_row.mT
    ),
}


def of_sequences(x, positions, pairs):
    """(positions that broadcast to x without D, what x becomes at wrong ones by sentence)."""
    by_row = positions.view(x.shape[0], *[1] * (x.dim() - 3), x.shape[-2])
    wrong = {
        sentence: lambda taken=taken: turn(x, angles_of(taken(positions, by_row), x.shape[-1]), pairs)
        for sentence, taken in PER_SEQUENCE.items()
    }
    return by_row, wrong


# ---------------------------------------------------------------------------------------------- apply_rope

# With 8 numbers the wavelengths are whole turns, and with these nothing would be turned.
SHAPES = [(2, 3, 5, 12), (3, 4, 6), (7, 4), (2, 4, 4, 10), (1, 2, 1, 6), (2, 2, 3, 4, 6), (3, 2)]
ROUNDED = "x is float64 but is rounded to float32 on the way; it should stay float64"
OTHER_DTYPE = {
    torch.float32: {"the result is float64 though x is float32": torch.float64},
    torch.float64: {"the result is float32 though x is float64": torch.float32},
}
NO_GRADIENT = "no gradient reaches x"
WRONG_GRADIENT = "the gradient of x is wrong; it should be the result's, turned back"
NOT_CONTIGUOUS = "an x that is not contiguous is turned differently"
COARSE = "the angles of far positions are not exact enough; they should be computed in float64"


def of_apply(student, *arguments, **named):
    """What apply_rope gives, and the student's frequencies for these."""

    def probe(arguments, named, dim, base):
        from rope_encoding import apply_rope, rope_frequencies

        return apply_rope(*arguments, **named), inside.or_none(rope_frequencies, dim, base)

    base = arguments[2] if len(arguments) > 2 else 10000.0
    return student.run(probe, list(arguments), named, arguments[0].shape[-1], base)


@APPLY
@pytest.mark.points(3)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_neighbours_are_turned_as_in_the_paper(student, check, rng, shape):
    """Pairs (0, 1), (2, 3), … are turned by position · frequency."""
    x, positions = uniform(rng, *shape), places(rng, shape[-2])
    turned, freq = of_apply(student, x, positions)

    check(**rotation(turned, x, positions, freq=freq))


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_are_turned_as_in_transformers(student, check, rng, shape):
    """interleaved=False turns the pairs (0, dim / 2), (1, dim / 2 + 1), …"""
    x, positions = uniform(rng, *shape), places(rng, shape[-2])
    turned, freq = of_apply(student, x, positions, 500.0, False)

    check(**rotation(turned, x, positions, 500.0, "halves", freq=freq))


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize(
    "shape", [(3, 4, 6), (3, 2, 4, 8), (3, 3, 3, 6), (2, 4, 2, 4), (1, 2, 3, 4), (2, 3, 2, 4, 6)], ids=str
)
@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_each_sequence_has_its_own_positions(student, check, rng, shape, pairs):
    """positions (B, T) give each sequence its own row, the same for all of its heads."""

    def probe(x, positions, interleaved):
        from rope_encoding import apply_rope

        def alone():  # twice x, halved again, so that zeros and other constants are not taken for a rotation
            rows = zip(2 * x, positions, strict=True)
            return torch.stack([apply_rope(row, place, interleaved=interleaved) / 2 for row, place in rows])

        return apply_rope(x, positions, interleaved=interleaved), inside.or_none(alone)

    x, positions = uniform(rng, *shape), places(rng, shape[0], shape[-2])
    turned, alone = student.run(probe, x, positions, pairs == "neighbours")

    by_row, wrong = of_sequences(x, positions, pairs)
    check(**rotation(turned, x, by_row, pairs=pairs, applied=alone, more=wrong))


@APPLY
@pytest.mark.points(2)
@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_far_positions_are_turned_as_exactly_as_near_ones(student, check, rng, pairs):
    """The result is right to 1e-5 up to position 4095."""
    x, positions = uniform(rng, 4096, 14), torch.arange(4096)
    turned, freq = of_apply(student, x, positions, 10000.0, pairs == "neighbours")

    near = slice(1, 20)  # what is wrong here is another mistake
    check(**rotation(turned[near], x[near], positions[near], pairs=pairs, freq=freq))
    coarse = {"positions are rounded to bfloat16, in which some above 256 become equal; they should stay exact": turn(
        x, angles_of(positions.bfloat16(), 14), pairs
    )}  # fmt: skip
    far = rotation(turned, x, positions, pairs=pairs, freq=freq, more=coarse)
    check(**far | {"within": 0.02})  # what is wrong so far is not rounding
    check(**far | {"mistakes": {}}, otherwise=COARSE)


@APPLY
@pytest.mark.points(1)
@pytest.mark.parametrize("interleaved", [True, False])
def test_apply_rope_keeps_the_dtype(student, check, rng, interleaved):
    """float32 stays float32, and float64 is exact: nothing is rounded to float32 on the way."""

    def probe(x, positions, interleaved):
        from rope_encoding import apply_rope

        inputs = x.float(), x, x.float().double()
        return [apply_rope(item, positions, interleaved=interleaved) for item in inputs]

    x = uniform(rng, 2, 2, 3, 5, 6, dtype=torch.float64)
    single_x, double_x, rounded_x = student.run(probe, x, places(rng, 5), interleaved)

    check(dtype_of(single_x), torch.float32, mistakes=OTHER_DTYPE[torch.float32])
    check(dtype_of(double_x), torch.float64, mistakes=OTHER_DTYPE[torch.float64])
    check.that(not torch.equal(double_x, rounded_x), ROUNDED)


@APPLY
@pytest.mark.points(1)
@pytest.mark.parametrize("interleaved", [True, False])
def test_apply_rope_leaves_its_inputs_alone_and_passes_gradients_on(student, check, rng, interleaved):
    """x, positions and torch's state stay as they are, earlier calls do not matter, and gradients are turned back."""

    def probe(x, y, positions, interleaved):
        from rope_encoding import apply_rope

        def apply(x, positions, base=10000.0):
            return inside.a_tensor(apply_rope(x, positions, base, interleaved))

        others = [apply(x, positions + 1), apply(x, positions, 50.0)]
        result, after, rude = inside.manners(apply, x, positions)
        slopes = inside.turned_back(lambda x: apply(x, positions), x.double(), y)
        return result, apply(x.contiguous(), positions), others, after, rude, slopes

    x, y, positions = uniform(rng, 2, 2, 3, 5, 6), uniform(rng, 2, 2, 3, 5, 6, dtype=torch.float64), places(rng, 5)
    result, again, others, after, rude, (there, back, arrives) = student.run(probe, x, y, positions, interleaved)

    check(after[0], x, otherwise="x is changed in place")
    check(after[1], positions, otherwise="positions are changed in place")
    check(rude, "", mistakes=MANNERS)
    check(result, again, within=1e-5, otherwise=NOT_CONTIGUOUS)
    for other in others:
        check.that(not nearly_one(result, other), "the positions or the base of an earlier call are used again")
    check.that(arrives, NO_GRADIENT)
    check(back, there, relative=1e-5, otherwise=WRONG_GRADIENT)


@APPLY
@pytest.mark.points(1)
def test_an_odd_dimension_cannot_be_turned(student):
    """An odd last dimension of x is a ValueError."""
    names = ("dim", "x", "d_model", "D", "head_dim", 5)
    student.accepts("rope_encoding.apply_rope", torch.zeros(2, 3, 6), torch.arange(3))
    student.raises(ValueError, "rope_encoding.apply_rope", torch.zeros(2, 3, 5), torch.arange(3), says=names)


# ---------------------------------------------------------------------------------------------- RoPEEncoding


def of_layer(student, x, positions=None, base=10000.0, interleaved=True, arguments=()):
    """What RoPEEncoding(D, *arguments) gives for x and positions, and for `rotation` the student's own parts.

    apply_rope gets twice x, and its result is halved, so that zeros and other constants are not taken for a rotation.
    """

    def probe(x, positions, base, interleaved, arguments):
        from rope_encoding import RoPEEncoding, apply_rope, rope_frequencies

        D, T = x.shape[-1], x.shape[-2]
        turned = RoPEEncoding(D, *arguments)(x, *([] if positions is None else [positions]))
        there = torch.arange(T) if positions is None else positions
        applied = inside.or_none(lambda: apply_rope(2 * x, there, base, interleaved) / 2)
        return turned, {"applied": applied, "freq": inside.or_none(rope_frequencies, D, base)}

    return student.run(probe, x, positions, base, interleaved, list(arguments))


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(2, 3, 5, 12), (3, 4, 6), (2, 4, 4, 10), (1, 6, 4), (2, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("by_default", [True, False])
def test_the_layer_turns_by_place(student, check, rng, shape, by_default):
    """forward turns x (B, T, D) or (B, H, T, D) by the positions 0 to T - 1."""
    x, (T, D) = uniform(rng, *shape), shape[-2:]
    base, pairs, arguments = (10000.0, "neighbours", ()) if by_default else (300.0, "halves", (T, 300.0, False))
    turned, own = of_layer(student, x, None, base, by_default, arguments)

    check(**rotation(turned, x, torch.arange(T), base, pairs, **own, more={
        "the rows of the table are taken along the second dimension of x; T should be the last dimension but one": lambda: turn(
            x, angles_of(torch.arange(shape[1])[:, None], D, base), pairs
        ),
    }))  # fmt: skip


@LAYER
@pytest.mark.points(1)
def test_the_layer_keeps_the_dtype(student, check, rng):
    """float32 stays float32, and float64 is exact: x is not rounded to float32 on the way."""

    def probe(x):
        from rope_encoding import RoPEEncoding

        layer = RoPEEncoding(6, 10)
        return [layer(x.float()), layer(x), layer(x.float().double())]

    single_x, double_x, rounded_x = student.run(probe, uniform(rng, 2, 3, 5, 6, dtype=torch.float64))

    check(dtype_of(single_x), torch.float32, mistakes=OTHER_DTYPE[torch.float32])
    check(dtype_of(double_x), torch.float64, mistakes=OTHER_DTYPE[torch.float64])
    check.that(not torch.equal(double_x, rounded_x), ROUNDED)


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 2, 4, 8), (3, 3, 3, 6)], ids=str)
@pytest.mark.parametrize("per_sequence", [False, True])
def test_the_layer_takes_positions(student, check, rng, shape, per_sequence):
    """positions (T,) or (B, T) replace 0 to T - 1."""
    x, positions = uniform(rng, *shape), places(rng, *([shape[0]] if per_sequence else []), shape[-2], below=11)
    positions[..., 0], positions[..., 1] = 11, 0
    pairs = "neighbours" if per_sequence else "halves"
    turned, own = of_layer(student, x, positions, 10000.0, per_sequence, (12, 10000.0, per_sequence))

    by_row, wrong = of_sequences(x, positions, pairs) if per_sequence else (positions, {})
    freq = own["freq"] if not per_sequence else None  # apply_rope knows rows
    check(**rotation(turned, x, by_row, pairs=pairs, freq=freq, applied=own["applied"], more=wrong))


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_the_layers_far_positions_are_as_exact(student, check, rng, pairs):
    """The layer is right to 1e-5 up to position 4095."""
    x, positions, is_default = uniform(rng, 1, 4096, 14), torch.arange(4096), pairs == "neighbours"
    turned, own = of_layer(student, x, None, 10000.0, is_default, (4096, 10000.0, is_default))

    far = rotation(turned, x, positions, pairs=pairs, **own)
    check(far["value"][0, :20], far["expected"][0, :20], dtype=torch.float32, within=1e-5)
    check(**far | {"within": 0.02})  # rounding does no more
    check(**far | {"mistakes": {}}, otherwise=COARSE)


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

    def probe(d_model):
        from rope_encoding import RoPEEncoding

        RoPEEncoding(d_model, 8)(torch.zeros(1, 3, d_model))

    student.accepts(probe, 6)
    student.raises(ValueError, probe, 5, says=("d_model", "dim", 5))


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

    check.that(parameters == 0, "the layer has parameters; it should have none, since nothing in it is learned")
    check.that(saved == 0, "the cache is saved with the state; it should be a buffer with persistent=False")
    check(later, [0, 0], otherwise="parameters or a state appear once the layer was used")


@LAYER
@pytest.mark.points(2)
def test_each_call_stands_for_itself(student, check, rng):
    """A layer keeps nothing of earlier calls: lengths, dtypes and other layers do not matter; gradients flow."""

    def probe(x, y):
        from rope_encoding import RoPEEncoding

        def alone(x):
            return inside.a_tensor(RoPEEncoding(6, 10)(x))

        layer, other = RoPEEncoding(6, 10), RoPEEncoding(6, 10, base=50.0)
        calls = [x[:, :, :2], x, x.double(), x[:, 0], x[:, :, :3]]
        results = [inside.a_tensor(layer(item)) for item in calls]
        _, (after, *_), rude = inside.manners(layer, x)
        slopes = inside.turned_back(layer, x.double(), y)
        return results, [alone(item) for item in calls], other(x), layer(inside.strided(x)), after, rude, slopes

    x, y = uniform(rng, 2, 3, 5, 6), uniform(rng, 2, 3, 5, 6, dtype=torch.float64)
    results, alone, of_other, strided, after, rude, (there, back, arrives) = student.run(probe, x, y)

    check(after, x, otherwise="x is changed in place")
    check(results, alone, within=1e-5, otherwise="a call after others gives something else than the same call alone")
    shared = "layers with different bases share one cache; each should have its own"
    check.that(not nearly_one(of_other, results[1]), shared)
    check.that(arrives, NO_GRADIENT)
    check(back, there, relative=1e-5, otherwise=WRONG_GRADIENT)
    check(strided, alone[1], within=1e-5, otherwise=NOT_CONTIGUOUS)
    check(rude, "", mistakes=MANNERS)


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
