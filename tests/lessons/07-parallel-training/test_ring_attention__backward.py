"""Hidden tests of ring_attention.py: the gradients, against their formulas over the whole sequence in float64."""

import pytest
import torch

from ring_attention_helpers import (
    EXACT,
    before,
    causal_gradient_slips,
    each_of,
    expected_like,
    expected_there,
    gentle_ring,
    gradient_scales,
    gradient_slips,
    gradients_there,
    mask_of,
    one_of,
    ring_gradients,
    sliced,
    the_nearest,
    three_whole,
    true_ring_gradients,
    unsliced,
    whole,
)
from shared import attend, dtype_of, has_nan, is_own, nearly, randn

pytestmark = pytest.mark.question("gradients")


@pytest.mark.points(2)
def test_the_gradient_of_q(student, check, rng):
    """A query's gradient has a part from the keys of each rank."""
    q, k, v, g = gentle_ring(rng, 8, 2)

    results = ring_gradients(student, 2, (q, k, v, g))

    check(
        [each[0] for each in results],
        sliced(true_ring_gradients(q, k, v, g)[0], 2),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes=one_of(gradient_slips(q, k, v, g, 2), 0, 2),
    )


@pytest.mark.points(2)
def test_the_gradient_of_k(student, check, rng):
    """A key's gradient has a part from the queries of each rank, and is at home with its key."""
    q, k, v, g = gentle_ring(rng, 8, 2)

    results = ring_gradients(student, 2, (q, k, v, g))

    check(
        [each[1] for each in results],
        sliced(true_ring_gradients(q, k, v, g)[1], 2),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes=one_of(gradient_slips(q, k, v, g, 2), 1, 2),
    )


@pytest.mark.points(2)
def test_the_gradient_of_v(student, check, rng):
    """A value's gradient has a part from the queries of each rank, and is at home with its value."""
    q, k, v, g = gentle_ring(rng, 8, 2)

    results = ring_gradients(student, 2, (q, k, v, g))

    check(
        [each[2] for each in results],
        sliced(true_ring_gradients(q, k, v, g)[2], 2),
        dtype=torch.float32,
        relative=EXACT[torch.float32],
        mistakes=one_of(gradient_slips(q, k, v, g, 2), 2, 2),
    )


@pytest.mark.points(2)
def test_the_gradients_have_the_scale(student, check, rng):
    """The gradients of q and k are divided by sqrt(Dh), where Dh is not 1, and the weights are those of the forward."""
    q, k, v, g = gentle_ring(rng, 8, 2, Dh=5)

    results = ring_gradients(student, 2, (q, k, v, g))

    truth = true_ring_gradients(q, k, v, g)
    for n, name in enumerate(("q", "k")):
        check(
            [each[n] for each in results],
            sliced(truth[n], 2),
            dtype=torch.float32,
            relative=EXACT[torch.float32],
            mistakes=one_of(gradient_scales(q, k, v, g), n, 2),
            what=f"the gradients of {name}",
        )


@pytest.mark.points(4)
@pytest.mark.parametrize("size", [4, 3])
def test_gradients_come_home_from_a_long_way(student, check, rng, size):
    """With more ranks each block's gradient collects a part at every rank, and ends where its block began."""
    far, near = gentle_ring(rng, 2 * size, size), gentle_ring(rng, 8, 2)

    own = three_whole(ring_gradients(student, 2, near))
    results = three_whole(ring_gradients(student, size, far))

    slips, plain = gradient_slips(*far, size), gradient_slips(*near, 2)
    for n, truths in reversed(list(enumerate(zip(true_ring_gradients(*near), true_ring_gradients(*far), strict=True)))):
        wanted, within = gradients_there(own[n], results[n], each_of(plain, n), each_of(slips, n), truths)
        check(results[n], wanted, dtype=torch.float32, relative=within, mistakes=each_of(slips, n))


@pytest.mark.points(4)
@pytest.mark.parametrize("size", [2, 4])
def test_causal_gradients(student, check, rng, size):
    """With causal nothing flows back from a query to a later key."""
    q, k, v, g = gentle_ring(rng, 3 * size, size)

    def probe(q, k, v, g):
        from ring_attention import ring_attention

        inputs, cotangent = inside.ring_inputs(q, k, v), [inside.own_slice(g, 2)]
        plain = inside.gradients(ring_attention(*inputs), inputs, cotangent)
        output = ring_attention(*inputs, causal=True)
        return inside.a_tensor(output).detach(), plain, inside.gradients(output, inputs, cotangent)

    replies = student.on(ranks=size).run(probe, q, k, v, g)

    own, results = three_whole([plain for _, plain, _ in replies]), three_whole([causal for _, _, causal in replies])
    seen = mask_of(unsliced([output for output, _, _ in replies]), q, k, v, size)
    plain, slips = gradient_slips(q, k, v, g, size), gradient_slips(q, k, v, g, size, seen)
    # A forward with another mask leaves its logsumexp to a backward that may have that mask, or the right one.
    causal = true_ring_gradients(q, k, v, g, seen), true_ring_gradients(q, k, v, g, seen, shown=before(3 * size))
    for n, truth in reversed(list(enumerate(true_ring_gradients(q, k, v, g)))):
        both = truth, the_nearest(results[n], [each[n] for each in causal])
        wanted, within = expected_there(own[n], each_of(plain, n), each_of(slips, n), both)
        mistakes = each_of(slips | causal_gradient_slips(q, k, v, g, size), n)
        check(results[n], wanted, dtype=torch.float32, relative=within, mistakes=mistakes)


