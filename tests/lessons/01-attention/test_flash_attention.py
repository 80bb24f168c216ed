"""Hidden tests of flash_attention.

Truth is plain attention in float64, its gradients by autograd. Mistakes are the same formulas with a slip in them:
`online` walks over the tiles as a student does, and in test_flash_attention__backward.py `plain_gradients` is the
backward written out. What is measured inside the student's process (memory) is counted by operation, see inside.py; a
submission could falsify it.
"""

import math

import pytest
import torch

from flash_attention_helpers import (
    CAUSAL_SIZES,
    SIZES,
    causal_mistakes,
    forward_mistakes,
    gentle,
    online,
    part,
    plain,
    qkv,
    visible,
)
from shared import (
    MANNERS,
    dtype_of,
    is_own,
    is_right,
    like_own,
    randn,
)

FORWARD = pytest.mark.question("flash_attention_forward")


def either(result, index):
    """A part of what flash_attention_forward returned, or all of it where it is no pair."""
    return result[index] if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)[index]


@FORWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_output_is_that_of_attention(student, check, rng, size):
    """The output is that of plain attention, whatever the lengths and the size of a tile."""
    q, k, v, _ = qkv(rng, *size[:-1])
    result = student.call("flash_attention.flash_attention_forward", q, k, v, False, size[-1])

    mistakes = part(forward_mistakes(q, k, v, size[-1]), 0)
    mistakes["causal is always on"] = lambda: plain(q, k, v, True)[0]
    check(either(result, 0), plain(q, k, v)[0], dtype=torch.float32, mistakes=mistakes)


@FORWARD
@pytest.mark.points(2)
@pytest.mark.parametrize(("size", "causal"), [(SIZES[0], False), (SIZES[1], False), (CAUSAL_SIZES[0], True)], ids=str)
def test_the_logsumexp_is_that_of_the_visible_scores(student, check, rng, size, causal):
    """The logsumexp is the natural logarithm of the sum of exp(scores) that a query may see, (B, H, Tq)."""
    q, k, v, _ = qkv(rng, *size[:-1])
    result = student.call("flash_attention.flash_attention_forward", q, k, v, causal, size[-1])
    if causal and not is_right(either(result, 0), plain(q, k, v, True)[0]):  # what causal hides has a test of its own
        result, causal = student.call("flash_attention.flash_attention_forward", q, k, v, False, size[-1]), False

    truth = plain(q, k, v, causal)[1]
    s = (q.double() @ k.double().mT / q.shape[-1] ** 0.5).masked_fill(~visible(q, k, causal), -math.inf)
    m = s.amax(-1)
    check(either(result, 1), truth, dtype=torch.float32, mistakes={
        "the logsumexp is not returned": None,
        "the logsumexp lacks the maximum; it should be m + log(sum)": truth - m,
        "the logsumexp lacks the logarithm; it should be m + log(sum)": m + (truth - m).exp(),
        "the running maximum is returned; the logsumexp should be m + log(sum)": m,
        "the running sum is returned; the logsumexp should be m + log(sum)": (truth - m).exp(),
        "the sum of exponentials is returned; the logsumexp should be its logarithm": truth.exp(),
        "the logarithm is taken to base 2": truth / math.log(2),
        "only the logarithm of the sum is to base 2": m + (truth - m) / math.log(2),
        "the logsumexp has the wrong sign": -truth,
        "the logsumexp is m - log(sum); it should be m + log(sum)": 2 * m - truth,
        "the logsumexp has one dimension too many; its shape should be (B, H, Tq)": truth[..., None],
        "the logsumexp counts keys that the query may not see": plain(q, k, v)[1],
    } | part(forward_mistakes(q, k, v, size[-1]), 1))  # fmt: skip


@FORWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("size", CAUSAL_SIZES, ids=str)
def test_causal_queries_see_the_keys_up_to_their_own_place(student, check, rng, size):
    """With causal, query i sees the keys j <= i, both counted from the first, also where Tq is not Tk."""
    (q, k, v, _), block = qkv(rng, *size[:-1]), size[-1]
    result = student.call("flash_attention.flash_attention_forward", q, k, v, causal=True, block_size=block)
    seeing_all = student.call("flash_attention.flash_attention_forward", q, k, v, False, block)
    if not is_right(either(seeing_all, 0), plain(q, k, v)[0]):  # which has a test of its own
        block = min(block, 4)
        q, k, v = gentle(rng, block)
        result = student.call("flash_attention.flash_attention_forward", q, k, v, True, block)

    truth, mistakes = plain(q, k, v, True)[0], part(causal_mistakes(q, k, v, block), 0)
    mistakes[
        "a tile that is hidden completely gives NaN, as -inf - -inf does; it should be skipped, or change nothing"
    ] = lambda: truth.masked_fill(either(result, 0).isnan(), math.nan)
    check(either(result, 0), truth, dtype=torch.float32, mistakes=mistakes)


@FORWARD
@pytest.mark.points(1)
@pytest.mark.parametrize("far_below_zero", [False, True])
def test_large_scores_do_not_overflow(student, check, rng, far_below_zero):
    """Scores of some 300, above and below zero, in one tile and growing from tile to tile, give no NaN."""
    # Whole numbers and Dh = 4 make the scores exact in float32. Even queries have growing scores, odd ones falling.
    q, k = torch.randint(-2, 3, (2, 2, 3, 10, 4), generator=rng).float()
    v = randn(rng, 2, 3, 10, 5)[..., :4]
    place = torch.arange(10.0)
    q[..., 0] = 20.0 if far_below_zero else 20 * (-1) ** place
    k[..., 0] = -15 - place if far_below_zero else 3 * place
    result = student.call("flash_attention.flash_attention_forward", q, k, v, False, 3)

    mistakes = {
        "the running maximum starts at 0; it should start at -inf": lambda: online(q, k, v, 3, "", start=0.0),
        "exp overflows or vanishes: subtract the running maximum first": lambda: online(q, k, v, 3, "no maximum"),
        "the running maximum is that of the tile; each query should have its own": lambda: online(
            q, k, v, 3, "tile's maximum"
        ),
        "the maximum is that of the newest tile; the running maximum should never fall": lambda: online(
            q, k, v, 3, "newest"
        ),
        "the correction is upside down; it should be exp(old maximum - new maximum)": lambda: online(
            q, k, v, 3, "upside down"
        ),
    }
    truth = plain(q, k, v)
    # Where exp2 is used, scores of 300 are rounded once more: 1024 terms let that pass.
    check(either(result, 0), truth[0], dtype=torch.float32, terms=1024, mistakes=part(mistakes, 0))
    check(either(result, 1), truth[1], dtype=torch.float32, terms=1024, mistakes=part(mistakes, 1))


@FORWARD
@pytest.mark.points(1)
def test_no_finite_number_is_below_all_scores(student, check, rng):
    """The running maximum starts below scores of -15000 and less, and what hides the future is below them too."""
    q, k, v, _ = qkv(rng, 2, 3, 10, 10, 4, dtype=torch.float64)  # float32 would lose half its digits in such scores
    q[..., 0], k[..., 0] = 2000.0, -15 - torch.arange(10.0)
    result = student.call("flash_attention.flash_attention_forward", q, k, v, True, 3)

    hidden = "what hides the future is not low enough: real scores can be lower"
    mistakes = {
        "scores far below zero vanish; the running maximum should start at -inf and be subtracted": lambda: online(
            q, k, v, 3, "", causal=True, start=-1e4
        ),
        hidden: lambda: online(q, k, v, 3, "", causal=True, low=-1e4),
        hidden + ", in all tiles": lambda: plain(q, k, v, True, low=-1e4),
    }
    # The scores have 14 bits before the point, and exp2 rounds them once more.
    check(either(result, 0), plain(q, k, v, True)[0], terms=1 << 16, mistakes=part(mistakes, 0))


