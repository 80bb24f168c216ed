"""A new lesson works from its first minute."""

import subprocess
import sys

import pytest
from conftest import ROOT, write_lesson

from autograder.author.messages import suite_messages
from autograder.author.samples import load_samples
from autograder.author.skeleton import new_lesson
from autograder.author.starter import starter_is_fresh
from autograder.batch import Job, run
from autograder.errors import UsageError
from autograder.options import Asked
from autograder.submission import Submission


def test_a_new_lesson_keeps_what_lessons_promise(tmp_path):
    lesson = new_lesson(tmp_path, "10-row-scaling", ["rows", "more_rows"])

    samples = load_samples(lesson)
    jobs = [
        Job(Submission("solution", "", lesson.solution_files())),
        Job(Submission("stub", "", lesson.starter_files())),
    ]
    jobs += [Job(sample.submission(), Asked(sample.modules)) for sample in samples]
    cards = [card for _, card in run(lesson, jobs)]

    assert cards[0].score == cards[0].max_score == 6
    assert cards[1].score == 0
    assert [sample.problems(card) for sample, card in zip(samples, cards[2:], strict=True)] == [[]] * 4
    assert starter_is_fresh(lesson)


@pytest.mark.parametrize("modules", [["rows", "more_rows"], ["a_module_whose_name_is_as_long_as_a_module_may_be"]])
def test_a_new_lesson_passes_lint(tmp_path, modules):
    """Ruff as the tree has it, and the rules of wording."""
    lesson = new_lesson(tmp_path, "10-row-scaling", modules)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    ruff = [sys.executable, "-m", "ruff"]

    for command in ([*ruff, "check", "--no-cache", "."], [*ruff, "format", "--no-cache", "--check", "."]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    assert [message for message in suite_messages(lesson) if message.faults] == []


@pytest.mark.parametrize(
    ("name", "modules", "words"),
    [
        ("tokenizers", ["rows"], "not a lesson's name"),
        ("1-tokenizers", ["rows"], "not a lesson's name"),
        ("../10-x", ["rows"], "not a lesson's name"),
        ("99-toy", ["rows"], "already exists"),
        ("10-x", ["toy"], "taken by 99-toy"),
        ("10-x", ["rows", "rows"], "taken"),
        ("10-x", ["Rows"], "not a module's name"),
        ("10-x", ["two__parts"], "not a module's name"),
        ("10-x", ["_rows"], "not a module's name"),
        ("10-x", ["class"], "not a module's name"),
        ("10-x", ["1st"], "not a module's name"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path, name, modules, words):
    write_lesson(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(UsageError, match=words):
        new_lesson(tmp_path, name, modules)

    assert sorted(tmp_path.rglob("*")) == before
