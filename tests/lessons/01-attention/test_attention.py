"""Hidden tests of attention.py.

Every expected value is a formula in float64: `attend` is one attention, `project_and_attend` one with projections and
heads, a list of steps. A mistake that is known replaces one step, so that a test can name the one that was made.
"""

import math
from functools import partial

import pytest
import torch

from attention_helpers import COMMON_MISTAKES, SCALED, backward, facts_of_dropout, forward, masks, runs_with_dropout
from shared import attend, has_nan, past, randn, random_mask, weigh

# ---------------------------------------------------------------------------------------------- masks


def like(value, expected):
    """`expected` in the dtype and shape of value: for mistakes that are of form only."""
    return expected.to(value.dtype).reshape(value.shape) if isinstance(value, torch.Tensor) else expected


@masks
@pytest.mark.points(1)
@pytest.mark.parametrize("length", [7, 2, 1])
def test_causal_mask_shows_a_position_itself_and_the_past_only(student, check, length):
    """The causal mask lets a position attend to itself and to the past only."""
    mask = student.call("attention.causal_mask", length)

    expected = past(length)
    mistakes = {
        "a position cannot see itself; the diagonal should be visible": expected.tril(-1),
        "the mask is transposed, so that it shows the future": expected.T,
        "the mask is true where a position may not attend": ~expected,
        "a position can see the next one": torch.ones_like(expected).tril(1),
        "the mask holds 0 and -inf, where it should be boolean": torch.full((length, length), -math.inf).triu(1),
        "the mask is not boolean, or has not the shape (T, T)": lambda: like(mask, expected),
    }
    check(mask, expected, mistakes=mistakes)


@masks
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", ["list", torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("max_length", [None, 6, 9])
def test_padding_mask_shows_the_real_positions(student, check, kind, max_length):
    """The padding mask shows the real positions of each sequence, for heads and queries to share."""
    lengths = [4, 1, 6, 3]
    given = lengths if kind == "list" else torch.tensor(lengths, dtype=kind)
    mask = student.call("attention.padding_mask", given, *([] if max_length is None else [max_length]))

    places = torch.arange(max_length or 6)
    real, late, early = ((places < torch.tensor(lengths)[:, None] + shift)[:, None, None, :] for shift in (0, 1, -1))
    mistakes = {
        "one position too many can be seen; position number `length` should be hidden, since it is padding": late,
        "the last real position is hidden": early,
        "the mask is true at the padding": ~real,
        "the mask is over queries; it should be over keys, with the positions last": real.mT,
        "max_length is ignored": real[..., :6],
        "the mask is not boolean, or has not the shape (B, 1, 1, T)": lambda: like(mask, real),
    }
    check(mask, real, mistakes=mistakes)


@masks
@pytest.mark.points(1)
def test_padding_mask_refuses_a_length_over_the_maximum(student, check):
    """A length over max_length is a ValueError, and a length that equals it is none."""
    student.raises(ValueError, "attention.padding_mask", [3, 5, 2], 4, says=("max_length", "lengths", 5))
    student.raises(ValueError, "attention.padding_mask", [2, 3, 5], 4, says=("max_length", "lengths", 5))
    student.raises(ValueError, "attention.padding_mask", torch.tensor([7]), 6, says=("max_length", "lengths", 7))
    # 0 is false, and yet a maximum.
    student.raises(ValueError, "attention.padding_mask", [2, 1], 0, says=("max_length", "lengths", 2))
    mask = student.call("attention.padding_mask", lengths=[1], max_length=1)

    check(mask, torch.ones(1, 1, 1, 1, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- scaled dot product

scaled = pytest.mark.question("ScaledDotProductAttention")


def scaled_inputs(rng, *leading, queries=4, keys=6):
    return randn(rng, *leading, queries, 5), randn(rng, *leading, keys, 5), randn(rng, *leading, keys, 3)


@scaled
@pytest.mark.points(3)
@pytest.mark.parametrize(
    "leading", [(), (2, 3), (2,), (2, 1, 3), (1, 1)], ids=str
)  # with (2,) dimension 1 is the queries
def test_scaled_dot_product_is_a_weighted_mean_of_the_values(student, check, rng, leading):
    """The output is softmax(q kᵀ / temperature) v, with any number of leading dimensions."""
    mistakes = {
        "the scores are not divided by the temperature": dict(temperature=1.0),
        "the scores are divided by sqrt(d_k), not by the temperature": dict(temperature=5**0.5),
        "the scores are divided by sqrt(d_k) and by the temperature": dict(temperature=5**0.5 * 1.7),
        "the scores are divided by the square root of the temperature": dict(temperature=1.7**0.5),
        "the scores are multiplied by the temperature, not divided": dict(temperature=1 / 1.7),
        "the softmax runs over the queries, not over the keys": dict(weigh=partial(weigh, over=-2)),
        "the softmax runs over a dimension counted from the front": dict(weigh=partial(weigh, over=1)),
        **COMMON_MISTAKES,
    }
    check(**forward(student, rng, SCALED, *scaled_inputs(rng, *leading), mistakes=mistakes))


@scaled
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 6), torch.bool),
        ((6,), torch.int64),
        ((3, 4, 6), torch.float32),
        ((3, 1, 1, 6), torch.uint8),
        ((3, 3, 4, 6), torch.float64),
    ],
    ids=str,
)
def test_scaled_dot_product_hides_what_the_mask_hides(student, check, rng, shape, dtype):
    """A mask of any shape that broadcasts, and of any dtype that holds 0 and 1, hides keys."""
    mistakes = {
        **COMMON_MISTAKES,
        "a mask (H, Tq, Tk) is taken for one mask a sequence": dict(mask=lambda mask: mask.unsqueeze(1)),
    }
    check(
        **forward(
            student, rng, SCALED, *scaled_inputs(rng, 3, 3), random_mask(rng, *shape).to(dtype), mistakes=mistakes
        )
    )


