"""Public tests of rope_encoding: small cases that you can work out by hand."""

import pytest
import torch


def test_the_first_pair_turns_by_one_radian(student, check):
    """With dim 4 and base 100 the second pair turns ten times slower than the first."""
    check(
        student.call("rope_encoding.rope_frequencies", 4, 100.0).double(),
        torch.tensor([1.0, 0.1]).double(),
        within=1e-6,
    )
    check(student.call("rope_encoding.rope_frequencies", 2).double(), torch.ones(1).double(), within=1e-6)


def test_linear_scaling_slows_all_pairs_down(student, check):
    """With factor 4 every pair turns four times slower."""
    freq = student.call("rope_encoding.rope_frequencies", 4, 100.0, {"type": "linear", "factor": 4.0})

    check(freq.double(), torch.tensor([0.25, 0.025]).double(), within=1e-6)


def test_scaling_without_a_factor_is_refused(student):
    """A missing key of scaling is a ValueError."""
    student.raises(
        ValueError, "rope_encoding.rope_frequencies", 4, 100.0, {"type": "linear"}, says=("factor", "scaling")
    )


def test_a_pair_goes_round(student, check):
    """(1, 0) at the positions 0, 1 and 2 is turned by 0, 1 and 2 radians."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    turned = student.call("rope_encoding.apply_rope", x, torch.arange(3))

    check(turned, torch.tensor([[1.0, 0.0], [0.5403023, 0.8414710], [-0.4161468, 0.9092974]]), within=1e-5, mistakes={
        "the pair is turned backwards": torch.tensor([[1.0, 0.0], [0.5403023, -0.8414710], [-0.4161468, -0.9092974]]),
    })  # fmt: skip


@pytest.mark.parametrize(("interleaved", "partner"), [(True, 1), (False, 2)])
def test_who_is_whose_partner(student, check, interleaved, partner):
    """Number 0 of 4 is turned with number 1, or with number 2 if interleaved is False."""
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    turned = student.call("rope_encoding.apply_rope", x, torch.tensor([1]), 10000.0, interleaved)

    expected = torch.zeros(1, 1, 4)
    expected[..., 0], expected[..., partner] = 0.5403023, 0.8414710
    check(turned, expected, within=1e-5)


def test_a_score_depends_on_the_distance_only(student):
    """A query at 7 and a key at 4 have the same score as at 103 and 100."""
    query, key = torch.tensor([[0.3, -1.2, 0.8, 0.5]]), torch.tensor([[1.0, 0.4, -0.7, 0.2]])

    def score(at, of):
        turned = [student.call("rope_encoding.apply_rope", x, torch.tensor([p])) for x, p in ((query, at), (key, of))]
        return (turned[0] * turned[1]).sum().item()

    assert abs(score(7, 4) - score(103, 100)) < 1e-4, "the score changes when query and key move together"
    assert abs(score(7, 4) - score(7, 5)) > 1e-3, "the score does not depend on the distance"


def test_the_layer_refuses_positions_that_it_has_not(student):
    """max_len=8 means the positions 0 to 7."""

    def probe(T, positions):
        from rope_encoding import RoPEEncoding

        return RoPEEncoding(4, 8)(torch.zeros(1, T, 4), positions)

    student.run(probe, 8, None)
    student.raises(ValueError, probe, 9, None, says=("max_len", "x"))
    student.raises(ValueError, probe, 1, torch.tensor([8]), says=("max_len", "positions", "position"))
    student.raises(ValueError, probe, 1, torch.tensor([-1]), says=("max_len", "positions", "position"))
