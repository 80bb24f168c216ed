"""A class's answers in words -> a table for those who grade, and the points in it -> the scorecards.

    answers.csv        a row an answer, by question, and within a question in an order that was drawn: a key, and no name
    answers.key.json   key -> whose answer it is, and a digest of it; for the instructor alone

`export` writes the two, and replaces neither; `read_back` checks every row before the first card is written.
"""

import csv
import io
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import answers, kept
from .errors import UsageError, shown
from .exports.csv import harmless
from .files import can_write, write
from .lesson import Lesson
from .points import number
from .scorecard import PENDING_PERSON, Scorecard
from .submission import Submission

COLUMNS = ("key", "question", "asked", "rubric", "answer", "max_points", "points", "comment")
_LETTERS = "bcdfghjkmnpqrstvwxz"  # no digits: a spreadsheet takes 12e45 for a number; no vowels: no words
_MOST_COMMENT = 10_000  # characters
_POINTS = re.compile(r"[+-]?[0-9]{1,6}([.,][0-9]+)?")


# ---------------------------------------------------------------------------------------------- to those who grade


def export(lesson: Lesson, submissions: Sequence[Submission], out: Path) -> int:
    """Writes the table and its key; returns how many answers are in it. Nothing is written where there are none.

    Raises:
        UsageError: a file is there already, two submissions are of one student, or the lesson asks for no answers.
    """
    if not lesson.written:
        raise UsageError(
            f"{lesson.name} has no [[written]] in {lesson.assignment / 'lesson.toml'}: it asks for no answers"
        )
    names = [each.student for each in submissions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two submissions of {twice!r}: export one of them, or each folder into a file of its own")
    for path in (out, key_of(out)):
        if path.exists():
            raise UsageError(f"{path} is there already, and may hold points: import it first, or name another file")
    can_write(out.parent)
    lines, whose = _table(lesson, submissions)
    if lines:
        write(key_of(out), json.dumps({"format": 1, "lesson": lesson.name, "answers": whose}, indent=2) + "\n", 0o600)
        try:
            write(out, _as_csv(lines).encode("utf-8-sig"))
        except UsageError:
            key_of(out).unlink()  # of a table that is not there
            raise
    return len(lines)


def key_of(table: Path) -> Path:
    return table.with_name(f"{table.stem}.key.json")


def _table(lesson, submissions):
    """The lines, and key -> whose."""
    asked = answers.questions(lesson)
    lines, whose = [], {}
    for each in lesson.written:
        texts = [(work.student, work.answers.texts.get(each.id, "")) for work in submissions if work.answers]
        keys = {_new_key(): entry for entry in texts if entry[1]}
        for key, (student, text) in sorted(keys.items()):
            whose[key] = {"student": student, "question": each.id, "answer": answers.digest(text)}
            cells = (each.id, asked[each.id], each.rubric.strip(), text)
            lines.append([key, *map(harmless, cells), number(each.points), "", ""])
    return lines, whose


def _new_key():
    return "".join(secrets.choice(_LETTERS) for _ in range(12))


def _as_csv(lines):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([COLUMNS, *lines])
    return text.getvalue()


# ---------------------------------------------------------------------------------------------- and back


@dataclass
class ReadBack:
    """What came of tables of points.

    Attributes:
        graded: how many answers have points now. waiting: how many rows have none yet. changed: how many had others before.
        cards: path -> the scorecard with the points. problems: a sentence for each row that cannot be taken.
    """

    graded: int = 0
    waiting: int = 0
    changed: int = 0
    cards: dict[Path, Scorecard] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_back(tables: Sequence[Path], results: Path, key: Path | None = None) -> ReadBack:
    """Checks all rows, and if none is wrong writes the cards. A card whose points are replaced is kept beside, as by grade.

    Args:
        results: the folder that grade has written. key: of all tables; without it, each has its own beside it.

    Raises:
        UsageError: a table, a key or the folder cannot be read, or a card cannot be written.
    """
    done = ReadBack()
    known = _cards_below(results, done)
    seen: dict[str, str] = {}
    for table in tables:
        lesson, whose = _read_key(key or key_of(table))
        for at, cells in _rows_of(table):
            where = f"{table}, row {at}"
            name = cells["key"].strip().lstrip("'").lower()
            problem = _twice(name, where, seen) or _take(done, known, lesson, whose.get(name), cells)
            if problem:
                done.problems.append(f"{where} (key {shown(name, 40)}): {problem}")
    if not done.problems:
        for path, card in done.cards.items():
            kept.rewrite(path, card)
    return done


def _twice(name, where, seen):
    first = seen.setdefault(name, where)
    return "" if first == where else f"the same key is in {first}: keep one of the two rows"


def _take(done: ReadBack, known: dict, lesson: str, entry: dict | None, cells: dict[str, str]) -> str:
    """Puts one row's points into its card; returns why that cannot be, or ""."""
    if entry is None:
        return "the key is unknown: take the file that was exported, and its .key.json"
    found = known.get((lesson, entry["student"]))
    if found is None:
        return f"there is not one scorecard of {entry['student']} for {lesson}: grade the submission first"
    path, card = found
    card = done.cards.get(path, card)
    row = next((row for row in card.outcomes if row.is_written and row.test == entry["question"]), None)
    if row is None or answers.digest(row.detail) != entry["answer"]:
        return f"{path} does not hold the answer that was exported: grade that submission, or export it again"
    if not cells["points"].strip():
        done.waiting += row.status == PENDING_PERSON
        return ""
    points = _points(cells["points"], row.max_points)
    if isinstance(points, str):
        return points
    graded = answers.row(row.test, row.max_points, points, cells.get("comment", "").strip()[:_MOST_COMMENT], row.detail)
    done.graded += 1
    done.changed += row.status != PENDING_PERSON and graded != row
    if graded != row:
        done.cards[path] = replace(card, outcomes=tuple(graded if each is row else each for each in card.outcomes))
    return ""


def _points(cell: str, worth: float) -> float | str:
    """The points in a cell, or why they cannot be taken. A comma is a decimal point."""
    text = cell.strip()
    if not _POINTS.fullmatch(text):
        return f"the points are {shown(text, 40)!r}, which is not a number: give 0 to {number(worth)}"
    points = float(text.replace(",", "."))
    if not 0 <= points <= worth:
        return f"the points are {shown(text, 40)}: give 0 to {number(worth)}"
    if points != round(points, 2):
        return f"the points are {shown(text, 40)}: give at most two decimals"
    return points


def _cards_below(results: Path, done: ReadBack) -> dict[tuple[str, str], tuple[Path, Scorecard]]:
    """(lesson, student) -> path and card. Of two cards of one student neither is taken; both are named."""
    found: dict[tuple[str, str], tuple[Path, Scorecard]] = {}
    for path in kept.below([results]):
        try:
            card = kept.read(path)
        except UsageError as error:
            done.problems.append(str(error))
            continue
        first, _ = found.setdefault((card.lesson, card.student), (path, card))
        if first != path:
            done.problems.append(f"{first} and {path} are of one student and lesson: move one of them away")
    return found


def _read_key(path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        lesson, whose = str(data["lesson"]), dict(data["answers"])
        for entry in whose.values():
            {name: entry[name] for name in ("student", "question", "answer")}
        return lesson, whose
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): it was written beside the table; --key names it"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a key that `autograder written export` wrote: --key names another") from error


def _rows_of(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """(Row as a spreadsheet counts them, column -> cell), without empty rows."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: save it as 'CSV UTF-8' in the spreadsheet") from error
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        names, *lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) or [[]]
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from error
    names = [name.strip().lower() for name in names]
    for name in ("key", "points"):
        if names.count(name) != 1:
            raise UsageError(f"{path} has {names.count(name)} columns {name!r}: it should have one, as it was exported")
    padded = [[*line, *[""] * (len(names) - len(line))] for line in lines]
    return [
        (at, dict(zip(names, line, strict=False))) for at, line in enumerate(padded, 2) if any(map(str.strip, line))
    ]
