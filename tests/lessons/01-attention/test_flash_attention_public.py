"""Public tests of flash_attention: small numbers, worked out by hand. Tensors are (B, H, T, Dh), most of them (1, 1, T, 1)."""

import torch


def sequence(*numbers):
    """(1, 1, T, 1)"""
    return torch.tensor(numbers).view(1, 1, -1, 1)


def test_two_keys_in_two_tiles(student, check):
    """Scores ln 3 and 0 have the weights 3/4 and 1/4, and the logsumexp ln 4."""
    q, k, v = sequence(1.0), sequence(1.098612, 0.0), sequence(4.0, 8.0)
    result = student.call("flash_attention.flash_attention_forward", q, k, v, block_size=1)

    check(result, (sequence(5.0), torch.tensor([[[1.386294]]])), names=("output", "logsumexp"))


def test_scores_are_divided_by_the_root_of_the_width(student, check):
    """With Dh = 4 the score of q and k is q · k / 2, and alone it is the logsumexp."""
    q, k, v = torch.tensor([[[[2.0, 1.0, 0.0, 1.0]]], [[[3.0, 0.0, 0.0, 0.0]]], [[[7.0, 8.0, 9.0, 6.0]]]])[:, None]
    output, logsumexp = student.call("flash_attention.flash_attention_forward", q, k, v)

    check(output, v)
    check(
        logsumexp, torch.tensor([[[3.0]]]), mistakes={"the score is not divided by sqrt(Dh)": torch.tensor([[[6.0]]])}
    )


def test_causal_queries_average_the_past(student, check):
    """Queries of zeros attend equally: with causal, output i is the mean of the first i + 1 values."""
    q, k, v = sequence(0.0, 0.0, 0.0), sequence(1.0, 2.0, 3.0), sequence(1.0, 3.0, 8.0)
    output = student.call("flash_attention.flash_attention", q, k, v, causal=True, block_size=2)

    check(output, sequence(1.0, 2.0, 4.0), mistakes={"causal has no effect": sequence(4.0, 4.0, 4.0)})


def test_large_scores_do_not_overflow(student, check):
    """exp(1000) is infinite, the softmax is not."""
    q, k, v = sequence(1000.0), sequence(0.0, 1.0, 0.0), sequence(1.0, 2.0, 3.0)
    result = student.call("flash_attention.flash_attention_forward", q, k, v, block_size=1)

    check(result, (sequence(2.0), torch.tensor([[[1000.0]]])), names=("output", "logsumexp"))


def test_gradients_of_one_query_and_two_keys(student, check):
    """With weights 1/2 and 1/2, k = (1, -1) and v = (1, 0) the gradients can be worked out on paper."""

    def probe(q, k, v):
        from flash_attention import flash_attention

        inputs = [x.requires_grad_() for x in (q, k, v)]
        return list(torch.autograd.grad(flash_attention(*inputs, block_size=1).sum(), inputs))

    gradients = student.run(probe, sequence(0.0), sequence(1.0, -1.0), sequence(1.0, 0.0))

    check(gradients, [sequence(0.5), sequence(0.0, 0.0), sequence(0.5, 0.5)], names=("dq", "dk", "dv"))


def test_the_layer_does_not_look_ahead(student, check):
    """With causal, what the layer says of a place does not depend on later places."""

    def probe(x):
        from flash_attention import FlashAttention

        layer = FlashAttention(d_model=4, num_heads=2, block_size=2).eval()
        longer = torch.cat([x, torch.ones(2, 2, 4)], dim=1)
        return layer(x, causal=True), layer(longer, causal=True)

    short, long = student.run(probe, torch.arange(24.0).view(2, 3, 4) / 10)

    check(list(long.shape), [2, 5, 4])
    check(long[:, :3], short)
