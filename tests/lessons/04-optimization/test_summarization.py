"""Hidden tests of summarization.py."""

import pytest

pytestmark = pytest.mark.question("extractive_summary")


@pytest.mark.points(1)
def test_no_sentence_is_refused(student):
    """num_sentences below 1 is a ValueError."""
    student.raises(ValueError, "summarization.extractive_summary", ["a b", "b c"], 0, says=("num_sentences", 0))