@pytest.mark.points(2)
def test_some_inputs_may_need_no_gradient(student, check, rng):
    """Where some of q, k and v require no gradient, the others get the same as with all, whichever these are."""
    q, k, v, g = gentle_ring(rng, 6, 2)
    some = [[n] for n in range(3)] + [[0, 1], [0, 2], [1, 2]]  # those that require one

    def probe(q, k, v, g, some):
        from ring_attention import ring_attention

        inputs, cotangent = inside.ring_inputs(q, k, v), inside.own_slice(g, 2)
        output = inside.a_tensor(ring_attention(*inputs))
        every, found = inside.gradients(output, inputs, [cotangent]), []
        for needed in some:
            leaves = [x.detach().requires_grad_(n in needed) for n, x in enumerate(inputs)]
            found += inside.gradients(ring_attention(*leaves), [leaves[n] for n in needed], [cotangent])
        return every, found, output.detach(), ring_attention(*(x.detach() for x in inputs))

    results = student.on(ranks=2).run(probe, q, k, v, g, some)

    own = three_whole([every for every, *_ in results])
    truth = true_ring_gradients(q, k, v, g)
    for place, n in enumerate(sum(some, [])):
        wanted, within = expected_like(own[n], truth[n], torch.float32)
        nothing = sliced(torch.zeros_like(wanted), 2)
        missing = "an input gets no gradient where another one needs none"
        check(
            [found[place] for _, found, *_ in results],
            sliced(wanted, 2),
            dtype=torch.float32,
            relative=within,
            mistakes={missing: check.when(is_own(own[n], truth[n]), nothing)},
        )
    for *_, output, plain in results:
        check(plain, output, relative=EXACT[torch.float32], what="the output where no input needs a gradient")


@pytest.mark.points(2)
def test_gradients_of_large_scores(student, check, rng):
    """Scores near 128 in one head and near -128 in another: exp(s) overflows, or is 0, and the gradients are as of small scores."""
    q, k, v, g = gentle_ring(rng, 8, 2)
    q, k = 8 + (8 * q / q.amax()).round() / 8, 14 + k.mul(2).round() / 16  # few bits: the scores are exact in float32
    q[:, 1] *= -1

    def probe(q, k, v, g):
        from ring_attention import ring_attention

        inputs = inside.ring_inputs(q, k, v)
        output = inside.a_tensor(ring_attention(*inputs))
        return output.detach(), inside.gradients(output, inputs, [inside.own_slice(g, 2)])

    results = student.on(ranks=2).run(probe, q, k, v, g)

    overflow = "the backward overflows where scores are large: the weights are exp(s - logsumexp), in one exp"
    is_fine = not has_nan([output for output, _ in results])
    found = three_whole([gradients for _, gradients in results])
    # A logsumexp near 128 is rounded by 1e-5, and in dq such errors count as often as k is larger than its spread.
    for n, (truth, within) in enumerate(zip(true_ring_gradients(q, k, v, g), (3e-2, 1e-3, 1e-3), strict=True)):
        mistakes = {overflow: check.when(is_fine and has_nan(found[n]))}
        check(found[n], truth, dtype=torch.float32, relative=within, mistakes=mistakes)


@pytest.mark.points(3)
def test_calls_do_not_share_anything(student, check, rng):
    """Two calls before a backward, with other inputs and another causal: each backward is that of its own call, in any order."""
    first, second = gentle_ring(rng, 6, 2), gentle_ring(rng, 6, 2)

    def probe(first, second):
        from ring_attention import ring_attention

        inputs = [inside.ring_inputs(*call[:3]) for call in (first, second)]
        cotangents = [inside.own_slice(call[3], 2) for call in (first, second)]
        own = [
            inside.gradients(ring_attention(*leaves, causal), leaves, [g])
            for leaves, g, causal in zip(inputs, cotangents, (True, False), strict=True)
        ]
        found, kept = [], []
        for turn in (1, -1):  # the first call's backward comes first, then last
            outputs = [inside.a_tensor(ring_attention(*inputs[0], True))]
            kept.append(outputs[0].detach().clone())
            outputs.append(ring_attention(*inputs[1], False))
            kept.append(outputs[0].detach().clone())
            calls = list(zip(outputs, inputs, cotangents, strict=True))[::turn]
            found.append(sum([inside.gradients(output, leaves, [g]) for output, leaves, g in calls][::turn], []))
        return sum(own, []), *found, *kept[:2]

    results = student.on(ranks=2).run(probe, list(first), list(second))

    for *_, early, late in results:
        check(late, early, otherwise="a second call changes the output of the first")
    truth = [*true_ring_gradients(*first, before(6)), *true_ring_gradients(*second)]
    for n, right in enumerate(truth):
        own = unsliced([alone[n] for alone, *_ in results])
        wanted, within = expected_like(own, right, torch.float32)
        for turn in (1, 2):
            check(
                [each[turn][n] for each in results],
                sliced(wanted, 2),
                dtype=torch.float32,
                relative=within,
                otherwise="a second call changes the gradients of the first: keep what backward needs in ctx",
            )


