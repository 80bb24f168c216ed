"""Scorecards on a terminal, as rich tables."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from .scorecard import FAILED, GRADER_ERROR, NOT_REACHED, PASSED, PENDING_GPU, Outcome, Scorecard

_MOST_MISTAKES = 12

_LOOK = {
    PASSED: ("green", "passed"),
    FAILED: ("red", "failed"),
    NOT_REACHED: ("yellow", "not reached"),
    PENDING_GPU: ("blue", "waits for a GPU"),
    GRADER_ERROR: ("bold magenta", "GRADER ERROR"),
}


def one(card: Scorecard) -> Table:
    """A row a test; below it what an instructor should know of the grading."""
    table = Table(title=escape(f"{card.student} · {card.lesson}"), title_justify="left", expand=True)
    table.caption, table.caption_justify = escape("\n".join(card.notes)) or None, "left"
    for name, style in (("question", "dim"), ("test", ""), ("", ""), ("points", "")):
        table.add_column(name, style=style, justify="right" if name == "points" else "left", no_wrap=name == "points")
    shown = None
    for row in card.outcomes:
        color, word = _LOOK[row.status]
        title = escape(row.title) + (f"\n[dim]{escape(row.message)}[/dim]" if row.message else "")
        question = row.question if row.question != shown else ""
        table.add_row(escape(question), title, f"[{color}]{word}[/{color}]", f"{row.points:g} / {row.max_points:g}")
        shown = row.question
    table.add_section()
    table.add_row("", total_line(card), "", f"[bold]{card.score:g} / {card.max_score:g}[/bold]")
    return table


def total_line(card: Scorecard) -> str:
    line = f"[bold]total[/bold], {card.count(PASSED)} of {len(card.outcomes)} tests passed"
    if card.pending_gpu_points:
        line += f"; {card.pending_gpu_points:g} points wait for a GPU"
    return line


def many(cards: Sequence[Scorecard]) -> Group:
    """A row a student, with a column for each status that occurs; then what was recognised in how many submissions."""
    table = Table(title_justify="left", expand=True)
    shared = [note for note in (cards[0].notes if cards else ()) if all(note in card.notes for card in cards)]
    table.caption, table.caption_justify = escape("\n".join(shared)) or None, "left"
    statuses = [status for status in _LOOK if any(card.count(status) for card in cards)]
    table.add_column("student", overflow="fold", ratio=1)
    table.add_column("score", justify="right", no_wrap=True)
    for status in statuses:
        table.add_column(_LOOK[status][1], justify="right", max_width=9)
    for card in sorted(cards, key=lambda card: card.student):
        counts = [str(card.count(status) or "") for status in statuses]
        table.add_row(escape(card.student), f"{card.score:g} / {card.max_score:g}", *counts)
    return Group(table, *_mistakes(cards))


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
    color, word = _LOOK[row.status]
    lines = [f"[{color}]{word}[/{color}] {escape(row.module)}.{escape(row.test)} ({row.points:g} / {row.max_points:g})"]
    lines += [escape(text) for text in (row.title, row.message, row.detail) if text]
    return "\n".join(lines)
