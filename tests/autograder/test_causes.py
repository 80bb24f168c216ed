"""What kept code from giving an answer is known by its kind, for the table of a class."""

import textwrap

import pytest
from conftest import TOY_SOLUTION

from autograder.errors import cause_of
from autograder.options import Asked
from autograder.scorecard import CAUSES
from autograder.submission import Submission

WORK = {
    "syntax": "def f(:",
    "import": "import no_such_package\n",
    "missing": "",
    "died": "import os\nos._exit(3)\n",
    "timeout": "while True:\n    pass\n",
}


def causes(card):
    return {row.cause for row in card.outcomes}


@pytest.mark.parametrize("cause", WORK)
def test_a_module_that_gives_no_answer_says_of_what_kind_that_is(grade_toy, cause):
    card = grade_toy(WORK[cause], other="x = 1")

    assert cause in causes(card)
    assert causes(card) <= {cause, ""}
    assert card.score == 0


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("import no_such_package", "import"),
        ("import os; os._exit(1)", "died"),
        ("import time; time.sleep(99)", "timeout"),
        ("raise MemoryError", "died"),
        ("raise IndexError('x')", ""),
    ],
)
def test_so_does_a_call(grade_toy, line, cause):
    card = grade_toy(f"def causal_mask(length):\n    {line}\n")

    assert cause in causes(card)
    assert causes(card) <= {cause, ""}


def test_a_wrong_answer_has_no_cause(grade_toy):
    assert causes(grade_toy(textwrap.dedent(TOY_SOLUTION).replace("tril", "triu"))) == {""}


def test_a_submission_that_cannot_be_read_is_unreadable(toy_grader):
    card = toy_grader.grade(Submission("ada", "", {}, problem="it is broken"), Asked(seed=1))

    assert causes(card) == {"unreadable"}


def test_indentation_and_null_bytes_are_errors_of_syntax():
    assert cause_of(["IndentationError", "SyntaxError", "Exception"], "") == "syntax"
    assert cause_of(["ValueError"], "source code string cannot contain null bytes") == "syntax"
    assert set(WORK) | {"unreadable", "unwritten"} == set(CAUSES)  # test_unwritten.py has the last
