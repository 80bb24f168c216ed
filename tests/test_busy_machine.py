"""A verdict depends on the submission alone: the slowest right work keeps its points on a machine that is busy."""

import os

import pytest
from conftest import ROOT, busy

from autograder.author.samples import RIGHT, load_samples
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked
from autograder.scorecard import PASSED, PENDING_GPU
from autograder.submission import Submission

NEIGHBOURS = 6
SLOWEST = {  # by the processor time that they take; tests/test_samples.py grades them on a machine as it is
    "00-fundamentals": ["lists-and-borders"],
    "01-attention": ["flash-merging-partial-results"],
    "02-transformer": ["a-module-for-each-head"],
    "03-generation": ["speculation-row-by-row", "torch-parts-and-lists"],
    "04-optimization": ["optimization-step-by-step"],
    "05-scaling": ["scaling-in-modules"],
    "07-parallel-training": ["parallel-step-by-step", "ring-in-both-directions"],
}
IN_EVERY_RUN = 4  # of these lessons; the others take a minute or two each


@pytest.fixture
def two_cores():
    """Six processes keep two cores busy, and no more."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be kept to a core here")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lesson_name",
    [pytest.param(name, marks=pytest.mark.thorough if at >= IN_EVERY_RUN else ()) for at, name in enumerate(SLOWEST)],
)
def test_the_slowest_right_work_keeps_its_points_beside_six_busy_processes(lesson_name, two_cores):
    lesson = load(lesson_name, ROOT)
    samples = {sample.name: sample for sample in load_samples(lesson, (RIGHT,))}
    with Grader(lesson) as grader:
        grader.grade(Submission("starter", "", lesson.starter_files()))  # imports the suites before the machine is busy
        with busy(NEIGHBOURS):
            for name in SLOWEST[lesson_name]:
                card = grader.grade(samples[name].submission(), Asked(samples[name].modules))

                lost = [(row.test, row.message) for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)]
                assert lost == [], name
                assert card.score == card.max_score > 0
