"""Lessons -> a course folder for nbgrader's plain commands.

    course/
        nbgrader_config.py     made once, and yours from then on: it asks settings.py for the rest
        source/<lesson>/       what nbgrader generates the release from; remade each time
            <lesson>.ipynb     the handout as a lab; LLM_Interactive_Lab.ipynb beside it if there is a lab.py
            <module>.py, tests/, grading/, conftest.py, …   the handout's files: stubs, never solutions

All else in the folder is nbgrader's (gradebook.db, release/, submitted/, autograded/, feedback/), and is left alone.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat

from .. import answers
from ..errors import UsageError
from ..files import cannot_be_written, remove_tree, write
from ..lesson import Lesson
from ..release.handout import handout_files
from .lab import notebooks_of

CONFIG, SOURCE = "nbgrader_config.py", "source"
_IN_LAB = Path(__file__).with_name("in_lab.py")
_NOT_IN_A_LAB = ("README.md", answers.FILE)  # they are the notebook


def build_course(lessons: Sequence[Lesson], out: Path) -> list[Path]:
    """Writes the course folder `out`; returns what was written. What nbgrader and its users put there stays.

    Each lesson is written beside and then renamed, so that nobody finds half of one.

    Raises:
        LessonError: a part of a lesson is missing. UsageError: the folder cannot be written.
    """
    out = Path(out).resolve()
    contents = {lesson.name: source_files(lesson) for lesson in lessons}  # all, before the first is written
    written = [_replace(out / SOURCE / name, files) for name, files in contents.items()]
    config = out / CONFIG
    if not config.exists():
        write(config, _CONFIG.format(root=str(lessons[0].root.resolve())))
        written.append(config)
    return written


def source_files(lesson: Lesson) -> dict[str, bytes]:
    """Path in source/<lesson>/ -> content."""
    files = {name: content for name, content in handout_files(lesson).items() if name not in _NOT_IN_A_LAB}
    labs = {name: nbformat.writes(lab).encode() + b"\n" for name, lab in notebooks_of(lesson).items()}
    return {**files, "grading/lab.py": _IN_LAB.read_bytes(), **labs}


def _replace(folder: Path, files: dict[str, bytes]) -> Path:
    """Puts a folder with these files in the place of the one that is there."""
    beside, old = (folder.parent / f".{folder.name}.{what}.{os.getpid()}" for what in ("new", "old"))
    try:
        for name, content in files.items():
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(beside, ignore_errors=True)
        raise UsageError(f"{cannot_be_written(folder, error)}: name another folder with --out") from error
    remove_tree(old)
    return folder


_CONFIG = '''"""nbgrader's configuration of this course. It was made by `make course` and is yours: it is never written again."""

from autograder.notebooks.settings import configure

c = get_config()  # noqa: F821 - traitlets gives it
configure(c, course=__file__, lessons={root!r})

# Your own settings go here, such as c.CourseDirectory.course_id = "llm".
'''
