"""The questions of a handout's "Check your understanding", and which of them a written answer is about."""

import re

from .errors import LessonError

QUESTIONS = "Check your understanding"
_NUMBERED = re.compile(r"^(\d+)\. +(.*)$")


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
