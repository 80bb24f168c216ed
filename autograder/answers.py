"""Answers in words without a notebook: the handout's answers.md, what a student wrote into it, and the rows that they become.

    ## Question mask-before-softmax (2 points)      a heading for each [[written]] of lesson.toml, by which answers are found
    > Why is the mask put on the scores …           the question
    Write your answer here, in place of this line.

Below a heading, what the handout does not hold already is the answer. Nothing that was written is lost: where a heading is gone, the
person who grades reads the whole file. The text is a stranger's; here it becomes printable, and bounded.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from unicodedata import category

from .digests import digest_of
from .errors import clean
from .lesson import Lesson, Written
from .points import number
from .questions import of_handout
from .scorecard import FAILED, PASSED, PENDING_PERSON, WRITTEN, Outcome

FILE = "answers.md"
MOST = 20_000  # characters of an answer; a cell of a spreadsheet has at most 32,767
WAITS, UNANSWERED = "waits for a person", "not answered"  # what a row says that nobody has graded
_LONGEST_HEADING = 200  # characters: on a line of a stranger's the pattern takes the square of its length
_HEADING = re.compile(r"\s*#{1,6}\s*question\s+([a-z0-9-]+)\s*(?:\(.*\)?\s*)?#*\s*$", re.IGNORECASE)
_PLACE = "Write your answer here, in place of this line."
_HEAD = """Write your answers below the questions, and keep the headings: a person finds your answers by them, reads them and grades them.
A few sentences are enough. Your name does not belong here. Submit this file with your modules."""


@dataclass(frozen=True)
class Answers:
    """What one student wrote.

    Attributes:
        texts: a question's id -> the answer; one that is not in it is not answered.
        why: what the student reads where nothing could be taken in, or "".
    """

    texts: dict[str, str] = field(default_factory=dict)
    why: str = ""


# ---------------------------------------------------------------------------------------------- what students get


def template(lesson: Lesson) -> bytes:
    """The answers.md of a lesson's handout; empty where no question is answered in words.

    Raises:
        LessonError: the handout is missing, or does not have a question of lesson.toml.
    """
    asked = of_handout(lesson)
    if not asked:
        return b""
    parts = [f"# Answers: {lesson.name}", _HEAD]
    for each in asked:
        worth = f"{number(each.points)} point{'s' if each.points != 1 else ''}"
        quoted = "\n".join(f"> {line}".rstrip() for line in str(each.question).splitlines())
        parts += [f"## Question {each.id} ({worth})", quoted, _PLACE]
    return ("\n\n".join(parts) + "\n").encode()


# ---------------------------------------------------------------------------------------------- what comes back


def read(lesson: Lesson, content: bytes) -> Answers:
    """The answers in a student's answers.md, whatever it holds."""
    given = {_plain(line) for line in template(lesson).decode().splitlines()}
    lines = [clean(line, "\t") if _is_seen(line) else "" for line in _decoded(content).splitlines()]
    parts = _parts(lines, {each.id for each in lesson.written})
    texts = {name: _own(part, given) for name, part in parts.items()}
    stray = texts.pop("", "")
    whole = _own(lines, given)
    if whole and not any(texts.values()) and stray:
        texts = {}  # it is somewhere, and not below a heading
    for each in lesson.written:
        if each.id not in texts and whole:
            texts[each.id] = f"(The heading of this question is not in {FILE}. This is all of the file.)\n\n{whole}"
    return Answers({name: _bounded(text) for name, text in texts.items() if text})


def _parts(lines: Iterable[str], known: set[str]) -> dict[str, list[str]]:
    """A question's id -> the lines below its heading, "" -> those before the first; a heading that is there twice has both."""
    parts: dict[str, list[str]] = {}
    current = ""
    for line in lines:
        heading = _HEADING.match(line) if len(line) <= _LONGEST_HEADING else None
        if heading and heading[1].lower() in known:
            current = heading[1].lower()
            parts.setdefault(current, []).append("")
        else:
            parts.setdefault(current, []).append(line)
    return parts


def _own(lines: list[str], given: set[str]) -> str:
    """The lines that the handout does not hold, as one text; "" where nothing in it can be seen."""
    text = "\n".join(line.rstrip() for line in lines if not line.strip() or _plain(line) not in given).strip("\n")
    return text if _is_seen(text) else ""


def _is_seen(text):
    return any(category(char)[0] not in "CZ" for char in text)


def _plain(line):
    return " ".join(line.split())


def _bounded(text):
    if len(text) <= MOST:
        return text
    return f"{text[:MOST]}\n(Cut here: the answer has {len(text)} characters. The rest is in the submission's {FILE}.)"


_MARKS = (  # the longer first: UTF-32's begins like UTF-16's
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


def _decoded(content: bytes) -> str:
    """Prose is read in whatever encoding an editor saved it: a person sees what it says."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return content.decode(name, "replace")
    if content.count(0) > len(content) / 4:
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


# ---------------------------------------------------------------------------------------------- rows


def rows(lesson: Lesson, answers: Answers) -> tuple[Outcome, ...]:
    """A row for each question. All wait for a person, outside the total: that a file is missing costs nothing."""
    return tuple(_row_of(each, answers) for each in lesson.written)


def _row_of(each: Written, answers: Answers) -> Outcome:
    text = answers.texts.get(each.id, "")
    unanswered = f"{UNANSWERED}: {answers.why}" if answers.why else UNANSWERED
    return row(each.id, each.points, None, WAITS if text else unanswered, text)


def row(name: str, worth: float, points: float | None, message: str, detail: str = "") -> Outcome:
    """The row of one answer.

    Args:
        points: None while nobody has graded it. message: what the student reads. detail: the answer, for instructors.
    """
    status = PENDING_PERSON if points is None else PASSED if points >= worth else FAILED
    return Outcome(
        name, WRITTEN, "Answers", f"Answer: {name}", status, points or 0.0, worth, message, None, 0.0, detail
    )


def digest(text: str) -> str:
    """Of an answer: points are for what was read."""
    return digest_of({"answer": text.encode()})
