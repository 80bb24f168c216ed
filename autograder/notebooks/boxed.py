"""The step of `nbgrader autograde` that decides points: a submission's modules, graded in the box like any other.

The exercises of a lesson's own lab are such a module, too, made of the notebook's solution cells (exercises.py).

It stands in the place of nbgrader's SaveAutoGrades, so that no output of the notebook is ever read for points. What came of
each test goes into the notebook as the output of its question's cell, and the scorecard into scorecards/ of the course.
"""

import atexit
import secrets
from dataclasses import replace
from functools import cache
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import SaveAutoGrades
from nbgrader.utils import is_solution
from traitlets import Unicode

from .. import kept
from ..errors import BoxError, GraderFault, UsageError
from ..exports import counted
from ..grade import Grader
from ..intake.students import name_of_a_card
from ..lesson import Lesson, load
from ..options import Asked
from ..points import added, number
from ..scorecard import GRADER_ERROR, PASSED, Outcome, Scorecard
from ..submission import Submission, source_of, take_in
from .exercises import EXERCISE, MODULE, NAME, lab_lesson, students_module, unread_cells
from .lab import Hidden, hidden_cells
from .restore import coursedir_of, folder_of

CARDS = "scorecards"  # in the course folder: <lesson>/<student>/scorecard.json


class GradeInTheBox(SaveAutoGrades):
    """Points of code cells come from the hidden suites; answers in words wait for a person, as nbgrader does it."""

    lessons = Unicode(help="The tree that holds the lessons.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        lesson = load(names["assignment"], Path(self.lessons))
        self._hidden = {cell.id: cell for cell in _hidden_cells(lesson, _suites(lesson))}
        card = self._card(lesson, resources)
        lab = lab_lesson(lesson)
        if lab is not None and names["notebook"] == NAME:
            self._hidden = {cell.id: cell for cell in _hidden_cells(lab, _suites(lab))}
            card = self._card_of_the_lab(lesson, lab, nb, resources)
        self._rows, self._tells = _by_question(card), card.visibility != "hidden"
        return super().preprocess(nb, resources)

    def _card(self, lesson: Lesson, resources: dict) -> Scorecard:
        """The submission's scorecard: graded once, however many notebooks it has."""
        folder, student = folder_of(self, resources, "submitted"), name_of_a_card(resources["nbgrader"]["student"])
        card, is_new = _graded(lesson, folder, student)
        if is_new:
            self._keep(card, lesson, folder)
        if card.is_lost:
            raise GraderFault(f"nothing of {folder} could be graded: {card.grader_errors[0].detail}")
        return card

    def _card_of_the_lab(self, lesson: Lesson, lab: Lesson, nb: NotebookNode, resources: dict) -> Scorecard:
        """The scorecard of the solution cells, whose marks are those of the release (restore.py)."""
        folder, student = folder_of(self, resources, "submitted"), name_of_a_card(resources["nbgrader"]["student"])
        cells = {str(cell.metadata.get("nbgrader", {}).get("grade_id")): cell.source for cell in nb.cells}
        handed_in = {id: text for id, text in cells.items() if id.startswith(EXERCISE)}
        files = {f"{MODULE}.py": students_module(lesson, handed_in).encode("utf-8", "replace")}
        submission = Submission(student, str(folder / f"{NAME}.ipynb"), files, unread_cells(lesson, handed_in))
        card = _grade(lab, submission)
        self._keep(card, lab, folder)
        return card

    def _keep(self, card: Scorecard, lesson: Lesson, folder: Path) -> None:
        said = kept.keep(card, Path(coursedir_of(self).root, CARDS, lesson.name))
        for note in filter(None, (*card.notes, said)):
            self.log.info("%s: %s", card.student, note)
        for row in card.grader_errors:
            self.log.error("grader error, not %s's: %s %s: %s", card.student, row.module, row.test, row.detail)

    def _add_score(self, cell: NotebookNode, resources: dict) -> None:
        if is_solution(cell) or cell.cell_type != "code":
            return super()._add_score(cell, resources)
        name = cell.metadata["nbgrader"]["grade_id"]
        rows = self._rows_of(name, cell)
        grade = self.gradebook.find_grade(name, self.notebook_id, self.assignment_id, self.student_id)
        grade.auto_score = min(added(row.points for row in counted(rows)), cell.metadata["nbgrader"]["points"])
        ours = any(row.status == GRADER_ERROR for row in rows)
        grade.needs_manual_grade = ours or grade.manual_score is not None
        self.gradebook.db.commit()
        if name in self._hidden:
            cell.outputs = _shown(self._hidden[name], rows if self._tells else [], grade.auto_score)
        return None

    def _rows_of(self, name: str, cell: NotebookNode) -> list[Outcome]:
        hidden = self._hidden.get(name)
        if hidden is not None:
            return self._rows.get((hidden.module, hidden.question), [])
        if cell.metadata["nbgrader"]["points"]:
            raise UsageError(
                f"cell {name!r} of {self.notebook_id} has points, and no hidden test of {self.assignment_id} is about it: "
                "run `make course` and `nbgrader generate_assignment --force`"
            )
        return []


def _suites(lesson: Lesson) -> tuple[str, ...]:
    """What remembered things are remembered by: a formgrader's process may outlive a change of a suite."""
    return tuple(map(lesson.suite_digest, lesson.modules))


@cache
def _hidden_cells(lesson: Lesson, suites: tuple[str, ...]) -> list[Hidden]:
    return hidden_cells(lesson)


def _by_question(card: Scorecard) -> dict[tuple[str, str], list[Outcome]]:
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for row in card.scored:
        rows.setdefault((row.module, row.question), []).append(row)
    return rows


# ---------------------------------------------------------------------------------------------- one warm grader a lesson

_SEED = secrets.randbits(48)  # of all that this process grades: a class shares it
_last: list = []  # the submission that was graded last, and its card


@cache
def _grader(lesson: Lesson, suites: tuple[str, ...]) -> Grader:
    grader = Grader(lesson)
    atexit.register(grader.close)
    return grader


def _grade(lesson: Lesson, submission: Submission) -> Scorecard:
    """A box that has broken is a new one before the next student's submission comes."""
    grader = _grader(lesson, _suites(lesson))
    try:
        return grader.grade(submission, Asked(seed=_SEED, in_a_class=True))
    except BoxError:
        grader.restart()
        raise


def _graded(lesson: Lesson, folder: Path, student: str) -> tuple[Scorecard, bool]:
    submission = replace(take_in(source_of(folder), lesson, notebooks=""), answers=None)  # they are in the notebook
    suites = _suites(lesson)
    key = (lesson.name, student, submission.digest, suites)
    if _last and _last[0] == key:
        return _last[1], False
    card = _grade(lesson, replace(submission, student=student))
    _last[:] = [key, card]
    return card, True


# ---------------------------------------------------------------------------------------------- what is shown


def _shown(hidden: Hidden, rows: list[Outcome], points: float) -> list[NotebookNode]:
    """The outputs of a question's cell: a line for each test, and the points."""
    lines = [f"{hidden.module}.py, {hidden.question}: {number(points)} of {number(hidden.points)} points"]
    lines += [_line(row) for row in rows]
    text = new_output("stream", name="stdout", text="\n".join(lines) + "\n")
    result = new_output("execute_result", data={"text/plain": number(points)}, execution_count=1)
    return [text, result]


def _line(row: Outcome) -> str:
    verdict = "passed" if row.status == PASSED else row.status.replace("_", " ")
    return f"  {verdict}: {row.title}" + (f"\n      {row.message}" if row.message else "")
