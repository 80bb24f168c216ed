"""A lesson's handout -> its lab, the notebook that nbgrader hands out and grades.

    prose                          markdown cells
    python blocks                  code cells; a block of several processes is written to a file and run
    before "Activities"            for each module a cell of its public tests, without points, and one cell for each question
                                   of its hidden suite, with the points: boxed.py fills in what came of them
    "Check your understanding"     the questions, and a manually graded answer for each [[written]] of lesson.toml

A lesson's own lab.py becomes a second notebook (exercises.py reads it): marks of its cells become nbgrader's.
Rubrics are in the source only: they are what nbgrader calls a mark scheme, which generate_assignment takes out.
"""

import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ..errors import LessonError, nearest
from ..lesson import Lesson, Written
from ..points import added, number
from ..questions import QUESTIONS, SCHEME, of_cell, of_handout, told_apart
from ..release.handout import collected, readme
from . import exercises
from .cells import Piece, pieces_of, starts_ranks

ACTIVITIES = "Activities"
WRITTEN = "written-"  # begins the ids of manually graded answers
_KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
_SCHEMA = 3  # of nbgrader's metadata


@dataclass(frozen=True)
class Hidden:
    """The cell that holds the points of one question of a module's hidden suite."""

    id: str
    module: str
    question: str
    points: float


def hidden_cells(lesson: Lesson) -> list[Hidden]:
    """All of a lesson's, in the order of its suites. Tests that need a GPU are not in them: `autograder merge` joins those.

    Raises:
        LessonError: a suite cannot be loaded.
    """
    on_gpu = {(row.module, row.test) for row in collected(lesson, only_gpu=True).outcomes}
    worth: dict[tuple[str, str], list[float]] = {}
    for row in collected(lesson).scored:
        if (row.module, row.test) not in on_gpu:
            worth.setdefault((row.module, row.question), []).append(row.max_points)
    ids = _told_apart([f"{module}-{_slug(question)}" for module, question in worth])
    return [Hidden(id, *key, added(points)) for id, (key, points) in zip(ids, worth.items(), strict=True)]


def _slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "tests"


def _told_apart(names):
    return [name if name not in names[:at] else f"{name}-{at + 1}" for at, name in enumerate(names)]


# ---------------------------------------------------------------------------------------------- notebooks


def notebooks_of(lesson: Lesson) -> dict[str, NotebookNode]:
    """File name -> notebook with rubrics and without outputs: the handout's, and the lesson's own lab.py if there is one."""
    made = {f"{lesson.name}.ipynb": handout_lab(lesson)}
    if (lesson.assignment / exercises.SOURCE).is_file():
        made[f"{exercises.NAME}.ipynb"] = own_lab(lesson)
    return made


def handout_lab(lesson: Lesson) -> NotebookNode:
    """Raises LessonError where a part of the lesson is missing, or a question of lesson.toml cannot be found."""
    text = readme(lesson).decode("utf-8")
    pieces = pieces_of(text)
    at = _place(pieces, ACTIVITIES)
    made = [
        _code(piece, _file_of(pieces, index)) if piece.is_code else [new_markdown_cell(piece.text)]
        for index, piece in enumerate(pieces)
    ]
    made.insert(_end_of(pieces, QUESTIONS), _answers(lesson))
    made.insert(at, _tests(lesson))
    cells = [*made[0], _setup(lesson), *chain.from_iterable(made[1:])]  # the title is above all
    return _numbered(new_notebook(cells=cells, metadata={"kernelspec": dict(_KERNEL)}))


def own_lab(lesson: Lesson) -> NotebookNode:
    """The lesson's lab.py as a notebook. Raises LessonError where its marks and its hidden suite do not fit."""
    graded = exercises.lab_lesson(lesson)
    written_in_notebooks(lesson)  # complains of an id that is there twice
    points = {each.question: each for each in hidden_cells(graded)} if graded else {}
    path = lesson.assignment / exercises.SOURCE
    made = [made for cell in exercises.cells_of(lesson) for made in _own(cell, points, path)]
    if points:
        made.insert(1, _graded(new_code_cell(_FIRST), "setup", locked=True))  # behind the title
    checked = [cell.metadata["nbgrader"]["grade_id"] for cell in made if "nbgrader" in cell.metadata]
    missing = [each.question for each in points.values() if checked.count(each.id) != 1]
    if missing:
        raise LessonError(f"{path} needs one cell with the mark checks={missing[0]!r}: hidden tests are about it")
    return _numbered(new_notebook(cells=made, metadata={"kernelspec": dict(_KERNEL)}))


def _own(cell: NotebookNode, points: dict[str, Hidden], path: Path) -> list[NotebookNode]:
    """A cell of lab.py with nbgrader's metadata in the place of ours."""
    marks, cell.metadata = cell.metadata, NotebookNode()
    if "exercise" in marks:
        return [_graded(cell, exercises.exercise_id(marks["exercise"]), solution=True)]
    if "checks" in marks:
        question = marks["checks"]
        if question not in points:
            raise LessonError(f"{path}: no hidden test is about {question!r}{nearest(question, list(points))}")
        cell.source += f"\nhidden_tests({exercises.MODULE!r}, {question!r}, {number(points[question].points)})"
        return [_graded(cell, points[question].id, grade=True, locked=True, points=points[question].points)]
    if "written" in marks:
        return _asked(of_cell(marks, cell.source, path))
    return [cell]


