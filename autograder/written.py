"""A class's answers in words -> a table for those who grade, and the points in it -> the scorecards.

    answers.csv        a row an answer, by question, and within a question in an order that was drawn: a key, and no name;
                       then a row for each student who did not answer it, which a person may give 0
    answers.key.json   key -> whose answer it is, and a digest of it; for the instructor alone

`export` writes the two, and replaces neither; `read_back` checks every row before the first card is written. Only points
that a person gave bring a row into a total.
"""

import csv
import io
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import answers, kept
from .errors import UsageError, shown
from .exports.csv import harmless, without_guards
from .files import can_write, write
from .lesson import Lesson
from .points import number
from .questions import of_handout
from .scorecard import PENDING_PERSON, Scorecard
from .submission import Submission
from .tables import rows_of

COLUMNS = ("key", "question", "asked", "rubric", "answer", "max_points", "points", "comment")
_NO_ANSWER = f"({answers.UNANSWERED})"
_LETTERS = "bcdfghjkmnpqrstvwxz"  # no digits: a spreadsheet takes 12e45 for a number; no vowels: no words
_MOST_COMMENT = 10_000  # characters
_TELLING = 20  # characters of an answer that no spreadsheet takes for a number or a date
_POINTS = re.compile(r"[+-]?[0-9]{1,6}([.,][0-9]+)?")


# ---------------------------------------------------------------------------------------------- to those who grade


def export(lesson: Lesson, submissions: Sequence[Submission], out: Path) -> int:
    """Writes the table and its key; returns how many rows are in it. Nothing is written where there are none.

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
    lines, whose = [], {}
    for each in of_handout(lesson):
        texts = [(work.student, work.answers.texts.get(each.id, "")) for work in submissions if work.answers]
        keys = {_new_key(): entry for entry in texts}
        for key, (student, text) in sorted(keys.items(), key=lambda item: (not item[1][1], item[0])):
            whose[key] = {"student": student, "question": each.id, "answer": answers.digest(text)}
            cells = (each.id, str(each.question), each.rubric.strip(), text or _NO_ANSWER)
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
    """Checks all rows, and if none is wrong writes the cards: each beside its file first, then all are renamed. A card whose points are replaced is kept
    beside, as by grade.

    Args:
        results: the folder that grade has written. key: of all tables; without it, each has its own beside it.

    Raises:
        UsageError: a table, a key or the folder cannot be read, or a card cannot be written.
    """
    done = ReadBack()
    cards = _Cards(results)
    seen: dict[str, str] = {}
    for table in tables:
        lesson, whose = _read_key(key or key_of(table))
        for place, cells in rows_of(table):
            where = f"{table}, {place}"
            name = cells["key"].strip().lstrip("'").lower()
            problem = (
                _twice(name, where, seen)
                or _moved(name, whose, cells)
                or _take(done, cards, lesson, whose[name], cells)
            )
            if problem:
                done.problems.append(f"{where} (key {shown(name, 40)}): {problem}")
    if not done.problems:
        kept.rewrite(done.cards)
    return done


def _twice(name, where, seen):
    first = seen.setdefault(name, where)
    return "" if first == where else f"the same key is in {first}: keep one of the two rows"


def _moved(name, whose, cells):
    """Why a row's key is not its own: points would go to another student; "" if it is."""
    if name not in whose:
        return "the key is unknown: take the file that was exported, and its .key.json"
    entry = whose[name]
    if "question" in cells and cells["question"].strip().lstrip("'") != entry["question"]:
        return f"the key is of the question {entry['question']!r}: sort whole rows, not one column; export again"
    told = _digests_of(cells.get("answer", ""))
    if entry["answer"] not in told and told & {other["answer"] for other in whose.values()}:
        return "the key is of another answer: sort whole rows, not one column; export again"
    return ""


def _digests_of(cell):
    """Of what may be the answer of which a cell was made. A spreadsheet may change a cell, a number above all: so short ones
    say nothing, and a cell that is nobody's answer is taken."""
    text = cell.replace("\r\n", "\n")
    return {
        answers.digest(each) for each in (text, text.removeprefix("'"), without_guards(text)) if len(text) >= _TELLING
    }


def _take(done: ReadBack, cards: "_Cards", lesson: str, entry: dict, cells: dict[str, str]) -> str:
    """Puts one row's points into its card; returns why that cannot be, or ""."""
    path = cards.path_of(lesson, entry["student"])
    if path is None:
        return cards.why_none(lesson, entry["student"])
    card = done.cards.get(path, cards.found[path])
    row = next((row for row in card.outcomes if row.is_written and row.test == entry["question"]), None)
    if row is None or answers.digest(row.detail) != entry["answer"]:
        return f"{path} does not hold the answer that was exported: grade that submission, or export it again"
    if not cells["points"].strip():
        done.waiting += row.status == PENDING_PERSON
        return ""
    points = _points(cells["points"], row.max_points)
    if isinstance(points, str):
        return points
    said = cells.get("comment", "").strip()[:_MOST_COMMENT] or ("" if row.detail or points else answers.UNANSWERED)
    graded = answers.row(row.test, row.max_points, points, said, row.detail)
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


class _Cards:
    """The scorecards below a folder. What is wrong with one is told where a row needs it, and keeps no other row out.

    Attributes:
        found: path -> card.
    """

    def __init__(self, results: Path):
        self.found: dict[Path, Scorecard] = {}
        self._unread: dict[str, str] = {}  # name of the folder -> what is wrong
        for path in kept.below([results]):
            try:
                self.found[path] = kept.read(path)
            except UsageError as error:
                self._unread[path.parent.name] = str(error)

    def path_of(self, lesson: str, student: str) -> Path | None:
        """The student's card, if there is one and only one."""
        paths = self._paths(lesson, student)
        return paths[0] if len(paths) == 1 else None

    def why_none(self, lesson: str, student: str) -> str:
        paths = self._paths(lesson, student)
        if paths:
            return f"{' and '.join(map(str, paths))} are of one student and lesson: move all but one away"
        why = self._unread.get(student, "")
        return f"there is no scorecard of {student} for {lesson}: grade the submission first{why and f' ({why})'}"

    def _paths(self, lesson, student):
        return [path for path, card in self.found.items() if (card.lesson, card.student) == (lesson, student)]


def _read_key(path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        lesson, whose = data["lesson"], dict(data["answers"])
        texts = [lesson, *(entry[name] for entry in whose.values() for name in ("student", "question", "answer"))]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("what a key says is text")
        return lesson, whose
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): it was written beside the table; --key names it"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a key that `autograder written export` wrote: --key names another") from error