@pytest.mark.points(2)
def test_backward_can_be_run_again(student, check, rng):
    """With retain_graph a second backward gives the same, also where q, k, v and the gradient of the output are not contiguous."""
    q, k, v, g = gentle_ring(rng, 6, 3)

    def probe(q, k, v, g):
        from ring_attention import ring_attention

        inputs, cotangent = inside.ring_inputs(q, k, v), inside.own_slice(g, 2)
        own = inside.gradients(ring_attention(*inputs), inputs, [cotangent])
        inputs = [inside.strided(each.detach()).requires_grad_() for each in inputs]
        total = (inside.a_tensor(ring_attention(*inputs)).mT * cotangent.mT.contiguous()).sum()
        twice = [torch.autograd.grad(total, inputs, retain_graph=True, materialize_grads=True) for _ in range(2)]
        return own, *map(list, twice)

    results = student.on(ranks=3).run(probe, q, k, v, g)

    own = three_whole([each for each, *_ in results])
    for n, right in enumerate(true_ring_gradients(q, k, v, g)):
        truth, within = expected_like(own[n], right, torch.float32)
        first, second = ([each[time][n] for each in results] for time in (1, 2))
        check(first, sliced(truth, 3), dtype=torch.float32, relative=within)
        otherwise = "a second backward gives gradients that differ from those of the first"
        check(second, sliced(truth, 3), dtype=torch.float32, relative=within, otherwise=otherwise)


@pytest.mark.points(2)
def test_gradients_are_exact_in_float64(student, check, rng):
    """Inputs in float64 get gradients in float64, exact to 1e-9."""
    q, k, v, g = whole(rng, 8, 4, dtype=torch.float64)

    def probe(q, k, v, g):
        from ring_attention import ring_attention

        found = []
        for dtype in (torch.float64, torch.float32):
            inputs = inside.ring_inputs(*(each.to(dtype) for each in (q, k, v)))
            found.append(inside.gradients(ring_attention(*inputs), inputs, [inside.own_slice(g, 2).to(dtype)]))
        return found

    results = student.on(ranks=2).run(probe, q, k, v, g)

    own = three_whole([single for _, single in results])
    coarse = "something is computed in float32 although the inputs are float64"
    for n, right in enumerate(true_ring_gradients(q, k, v, g)):
        found = [double[n] for double, _ in results]
        truth, within = expected_like(own[n], right, torch.float64)
        is_double = all(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in found)
        is_coarse = is_double and nearly(found, sliced(right, 2), 1e-4)
        check(found, sliced(truth, 2), relative=within, mistakes={coarse: check.when(is_coarse)})


@pytest.mark.points(1)
def test_sums_over_the_keys_are_float32(student, check, rng):
    """Inputs in bfloat16 get an output and gradients in bfloat16, whose sums over the keys are made in float32."""
    k, v, g = (each.bfloat16() for each in randn(rng, 3, 2, 2, 4, 4))
    q, g = randn(rng, 2, 2, 8, 4).bfloat16() / 128, torch.cat([g, g.flip(2)], dim=2)
    # What a block gives to dq, the other one nearly takes away.
    k, v = torch.cat([k, -k], dim=2), torch.cat([v, v], dim=2)

    def probe(*tensors):
        from ring_attention import ring_attention

        found = []
        for dtype in (torch.bfloat16, torch.float32):
            *inputs, cotangent = (inside.own_slice(each, 2).to(dtype) for each in tensors)
            inputs = [each.requires_grad_() for each in inputs]
            output = inside.a_tensor(ring_attention(*inputs))
            found.append([output.detach(), *inside.gradients(output, inputs, [cotangent])])
        return found

    results = student.on(ranks=2).run(probe, q, k, v, g)

    wide = "the output is float32 although the inputs are bfloat16"
    coarse = "sums over the keys are made in bfloat16; they should be made in float32"
    truth = [attend(q, k, v)[0], *true_ring_gradients(q, k, v, g)]
    for n, (right, within) in enumerate(zip(truth, (2e-2, 2e-2, 0.2, 0.2), strict=True)):
        found, own = [half[n] for half, _ in results], unsliced([single[n] for _, single in results])
        wanted = expected_like(own, right, torch.float32)[0]
        is_half = all(dtype_of(x) == torch.bfloat16 for x in found)
        check(found, sliced(wanted, 2), dtype=torch.bfloat16, relative=within, mistakes={
            wide: check.when(n == 0 and all(dtype_of(x) == torch.float32 for x in found)),
            coarse: check.when(n < 2 and is_half and nearly(found, sliced(wanted, 2), 0.5 * float(wanted.abs().max()))),
        })  # fmt: skip
