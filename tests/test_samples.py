"""The samples prove the suites: every wrong one loses what it must, every right one and the solution nothing.

Those of a lesson that this run of pytest has chosen (`-k NAME` chooses one) are graded once, as a class is: where cores are
left, side by side. Then each is one test. The inputs follow from the suites: whoever runs these tests sees what the others see,
and a changed suite is tried on new inputs. `make flaky` tries many, of the right samples and of the wrong ones.
"""

from dataclasses import replace

import pytest
from conftest import ROOT, all_lessons, all_samples, cores_left

from autograder.author.samples import WRONG, find_samples
from autograder.author.stub import starter_text
from autograder.batch import Job, run
from autograder.digests import digest_of
from autograder.errors import UsageError
from autograder.lesson import Lesson, load
from autograder.options import Asked
from autograder.scorecard import PASSED, PENDING_GPU, Scorecard
from autograder.submission import Submission

LESSONS = all_lessons()
SAMPLES = {(lesson.name, found.label): found for lesson in LESSONS for found in find_samples(lesson)}
pytestmark = pytest.mark.slow


def seed_of(lesson: Lesson) -> int:
    """The same as long as the suites are."""
    return int(digest_of({module: lesson.suite_digest(module).encode() for module in lesson.modules}), 16)


def job_of(lesson: Lesson, name: str, seed: int) -> Job:
    """How a sample is graded, or "solution" or "stub".

    Raises:
        LessonError, StubError: the sample is not complete, or the starter cannot be cut.
    """
    if name in ("solution", "stub"):
        solution = lesson.solution_files()
        # A line more than the starter has, which would not be run: that no test passes on it is shown here.
        stub = {
            file: f"{starter_text(content.decode(), file)}\n# mine\n".encode() for file, content in solution.items()
        }
        return Job(Submission(name, "", solution if name == "solution" else stub), Asked(seed=seed))
    sample = SAMPLES[lesson.name, name].load()
    return Job(sample.submission(), replace(sample.asked, seed=seed))


@pytest.fixture(scope="session")
def card_of(request):
    """card_of(lesson, name): the scorecard. With the first of a lesson all are graded that the chosen tests will ask for.

    What cannot be graded, because its author must mend it, fails its own test.
    """
    asked = [item.callspec.params for item in request.session.items if "card_of" in getattr(item, "fixturenames", ())]
    cards: dict[tuple[str, str], Scorecard] = {}
    wrong: dict[tuple[str, str], str] = {}  # why a sample cannot be graded

    def card_of(lesson, name):
        if (lesson, name) not in {*cards, *wrong}:
            known, jobs = load(lesson, ROOT), {}
            seed = seed_of(known)
            for each in [params["name"] for params in asked if params["lesson"] == lesson]:
                try:
                    jobs[each] = job_of(known, each, seed)
                except UsageError as error:
                    wrong[lesson, each] = str(error)
            processes = cores_left() if len(jobs) > 1 else None  # a pool would only start later
            graded = run(known, list(jobs.values()), processes=processes)
            cards.update({(lesson, list(jobs)[at]): card for at, card in graded})
        if (lesson, name) in wrong:
            pytest.fail(wrong[lesson, name], pytrace=False)
        return cards[lesson, name]

    return card_of


@pytest.mark.parametrize(("lesson", "name"), list(SAMPLES))
def test_a_sample_gets_the_verdict_that_it_promises(lesson, name, card_of):
    card = card_of(lesson, name)

    problems = SAMPLES[lesson, name].load().problems(card)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)  # its author reads the sentences, and nothing before them


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
    wrong = all_samples(load(lesson, ROOT), (WRONG,))
    named = [sample for sample in wrong if sample.expect.mistake]

    assert len(named) >= 0.8 * len(wrong)
