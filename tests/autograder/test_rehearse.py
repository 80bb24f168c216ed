"""`rehearse` and `make grade` say whether the lessons are sound: all points for the solution, none for the stub, or exit 1."""

import re

import pytest
from conftest import ROOT, TOY_SOLUTION, TOY_SUITE, write_lesson

from autograder import cli
from autograder.author.stub import starter_text
from autograder.grade import Grader
from autograder.lesson import load
from autograder.release import rehearse as rehearse_module
from autograder.release.rehearse import Rehearsal
from autograder.submission import Submission

pytestmark = pytest.mark.usefixtures("graders_share_a_box")

SAMPLE = """
why = "The future instead of the past."
fails = ["test_the_past_is_seen"]
mistake = "the mask is transposed: it shows the future"

[[change]]
file = "toy.py"
old = ".tril()"
new = ".triu()"
"""
ANYTHING_PASSES = "\n\n    @pytest.mark.points(1)\n    def test_anything_passes():\n        pass\n"


@pytest.fixture
def rehearse(tmp_path, monkeypatch, capsys):
    """`autograder rehearse` on a toy lesson: (exit code, what it printed). The zip's part is in test_otter.py."""

    def in_a_box(zip_path, files, timeout=600):
        with Grader(load("99-toy", tmp_path)) as grader:
            return Rehearsal({}, grader.grade(Submission("student", "", files)), "")

    def run(suite=TOY_SUITE, solution=TOY_SOLUTION):
        write_lesson(tmp_path, suite=suite, solution=solution)
        lesson = load("99-toy", tmp_path)
        lesson.starter.mkdir(parents=True)
        (lesson.starter / "toy.py").write_text(starter_text(lesson.solution_files()["toy.py"].decode(), "toy.py"))
        sample = lesson.samples / "wrong" / "toy" / "transposed.toml"
        sample.parent.mkdir(parents=True)
        sample.write_text(SAMPLE)
        monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(rehearse_module, "rehearse", in_a_box)
        monkeypatch.setattr("sys.argv", ["autograder", "rehearse", "99-toy"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, " ".join(capsys.readouterr().out.split())

    return run


def test_a_sound_lesson_exits_0(rehearse):
    code, said = rehearse()

    assert code == 0
    assert "error" not in said


def test_a_solution_below_100_percent_exits_1(rehearse):
    code, said = rehearse(TOY_SUITE.replace("mask.shape[0] == 3", "mask.shape[0] == 4"))

    assert code == 1
    assert "99-toy: the solution does not pass its own suite, these are grader errors: test_the_mask_has_rows" in said
    assert "2 grader errors: their points are not in the totals: fix the tests, then grade again" in said


def test_a_stub_that_gets_points_exits_1(rehearse):
    code, said = rehearse(TOY_SUITE + ANYTHING_PASSES)

    assert code == 1
    assert "99-toy: the stub gets 1 of 5 points; it should get none: it passes test_anything_passes" in said


def test_a_suite_in_which_nothing_counts_exits_1(rehearse):
    code, said = rehearse(TOY_SUITE.replace("@pytest.mark.points", "@pytest.mark.gpu\n    @pytest.mark.points"))

    assert code == 1
    assert "nothing of the solution was graded" in said


def test_make_grade_ends_as_rehearse_does():
    text = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^grade:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1]

    assert recipe.splitlines() == ["\t$(BIN)/autograder rehearse $(LESSON)"]


def test_grading_the_solution_against_a_wrong_expected_value_exits_1(rehearse, tmp_path, monkeypatch, capsys):
    rehearse(TOY_SUITE.replace("dtype=torch.bool).tril()", "dtype=torch.bool).triu()"))
    monkeypatch.setattr("sys.argv", "autograder grade solutions/99-toy --lesson 99-toy --out out".split())

    with pytest.raises(SystemExit) as end:
        cli.main()

    assert end.value.code == 1
    assert "GRADER ERROR" in " ".join(capsys.readouterr().out.split())
