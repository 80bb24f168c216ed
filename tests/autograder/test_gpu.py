"""GPU tests without a GPU: they wait, are run elsewhere, and are joined. The CPU stands in for the GPU here."""

from dataclasses import replace

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.grade import Grader
from autograder.joining import merge
from autograder.lesson import load
from autograder.options import Asked, GraderOptions
from autograder.scorecard import PASSED, PENDING_GPU
from autograder.submission import Submission

SUITE = """
    import pytest, torch
    @pytest.mark.points(1)
    def test_on_cpu(student, device):
        assert device.type == "cpu" and student.device == "cpu"
        student.call("toy.causal_mask", 2)
    @pytest.mark.points(3)
    @pytest.mark.gpu
    def test_on_gpu(student, check, device):
        check(student.call("toy.causal_mask", 2), torch.ones(2, 2, dtype=torch.bool, device=device).tril())
"""


@pytest.fixture
def lesson(tmp_path):
    write_lesson(tmp_path, suite=SUITE)
    return load("99-toy", tmp_path)


def grade(lesson, text=None, **options):
    files = lesson.solution_files() if text is None else {"toy.py": text.encode()}
    with Grader(lesson, GraderOptions(**options)) as grader:
        return grader.grade(Submission("ada", "", files), Asked(seed=1))


def statuses(card):
    return {row.test: row.status for row in card.outcomes}


def test_a_gpu_test_waits_outside_the_total(lesson):
    card = grade(lesson)

    assert statuses(card) == {"test_on_cpu": PASSED, "test_on_gpu": PENDING_GPU}
    assert (card.score, card.max_score, card.pending_gpu_points) == (1, 1, 3)


def test_gpu_only_runs_nothing_else(lesson):
    card = grade(lesson, gpu_device="cpu", only_gpu=True)

    assert statuses(card) == {"test_on_gpu": PASSED}


def test_two_scorecards_of_the_same_work_are_joined(lesson):
    card = merge(grade(lesson), grade(lesson, gpu_device="cpu", only_gpu=True))

    assert statuses(card) == {"test_on_cpu": PASSED, "test_on_gpu": PASSED}
    assert (card.score, card.max_score, card.pending_gpu_points) == (4, 4, 0)
    assert card.environment["merged_with"]["torch"]


@pytest.mark.parametrize("what", ["submission", "suite", "version of the autograder", "lesson", "student"])
def test_scorecards_of_other_work_are_refused(lesson, what):
    waiting, other = grade(lesson), grade(lesson, gpu_device="cpu", only_gpu=True)
    if what == "submission":
        other = grade(lesson, text=TOY_SOLUTION.replace("\n    ", "\n") + "# another", gpu_device="cpu", only_gpu=True)
    elif what == "suite":
        other = replace(other, digests=replace(other.digests, modules={"toy": "0"}))
    elif what == "version of the autograder":
        other = replace(other, digests=replace(other.digests, package="0"))
    else:
        other = replace(other, **{what: "another"})

    with pytest.raises(ValueError, match=what):
        merge(waiting, other)


def test_a_scaled_lesson_scales_what_waits(tmp_path):
    write_lesson(tmp_path, suite=SUITE, settings="scale_to = 100\n")

    card = grade(load("99-toy", tmp_path))

    assert (card.score, card.max_score, card.pending_gpu_points) == (25, 25, 75)
