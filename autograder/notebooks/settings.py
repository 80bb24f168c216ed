"""What nbgrader is told of a course: which of our steps run in its commands, and what of a submission it must not overwrite.

Classes are named here and loaded by nbgrader, so that a command that needs none of them imports none.
"""

import os
import sys
from pathlib import Path
from typing import Any

from ..lesson import load_all
from .exercises import STUB

CELL_S, START_S = 120, 300  # seconds on the clock that one cell may take, and the start of a kernel
_HERE = __name__.rpartition(".")[0]


def configure(c: Any, course: str, lessons: str) -> None:
    """Fills in the course's configuration.

    Args:
        c: what get_config() gives. course: the path of its nbgrader_config.py. lessons: the tree that holds the lessons.
    """
    known = load_all(Path(lessons))
    _find_programs_beside_python()
    c.CourseDirectory.root = str(Path(course).resolve().parent)
    c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", ".pytest_cache"]
    c.ClearSolutions.code_stub = {"python": STUB}
    c.ClearMarkScheme.enforce_metadata = False  # rubrics stand in the questions' cells
    c.Execute.timeout = CELL_S
    c.ConfinedExecute.timeout, c.ConfinedExecute.startup_timeout, c.ConfinedExecute.iopub_timeout = CELL_S, START_S, 30
    c.GradeInTheBox.lessons = c.Scorecards.lessons = lessons
    c.Autograde.exclude_overwriting = {lesson.name: [f"{name}.py" for name in lesson.modules] for lesson in known}
    c.Autograde.sanitize_preprocessors = [
        f"{_HERE}.restore.RefuseLinks",
        f"{_HERE}.restore.RestoreCells",
        "nbgrader.preprocessors.ClearOutput",
        "nbgrader.preprocessors.DeduplicateIds",
        "nbgrader.preprocessors.OverwriteKernelspec",
        "nbgrader.preprocessors.OverwriteCells",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    c.Autograde.autograde_preprocessors = [
        f"{_HERE}.execute.ConfinedExecute",
        "nbgrader.preprocessors.IgnorePattern",
        "nbgrader.preprocessors.LimitOutput",
        f"{_HERE}.boxed.GradeInTheBox",
        "nbgrader.preprocessors.AssignLatePenalties",
        f"{_HERE}.restore.HarmlessOutput",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    c.GenerateFeedback.preprocessors = [
        "nbgrader.preprocessors.GetGrades",
        f"{_HERE}.feedback.WithoutRubrics",
        "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
    ]


def _find_programs_beside_python() -> None:
    """nbgrader starts `alembic` by its name, also where nobody activated the environment that both are in."""
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, (beside, os.environ.get("PATH", ""))))
