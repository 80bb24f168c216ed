"""Public tests of ring_attention: small numbers, worked out by hand. A rank's slices are (1, 1, T / world_size, 1).

A probe gets the whole sequence, and each rank takes its own slice of it.
"""

import torch


def sequence(*numbers):
    """(1, 1, T, 1)"""
    return torch.tensor(numbers).view(1, 1, -1, 1)


def attend(q, k, v, causal=False):
    """The probe of most tests: each rank attends with its slice."""
    from ring_attention import ring_attention

    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return ring_attention(*(x.chunk(world_size, dim=2)[rank] for x in (q, k, v)), causal)


def test_two_ranks_with_a_key_each(student, check):
    """Scores ln 3 and 0 have the weights 3/4 and 1/4, whichever rank has the key."""
    q, k, v = sequence(1.0, 0.0), sequence(1.098612, 0.0), sequence(4.0, 8.0)

    outputs = student.on(ranks=2).run(attend, q, k, v)

    check(outputs, [sequence(5.0), sequence(6.0)], names=("rank 0", "rank 1"))


def test_causal_queries_average_the_past(student, check):
    """Queries of zeros attend equally: with causal, output i is the mean of the first i + 1 values of the whole sequence."""
    zeros, v = sequence(0.0, 0.0, 0.0, 0.0), sequence(1.0, 3.0, 8.0, 0.0)

    outputs = student.on(ranks=2).run(attend, zeros, zeros, v, True)

    check(outputs, [sequence(1.0, 2.0), sequence(4.0, 3.0)], names=("rank 0", "rank 1"))


def test_large_scores_do_not_overflow(student, check):
    """exp(1000) is infinite, the softmax is not; the largest score may be of any rank's key."""
    q, k, v = sequence(1000.0, 1000.0), sequence(0.0, 1.0), sequence(1.0, 2.0)

    outputs = student.on(ranks=2).run(attend, q, k, v)

    check(outputs, [sequence(2.0), sequence(2.0)], names=("rank 0", "rank 1"))


def test_gradients_come_home(student, check):
    """The query of rank 1 has weights 3/4 and 1/4, that of rank 0 has 1/2 and 1/2; keys get a part from both."""

    def probe(q, k, v):
        from ring_attention import ring_attention

        rank = torch.distributed.get_rank()
        inputs = [x[:, :, rank : rank + 1].requires_grad_() for x in (q, k, v)]
        return list(torch.autograd.grad(ring_attention(*inputs).sum(), inputs))

    q, k, v = sequence(0.0, 0.549306), sequence(1.0, -1.0), sequence(1.0, 0.0)

    first, second = student.on(ranks=2).run(probe, q, k, v)

    check(first, [sequence(0.5), sequence(0.102995), sequence(1.25)], names=("dq", "dk", "dv"), what="rank 0")
    check(second, [sequence(0.375), sequence(-0.102995), sequence(0.75)], names=("dq", "dk", "dv"), what="rank 1")


def test_blocks_go_to_neighbours_only(student, check):
    """No collective, and in a ring of four nothing from rank 0 to rank 2."""
    ranks = student.on(ranks=4)

    ranks.run(attend, *[torch.ones(1, 1, 8, 2)] * 3)

    check.that(
        {message.operation for message in ranks.traffic} == {"send", "recv"}, "blocks should be sent and received"
    )
    distances = {(message.peer - message.rank) % 4 for message in ranks.traffic if message.operation == "send"}
    check.that(distances <= {1, 3}, "a block is sent to a rank that is not a neighbour")
