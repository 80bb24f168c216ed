"""Public tests of attention.py: small cases whose answers can be worked out by hand."""

import math

import torch


def test_causal_mask_of_three_positions(student, check):
    """Three positions: each sees itself and those before it."""
    mask = student.call("attention.causal_mask", 3)

    check(mask, torch.tensor([[True, False, False], [True, True, False], [True, True, True]]))


def test_padding_mask_of_two_sequences(student, check):
    """Two sequences of lengths 1 and 3 have the mask (2, 1, 1, 3); a length over max_length is a ValueError."""
    mask = student.call("attention.padding_mask", [1, 3])

    check(mask, torch.tensor([[[[True, False, False]]], [[[True, True, True]]]]))
    student.raises(ValueError, "attention.padding_mask", [1, 3], 2, says=("max_length", "lengths"))


def test_attention_of_one_query(student, check):
    """Scores of 0 and 2·log 3 at temperature 2 give weights of 1/4 and 3/4."""

    def probe(q, k, v):
        from attention import ScaledDotProductAttention

        return ScaledDotProductAttention(temperature=2.0).eval()(q, k, v)

    q, k = torch.tensor([[1.0]]), torch.tensor([[0.0], [2 * math.log(3)]])
    v = torch.tensor([[8.0, 0.0], [0.0, 4.0]])
    output, weights = student.run(probe, q, k, v)

    check(weights, torch.tensor([[0.25, 0.75]]))
    check(output, torch.tensor([[2.0, 3.0]]))


def test_attention_under_a_mask(student, check):
    """Equal scores share the weight among the keys that may be seen; nothing to see means zeros, not NaN."""

    def probe(q, k, v, mask):
        from attention import ScaledDotProductAttention

        return ScaledDotProductAttention(temperature=1.0).eval()(q, k, v, mask)

    zeros, v = torch.zeros(3, 2), torch.tensor([[3.0], [5.0], [100.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    output, weights = student.run(probe, zeros, zeros, v, mask)

    check(weights, torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    check(output, torch.tensor([[4.0], [5.0], [0.0]]))


def test_multi_head_attention_returns_the_right_shapes(student, check):
    """Output (B, Tq, D) and weights (B, H, Tq, Tk); the weights of a query sum to 1 in every head."""

    def probe(q, k, v):
        from attention import MultiHeadAttention

        return MultiHeadAttention(n_head=3, d_model=8, d_k=4, d_v=5).eval()(q, k, v)

    output, weights = student.run(probe, torch.ones(2, 4, 8), torch.ones(2, 6, 8), torch.ones(2, 6, 8))

    check(tuple(output.shape), (2, 4, 8))
    check(weights.sum(dim=-1), torch.ones(2, 3, 4))


def test_causal_attention_means_over_the_past(student, check):
    """With q = k = 0 and v = x, every position gets the mean of itself and the past."""

    def probe(x):
        from attention import CausalAttention

        layer = CausalAttention(d_model=2, num_heads=1).eval()
        nothing, same = torch.zeros(2, 2), torch.eye(2)
        layer.qkv.weight.data, layer.qkv.bias.data = torch.cat([nothing, nothing, same]), torch.zeros(6)
        layer.proj.weight.data, layer.proj.bias.data = same, torch.zeros(2)
        return layer(x)

    output, weights = student.run(probe, torch.tensor([[[2.0, 10.0], [4.0, 20.0], [0.0, 60.0]]]))

    check(weights, torch.tensor([[[[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]]]))
    check(output, torch.tensor([[[2.0, 10.0], [3.0, 15.0], [2.0, 30.0]]]))


def test_cross_attention_has_one_column_a_context_position(student, check):
    """The weights are (B, H, Tq, Tk), and the padding of the context gets none."""

    def probe(x, context, context_mask):
        from attention import CrossAttention

        return CrossAttention(d_model=8, num_heads=2).eval()(x, context, context_mask)

    padding = torch.tensor([[True, True, False, False, False]])
    output, weights = student.run(probe, torch.ones(1, 3, 8), torch.ones(1, 5, 8), padding)

    check(tuple(output.shape), (1, 3, 8))
    check(weights, torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]).expand(1, 2, 3, 5))


def test_grouped_query_attention_shares_keys_and_values(student, check):
    """Four query heads and two kv heads: k and v are half as wide, and KV must divide H."""

    def probe(num_kv_heads):
        from attention import GroupedQueryAttention

        layer = GroupedQueryAttention(d_model=8, num_heads=4, num_kv_heads=num_kv_heads)
        return list(layer.k.weight.shape), list(layer.v.weight.shape), list(layer(torch.ones(1, 3, 8)).shape)

    shapes = student.run(probe, 2)

    check(shapes, ([4, 8], [4, 8], [1, 3, 8]))
    student.raises(ValueError, probe, 3, says=("num_heads", "num_kv_heads"))
