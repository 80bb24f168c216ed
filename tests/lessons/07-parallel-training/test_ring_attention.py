"""Hidden tests of ring_attention.py."""

import pytest
import torch

pytestmark = pytest.mark.question("scale_rows")


@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 2, 3)])
def test_rows_sum_to_one(student, check, rng, shape):
    """Each row is divided by its sum."""
    x = torch.rand(shape, generator=rng) + 0.5

    scaled = student.call("ring_attention.scale_rows", x)

    truth = x.double()
    check(
        scaled,
        truth / truth.sum(-1, keepdim=True),
        dtype=torch.float32,
        mistakes={
            "the sum runs over the rows, not within each": truth / truth.sum(0, keepdim=True),
            "everything is divided by one sum": truth / truth.sum(),
        },
    )


@pytest.mark.points(1)
def test_a_number_is_refused(student):
    """A tensor without a dimension is a ValueError."""
    x = torch.tensor(1.0)

    student.accepts("ring_attention.scale_rows", x[None])
    student.raises(ValueError, "ring_attention.scale_rows", x, says="x")
