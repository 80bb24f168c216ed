"""`nbgrader export --exporter=autograder.notebooks.export.Scorecards --to FOLDER`: gradebook and scorecards joined.

FOLDER/<lesson>/<student>/scorecard.json is the card of the hidden tests, those of the lesson's own lab among them, with a row for
each answer that a person has graded.
`autograder export` makes of it what it makes of any. Answers that nobody has graded yet wait, outside its total.
Where a person changed the points of a question of hidden tests, one row has the question's points in place of its tests'.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nbgrader.api import Grade, Gradebook, SubmittedAssignment
from nbgrader.plugins import ExportPlugin
from traitlets import Unicode

from .. import answers, kept
from ..errors import UsageError
from ..files import can_write, write
from ..intake.students import name_of_a_card
from ..lesson import Lesson, lesson_names, load
from ..release.handout import collected
from ..scorecard import BY_HAND, FAILED, PASSED, Outcome, Scorecard
from .boxed import CARDS
from .exercises import NAME, lab_lesson
from .lab import WRITTEN, hidden_cells, written_in_notebooks


class Scorecards(ExportPlugin):
    """One scorecard a student and lesson, of what the box and people decided."""

    lessons = Unicode(help="The tree that holds the lessons.").tag(config=True)

    def export(self, gradebook: Gradebook) -> None:
        course = Path(self.parent.coursedir.root)
        out = Path(self.to or "results")
        can_write(out)
        known = lesson_names(Path(self.lessons))
        for assignment in gradebook.assignments:
            if assignment.name in known and (not self.assignment or assignment.name in self.assignment):
                lesson = load(assignment.name, Path(self.lessons))
                for submission in assignment.submissions:
                    if not self.student or submission.student_id in self.student:
                        self._one(lesson, submission, course, out)

    def _one(self, lesson: Lesson, submission: SubmittedAssignment, course: Path, out: Path) -> None:
        place = Path(lesson.name, name_of_a_card(submission.student_id), kept.CARD)
        try:
            card = kept.read(course / CARDS / place)
        except UsageError as error:
            self.log.error("%s: run `nbgrader autograde %s --student=%s`", error, lesson.name, submission.student_id)
            return
        card = replace(card, outcomes=(*card.outcomes, *_rows_of_the_lab(lesson, course, place)))
        write(out / place, joined(lesson, card, list(_grades(submission))).to_json())
        self.log.info("wrote %s", out / place)


def _rows_of_the_lab(lesson: Lesson, course: Path, place: Path) -> tuple[Outcome, ...]:
    """What the exercises of the lesson's own lab got; nothing where the notebook was not handed in, and no rows without a lab."""
    lab = lab_lesson(lesson)
    if lab is None:
        return ()
    path = course / CARDS / lab.name / Path(*place.parts[1:])
    if path.exists():
        return kept.read(path).outcomes
    missing = f"{NAME}.ipynb is missing from the submission"
    return tuple(
        replace(row, status=FAILED, points=0.0, message=missing, cause="missing") for row in collected(lab).scored
    )


def _grades(submission: SubmittedAssignment) -> Iterator[tuple[Grade, str]]:
    """Each grade of a submission, with what the grader wrote to it."""
    for notebook in submission.notebooks:
        comments = {comment.name: comment.manual_comment or "" for comment in notebook.comments}
        for grade in notebook.grades:
            yield grade, comments.get(grade.name, "")


def joined(lesson: Lesson, card: Scorecard, grades: list[tuple[Grade, str]]) -> Scorecard:
    """The scorecard with what people decided."""
    lab = lab_lesson(lesson)
    hidden = {cell.id: cell for each in filter(None, (lesson, lab)) for cell in hidden_cells(each)}
    asked = {f"{WRITTEN}{question.id}": question.points for question in written_in_notebooks(lesson)}
    changed = {
        grade.name: grade.score for grade, _ in grades if grade.name in hidden and grade.manual_score is not None
    }
    rows = list(card.outcomes)
    for name, points in changed.items():
        rows = _by_hand(rows, hidden[name].module, hidden[name].question, points)
    rows = [row for row in rows if not row.is_written]
    rows += [_answer(grade, comment, asked[grade.name]) for grade, comment in grades if grade.name in asked]
    return replace(card, outcomes=tuple(rows))


def _by_hand(rows, module, question, points):
    """The rows, in which one stands for all of a question."""
    those = [row for row in rows if (row.module, row.question) == (module, question)]
    worth = sum(row.max_points for row in those)
    row = Outcome(
        BY_HAND,
        module,
        question,
        f"{question}: graded by a person",
        PASSED if points >= worth else FAILED,
        points,
        worth,
    )
    place = rows.index(those[0]) if those else len(rows)
    return [*rows[:place], row, *(each for each in rows[place:] if each not in those)]


def _answer(grade: Grade, comment: str, worth: float) -> Outcome:
    name = grade.name.removeprefix(WRITTEN)
    if grade.manual_score is None:
        if grade.needs_manual_grade:
            return answers.row(name, worth, None, comment or answers.WAITS)
        return answers.row(name, worth, grade.score, comment or answers.UNANSWERED)  # nbgrader's own 0
    return answers.row(name, worth, grade.score, comment)
