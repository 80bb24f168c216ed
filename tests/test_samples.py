"""The samples prove the suites: every wrong one loses what it must, every right one and the solution nothing.

Those of a lesson that this run of pytest has chosen (`-k NAME` chooses one) are graded once, side by side, by the pool that
grades classes; then each is one test.
"""

import pytest
from conftest import ROOT

from autograder.author.samples import load_samples
from autograder.author.stub import starter_text
from autograder.batch import Job, default_processes, run
from autograder.lesson import Lesson, load, load_all
from autograder.scorecard import PASSED, PENDING_GPU, Scorecard
from autograder.submission import Submission

LESSONS = load_all(ROOT)
SAMPLES = {
    (lesson.name, f"{sample.kind}/{sample.name}"): sample for lesson in LESSONS for sample in load_samples(lesson)
}
pytestmark = pytest.mark.slow


def job_of(lesson: Lesson, name: str) -> Job:
    """How a sample is graded, or "solution" or "stub"."""
    if name in ("solution", "stub"):
        solution = lesson.solution_files()
        stub = {file: starter_text(content.decode(), file).encode() for file, content in solution.items()}
        return Job(Submission(name, "", solution if name == "solution" else stub))
    sample = SAMPLES[lesson.name, name]
    return Job(sample.submission(), sample.asked)


@pytest.fixture(scope="session")
def card_of(request):
    """card_of(lesson, name): the scorecard. With the first of a lesson all are graded that the chosen tests will ask for."""
    asked = [item.callspec.params for item in request.session.items if "card_of" in getattr(item, "fixturenames", ())]
    cards: dict[tuple[str, str], Scorecard] = {}

    def card_of(lesson, name):
        if (lesson, name) not in cards:
            names = [params["name"] for params in asked if params["lesson"] == lesson]
            jobs = [job_of(load(lesson, ROOT), each) for each in names]
            processes = default_processes() if len(jobs) > 1 else None  # a pool would only start later
            cards.update({(lesson, names[at]): card for at, card in run(load(lesson, ROOT), jobs, processes=processes)})
        return cards[lesson, name]

    return card_of


@pytest.mark.parametrize(("lesson", "name"), list(SAMPLES))
def test_a_sample_gets_the_verdict_that_it_promises(lesson, name, card_of):
    assert SAMPLES[lesson, name].problems(card_of(lesson, name)) == []


@pytest.mark.parametrize("name", ["solution"])
@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_the_solution_gets_all_points(lesson, name, card_of):
    card = card_of(lesson, name)

    assert [
        (row.test, row.message, row.detail) for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)
    ] == []
    assert card.score == card.max_score > 0


@pytest.mark.parametrize("name", ["stub"])
@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_the_stub_gets_none(lesson, name, card_of):
    card = card_of(lesson, name)

    assert [row.test for row in card.outcomes if row.status == PASSED] == []
    assert card.score == 0
    assert card.grader_errors == ()


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_most_wrong_samples_have_their_mistake_named(lesson):
    wrong = [sample for (owner, _), sample in SAMPLES.items() if owner == lesson and sample.kind == "wrong"]
    named = [sample for sample in wrong if sample.expect.mistake]

    assert len(named) >= 0.8 * len(wrong)
