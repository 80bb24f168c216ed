"""Scorecards on a terminal, as rich tables that fit in 80 columns.

One submission: what failed first, each message once; what passed is a line a module, unless everything is asked for.
A class: a line a student; below it, with names, whose code gave no answer at all, who used what is forbidden, and how many
made which mistake.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ..answers import WAITS
from ..points import added, number
from ..scorecard import (
    CAUSES,
    FAILED,
    GRADER_ERROR,
    NOT_REACHED,
    PASSED,
    PENDING_GPU,
    PENDING_PERSON,
    WAITING,
    Outcome,
    Scorecard,
)

_MOST_MISTAKES = 12
_MOST_TITLES = 3  # of tests that failed with one message
_MOST_PACKAGES, _LONGEST_PACKAGE = 3, 40  # that a submission misses, and characters of such a name: it can be any
_MOST_USES = 8  # of what is forbidden, in one submission

_LOOK = {
    PASSED: ("green", "passed"),
    FAILED: ("red", "failed"),
    NOT_REACHED: ("yellow", "not reached"),
    PENDING_GPU: ("blue", "waits for a GPU"),
    PENDING_PERSON: ("blue", "waits for a person"),
    GRADER_ERROR: ("bold magenta", "GRADER ERROR"),
}
_PACKAGE = re.compile(r"No module named '([\w.]+)'")
_FIRST = (GRADER_ERROR, FAILED, NOT_REACHED)  # told one by one, in this order
_WORDS = dict(
    zip(
        CAUSES,
        (
            "could not be read",
            "a file is missing",
            "an unchanged starter",
            "syntax error",
            "a package is missing",
            "took too long",
            "died: crash, exit or memory",
        ),
        strict=True,
    )
)


def one(card: Scorecard, everything: bool = False) -> Table:
    """What failed, then what passed in a line a module; or, with `everything`, a row a test.

    Below it what an instructor should know of the grading.
    """
    table = Table(title=escape(_title(card)), title_justify="left", expand=True)
    table.caption, table.caption_justify = escape("\n".join([*card.notes, *_uses(card)])) or None, "left"
    table.add_column("test", ratio=1, overflow="fold")
    table.add_column("", max_width=15)
    table.add_column("points", justify="right", no_wrap=True)
    for module, rows in sorted(_by_module(card).items(), key=lambda item: _is_fine(item[1])):
        _add_module(table, module, rows, everything)
        table.add_section()
    table.add_row(_total_line(card), "", f"[bold]{_total(card)}[/bold]")
    return table


def _title(card):
    return f"{card.student} · {card.lesson}" + (f" · {card.partial}" if card.partial else "")


def _by_module(card):
    modules: dict[str, list[Outcome]] = {}
    for row in card.scored:
        modules.setdefault(row.module, []).append(row)
    return modules


def _is_fine(rows):
    return all(row.status in (PASSED, *WAITING) for row in rows)


def _add_module(table, module, rows, everything):
    if everything:
        for question, asked in groupby(rows, key=lambda row: row.question):
            table.add_row(f"[dim]{escape(_joined(module, question))}[/dim]", "", "")
            for row in asked:
                table.add_row(_told([row.title], row.message), _status(row), _sum([row]))
        return
    if not _is_fine(rows):
        table.add_row(f"[bold]{escape(module)}[/bold]", "", "")
    for status in _FIRST:
        for message, alike in _by_message(rows, status).items():
            every = len(alike) == sum(row.status not in WAITING for row in rows) > 1
            titles = [f"all {len(alike)} {_named_rows(rows)}s"] if every else [row.title for row in alike]
            table.add_row(_told(titles, message), _status(alike[0]), _sum(alike))
    for status in (PASSED, *WAITING):
        for message, alike in _by_reason(rows, status).items():
            some = _some(len(alike), len(rows), _named_rows(rows))
            table.add_row(_told([f"{module}: {some}"], message), _status(alike[0]), _sum(alike))


def _named_rows(rows):
    return "answer" if rows[0].is_written else "test"


def _joined(module, question):
    return module if question in ("", module) else f"{module}: {question}"


def _by_message(rows, status):
    """Message -> the rows of this status that say it: it is told once."""
    messages: dict[str, list[Outcome]] = {}
    for row in rows:
        if row.status == status:
            messages.setdefault(row.message, []).append(row)
    return messages


def _by_reason(rows, status):
    """Why answers wait -> the rows, where their status does not say it; all rows of another status, with nothing to say."""
    reasons: dict[str, list[Outcome]] = {}
    for row in rows:
        if row.status == status:
            told = status == PENDING_PERSON and row.message != WAITS
            reasons.setdefault(row.message if told else "", []).append(row)
    return reasons


def _told(titles, message):
    more = [f"and {len(titles) - _MOST_TITLES + 1} more"] if len(titles) > _MOST_TITLES else []
    shown = titles[: _MOST_TITLES - 1] if more else titles
    lines = [escape(line) for line in (*shown, *more)]
    return "\n".join([*lines, f"[dim]  {escape(message)}[/dim]"] if message else lines)


def _some(count, of, what):
    return f"{count} of {of} {what}s" if count != of else f"all {of} {what}s" if of > 1 else f"1 {what}"


def _status(row):
    color, word = _LOOK[row.status]
    return f"[{color}]{word}[/{color}]"


def _sum(rows):
    """What the rows have of what they are worth; a dash for grader errors, which are worth nothing."""
    if all(row.status == GRADER_ERROR for row in rows):
        return "–"
    return _of(added(row.points for row in rows), added(row.max_points for row in rows))


def _of(points, worth):
    return f"{number(points)} / {number(worth)}"


def _total(card):
    return "not graded" if card.is_lost else _of(card.score, card.max_score)


def _total_line(card):
    passed = sum(row.status == PASSED for row in card.tests)
    line = f"[bold]total[/bold], {passed} of {len(card.tests)} tests passed"
    if card.pending_gpu_points:
        line += f"; waiting for a GPU: {number(card.pending_gpu_points)}"
    if card.pending_person_points:
        line += f"; waiting for a person: {number(card.pending_person_points)}"
    if card.grader_errors:
        line += f"; grader errors, not in the total: {len(card.grader_errors)}"
    return line


def _uses(card):
    """A line for each use of what the lesson forbids, and for each file in which nobody looked for one."""
    uses = list(
        dict.fromkeys(
            f"forbidden: {use.name} ({use.where})" if use.is_a_use else f"{use.name}: {use.where}"
            for use in sorted(card.evidence, key=lambda use: not use.is_a_use)
        )
    )
    lines = uses[:_MOST_USES]
    return [*lines, f"and {len(uses) - _MOST_USES} more"] if len(uses) > _MOST_USES else lines


# ---------------------------------------------------------------------------------------------- a class


def many(cards: Sequence[Scorecard]) -> Group:
    """A row a student, with a column for each status that occurs; then what stands out, and what was recognised."""
    table = Table(title_justify="left", expand=True)
    shared = [note for note in (cards[0].notes if cards else ()) if all(note in card.notes for card in cards)]
    table.caption, table.caption_justify = escape("\n".join(shared)) or None, "left"
    statuses = [status for status in _LOOK if any(card.count(status) for card in cards)]
    table.add_column("student", overflow="fold", ratio=1)
    table.add_column("score", justify="right", no_wrap=True)
    for status in statuses:
        table.add_column(_LOOK[status][1], justify="right", max_width=9)
    ordered = sorted(cards, key=lambda card: card.student)
    for card in ordered:
        counts = [str(card.count(status) or "") for status in statuses]
        table.add_row(escape(card.student), _total(card), *counts)
    return Group(table, *_partial(ordered), *_no_answers(ordered), *_forbidden(ordered), *_mistakes(cards))


def _partial(cards):
    """A table of the cards that are not of a whole grading; nothing where all are whole."""
    found: dict[str, list[str]] = {}
    for card in cards:
        if card.partial:
            found.setdefault(card.partial, []).append(card.student)
    return _named("not graded whole", found)


def _no_answers(cards):
    """A table of what kept code from giving any answer, with the names and modules; nothing where there is nothing."""
    found = {cause: [name for card in cards if (name := _with_places(card, cause))] for cause in CAUSES}
    return _named("no answer from the code", {_WORDS[cause]: names for cause, names in found.items()})


def _with_places(card, cause):
    """The student, and in which modules this was where it was not all, or which packages are missing; "" if it was not."""
    rows = [row for row in card.outcomes if row.cause == cause]
    modules = dict.fromkeys(row.module for row in rows)
    everywhere = len(modules) == len({row.module for row in card.tests})
    packages = dict.fromkeys(name[:_LONGEST_PACKAGE] for row in rows for name in _PACKAGE.findall(row.message))
    places = list(packages)[:_MOST_PACKAGES] if cause == "import" and packages else [] if everywhere else list(modules)
    if not rows:
        return ""
    return f"{card.student} ({', '.join(places)})" if places else card.student


def _forbidden(cards):
    """A table of what the lesson forbids and was found, with the names of the students and how often."""
    found: dict[str, list[str]] = {}
    for card in cards:
        places = {(use.name, use.where) for use in card.evidence}
        for name, count in sorted(Counter(name for name, _ in places).items()):
            found.setdefault(name, []).append(f"{card.student} ({count})" if count > 1 else card.student)
    return _named("forbidden calls found", found)


def _named(heading, names_of):
    names_of = {what: names for what, names in names_of.items() if names}
    if not names_of:
        return []
    table = Table(title_justify="left", expand=True)
    table.add_column("students", justify="right", no_wrap=True)
    table.add_column(heading, ratio=1, overflow="fold")
    for what, names in names_of.items():
        table.add_row(str(len(names)), f"[bold]{escape(what)}[/bold]: {escape(', '.join(names))}")
    return [table]


def _mistakes(cards):
    """A table of the most frequent mistakes; nothing where none was recognised."""
    counts = Counter(mistake for card in cards for mistake in {row.mistake for row in card.outcomes if row.mistake})
    if not counts:
        return []
    table = Table(title_justify="left", expand=True)
    table.add_column("students", justify="right", no_wrap=True)
    table.add_column("mistakes recognised", ratio=1)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for mistake, students in ordered[:_MOST_MISTAKES]:
        table.add_row(str(students), escape(mistake))
    if len(ordered) > _MOST_MISTAKES:
        table.add_row("", f"and {len(ordered) - _MOST_MISTAKES} more, in the scorecards")
    return [table]


def detail(row: Outcome) -> str:
    """One outcome whole, with what only instructors see."""
    place = f"{escape(row.module)}.{escape(row.test)}"
    lines = [f"{_status(row)} {place} ({_of(row.points, row.max_points)})"]
    lines += [escape(text) for text in (row.title, row.message, row.detail) if text]
    return "\n".join(lines)
