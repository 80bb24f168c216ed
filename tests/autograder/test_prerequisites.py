"""A lesson that uses another one finds the reference modules, not the student's, unless told otherwise."""

import textwrap

import pytest
from conftest import write_lesson

from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked, GraderOptions
from autograder.scorecard import PASSED
from autograder.submission import Submission

NEXT = """
    from toy import causal_mask


    def count(length):
        # student: how many pairs may attend
        return int(causal_mask(length).sum())
"""
SUITE = """
    import pytest
    @pytest.mark.points(1)
    def test_count(student, check):
        check(student.call("counting.count", 3), 6)
    @pytest.mark.points(1)
    def test_the_reference_cannot_be_changed(student):
        def probe():
            import os, toy
            try:
                with open(toy.__file__, "a") as file:
                    file.write("x = 1")
            except OSError:
                return "refused"
            return "changed"
        assert student.run(probe) == "refused", "the reference module was changed"
"""


@pytest.fixture
def lesson(tmp_path):
    write_lesson(tmp_path)
    files = {
        "assignments/99-zeta/lesson.toml": 'title = "Next"\nmodules = ["counting"]\nuses = ["99-toy"]',
        "solutions/99-zeta/counting.py": NEXT,
        "tests/lessons/99-zeta/test_counting.py": SUITE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return load("99-zeta", tmp_path)


def grade(lesson, files, **options):
    with Grader(lesson, GraderOptions(**options)) as grader:
        return grader.grade(Submission("ada", "", lesson.solution_files() | files), Asked(seed=1))


WRONG_TOY = {"toy.py": b"import torch\ndef causal_mask(length): return torch.ones(length, length)"}


def test_reference_modules_are_there_and_read_only(lesson):
    assert [row.status for row in grade(lesson, {}).outcomes] == [PASSED, PASSED]


def test_the_students_own_copy_is_not_used_and_a_note_says_so(lesson):
    card = grade(lesson, WRONG_TOY)

    assert card.score == 2
    assert card.notes == ("the submission's toy.py was not used: the reference module was used instead",)


def test_the_students_own_copy_is_used_when_asked_for(lesson):
    card = grade(lesson, WRONG_TOY, own_prerequisites=True)

    assert card.outcomes[0].status != PASSED
    assert card.notes == ()


def test_the_digest_of_the_suite_covers_the_reference_modules(lesson):
    before = lesson.suite_digest("counting")
    (lesson.root / "solutions" / "99-toy" / "toy.py").write_text("# another")

    assert lesson.suite_digest("counting") != before
