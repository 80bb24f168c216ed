"""Hidden tests of ring_attention.py: what is sent, as the grader saw it, and what a rank holds, read from outside.

Forward and backward are two calls, each of which has its own traffic.
"""

import pytest
import torch

from ring_attention_helpers import collective_facts, neighbour_facts, share_facts, size_facts, whole

pytestmark = pytest.mark.question("messages and memory")


@pytest.fixture
def phases(student):
    """(ranks, tensors) -> the traffic of the forward and that of the backward."""

    def forward(q, k, v, causal):
        from ring_attention import ring_attention

        inside.KEPT[:] = [inside.a_tensor(ring_attention(*inside.ring_inputs(q, k, v), causal))]

    def backward():
        inside.KEPT.pop().sum().backward()

    def run(size, tensors, causal=False):
        ranks = student.on(ranks=size)
        ranks.run(forward, *tensors, causal)
        there = list(ranks.traffic)
        ranks.run(backward)
        return there, list(ranks.traffic)

    return run


@pytest.mark.points(3)
@pytest.mark.parametrize("causal", [False, True])
def test_no_collective_in_forward(phases, check, rng, causal):
    """Blocks are sent and received; there is no collective in forward."""
    traffic, _ = phases(2, whole(rng, 6, 4)[:3], causal)

    for fact in collective_facts(traffic, "forward"):
        check.that(*fact)


@pytest.mark.points(2)
@pytest.mark.parametrize("causal", [False, True])
def test_no_collective_in_backward(phases, check, rng, causal):
    """Blocks are sent and received; there is no collective in backward."""
    _, traffic = phases(2, whole(rng, 6, 4)[:3], causal)

    for fact in collective_facts(traffic, "backward"):
        check.that(*fact)


@pytest.mark.points(2)
def test_forward_sends_to_neighbours_only(phases, check, rng):
    """In forward a rank sends to rank + 1 and rank - 1 and to nobody else."""
    traffic, _ = phases(5, whole(rng, 10, 4)[:3])

    for fact in neighbour_facts(traffic, 5, "forward"):
        check.that(*fact)


@pytest.mark.points(2)
def test_backward_sends_to_neighbours_only(phases, check, rng):
    """In backward a rank sends to rank + 1 and rank - 1 and to nobody else."""
    _, traffic = phases(5, whole(rng, 10, 4)[:3])

    for fact in neighbour_facts(traffic, 5, "backward"):
        check.that(*fact)


@pytest.mark.points(2)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_the_ranks_share_the_work(phases, check, rng, way):
    """Each rank meets the keys of all: a block comes to it from each other rank, and not always the same one, nor zeros."""
    traffic = phases(4, whole(rng, 64, 8, 8, 1, 2)[:3])[way == "backward"]

    for fact in share_facts(traffic, 4, 1 * 2 * 16 * 8, way):
        check.that(*fact)


@pytest.mark.points(2)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_messages_are_blocks(phases, check, rng, way):
    """No message has more than a few blocks (six): keys do not pile up on their way."""
    traffic = phases(8, whole(rng, 8, 12, 1, 1, 1)[:3])[way == "backward"]

    for fact in size_facts(traffic, 12, way):
        check.that(*fact)


# Bytes that a rank of four comes to have, honestly 24 to 29 MB: who takes more there could hide more of nine.
MOST = 36 << 20
FORWARD_HOLDS, BACKWARD_HOLDS = (
    "a rank of nine holds more in forward than one of four: keep no block but the one that is there and the next, and no weights",
    "a rank of nine holds more in forward and backward than one of four: keep no block of other ranks for backward, and no weights",
)


@pytest.mark.points(2)
def test_forward_holds_a_few_blocks(student, check):
    """The memory of a rank in forward does not grow with the number of ranks."""

    def probe(heads):
        from ring_attention import ring_attention

        inside.exact_memory()
        with torch.no_grad():
            output = ring_attention(*(torch.ones(1, heads, 16, 16) for _ in range(3)))
        return tuple(inside.a_tensor(output).shape), bool((output - 1).abs().max() < 1e-3)

    heads = 512  # a block of keys, one of values and the scores of one for another have 2^19 bytes each

    few, least = student.on(ranks=4).peak(probe, heads)
    many, most = student.on(ranks=9).peak(probe, heads)

    check(few + many, [((1, heads, 16, 16), True)] * 13)
    check.that(least < MOST and most - least < 3.5 * 2**19, FORWARD_HOLDS)


@pytest.mark.points(2)
def test_training_holds_a_few_blocks(student, check):
    """The memory of a rank in forward and backward does not grow with the number of ranks."""

    def probe(heads):
        from ring_attention import ring_attention

        inside.exact_memory()
        inputs = [torch.ones(1, heads, 16, 16).requires_grad_() for _ in range(3)]
        output = inside.a_tensor(ring_attention(*inputs))
        output.sum().backward()
        grad = inside.a_tensor(inputs[2].grad, "the gradient of v")
        return tuple(output.shape), bool((grad - 1).abs().max() < 1e-3)

    heads = 512

    few, least = student.on(ranks=4).peak(probe, heads)
    many, most = student.on(ranks=9).peak(probe, heads)

    check(few + many, [((1, heads, 16, 16), True)] * 13)
    check.that(least < MOST and most - least < 3.5 * 2**19, BACKWARD_HOLDS)
