"""A gradable zip, used as Gradescope uses it, but in a temporary folder: unpack, submit, run, read the results.

home/source/       the zip
home/submission/   what was submitted
home/results/      results.json for Gradescope, scorecard.json for us
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from ..author.samples import WRONG, load_samples
from ..errors import GraderFault
from ..lesson import Lesson
from ..scorecard import Scorecard
from ..submission import Submission

SOLUTION, STUB = "solution", "stub"


@dataclass(frozen=True)
class Rehearsal:
    """What came of one run of a zip: the dict that Gradescope reads, our scorecard, what the run printed."""

    results: dict
    card: Scorecard
    output: str


def rehearse(zip_path: Path, files: dict[str, bytes], timeout: float = 600) -> Rehearsal:
    """Grades `files` through the zip's run_otter.py, in a process that finds nothing but the zip and the packages.

    Raises:
        GraderFault: there are no results.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        lay_out(zip_path, files, home)
        command = [sys.executable, "-P", str(home / "source" / "run_otter.py")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "AUTOGRADER"))}
        run = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        output = run.stdout + run.stderr
        try:
            results = json.loads((home / "results" / "results.json").read_text())
            card = Scorecard.from_json((home / "results" / "scorecard.json").read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GraderFault(
                f"{zip_path} gave no results ({error}); its output ends with:\n{output[-3000:]}"
            ) from error
    return Rehearsal(results, card, output)


def lay_out(zip_path: Path, files: dict[str, bytes], home: Path) -> None:
    """The folders of Gradescope's container below `home`."""
    with zipfile.ZipFile(zip_path) as archive:
        archive.extractall(home / "source")
    (home / "results").mkdir(parents=True)
    (home / "submission").mkdir()
    (home / "submission_metadata.json").write_text("{}")
    for name, content in files.items():
        path = home / "submission" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def surprises(lesson: str, submission: str, card: Scorecard) -> list[str]:
    """What of a showpiece's scorecard must not be, a sentence each: the solution gets everything, the stub nothing.

    Answers in words are not part of it: no showpiece has any.
    """
    card = replace(card, outcomes=card.tests)
    got = f"{card.score:g} of {card.max_score:g} points"
    if submission == SOLUTION and card.grader_errors:
        tests = ", ".join(row.test for row in card.grader_errors)
        return [f"{lesson}: the solution does not pass its own suite, these are grader errors: {tests}; fix the tests"]
    if submission == SOLUTION and not card.max_score > 0:
        return [f"{lesson}: nothing of the solution was graded"]
    if submission == SOLUTION and card.score < card.max_score:
        return [f"{lesson}: the solution gets {got}; it should get all: fix what it fails, or fix the tests"]
    if submission == STUB and card.score > 0:
        passed = ", ".join(row.test for row in card.outcomes if row.points)
        return [f"{lesson}: the stub gets {got}; it should get none: it passes {passed}"]
    return []


def showpieces(lesson: Lesson) -> list[Submission]:
    """What `make grade` shows of a lesson: its solution, its stub, and its first wrong sample whose mistake is named."""
    wrong = next(sample for sample in load_samples(lesson, (WRONG,)) if sample.expect.mistake)
    return [
        Submission(SOLUTION, "", lesson.solution_files()),
        Submission(STUB, "", lesson.starter_files()),
        wrong.submission(),
    ]
