"""`make check LESSON=…` says of one lesson whatever of it does not hold, public tests and handout included."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, is_about
from test_authors_guide import lesson_of_the_guide

from autograder.author.skeleton import new_lesson

pytestmark = pytest.mark.slow
TREE = ["pyproject.toml", "README.md", "docs", "tests/*.py", "tests/lessons/*.py"]
TREE += ["tests/autograder/test_handout.py", "tests/autograder/test_author_samples.py", "assignments/example.toml"]


@pytest.fixture
def course(tmp_path):
    """A tree like this one, without a lesson."""
    for path in [path for pattern in TREE for path in ROOT.glob(pattern)]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copy)
    (tmp_path / "autograder").symlink_to(ROOT / "autograder")
    return tmp_path


def check(course, *names):
    """(exit code, what it prints)"""
    command = [sys.executable, course / "tests" / "check_lesson.py", *names]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def edited(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_a_new_lesson_holds(course):
    new_lesson(course, "10-row-scaling", ["rows", "columns"])

    code, said = check(course, "10-row-scaling")

    assert (code, "10-row-scaling: all of it holds" in said) == (0, True), said
    assert len(re.findall(r": \d+ passed", said)) == 2


def test_the_lesson_of_the_guide_holds(course):
    lesson = lesson_of_the_guide(course)

    code, said = check(course, lesson.name)

    assert (code, f"{lesson.name}: all of it holds" in said) == (0, True), said


def test_each_fault_of_a_lesson_is_said(course):
    lesson = lesson_of_the_guide(course)
    edited(lesson.handout, "print(interpolate_positions(8, trained=4))", "print(interpolate_position(8, trained=4))")
    edited(lesson.public_test("position_interpolation"), "torch.tensor([0.0, 0.5, 1.0, 1.5])", "torch.tensor([0.0])")
    edited(lesson.starter / "position_interpolation.py", "squeeze only what is too long", "what is too long")
    edited(lesson.samples / "wrong" / "position_interpolation" / "always-squeezed.toml", 'new = ""', 'new = " "')

    code, said = check(course, "10")

    line = 1 + lesson.handout.read_text().splitlines().index("print(interpolate_position(8, trained=4))")
    public = "tests/lessons/10-rope-scaling/test_position_interpolation_public.py"
    assert code == 1
    for sentence in (
        f"assignments/10-rope-scaling/handout.md, line {line}: NameError: name 'interpolate_position' is not defined",
        f"{public}::test_twice_the_length_halves_the_steps fails on the solution: grading.errors.CheckFailed: the shape is (4,); it should be (1,)",
        "run `make starter`",
        "10-rope-scaling: suites, public tests, handout failed",
    ):
        assert sentence in said, said


def test_a_lesson_that_is_not_there_is_named(course):
    new_lesson(course, "10-row-scaling", ["rows"])

    assert check(course)[1].startswith(
        "error: name a lesson, such as `make check LESSON=01-attention`: there are 10-row"
    )
    assert check(course, "11")[0] == 2


# ---------------------------------------------------------------------------------------------- what --lesson leaves


def test_every_lesson_has_tests_of_its_own_and_none_of_anothers(request):
    """Of the tests that are being run now: those with a lesson as a parameter are about it, and about no other."""
    marked = [item for item in request.session.items if "01-attention" in item.nodeid and "handout" in item.nodeid]

    assert all(is_about(item, "01-attention") for item in marked)
    assert not any(is_about(item, "00-fundamentals") for item in marked)
