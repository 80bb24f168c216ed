"""A spreadsheet of a class: one line a student, in RFC 4180.

The columns are student, score, max_score, percent (of what was graded), pending_gpu_points, pending_person_points, how many
rows ended in each status, the forbidden calls that were found and the files that were not scanned for them, what was graded if not the whole
lesson, and then the points of each question; a cell is empty where nothing was graded, the score too where that was a fault
of ours: a 0 would be a grade. A text that a spreadsheet would run as a formula (it begins with = + - @, behind blanks too, or
with a control character) gets an apostrophe in front; so does what follows a semicolon, a tab or a line's end, at which some
spreadsheets part cells.
"""

import csv
import io
import re
from collections.abc import Sequence

from ..points import added
from ..scorecard import STATUSES, Scorecard
from . import by_question, by_student, counted, forbidden, not_scanned

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_START = f"(?=[{re.escape(''.join(_STARTS_A_FORMULA))}])"
_PARTS, _GUARDED = (re.compile(rf"([;\t\r\n][\s\"]*){guard}{_START}") for guard in ("", "'"))


def render(cards: Sequence[Scorecard]) -> str:
    """The lines end in CR LF: write them to a file that was opened with newline=""."""
    questions = list(dict.fromkeys(name for card in cards for name in by_question(card)))
    head = ["student", "score", "max_score", "percent", "pending_gpu_points", "pending_person_points", *STATUSES]
    head += ["forbidden", "partial"]
    head += map(harmless, questions)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(_line(card, questions) for card in by_student(cards).values())
    return text.getvalue()


def _line(card: Scorecard, questions: list[str]) -> list:
    points = _points_by_question(card)
    return [
        harmless(card.student),
        "" if card.is_lost else card.score,
        "" if card.is_lost else card.max_score,
        round(100 * card.score / card.max_score, 2) if card.max_score else "",
        card.pending_gpu_points,
        card.pending_person_points,
        *(card.count(status) for status in STATUSES),
        harmless("; ".join([*forbidden(card), *not_scanned(card)])),
        harmless(card.partial),
        *(points.get(name, "") for name in questions),
    ]


def _points_by_question(card):
    outcomes = {name: counted(outcomes) for name, outcomes in by_question(card).items()}
    return {name: added(row.points for row in rows) for name, rows in outcomes.items() if rows}


def harmless(text: str) -> str:
    """The text as a cell that no spreadsheet runs."""
    begin = text[: len(text) - len(text.lstrip())]
    text = begin + _PARTS.sub(r"\1'", text.lstrip())
    return f"'{text}" if text.startswith(_STARTS_A_FORMULA) or text.lstrip().startswith(_STARTS_A_FORMULA) else text


def without_guards(cell: str) -> str:
    """A cell as it was before `harmless`; an apostrophe that was in such a place before goes too."""
    return _GUARDED.sub(r"\1", cell.removeprefix("'"))
