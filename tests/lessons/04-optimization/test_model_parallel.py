"""Hidden tests of model_parallel.py."""

import pytest

pytestmark = pytest.mark.question("partition_layers")


@pytest.mark.points(1)
def test_no_stage_is_refused(student):
    """num_stages below 1 is a ValueError."""
    student.raises(ValueError, "model_parallel.partition_layers", 4, 0, says=("num_stages", 0))
