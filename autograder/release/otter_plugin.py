"""Otter's hooks -> a submission graded in the box like any other.

Otter is the envelope: it lays out the folders, runs a driver notebook that holds nothing, and writes results.json.

    before_grading   the submission is set aside and graded there; Otter's notebook kernel starts only afterwards, in a
                     folder that holds nothing of the student's
    after_grading    one row a test, and results.json as exports/gradescope.py renders it, whatever the kernel said

`run` is what a zip's run_otter.py calls. It sets the submission aside before Otter looks at it, so that nothing in it
(a second notebook, a folder `tests`, a log) can stop Otter. Started by `otter run` or `otter.api` we come later, but
before Otter reads anything but names. What must not be on sys.path there: the current folder (docs/instructor.md).
"""

import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from otter.plugins import AbstractOtterPlugin
from otter.run.run_autograder import main as run_otter
from otter.test_files import GradingResults, TestCase
from otter.test_files.abstract_test import TestCaseResult
from otter.test_files.ottr_test import OttrTestFile

from .. import __version__
from ..errors import GraderFault, UsageError
from ..exports import gradescope, otter
from ..lesson import Lesson, load
from ..options import GraderOptions
from ..scorecard import Scorecard
from ..submission import take_in

SCORECARD = "scorecard.json"  # beside results.json, for instructors
DRIVER = "driver.ipynb"  # the notebook that Otter runs
_LAID_BY_OTTER = (DRIVER, "tests")  # over whatever the submission had under these names


def run(home: Path) -> None:
    """Grades home/submission into home/results/results.json: `home` is /autograder on Gradescope.

    After a fault of ours there is no results.json, which Gradescope shows as a failure of the autograder, not as a zero.
    """
    metadata, submission = home / "submission_metadata.json", home / "submission"
    if not metadata.is_file() or not metadata.read_text().strip():
        metadata.write_text("{}")  # `otter grade` makes an empty one
    for name in ("results.json", SCORECARD):
        (home / "results" / name).unlink(missing_ok=True)

    OtterPlugin.set_aside_at = aside = set_aside(submission)
    try:
        run_otter(str(home))
    finally:
        OtterPlugin.set_aside_at = None
        _put_back(aside, submission)


class OtterPlugin(AbstractOtterPlugin):
    """Made by Otter from otter_config.json, which names the lesson and the version of this package."""

    set_aside_at: Path | None = None  # where `run` moved the submission to
    card: Scorecard

    def before_grading(self, config):
        """Sets the submission aside and grades it."""
        wanted = self.plugin_config["version"]
        if wanted != __version__:
            raise UsageError(
                f"the zip was built by version {wanted} of llm-autograder, but {__version__} is installed: "
                f"install {wanted}, or build the zip again"
            )
        submission = Path(self.submission_path).parent
        home = submission.parent
        grader = home / "source" / "grader"
        if not grader.is_dir():
            raise UsageError(
                f"{grader} is missing: grade with run_otter.py, `otter run` or otter.api (docs/instructor.md)"
            )
        grader.chmod(0o700)  # before a worker exists
        aside = self.set_aside_at or _set_aside_late(submission)
        self.card = _grade(load(self.plugin_config["lesson"], grader), aside, _student(self.submission_metadata))
        (home / "results" / SCORECARD).write_text(self.card.to_json())
        _refuse_if_lost(self.card)

    def after_grading(self, results: GradingResults):
        """Replaces what the driver notebook said by the scorecard."""
        results._catastrophic_error = None  # a driver that did not run decides nothing
        results.results = {name: _test_file(row) for name, row in otter.rows(self.card).items()}
        results.to_gradescope_dict = partial(_contents, gradescope.results(self.card))
        results.set_plugin_data(f"{__name__}.{type(self).__name__}", self.card.to_json())

    def generate_report(self) -> str:
        """For whoever reads Otter's output, which students do not see."""
        lines = [f"{self.card.score:g} of {self.card.max_score:g} points; layers: {', '.join(self.card.layers)}"]
        lines += self.card.notes
        lines += [f"{use.module} uses {use.name} ({use.where}, seen in its {use.how})" for use in self.card.evidence]
        for row in self.card.grader_errors:
            why = row.detail or row.message
            lines.append(f"GRADER ERROR, not the student's: {row.module} {row.test}: {why}")
        if self.card.grader_errors:
            lines.append("Their points are not in the total: fix the tests, then grade again.")
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- files


def set_aside(submission: Path, keep: tuple[str, ...] = ()) -> Path:
    """Moves all that was submitted, but for `keep`, into a new folder beside it that only the grader can open."""
    aside = Path(tempfile.mkdtemp(prefix="submitted-", dir=submission.parent))
    for path in list(submission.iterdir()):
        if path.name not in keep:
            shutil.move(path, aside / path.name)
    return aside


def _set_aside_late(submission):
    """After Otter has laid its files into the submission."""
    aside = set_aside(submission, keep=_LAID_BY_OTTER)
    marker = aside / "__init__.py"  # Otter touches one
    if marker.stat().st_size == 0:
        marker.unlink()
    return aside


def _put_back(aside, submission):
    for path in list(submission.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in list(aside.iterdir()):
        shutil.move(path, submission / path.name)
    aside.rmdir()


# ---------------------------------------------------------------------------------------------- grading and results


def _grade(lesson: Lesson, folder: Path, student: str) -> Scorecard:
    from ..grade import Grader  # torch: not for `otter generate`, which loads this module too

    submission = take_in(folder, lesson, shown="the submission")
    options = GraderOptions(wall_s=lesson.wall_s)  # Gradescope ends what takes longer, and shows nothing
    with Grader(lesson, options) as grader:
        return grader.grade(replace(submission, student=student, source="submission"))


def _refuse_if_lost(card: Scorecard) -> None:
    """Raises GraderFault where the worth of what was not graded is unknown: no total would be honest."""
    for row in card.grader_errors:
        if card.is_lost or not row.is_a_test:
            raise GraderFault(f"{row.module} {row.test}: {row.detail}")


def _student(metadata: dict) -> str:
    """Gradescope's names of those who submitted, or the name of the folder."""
    people = [user.get("email") or user.get("name") for user in metadata.get("users") or []]
    return "+".join(filter(None, people)) or "submission"


def _test_file(row: dict) -> OttrTestFile:
    """A row of exports/otter.py as the object that Otter counts."""
    file = OttrTestFile(
        row["name"], row["path"], [TestCase(**case) for case in row["test_cases"]], row["all_or_nothing"]
    )
    for case, result in zip(file.test_cases, row["test_case_results"], strict=True):
        file.test_case_results.append(TestCaseResult(case, result["message"], result["passed"]))
    return file


def _contents(contents: dict, config) -> dict:
    """Stands in for GradingResults.to_gradescope_dict."""
    return contents
