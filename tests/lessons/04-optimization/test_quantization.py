"""Hidden tests of quantization.py."""

import pytest
import torch

pytestmark = pytest.mark.question("quantize_absmax")


@pytest.mark.points(1)
def test_bits_outside_2_to_8_are_refused(student):
    """bits outside 2..8 is a ValueError."""
    student.raises(ValueError, "quantization.quantize_absmax", torch.ones(3), 9, says=("bits", 9))
