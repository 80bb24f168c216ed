"""The command `autograder`: one subcommand a verb, no logic.

Exit codes: 0 graded (whatever the scores), 1 a grader error, 2 wrong use.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from . import table
from .batch import Job, default_processes, jobs_of, run
from .errors import AutograderError, UsageError
from .grade import grade_in_process
from .lesson import Lesson, find_root, load, load_all
from .scorecard import GRADER_ERROR, STATUSES, Scorecard
from .submission import take_in, take_in_each

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console()

LessonName = Annotated[str, typer.Option("--lesson", help="The lesson, such as 01-attention.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Where results are written.")]
DistFolder = Annotated[Path, typer.Option("--dist", help="Where the zips are.")]
Names = Annotated[list[str] | None, typer.Argument(help="Lessons; all if none is named.")]


@app.command()
def grade(
    submission: Annotated[
        Path, typer.Argument(help="A folder of .py files, a zip or a tar; with --each a folder of them.")
    ],
    lesson: LessonName,
    out: OutFolder,
    each: Annotated[bool, typer.Option("--each", help="Grade every submission in the folder.")] = False,
    module: Annotated[list[str] | None, typer.Option("--module", help="Grade this module only.")] = None,
    processes: Annotated[int, typer.Option(help="How many work side by side; 0 takes all cores.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of all inputs; without it a secret one is drawn.")] = None,
    require: Annotated[str, typer.Option(help="Layers of the box that must be there: landlock,seccomp,uid,…")] = "",
) -> None:
    """Grade a submission, or a folder of them, into OUT/<student>/scorecard.json."""
    chosen = load(lesson)
    options = {"modules": tuple(module) if module else None, "seed": seed}
    layers = tuple(filter(None, require.split(",")))
    if each:
        jobs = jobs_of(take_in_each(submission), **options)
        cards = _grade_each(chosen, jobs, out, processes or default_processes(), layers)
        console.print(table.many(cards))
    else:
        job = Job(take_in(submission, chosen.modules), options)
        cards = [card for _, card in run(chosen, [job], require=layers)]
        _write(cards[0], out)
        console.print(table.one(cards[0]))
    _exit_with(cards)


def _grade_each(
    lesson: Lesson, jobs: list[Job], out: Path, processes: int, require: tuple[str, ...]
) -> list[Scorecard]:
    columns = [
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
    ]
    cards: list[Scorecard] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("grading", total=len(jobs), counts="")
        for _, card in run(lesson, jobs, processes=processes, require=require):
            _write(card, out)
            cards.append(card)
            counts = {status: sum(card.count(status) for card in cards) for status in STATUSES}
            progress.update(
                task, advance=1, counts=" ".join(f"{name} {count}" for name, count in counts.items() if count)
            )
    return cards


@app.command()
def replay(
    scorecard: Annotated[Path, typer.Argument(help="A scorecard.json that grade has written.")],
    test: Annotated[str, typer.Option("--test", help="The test function to run again.")],
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Outside the box, for a debugger. Runs student code here!")
    ] = False,
) -> None:
    """Run one test again on the same submission and the same inputs, and show all that there is to see."""
    card = _read(scorecard)
    lesson = load(card.lesson)
    rows = [row for row in card.outcomes if row.test == test]
    if not rows:
        raise UsageError(f"{scorecard} has no test {test!r}: it has {', '.join(row.test for row in card.outcomes)}")
    submission = take_in(Path(card.submission), lesson.modules)
    if submission.digest != card.digests.get("submission"):
        raise UsageError(f"{card.submission} has changed since {scorecard} was written: grade it again")
    modules = {row.module for row in rows}
    if in_process:
        with tempfile.TemporaryDirectory() as folder:
            submission.write(Path(folder))
            outcomes = grade_in_process(lesson, Path(folder), seed=card.seed, modules=modules, tests=[test])
    else:
        job = Job(submission, {"modules": modules, "tests": [test], "seed": card.seed})
        ((_, again),) = run(lesson, [job])
        outcomes = again.outcomes
        console.print(escape(again.student_output))
    for row in outcomes:
        console.print(table.detail(row))
    raise typer.Exit(int(any(row.status == GRADER_ERROR for row in outcomes)))


@app.command()
def starter(lessons: Names = None) -> None:
    """Cut the starters from the solutions."""
    from .handout import write_starter

    for lesson in _lessons(lessons):
        for path in write_starter(lesson):
            console.print(f"wrote {_relative(path)}")


@app.command()
def handouts(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the zips that students get."""
    from .handout import build_handout

    for lesson in _lessons(lessons):
        console.print(f"wrote {_relative(build_handout(lesson, out))}")


@app.command()
def zips(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the Otter zips that grade on Gradescope."""
    from .package import build_zip

    for lesson in _lessons(lessons):
        console.print(f"wrote {_relative(build_zip(lesson, out))}")


@app.command("rehearse")
def rehearse_zips(lessons: Names = None, dist: DistFolder = Path("dist"), out: OutFolder = Path("results")) -> None:
    """Grade solution, stub and a wrong sample of every lesson through the zips, as Gradescope would."""
    from .rehearse import rehearse, showpieces

    cards = []
    for lesson in _lessons(lessons):
        for submission in showpieces(lesson):
            with console.status(f"{lesson.name}: {submission.student}"):
                card = rehearse(dist / f"{lesson.name}-autograder.zip", submission.files).card
            cards.append(replace(card, student=f"{lesson.name} {submission.student}"))
            _write(replace(card, student=submission.student), out / lesson.name)
    console.print(table.many(cards))
    console.print(f"scorecards: {out}/<lesson>/<submission>/scorecard.json")
    _exit_with(cards)


@app.command()
def export(
    cards: Annotated[list[Path], typer.Argument(help="scorecard.json files, or folders with some below.")],
    format: Annotated[str, typer.Option("--format", help="gradescope, otter or csv.")],
) -> None:
    """Print scorecards in another system's format."""
    from .exports import render

    paths = [found for path in cards for found in (sorted(path.rglob("scorecard.json")) if path.is_dir() else [path])]
    if not paths:
        raise UsageError(f"no scorecard.json below {', '.join(map(str, cards))}")
    sys.stdout.write(render(format, [_read(path) for path in paths]))


def _lessons(names: list[str] | None) -> list[Lesson]:
    return [load(name) for name in names] if names else load_all()


def _read(path: Path) -> Scorecard:
    try:
        return Scorecard.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no scorecard: {type(error).__name__}: {error}") from error


def _write(card: Scorecard, out: Path) -> None:
    """Beside, then renamed: a reader never sees half a scorecard."""
    path = out / card.student / "scorecard.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(card.to_json())
    draft.replace(path)


def _relative(path: Path) -> str:
    return os.path.relpath(path, find_root()) if path.is_relative_to(find_root()) else str(path)


def _exit_with(cards: list[Scorecard]) -> None:
    broken = [(card, row) for card in cards for row in card.grader_errors]
    for card, row in broken[:5]:
        console.print(
            f"[bold magenta]grader error[/] {escape(f'{card.student}: {row.module} {row.test}: {row.detail or row.message}')}"
        )
    if broken:
        console.print(f"{len(broken)} grader errors: nobody loses points for them; mend the test, then grade again.")
    raise typer.Exit(1 if broken else 0)


def main() -> None:
    try:
        app(standalone_mode=True)
    except UsageError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except AutograderError as error:
        console.print(f"[bold magenta]grader error:[/] {escape(str(error))}")
        sys.exit(1)


if __name__ == "__main__":
    main()
