"""Hidden tests of ring_attention.py: the output, against attention over the whole sequence in float64 in one process.

Each mistake has inputs of its own: with Dh = 1 the scale does not matter, and where each block's first key has the largest
score rescaling does not (`gentle_ring`).
"""

import pytest
import torch

from ring_attention_helpers import (
    EXACT,
    LOOSE,
    before,
    blocks_slips,
    by_rank,
    causal_slips,
    expected_like,
    expected_there,
    gentle_ring,
    half_trips,
    merge_slips,
    ring_outputs,
    round_trips,
    scale_slips,
    sliced,
    unsliced,
    whole,
)
from shared import MANNERS, attend, dtype_of, has_nan, nearly

pytestmark = pytest.mark.question("ring attention")


@pytest.mark.points(4)
def test_two_ranks_give_full_attention(student, check, rng):
    """Two ranks together give softmax(Q Kᵀ / sqrt(Dh)) V, with scores of which the largest is anywhere."""
    q, k, v, _ = whole(rng, 10, 6)

    outputs = ring_outputs(student, 2, (q, k, v))

    mistakes = scale_slips(q, k, v) | merge_slips(q, k, v, 2) | round_trips(q, k, v, 2) | half_trips(q, k, v, 2)
    nan = "there is NaN in the output: the maximum begins at -inf, and the correction is exp(old maximum - new maximum)"
    check(
        outputs,
        sliced(attend(q, k, v)[0], 2),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes={nan: check.when(has_nan(outputs))} | by_rank(mistakes, 2),
    )


@pytest.mark.points(3)
@pytest.mark.parametrize("size", [4, 3])
def test_every_block_is_attended_to_once(student, check, rng, size):
    """With more ranks each block still counts once for each query."""
    q, k, v, _ = gentle_ring(rng, 3 * size, size)
    plain = gentle_ring(rng, 10, 2)[:3]

    own = unsliced(ring_outputs(student, 2, plain))
    outputs = ring_outputs(student, size, (q, k, v))

    merged, truths = merge_slips(q, k, v, size), (attend(*plain)[0], attend(q, k, v)[0])
    wanted, within = expected_there(own, merge_slips(*plain, 2), merged, truths)
    mistakes = round_trips(q, k, v, size) | merged
    check(
        outputs,
        sliced(wanted, size),
        dtype=torch.float32,
        relative=within,
        mistakes=by_rank(mistakes, size),
    )


@pytest.mark.points(3)
@pytest.mark.parametrize("best", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]], ids=str)
def test_the_maximum_grows_from_block_to_block(student, check, rng, best):
    """What was summed so far is rescaled when a later block has larger scores, which may be so large that exp overflows, or vanishes."""
    q, k, v, _ = whole(rng, 8, 1, 3)
    q, k = q.abs() + 0.5, k.clamp(-1, 1) + 4 + 3.0 * torch.tensor(best).repeat_interleave(2)[:, None]
    q[:, 0] *= 30  # scores of up to some 2000 in the first head
    q[:, 1] *= -30  # and of down to -2000 in the second, all of them far below 0

    outputs = ring_outputs(student, 4, (q, k, v))

    overflow = "large scores make NaN: subtract the largest score so far before exp"
    vanish = "scores far below 0 make NaN: the maximum should begin at -inf, or at the first scores"
    together = unsliced(outputs)
    is_low = isinstance(together, torch.Tensor) and has_nan(together) and not has_nan(together[:, :1])
    check(
        outputs,
        sliced(attend(q, k, v)[0], 4),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes={vanish: check.when(is_low), overflow: check.when(has_nan(outputs))}
        | by_rank(merge_slips(q, k, v, 4), 4),
    )


@pytest.mark.points(4)
@pytest.mark.parametrize("named", [True, False], ids=["causal=True", "True"])
def test_causal_attention_of_two_ranks(student, check, rng, named):
    """With causal a query sees its own and earlier positions of the whole sequence."""
    q, k, v, _ = gentle_ring(rng, 8, 2)

    def probe(q, k, v, named):
        from ring_attention import ring_attention

        inputs = inside.ring_inputs(q, k, v)
        output = ring_attention(*inputs, causal=True) if named else ring_attention(*inputs, True)
        with torch.no_grad():
            return inside.listed([output, ring_attention(*(each.detach() for each in inputs), causal=True)])

    found = student.on(ranks=2).run(probe, q, k, v, named)
    outputs = [output for output, _ in found]

    nan = "a query that sees no key of a block makes NaN: exp(-inf - -inf)"
    check(
        outputs,
        sliced(attend(q, k, v, before(8))[0], 2),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes={nan: check.when(has_nan(outputs))} | by_rank(causal_slips(q, k, v, 2), 2),
    )
    without = [output for _, output in found]
    check(without, outputs, relative=EXACT[torch.float32], otherwise="where no gradient is needed the output differs")


