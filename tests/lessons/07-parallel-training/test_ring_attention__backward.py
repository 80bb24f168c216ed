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
from shared import nearly

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
        return output.detach(), plain, inside.gradients(output, inputs, cotangent)

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
@pytest.mark.parametrize("needed", [[True, False, False], [False, False, True], [False, True, True]], ids=str)
def test_some_inputs_may_need_no_gradient(student, check, rng, needed):
    """Where some of q, k and v require no gradient, the others get the same as with all."""
    q, k, v, g = gentle_ring(rng, 6, 2)

    def probe(q, k, v, g, needed):
        from ring_attention import ring_attention

        inputs, cotangent = inside.ring_inputs(q, k, v), inside.own_slice(g, 2)
        every = inside.gradients(ring_attention(*inputs), inputs, [cotangent])
        some = [each.requires_grad_(needs) for each, needs in zip(inputs, needed, strict=True)]
        output = ring_attention(*some)
        return every, inside.gradients(output, [each for each in some if each.requires_grad], [cotangent])

    results = student.on(ranks=2).run(probe, q, k, v, g, needed)

    own = three_whole([every for every, _ in results])
    truths = [expected_like(*pair, torch.float32) for pair in zip(own, true_ring_gradients(q, k, v, g), strict=True)]
    some = [truth for truth, needs in zip(truths, needed, strict=True) if needs]
    for n, (truth, within) in enumerate(some):
        check(
            [each[n] for _, each in results],
            sliced(truth, 2),
            dtype=torch.float32,
            relative=within,
            mistakes={"an input gets no gradient where another one needs none": sliced(torch.zeros_like(truth), 2)},
        )


@pytest.mark.points(3)
def test_calls_do_not_share_anything(student, check, rng):
    """Two calls before one backward, with other inputs and another causal: each backward is that of its own call."""
    first, second = gentle_ring(rng, 6, 2), gentle_ring(rng, 6, 2)

    def probe(first, second):
        from ring_attention import ring_attention

        inputs = [inside.ring_inputs(*call[:3]) for call in (first, second)]
        cotangents = [inside.own_slice(call[3], 2) for call in (first, second)]
        own = [
            inside.gradients(ring_attention(*leaves, causal), leaves, [g])
            for leaves, g, causal in zip(inputs, cotangents, (True, False), strict=True)
        ]
        outputs = [ring_attention(*inputs[0], True), ring_attention(*inputs[1], False)]
        return sum(own, []), inside.gradients(outputs, sum(inputs, []), cotangents)

    results = student.on(ranks=2).run(probe, list(first), list(second))

    truth = [*true_ring_gradients(*first, before(6)), *true_ring_gradients(*second)]
    for n, right in enumerate(truth):
        own = unsliced([alone[n] for alone, _ in results])
        wanted, within = expected_like(own, right, torch.float32)
        check(
            [both[n] for _, both in results],
            sliced(wanted, 2),
            dtype=torch.float32,
            relative=within,
            otherwise="a second call changes the gradients of the first: keep what backward needs in ctx",
        )


@pytest.mark.points(2)
def test_backward_can_be_run_again(student, check, rng):
    """With retain_graph a second backward gives the same, also where the gradient of the output is not contiguous."""
    q, k, v, g = gentle_ring(rng, 6, 3)

    def probe(q, k, v, g):
        from ring_attention import ring_attention

        inputs, cotangent = inside.ring_inputs(q, k, v), inside.own_slice(g, 2)
        own = inside.gradients(ring_attention(*inputs), inputs, [cotangent])
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
