"""`make check LESSON=…` says of one lesson whatever of it does not hold, public tests and handout included."""

import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, is_about
from test_authors_guide import lesson_of_the_guide

from autograder.author.skeleton import new_lesson
from autograder.lesson import load

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


@pytest.mark.slow
def test_a_new_lesson_holds(course):
    new_lesson(course, "10-row-scaling", ["rows"])

    code, said = check(course, "10-row-scaling")

    assert (code, "10-row-scaling: all of it holds" in said) == (0, True), said
    assert len(re.findall(r": \d+ passed", said)) == 2


@pytest.mark.slow
def test_each_fault_of_a_lesson_is_said_and_nothing_else_of_the_guides(course):
    lesson = lesson_of_the_guide(course)
    handout, public = lesson.handout, lesson.public_test("position_interpolation")
    sample = lesson.samples / "wrong" / "position_interpolation" / "always-squeezed.toml"
    edited(handout, "print(interpolate_positions(8, trained=4))", "print(interpolate_position(8, trained=4))")
    edited(public, "torch.tensor([0.0, 0.5, 1.0, 1.5])", "torch.tensor([0.0])")
    edited(lesson.starter / "position_interpolation.py", "squeeze only what is too long", "what is too long")
    edited(sample, 'mistake = "positions are', 'mistake = "they are')

    code, said = check(course, "10")

    line = 1 + handout.read_text().splitlines().index("print(interpolate_position(8, trained=4))")
    twice = f"{public.relative_to(course)}::test_twice_the_length_halves_the_steps"
    sentences = [
        f"assignments/10-rope-scaling/handout.md, line {line}: NameError: name 'interpolate_position' is not defined",
        f"{twice} fails on the solution: grading.errors.CheckFailed: the shape is (4,); it should be (1,)",
        "run `make starter`",
        "'they are squeezed although the text is short enough' should be named",
        "10-rope-scaling: samples and suites, public tests, handout failed",
    ]
    assert code == 1
    assert [sentence for sentence in sentences if sentence not in said] == [], said
    assert sorted(re.findall(r"^FAILED \S+::(\w+)", said, re.MULTILINE)) == [
        "test_a_sample_gets_the_verdict_that_it_promises",
        "test_each_block_of_a_handout_runs_alone",
        "test_every_mistake_that_a_sample_is_told_is_listed",
        "test_starters_are_fresh",
        "test_the_blocks_of_a_handout_run_in_order",
        "test_the_public_tests_of_a_lesson_fail_on_its_stub_and_pass_on_its_solution",
    ]


def test_a_lesson_that_is_not_there_is_named(course):
    new_lesson(course, "10-row-scaling", ["rows"])

    assert check(course)[1].startswith(
        "error: name a lesson, such as `make check LESSON=01-attention`: there are 10-row"
    )
    assert check(course, "11")[0] == 2


# ---------------------------------------------------------------------------------------------- what --lesson leaves


def a_test(path="tests/test_a.py", marks=(), **params):
    """A test of pytest's, as far as is_about looks at it."""
    found = [SimpleNamespace(args=args) for args in marks]
    callspec = {"callspec": SimpleNamespace(params=params)} if params else {}
    return SimpleNamespace(path=ROOT / path, iter_markers=lambda name: found, **callspec)


@pytest.mark.parametrize(
    ("test", "is_kept"),
    [
        (a_test(lesson="01-attention", name="wrong/x"), True),
        (a_test(lesson="00-fundamentals", name="wrong/01-attention-x"), False),
        (a_test(lesson=load("01-attention", ROOT), module="attention"), True),
        (a_test(lesson=load("00-fundamentals", ROOT), module="bigram"), False),
        (a_test(name="01-attention/test_attention.py"), True),
        (a_test(handout=ROOT / "assignments" / "00-fundamentals" / "handout.md"), False),
        (a_test(page="README.md"), False),
        (a_test(), False),
        (a_test(marks=[()]), True),
        (a_test(marks=[("01-attention",)]), True),
        (a_test("tests/test_handout_x.py"), True),
        (a_test("tests/test_handout_x.py", marks=[("00-fundamentals",)]), False),
        (a_test("tests/test_handout_x.py", name="00-fundamentals"), False),
        (a_test("tests/autograder/test_handout.py"), False),
    ],
)
def test_what_is_about_a_lesson(test, is_kept):
    assert is_about(test, "01-attention") == is_kept