@pytest.mark.points(4)
@pytest.mark.parametrize("size", [4, 3])
def test_causal_attention_of_more_ranks(student, check, rng, size):
    """With causal a rank sees all of the blocks of earlier ranks, nothing of later ones and a part of its own."""
    q, k, v, _ = gentle_ring(rng, 3 * size, size)
    plain = gentle_ring(rng, 8, 2)[:3]

    own = unsliced(ring_outputs(student, 2, plain, True))
    outputs = ring_outputs(student, size, (q, k, v), True)

    truths = attend(*plain, before(8))[0], attend(q, k, v, before(3 * size))[0]
    wanted, within = expected_there(own, causal_slips(*plain, 2), causal_slips(q, k, v, size), truths)
    nan = "a query that sees no key of a block makes NaN: exp(-inf - -inf)"
    check(
        outputs,
        sliced(wanted, size),
        dtype=torch.float32,
        relative=within,
        mistakes={nan: check.when(has_nan(outputs))} | by_rank(causal_slips(q, k, v, size), size),
    )


@pytest.mark.points(2)
@pytest.mark.parametrize("width", [2, 7])
def test_values_may_be_of_another_width(student, check, rng, width):
    """Dv may be smaller and larger than Dh: each column of the output depends on its column of v alone."""
    q, k, v, w = whole(rng, 6, 4)
    other = torch.cat([v, w], dim=-1)[..., :width]

    def probe(q, k, *values):
        from ring_attention import ring_attention

        return [inside.a_tensor(ring_attention(*inside.ring_inputs(q, k, v))).detach() for v in values]

    results = student.on(ranks=2).run(probe, q, k, v, w, other)

    own = [unsliced([result[n] for result in results]) for n in range(2)]
    wanted = [expected_like(each, attend(q, k, x)[0], torch.float32) for each, x in zip(own, (v, w), strict=True)]
    columns = torch.cat([truth for truth, _ in wanted], dim=-1)[..., :width]
    outputs = [result[2] for result in results]
    check(outputs, sliced(columns, 2), dtype=torch.float32, relative=max(within for _, within in wanted))


@pytest.mark.points(3)
@pytest.mark.parametrize("causal", [False, True])
def test_float64_is_exact_in_float64(student, check, rng, causal):
    """Inputs in float64 give an output in float64, exact to 1e-9."""
    q, k, v, _ = whole(rng, 8, 4, dtype=torch.float64)

    def probe(q, k, v, causal):
        from ring_attention import ring_attention

        both = inside.ring_inputs(q, k, v), inside.ring_inputs(q.float(), k.float(), v.float())
        return [inside.a_tensor(ring_attention(*inputs, causal)).detach() for inputs in both]

    results = student.on(ranks=2).run(probe, q, k, v, causal)

    outputs, own = [double for double, _ in results], unsliced([single for _, single in results])
    truth = attend(q, k, v, before(8) if causal else None)[0]
    wanted, within = expected_like(own, truth, torch.float64)
    coarse = "something is computed in float32 although the inputs are float64"
    is_coarse = all(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in outputs) and nearly(
        outputs, sliced(truth, 2), 1e-4
    )
    single = "the output is float32 although the inputs are float64"
    is_single = all(dtype_of(x) == torch.float32 for x in outputs)
    check(
        outputs,
        sliced(wanted, 2),
        relative=within,
        mistakes={coarse: check.when(is_coarse), single: check.when(is_single)},
    )


@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("B", "H", "T", "causal"), [(1, 1, 2, False), (1, 1, 2, True), (1, 5, 6, True), (3, 1, 10, False)]
)
def test_any_sizes_do(student, check, rng, B, H, T, causal):
    """One batch, one head, one position a rank and odd lengths work."""
    q, k, v, _ = gentle_ring(rng, T, 2, B, H)
    plain = gentle_ring(rng, 8, 2)[:3]

    own = unsliced(ring_outputs(student, 2, plain, causal))
    outputs = ring_outputs(student, 2, (q, k, v), causal)

    truths = [attend(*each, before(each[0].shape[2]) if causal else None)[0] for each in (plain, (q, k, v))]
    slips = [causal_slips(*each, 2) if causal else blocks_slips(*each, 2) for each in (plain, (q, k, v))]
    wanted, within = expected_there(own, *slips, truths)
    check(outputs, sliced(wanted, 2), dtype=torch.float32, relative=within)


@pytest.mark.points(3)
def test_inputs_of_any_layout_stay_as_they_are(student, check, rng):
    """Inputs that are not contiguous give the same, nothing is received into q, k or v, and nothing else happens."""
    q, k, v, _ = whole(rng, 12, 4)

    def probe(*tensors):
        from ring_attention import ring_attention

        slices = [inside.own_slice(whole, 2) for whole in tensors]
        plain = ring_attention(*(each.clone() for each in slices))
        with inside.loose_messages() as loose:
            result, after, rude = inside.manners(ring_attention, *slices)
        return plain, result, after, rude, slices, loose

    results = student.on(ranks=3).run(probe, q, k, v)

    for plain, result, after, rude, slices, loose in results:
        check.that(not loose, LOOSE)
        check(after, slices, otherwise="q, k or v is changed: receive into new tensors")
        check(rude, "", mistakes=MANNERS)
        check(result, plain, relative=EXACT[torch.float32], what="the output for inputs that are not contiguous")
    truth = attend(q, k, v)[0]
    wanted, within = expected_like(unsliced([result for _, result, *_ in results]), truth, torch.float32)
    check([result for _, result, *_ in results], sliced(wanted, 3), dtype=torch.float32, relative=within)
