"""The samples prove the suites: every wrong one loses what it must, every right one and the solution nothing.

All are graded once, side by side, by the pool that grades classes; then each is one test.
"""

from functools import cache

import pytest
from conftest import ROOT

from autograder.author.samples import load_samples
from autograder.author.stub import starter_text
from autograder.batch import Job, default_processes, run
from autograder.lesson import load, load_all
from autograder.scorecard import PASSED, PENDING_GPU
from autograder.submission import Submission

LESSONS = load_all(ROOT)
SAMPLES = {
    (lesson.name, f"{sample.kind}/{sample.name}"): sample for lesson in LESSONS for sample in load_samples(lesson)
}
pytestmark = pytest.mark.slow


@cache
def cards(lesson_name: str) -> dict:
    """Scorecards of all of a lesson's samples, by name; "solution" and "stub" among them."""
    lesson = load(lesson_name, ROOT)
    chosen = {name: sample for (owner, name), sample in SAMPLES.items() if owner == lesson_name}
    solution = lesson.solution_files()
    stub = {name: starter_text(content.decode(), name).encode() for name, content in solution.items()}
    jobs = {
        "solution": Job(Submission("solution", "", solution)),
        "stub": Job(Submission("stub", "", stub)),
        **{name: Job(sample.submission(), sample.asked) for name, sample in chosen.items()},
    }
    done = run(lesson, list(jobs.values()), processes=default_processes())
    return {list(jobs)[index]: card for index, card in done}


@pytest.mark.parametrize(("lesson", "name"), list(SAMPLES))
def test_a_sample_gets_the_verdict_that_it_promises(lesson, name):
    assert SAMPLES[lesson, name].problems(cards(lesson)[name]) == []


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_the_solution_gets_all_points(lesson):
    card = cards(lesson)["solution"]

    assert [
        (row.test, row.message, row.detail) for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)
    ] == []
    assert card.score == card.max_score > 0


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_the_stub_gets_none(lesson):
    card = cards(lesson)["stub"]

    assert [row.test for row in card.outcomes if row.status == PASSED] == []
    assert card.score == 0
    assert card.grader_errors == ()


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_most_wrong_samples_have_their_mistake_named(lesson):
    wrong = [sample for (owner, _), sample in SAMPLES.items() if owner == lesson and sample.kind == "wrong"]
    named = [sample for sample in wrong if sample.expect.mistake]

    assert len(named) >= 0.8 * len(wrong)
