"""Public tests of positional_encoding: small numbers, worked out by hand."""

import pytest
import torch


def test_a_pair_of_columns_is_a_point_on_a_circle(student, check):
    """With d_model = 2 position p is (sin p, cos p)."""

    def probe():
        from positional_encoding import PositionalEncoding

        return PositionalEncoding(d_model=2, max_len=3).pe

    table = student.run(probe)

    expected = torch.tensor([[[0.0, 1.0], [0.841471, 0.540302], [0.909297, -0.416147]]])
    check(table, expected, within=1e-5, mistakes={"sine and cosine are swapped": expected.flip(-1)})


def test_later_columns_turn_more_slowly(student, check):
    """With d_model = 4 the second pair turns by 1/100 a position, since 10000^(2/4) is 100."""

    def probe():
        from positional_encoding import PositionalEncoding

        return PositionalEncoding(d_model=4, max_len=5).pe[0, 1]

    row = student.run(probe)

    check(row, torch.tensor([0.841471, 0.540302, 0.010000, 0.999950]), within=1e-5)


def test_the_code_is_added_to_the_embeddings(student, check):
    """forward adds the first T rows to every sequence of the batch."""

    def probe(x):
        from positional_encoding import PositionalEncoding

        return PositionalEncoding(2, max_len=10)(x)

    encoded = student.run(
        probe, torch.tensor([[[5.0, 5.0], [5.0, 5.0]], [[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]])
    )

    check(encoded, torch.tensor([
        [[5.0, 6.0], [5.841471, 5.540302]],
        [[0.0, 2.0], [2.841471, 3.540302]],
        [[1.0, 2.0], [1.841471, 1.540302]],
    ]), within=1e-5)  # fmt: skip


@pytest.mark.parametrize("name", ["PositionalEncoding", "LearnedPositionalEmbedding"])
def test_a_sequence_that_is_too_long_is_refused(student, name):
    """A sequence longer than max_len is a ValueError that names max_len."""

    def probe(name):
        import positional_encoding

        getattr(positional_encoding, name)(4, 3)(torch.zeros(1, 4, 4))

    student.raises(ValueError, probe, name, says=("max_len", "x"))


def test_learned_positions_come_from_the_table(student, check):
    """Place t gets row t of the embedding."""

    def probe(weight, x):
        from positional_encoding import LearnedPositionalEmbedding

        layer = LearnedPositionalEmbedding(d_model=2, max_len=4)
        layer.embedding.weight.data.copy_(weight)
        return layer(x)

    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    encoded = student.run(probe, weight, torch.tensor([[[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]]))

    check(encoded, torch.tensor([[[11.0, 12.0], [23.0, 24.0], [35.0, 36.0]]]))


def test_relative_codes_depend_on_the_distance(student, check):
    """With m = 1 the past has code 0, the place itself code 1, the future code 2."""
    code = student.call("positional_encoding.relative_positional_encoding", 3, 2, max_relative_position=1)

    past, here, future = [0.0, 1.0], [0.841471, 0.540302], [0.909297, -0.416147]
    expected = torch.tensor([[here, future, future], [past, here, future], [past, past, here]])
    check(code, expected, within=1e-5, mistakes={"the distance is i - j; it should be j - i": expected.transpose(0, 1)})


def test_alibi_of_two_heads(student, check):
    """Two heads have the slopes 1/16 and 1/256; the future is -inf."""
    bias = student.call("positional_encoding.alibi_bias", 2, 3)

    hidden = float("-inf")
    check(bias, torch.tensor([
        [[0.0, hidden, hidden], [-0.0625, 0.0, hidden], [-0.125, -0.0625, 0.0]],
        [[0.0, hidden, hidden], [-0.00390625, 0.0, hidden], [-0.0078125, -0.00390625, 0.0]],
    ]))  # fmt: skip


def test_alibi_of_three_heads(student, check):
    """A third head gets the slope 1/4, after those of two heads."""
    bias = student.call("positional_encoding.alibi_bias", 3, 2)

    check(bias[:, 1, 0], torch.tensor([-0.0625, -0.00390625, -0.25]))