def written_in_notebooks(lesson: Lesson) -> tuple[Written, ...]:
    """All questions that a person grades in nbgrader: lesson.toml's in the handout's lab, and those of lab.py.

    Raises:
        LessonError: two of them have the same id, or one cannot be read.
    """
    return told_apart((*of_handout(lesson), *exercises.written_in_lab(lesson)), lesson.assignment)


def _numbered(notebook):
    """The same lesson gives the same bytes: nbformat would draw the ids of cells at random."""
    for number_, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number_}"
    return notebook


def _place(pieces, heading):
    """Where a section begins; behind all where there is none."""
    return next((at for at, piece in enumerate(pieces) if piece.starts and piece.heading == heading), len(pieces))


def _end_of(pieces, heading):
    """Behind the last piece of a section that has no sections of its own; behind all where there is none."""
    return max((at + 1 for at, piece in enumerate(pieces) if piece.heading == heading), default=len(pieces))


# ---------------------------------------------------------------------------------------------- cells


def _code(piece: Piece, name: str) -> list[NotebookNode]:
    if not starts_ranks(piece.text):
        return [new_code_cell(piece.text)]
    return [new_code_cell(f"%%writefile {name}\n{piece.text}"), new_code_cell(f'run_file("{name}")')]


def _file_of(pieces, index):
    """The name of a block's file: that under which the prose above it says that it should be saved."""
    said = _SAVED_AS.search(pieces[index - 1].text) if index else None
    return said[1] if said else f"activity_{index}.py"


_SAVED_AS = re.compile(r"Save as `(\w+\.py)`")
_FIRST = "# Run this cell first.\nfrom grading.lab import hidden_tests"


def _setup(lesson):
    lines = [
        "# Run this cell first. When you have saved a module, it is imported anew.",
        "%load_ext autoreload",
        "%autoreload 2",
        "from grading.lab import hidden_tests, public_tests, run_file, uses",
    ]
    used = [used.name for used in lesson.prerequisites()]
    if used:
        lines.append(f"\nuses({', '.join(map(repr, used))})")
    return _graded(new_code_cell("\n".join(lines)), "setup", locked=True)


def _tests(lesson):
    cells = [new_markdown_cell(_TESTS)]
    hidden = hidden_cells(lesson)
    for module in lesson.modules:
        cells.append(new_markdown_cell(f"### `{module}.py`"))
        public = new_code_cell(f'public_tests("{module}")')
        cells.append(_graded(public, f"public-{module}", grade=True, locked=True, points=0))
        for each in (each for each in hidden if each.module == module):
            call = f'hidden_tests("{module}", {each.question!r}, {number(each.points)})'
            cells.append(_graded(new_code_cell(call), each.id, grade=True, locked=True, points=each.points))
    return cells


_TESTS = """## Your modules

Write your modules in the files beside this notebook, and save them. The first cell of each module runs its public tests; they
give no points. The cells below it have the points: hidden tests decide them when your work is graded."""


def _answers(lesson: Lesson) -> list[NotebookNode]:
    cells = [new_markdown_cell(_ANSWERS)] if lesson.written else []
    return [*cells, *chain.from_iterable(map(_asked, of_handout(lesson)))]


def _asked(each: Written) -> list[NotebookNode]:
    """The cells of one question, wherever it is written down: what it asks, with its rubric, and the answer."""
    answer = new_markdown_cell("YOUR ANSWER HERE")  # what generate_assignment would put here
    return [
        _graded(new_markdown_cell(_with_rubric(each)), f"question-{each.id}", locked=True),
        _graded(answer, f"{WRITTEN}{each.id}", grade=True, solution=True, points=each.points),
    ]


_ANSWERS = "### Your answers\n\nA person reads these answers and grades them. A few sentences are enough."


def _with_rubric(each: Written) -> str:
    for mark in ("MARK SCHEME", "BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS"):
        if mark in str(each.question) or mark in each.rubric:
            raise LessonError(
                f"written {each.id!r} holds {mark!r}, which nbgrader takes for a mark of its own: reword it"
            )
    worth = f"{number(each.points)} point{'s' if each.points != 1 else ''}"
    rubric = f"{SCHEME[0]}\n\n*For those who grade:* {each.rubric.strip()}\n\n{SCHEME[1]}"
    return f"**Question ({worth}).** {each.question}\n\n{rubric}"


def _graded(
    cell: NotebookNode,
    id: str,
    grade: bool = False,
    locked: bool = False,
    solution: bool = False,
    points: float | None = None,
) -> NotebookNode:
    """The cell with nbgrader's metadata."""
    metadata: dict[str, Any] = {
        "grade": grade,
        "grade_id": id,
        "locked": locked,
        "schema_version": _SCHEMA,
        "solution": solution,
        "task": False,
    }
    if points is not None:
        metadata["points"] = points
    cell.metadata["nbgrader"] = metadata
    return cell
