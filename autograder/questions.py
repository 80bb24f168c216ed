"""The questions that a person grades, read from both places where a lesson has them, each as the record lesson.Written.

    written down in                                  answered in
    [[written]] of lesson.toml                       answers.md of the handout, or, with nbgrader, the handout's lab
    a cell of lab.py with the mark written="id"      LLM_Interactive_Lab.ipynb, with nbgrader only

A number of "Check your understanding" is replaced by that question's text here, so that nobody else asks which of the two it is.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import LessonError
from .lesson import Lesson, Written
from .tomls import record_of

QUESTIONS = "Check your understanding"
SCHEME = ("### BEGIN MARK SCHEME", "### END MARK SCHEME")  # nbgrader's marks around a rubric
_NUMBERED = re.compile(r"^(\d+)\. +(.*)$")
_SCHEME = re.compile(rf"^{SCHEME[0]}$(.*?)^{SCHEME[1]}$", re.MULTILINE | re.DOTALL)


def of_handout(lesson: Lesson) -> tuple[Written, ...]:
    """Those of lesson.toml, each with its text.

    Raises:
        LessonError: the handout is missing, or does not have a question of lesson.toml.
    """
    if not lesson.written:
        return ()
    if not lesson.handout.is_file():
        raise LessonError(f"{lesson.handout} is missing: it has the questions that lesson.toml calls [[written]]")
    handout = lesson.handout.read_text("utf-8")
    where = lesson.assignment / "lesson.toml"
    return tuple(
        each.model_copy(update={"question": question_text(each.question, handout, f"{where}: written {each.id!r}")})
        for each in lesson.written
    )


def of_cell(marks: Mapping, text: str, path: Path) -> Written:
    """The one of a marked cell of lab.py.

    Raises:
        LessonError: its marks or its text are not those of a question.
    """
    scheme = _SCHEME.findall(text)
    if len(scheme) != 1:
        raise LessonError(
            f"{path}: the question {marks['written']!r} has {len(scheme)} rubrics: put one between {' and '.join(SCHEME)}"
        )
    values = {"id": marks["written"], "rubric": scheme[0].strip(), "question": _SCHEME.sub("", text).strip()}
    points = {"points": marks["points"]} if "points" in marks else {}
    return record_of(
        path, Written, values | points, f'the question {marks["written"]!r}; its marks are as in written="why" points=2'
    )


def told_apart(questions: Iterable[Written], where: Path) -> tuple[Written, ...]:
    """The questions of both places: points come back by the id alone.

    Raises:
        LessonError: two of them have the same id.
    """
    found: dict[str, Written] = {}
    for each in questions:
        if each.id in found:
            raise LessonError(f"{where} has two written questions with the id {each.id!r}: give each an id of its own")
        found[each.id] = each
    return tuple(found.values())


# ---------------------------------------------------------------------------------------------- in a handout


def questions_of(text: str) -> dict[int, str]:
    """Number -> question, of the numbered lists below "Check your understanding"; their numbers go on from list to list."""
    section = re.search(rf"^## {QUESTIONS}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in section[1].splitlines() if section else ():
        numbered = _NUMBERED.match(line)
        if numbered:
            current = found.setdefault(int(numbered[1]), [])
            current.append(numbered[2])
        elif line.startswith(" ") and current is not None:
            current.append(line.strip())
        elif line.strip():
            current = None
    return {number: "\n".join(lines) for number, lines in found.items()}


def question_text(asked: int | str, text: str, where: str) -> str:
    """A written question's text: its own, or that of the handout's question with this number.

    Raises:
        LessonError: the handout has no question of this number.
    """
    if isinstance(asked, str):
        return asked.strip()
    questions = questions_of(text)
    if asked not in questions:
        raise LessonError(
            f'{where} asks question {asked} of "{QUESTIONS}", and the handout has {len(questions)} questions there: '
            "give the number of one of them, or the question's text"
        )
    return questions[asked]
