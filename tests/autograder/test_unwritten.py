"""A module that is still the starter is not run: no test passes on it, which test_samples.py shows by running it."""

import textwrap

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.author.stub import starter_text
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked
from autograder.scorecard import FAILED, PASSED
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")
SOLUTION = textwrap.dedent(TOY_SOLUTION).lstrip()
STARTER = starter_text(SOLUTION, "toy.py")
SAID = "toy.py is the unchanged starter: nothing in it is written yet"


def a_lesson(root, starter):
    write_lesson(root)
    if starter is not None:
        (root / "starter/99-toy").mkdir(parents=True)
        (root / "starter/99-toy/toy.py").write_text(starter)
    return load("99-toy", root)


def card_of(lesson, text):
    with Grader(lesson) as grader:
        return grader.grade(Submission("ada", "", {"toy.py": text.encode()}), Asked(seed=1))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    return a_lesson(tmp_path_factory.mktemp("cut"), STARTER)


@pytest.mark.parametrize("text", [STARTER, STARTER.replace("\n", "\r\n"), "\ufeff" + STARTER + "\n\n"])
def test_the_starter_is_not_run(lesson, text):
    card = card_of(lesson, text)

    assert {(row.status, row.message, row.cause, row.points) for row in card.outcomes} == {
        (FAILED, SAID, "unwritten", 0)
    }
    assert card.measurements.student_cpu_seconds == 0
    assert len(card.outcomes) == 3


def test_a_starter_with_a_word_of_the_students_is_run_and_gets_as_much(lesson):
    card = card_of(lesson, STARTER + "\n# I will be back\n")

    assert {(row.status, row.message, row.cause, row.points) for row in card.outcomes} == {
        (FAILED, "causal_mask is not implemented yet", "", 0)
    }
    assert card.measurements.student_cpu_seconds > 0


def test_a_module_that_is_handed_out_whole_is_run(tmp_path):
    card = card_of(a_lesson(tmp_path, SOLUTION), SOLUTION)

    assert {row.status for row in card.outcomes} == {PASSED}


def test_a_lesson_without_a_starter_is_graded(tmp_path):
    card = card_of(a_lesson(tmp_path, None), STARTER)

    assert {row.message for row in card.outcomes} == {"causal_mask is not implemented yet"}