@scaled
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (4, 1), (6,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
def test_scaled_dot_product_gives_zeros_to_a_query_that_sees_nothing(student, check, rng, dtype, shape):
    """A query that may attend to nothing gets zero weights and a zero output; the others get what is theirs."""
    mask = torch.zeros(shape, dtype=torch.bool)  # (6,) hides all keys from all queries, (4, 1) from some queries
    if shape == (4, 1):
        mask[1::2] = True
    elif len(shape) == 4:
        mask = random_mask(rng, *shape)
        mask[0, :, 2], mask[1, :, 0] = False, False
    mistakes = {
        "a query that may attend to nothing gets NaN": dict(weigh=partial(weigh, empty=math.nan)),
        "a query that may attend to nothing attends to every key alike": dict(weigh=partial(weigh, empty=1 / 6)),
    }
    check(**forward(student, rng, SCALED, *scaled_inputs(rng, 2, 3), mask.to(dtype), mistakes=mistakes))


@scaled
@pytest.mark.points(2)
@pytest.mark.parametrize("masked", [False, True])
def test_scaled_dot_product_has_the_right_gradients(student, check, rng, masked):
    """Gradients reach q, k and v, in float64, and are not NaN where a query may attend to nothing."""
    mask = random_mask(rng, 2, 1, 4, 6)
    mask[0, :, 1] = False
    for case in backward(student, rng, SCALED, *scaled_inputs(rng, 2, 3), *([mask] if masked else [])):
        check(**case)


@scaled
@pytest.mark.points(1)
def test_scaled_dot_product_is_stable_for_large_scores(student, check):
    """Large scores give the right weights: nothing overflows, and a hidden key stays hidden."""

    def probe(q, k, v, mask):
        attention = inside.attention_layer("ScaledDotProductAttention", {"temperature": 1.0, "attn_dropout": 0.0})
        return [*attention(q=q, k=k, v=v), *attention(q, k, v, mask=mask)]

    # The scores are ±10⁶ plus the second column of k: whole numbers, which float32 holds without rounding. The hidden
    # one is so much greater that beside it the others vanish. A logsumexp of such scores is rounded to 1/16, and so
    # exp(score - logsumexp) is good to some percent: 2**16 terms let that pass.
    q = torch.tensor([[1000.0, 1.0], [-1000.0, 1.0]])
    k = torch.tensor([[1000.0, -2.0], [1000.0, -1.0], [1000.0, 400.0], [1000.0, -4.0]])
    v = torch.tensor([[1.0, 2.0, -1.0], [3.0, -1.0, 0.5], [-2.0, 5.0, 4.0], [0.0, 1.0, 2.0]])
    mask = torch.tensor([True, True, False, True])
    result = student.run(probe, q, k, v, mask)

    plain, low = attend(q, k, v, scale=1.0), attend(q, k, v, mask, scale=1.0, weigh=partial(weigh, low=-1e4))
    zero = low[1].masked_fill(~mask, 0)
    beside = has_nan(result[2:]) and not has_nan(result[:2])
    mistakes = {
        "what may be seen vanishes beside a greater hidden score: hide it first": check.when(beside),
        "large scores overflow: subtract the greatest before the exponential": check.when(has_nan(result)),
        "what takes the place of a hidden score is not low enough: real scores can be lower": [*plain, *low],
        "what hides a score is not low enough: real scores can be lower": [*plain, zero @ v.double(), zero],
        "the weights do not sum to 1: a hidden key takes its share": [*plain, 0 * low[0], 0 * low[1]],
    }
    check(result, [*plain, *attend(q, k, v, mask, scale=1.0)], dtype=torch.float32, terms=1 << 16, mistakes=mistakes)


@scaled
@pytest.mark.points(2)
def test_scaled_dot_product_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only; the weights that it leaves multiply v and are returned."""
    q, k, v = scaled_inputs(rng, 2, 3)
    runs = runs_with_dropout(student, rng, SCALED, q, k, v)

    for fact in facts_of_dropout(runs):
        check.that(*fact)
    (output, weights), undropped = runs[0], runs[3][1]
    dropped = bool(((weights == 0) | ((weights - undropped / 0.5).abs() < 1e-5)).all())
    mistakes = {
        "in train mode the weights that are returned are not those that multiplied v": check.when(dropped),
    }
    check(output, weights.double() @ v.double(), dtype=torch.float32, mistakes=mistakes)


@scaled
@pytest.mark.points(1)
@pytest.mark.parametrize("temperature", [0, 0.0, -1.5])
def test_scaled_dot_product_refuses_a_temperature_that_is_not_positive(student, temperature):
    """A temperature of zero or less is a ValueError."""

    def probe(temperature):
        inside.attention_layer("ScaledDotProductAttention", (temperature,))(*torch.ones(3, 1, 1, 2))

    student.accepts(probe, 1e-3)
    student.raises(ValueError, probe, temperature, says=("temperature", temperature))
