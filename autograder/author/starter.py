"""A lesson's solution -> its starter: what the students get of it, and the folder in starter/ that shows it."""

from pathlib import Path

from ..files import write
from ..lesson import Lesson
from .stub import starter_text


def starter_files(lesson: Lesson) -> dict[str, bytes]:
    """Name -> content of the modules as students get them, cut from the solution."""
    solutions = lesson.solution_files()
    return {name: starter_text(text.decode(), str(lesson.solution / name)).encode() for name, text in solutions.items()}


def write_starter(lesson: Lesson) -> Path:
    """Brings the lesson's folder in starter/ up to date and returns it; modules that the lesson no longer has go."""
    files = starter_files(lesson)
    for name, content in files.items():
        write(lesson.starter / name, content)
    for path in lesson.starter.glob("*.py"):
        if path.name not in files:
            path.unlink()
    return lesson.starter


def starter_is_fresh(lesson: Lesson) -> bool:
    """Whether starter/ holds what write_starter would write, and no module more."""
    return {path.name: path.read_bytes() for path in lesson.starter.glob("*.py")} == starter_files(lesson)
