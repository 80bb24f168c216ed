"""For instructors whose students answer in words, without nbgrader: written export, written import."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import written
from ..errors import SubmissionError
from ..intake.entries import Source
from ..lesson import load
from ..submission import Submission, source_of, take_in, take_in_each
from .shared import LessonName, app, console

_MOST_PROBLEMS = 20
commands = typer.Typer(no_args_is_help=True, help="Answers in words: to those who grade them, and back.")
app.add_typer(commands, name="written")


@commands.command("export")
def export(
    submissions: Annotated[list[Path], typer.Argument(help="Submissions; with --each folders of them.")],
    lesson: LessonName,
    out: Annotated[Path, typer.Option("--out", help="The CSV file to write; its key is written beside it.")],
    each: Annotated[bool, typer.Option("--each", help="Take every submission in the folders.")] = False,
) -> None:
    """Write a row for each answer, without names, and the key that leads back beside it."""
    chosen = load(lesson)
    sources: list[Source] = []
    for path in submissions:
        chosen.refuse_to_come_with(path)
        sources += take_in_each(path, chosen).sources if each else [source_of(path)]
    works, problems = _taken(sources, chosen)
    count = written.export(chosen, works, out)
    answered = sum(len(work.answers.texts) for work in works if work.answers)
    if count:
        console.print(
            escape(f"wrote {out}: {count} rows of {len(works)} submissions; for you alone: {written.key_of(out)}")
        )
        console.print(f"answers: {answered}; not answered, which wait until you give them points: {count - answered}")
    else:
        console.print("nothing was written: no submission can be read")
    _exit(problems)


def _taken(sources, lesson):
    works: list[Submission] = []
    problems: list[str] = []
    for source in sources:
        try:
            work = take_in(source, lesson)
        except SubmissionError as error:
            problems.append(str(error))
            continue
        if work.unread:
            problems.append(work.unread)
        else:
            works.append(work)
    return works, problems


@commands.command("import")
def import_(
    tables: Annotated[list[Path], typer.Argument(help="CSV files that export wrote, with points.")],
    results: Annotated[Path, typer.Option("--results", help="The folder of scorecards that grade has written.")],
    key: Annotated[Path | None, typer.Option("--key", help="The key, where it is not beside the table.")] = None,
) -> None:
    """Read points and comments back into the scorecards; where one row is wrong nothing is written."""
    done = written.read_back(tables, results, key)
    if done.problems:
        console.print("nothing was imported: correct what follows, then import again")
    else:
        again = f", {done.changed} of them with a change" if done.changed else ""
        console.print(f"graded: {done.graded} answers{again}; scorecards written: {len(done.cards)}")
        console.print(f"rows without points, which still wait: {done.waiting}")
    _exit(done.problems)


def _exit(problems):
    for problem in problems[:_MOST_PROBLEMS]:
        console.print(f"[red]error:[/red] {escape(problem)}")
    if len(problems) > _MOST_PROBLEMS:
        console.print(f"and {len(problems) - _MOST_PROBLEMS} more")
    raise typer.Exit(2 if problems else 0)
