"""What the commands share: the app, the console, options, progress, and the exit code after a grading."""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..lesson import Lesson, find_root, load, load_all
from ..scorecard import Scorecard

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

LessonName = Annotated[str, typer.Option("--lesson", help="The lesson, such as 01-attention.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Where results are written.")]
DistFolder = Annotated[Path, typer.Option("--dist", help="Where the zips are.")]
Names = Annotated[list[str] | None, typer.Argument(help="Lessons; all if none is named.")]
Processes = Annotated[
    int,
    typer.Option(help="How many processes grade at the same time, each on a core of its own; 0 uses all cores.", min=0),
]


@contextmanager
def progress(name: str):
    with Progress(
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def chosen(names: list[str] | None) -> list[Lesson]:
    return [load(name) for name in names] if names else load_all()


def relative(path: Path) -> str:
    return os.path.relpath(path, find_root()) if path.is_relative_to(find_root()) else str(path)


def exit_with(cards: list[Scorecard], wrong: Sequence[str] = (), failed: bool = False) -> None:
    """2 where something was wrong with what was given, 1 after a grader error or where something `failed`, else 0."""
    broken = [(card, row) for card in cards for row in card.grader_errors]
    for card, row in broken[:5]:
        console.print(
            f"[bold magenta]grader error[/] {escape(f'{card.student}: {row.module} {row.test}: {row.detail or row.message}')}"
        )
    if broken:
        console.print(
            f"{len(broken)} grader errors: their points are not in the totals: fix the tests, then grade again."
        )
    for problem in wrong:
        console.print(f"[red]error:[/red] {escape(problem)}")
    raise typer.Exit(2 if wrong else 1 if broken or failed else 0)
