"""What submissions get whose functions return nothing of use, or refuse everything: hardly a point, and never a complaint about our own helpers."""

import re
from functools import cache

import pytest
from conftest import ROOT, all_lessons

from autograder.author.hollow import (
    AS_NOTHING,
    AS_NUMPY,
    AS_TEXT,
    REFUSING,
    REFUSING_METHODS,
    UNWRITTEN_METHODS,
    ZEROS,
    hollow,
)
from autograder.batch import Job, run
from autograder.lesson import load
from autograder.options import Asked
from autograder.submission import Submission

pytestmark = pytest.mark.slow
MODULES = [(lesson, module) for lesson in all_lessons() for module in lesson.modules]
each_module = pytest.mark.parametrize(
    ("lesson", "module"), MODULES, ids=[f"{lesson.name}-{module}" for lesson, module in MODULES]
)


@cache
def cards(lesson_name: str) -> dict:
    """(module, kind) -> scorecard. One grader for all of a lesson: another would import the suites and ask the solution once more."""
    lesson = load(lesson_name, ROOT)
    jobs = {
        (module, kind): _job(lesson, module, kind)
        for module in lesson.modules
        for kind in (ZEROS, AS_NUMPY, AS_TEXT, AS_NOTHING, REFUSING, REFUSING_METHODS, UNWRITTEN_METHODS)
    }
    return {list(jobs)[index]: card for index, card in run(lesson, list(jobs.values()))}


def _job(lesson, module, kind):
    files = lesson.solution_files()
    files[f"{module}.py"] = hollow(files[f"{module}.py"].decode(), kind).encode()
    return Job(Submission(kind, "", files), Asked((module,), seed=3))


@each_module
def test_zeros_of_the_right_shape_earn_less_than_a_tenth(lesson, module):
    card = cards(lesson.name)[module, ZEROS]

    assert card.score < card.max_score / 10, [row.test for row in card.outcomes if row.points]


def earned(card) -> set[str]:
    return {row.test for row in card.outcomes if row.points}


@each_module
def test_what_refuses_everything_earns_nothing(lesson, module):
    """A test of a refusal has a call that must be accepted: student.accepts."""
    assert earned(cards(lesson.name)[module, REFUSING]) == set()


@each_module
def test_methods_that_refuse_everything_earn_no_more_than_unwritten_ones(lesson, module):
    """What the solution's constructors earn alone, both get."""
    unwritten = earned(cards(lesson.name)[module, UNWRITTEN_METHODS])

    assert earned(cards(lesson.name)[module, REFUSING_METHODS]) - unwritten == set()


@each_module
@pytest.mark.parametrize("kind", [AS_NUMPY, AS_TEXT, AS_NOTHING])
def test_results_of_another_kind_are_the_students_fault_and_named_as_such(lesson, module, kind):
    card = cards(lesson.name)[module, kind]

    ours = [
        (row.test, row.message)
        for row in card.outcomes
        if "AttributeError" in row.message and not re.search(rf"\({module}\.py:\d+ in ", row.message)
    ]
    assert card.grader_errors == ()
    assert ours == []