@FORWARD
@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_output_has_the_dtype_of_q_and_the_logsumexp_at_least_float32(student, check, rng, dtype):
    """The output has the dtype of q; the logsumexp is float32, or float64 where q is."""
    q, k, v, _ = (x.to(dtype) for x in qkv(rng, 1, 2, 5, 7, 4))
    result = student.call("flash_attention.flash_attention_forward", q, k, v, True, 3)
    single = student.call("flash_attention.flash_attention_forward", q.float(), k.float(), v.float(), True, 3)

    truth, exact = plain(q, k, v, True), dtype == torch.float64
    output, logsumexp = (like_own(either(single, i), truth[i]) for i in (0, 1))
    as_exact = {"terms": 64 if exact else 2} if output is truth[0] else {"relative": 1e-4 if exact else 0.1}
    check(either(result, 0), output, dtype=dtype, **as_exact)
    named = dtype_of(either(result, 1))
    check(named, torch.float64 if exact else torch.float32, mistakes={
        "the logsumexp has the dtype of q; it should be float32, since bfloat16 is too coarse": torch.bfloat16,
        "the logsumexp is float32 although q is float64; it should be float64": torch.float32,
    })  # fmt: skip
    # The scores themselves may be rounded to bfloat16; 2**16 of float32's eps are one of bfloat16.
    as_exact = {"terms": 64 if exact else 2 << 16} if logsumexp is truth[1] else {"relative": 1e-4 if exact else 0.1}
    check(either(result, 1), logsumexp, dtype=named, **as_exact)


@FORWARD
@pytest.mark.points(1)
def test_the_forward_has_its_defaults_and_leaves_its_inputs_alone(student, check, rng):
    """Not causal and tiles of 64 by default; strided inputs work, and nothing besides the result is changed."""

    def probe(q, k, v):
        from flash_attention import flash_attention_forward

        plain = flash_attention_forward(q.clone(), k.clone(), v.clone(), False, 64)
        return *inside.manners(flash_attention_forward, q, k, v), plain

    q, k, v, _ = qkv(rng, 2, 2, 70, 67, 4)
    result, after, rude, own = student.run(probe, q, k, v)

    mistakes = {"causal is on by default": lambda: plain(q, k, v, True)[0]} | part(forward_mistakes(q, k, v, 64), 0)
    check(after, [q, k, v], otherwise="q, k or v is changed in place")
    expected = like_own(either(own, 0), plain(q, k, v)[0])
    check(either(result, 0), expected, dtype=torch.float32, mistakes=mistakes)
    check(rude, "", mistakes=MANNERS)


@FORWARD
@pytest.mark.points(2)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [(2, 2, 32, 32, 3, 8), (1, 2, 32, 64, 3, 8), (1, 2, 256, 256, 4, None)], ids=str)
def test_the_forward_never_holds_the_matrix_of_scores(student, check, rng, size, causal):
    """No operation makes a tensor of B · H · Tq · Tk / 2 elements or more."""

    def probe(q, k, v, causal, options):
        from flash_attention import flash_attention_forward

        return inside.largest_result(flash_attention_forward, q, k, v, causal, **options)

    q, k, v, _ = qkv(rng, *size[:-1])
    largest = student.run(probe, q, k, v, causal, {"block_size": size[-1]} if size[-1] else {})

    B, H, Tq, Tk, *_ = size
    whole = "the forward makes the matrix of scores, or half of it; it should work on one tile at a time"
    check.that(largest < B * H * Tq * Tk / 2, whole)
    # Little memory is no merit of what does not attend: whether it attends rightly is for other tests to say.
    results = [student.call("flash_attention.flash_attention_forward", x, k, v, causal) for x in (q, q.flip(2))]
    outputs = [either(result, 0) for result in results]
    attends = all(is_own(output, q) for output in outputs) and not torch.equal(*outputs)
    check.that(attends, "the output is the same whatever the queries are")
