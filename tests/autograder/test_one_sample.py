"""What is chosen of the samples is graded, and nothing else."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

COUNTS = """
from autograder import batch, grade

jobs_and_processes, graded = [], []
run, grade_one = batch.run, grade.Grader.grade


def counted_run(lesson, jobs, *, processes=None, **options):
    jobs_and_processes.append((len(jobs), processes))
    return run(lesson, jobs, **options)


def counted_grade(grader, submission, *asked):
    graded.append(submission.student)
    return grade_one(grader, submission, *asked)


batch.run, grade.Grader.grade = counted_run, counted_grade


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"jobs and processes {jobs_and_processes}, graded {sorted(graded)}")
"""


def samples_graded(folder, expression):
    """What pytest says of the samples that `-k` chooses, with a last line that counts gradings."""
    (folder / "counts.py").write_text(COUNTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "counts", "tests/test_samples.py", "-k", expression]
    said = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(folder), "PATH": ""}, capture_output=True, text=True
    ).stdout
    assert re.search(r"\d+ passed", said), said
    return re.search(r"^jobs and processes .*$", said, re.MULTILINE)[0]


@pytest.mark.slow
def test_one_sample_costs_one_grading(tmp_path):
    said = samples_graded(tmp_path, "encode-cuts-long-words")

    assert said == "jobs and processes [(1, None)], graded ['encode-cuts-long-words']"


@pytest.mark.slow
def test_two_of_a_lesson_are_graded_side_by_side_and_once(tmp_path):
    said = samples_graded(tmp_path, "encode-cuts-long-words or fit-accepts-any-id")

    assert re.fullmatch(r"jobs and processes \[\(2, \d+\)\], graded \['encode.*words', 'fit.*id'\]", said)
