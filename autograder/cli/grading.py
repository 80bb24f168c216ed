"""For instructors: grade, merge, replay, export."""

import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from .. import kept
from ..batch import Job, default_processes, jobs_of, run
from ..errors import UsageError, nearest
from ..exports import table
from ..files import can_write, write
from ..intake.crowd import refuse_a_class, refuse_one_student
from ..lesson import LAB, Lesson, load
from ..options import Asked, GraderOptions
from ..scorecard import GRADER_ERROR, STATUSES, Scorecard
from ..submission import source_of, take_in_again, take_in_each
from .shared import LessonName, OutFolder, Processes, app, console, exit_with


@app.command()
def grade(
    submission: Annotated[
        Path, typer.Argument(help="A folder of .py files, a zip or a tar; with --each a folder of them.")
    ],
    lesson: LessonName,
    out: OutFolder,
    each: Annotated[bool, typer.Option("--each", help="Grade every submission in the folder.")] = False,
    module: Annotated[list[str] | None, typer.Option("--module", help="Grade this module only.")] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="Grade this test function only.")] = None,
    processes: Processes = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of all inputs; without it a secret one is drawn.")] = None,
    require: Annotated[str, typer.Option(help="Layers of the box that must be available: landlock,seccomp,uid,…")] = "",
    gpu_only: Annotated[bool, typer.Option("--gpu-only", help="Run only the GPU tests, for `merge`.")] = False,
    gpu_device: Annotated[str, typer.Option(help="What GPU tests run on; by default cuda where there is one.")] = "",
    prerequisites: Annotated[
        str, typer.Option(help="Modules of used lessons: reference, or the student's own.")
    ] = "reference",
    everything: Annotated[bool, typer.Option("--all", help="Show every test, not only what failed.")] = False,
) -> None:
    """Grade a submission, or a folder of them, into OUT/<student>/scorecard.json."""
    chosen = load(lesson)
    chosen.refuse_to_come_with(submission)
    chosen.require(module or ())
    modules = chosen.modules_with(test, module) if test else module
    asked = Asked(tuple(modules) if modules else None, tuple(test) if test else None, seed=seed)
    options = GraderOptions(
        require=tuple(filter(None, require.split(","))),
        gpu_device=gpu_device or _found_gpu(),
        only_gpu=gpu_only,
        own_prerequisites=prerequisites == "own",
    )
    if prerequisites not in ("reference", "own"):
        suggestion = nearest(prerequisites, ("reference", "own"))
        raise UsageError(f"--prerequisites is {prerequisites!r}: give reference or own{suggestion}")
    if gpu_only and not options.gpu_device:
        raise UsageError("--gpu-only needs a GPU, but none is found here")
    if each:
        refuse_one_student(submission, chosen)
        found = take_in_each(submission, chosen)
        jobs = jobs_of(found.sources, replace(asked, in_a_class=True))
        kept.refuse_to_write_into(found.sources, out)
        kept.ready(out, [job.student for job in jobs], chosen.name)
        cards, said = _grade_each(chosen, jobs, out, processes or default_processes(), options)
        console.print(table.many(cards))
        for name, why in found.named:
            console.print(escape(f"not graded: {name}: {why}"))
    else:
        refuse_a_class(submission, chosen)
        job = Job(source_of(submission), asked)
        kept.refuse_to_write_into([source_of(submission)], out)
        kept.ready(out, [job.student], chosen.name)
        cards = [card for _, card in run(chosen, [job], options=options)]
        said = [kept.keep(cards[0], out)]
        console.print(table.one(cards[0], everything))
    for sentence in filter(None, said):
        console.print(escape(sentence))
    exit_with(cards)


def _grade_each(lesson: Lesson, jobs: list[Job], out: Path, processes: int, options: GraderOptions):
    """The scorecards, and what is to be said of earlier ones in the folder."""
    columns = [
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
    ]
    cards: list[Scorecard] = []
    said: list[str] = []
    with Progress(*columns, console=console) as progress, _saying_what_is_kept(cards, len(jobs), out):
        task = progress.add_task("grading", total=len(jobs), counts="")
        for _, card in run(lesson, jobs, processes=processes, options=options):
            said.append(kept.keep(card, out))
            cards.append(card)
            counts = {status: sum(card.count(status) for card in cards) for status in STATUSES}
            progress.update(
                task, advance=1, counts=" ".join(f"{name} {count}" for name, count in counts.items() if count)
            )
    return cards, said


@contextmanager
def _saying_what_is_kept(cards, of, out):
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"stopped: {len(cards)} of {of} submissions are graded, their scorecards are in {escape(str(out))}"
        )
        raise


_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")  # NVIDIA's, that of its boards, that of WSL, AMD's


def _found_gpu() -> str | None:
    if sys.platform == "linux" and not any(map(os.path.exists, _DRIVERS)):
        return None  # without asking torch: to import it takes more than a second
    import torch

    return "cuda" if torch.cuda.is_available() else None


@app.command()
def merge(
    first: Annotated[Path, typer.Argument(help="A scorecard.json in which tests wait for a GPU, or a folder of them.")],
    second: Annotated[
        Path, typer.Argument(help="The same work's scorecard from a machine with a GPU, or a folder of them.")
    ],
    out: OutFolder,
    everything: Annotated[bool, typer.Option("--all", help="Show every test, not only what failed.")] = False,
) -> None:
    """Join the scorecards of a machine without a GPU and of one with it."""
    merging = kept.merged(first, second)
    kept.ready(out, [card.student for card in merging.cards], merging.cards[0].lesson)
    said = [kept.keep(card, out) for card in merging.cards]
    console.print(table.many(merging.cards) if first.is_dir() else table.one(merging.cards[0], everything))
    for sentence in filter(None, (*merging.said, *said)):
        console.print(escape(sentence))
    exit_with(merging.cards, wrong=merging.problems)


@app.command()
def replay(
    scorecard: Annotated[Path, typer.Argument(help="A scorecard.json that grade has written.")],
    test: Annotated[str, typer.Option("--test", help="The test function to run again.")],
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run outside the box, for a debugger. Student code runs unconfined!")
    ] = False,
) -> None:
    """Run one test again on the same submission and the same inputs, and show everything: message, traceback, the values that differ."""
    card = kept.read(scorecard)
    lesson = load(card.lesson)
    rows = [row for row in card.outcomes if row.test == test]
    if not rows:
        names = [row.test for row in card.outcomes]
        raise UsageError(f"{scorecard} has no test {test!r} among its {len(names)}{nearest(test, names)}")
    if {row.module for row in rows} == {LAB}:
        lesson.require([LAB])
    if not card.submission:
        raise UsageError(f"{scorecard} does not say where its submission was: grade it again")
    for path in card.submission.splitlines():
        lesson.refuse_to_come_with(Path(path))
    submission = take_in_again(card.submission, lesson)
    changed = submission.digest != card.digests.submission  # in a debugger: somebody wrote breakpoint() into it
    if changed and not in_process:
        raise UsageError(f"{card.submission} has changed since {scorecard} was written: grade it again")
    parts = [Asked((row.module,), (test,), card.seed_of(row)) for row in rows]
    options = GraderOptions(own_prerequisites=card.digests.prerequisites == "own")
    if in_process:
        from ..grade import grade_in_process

        if changed:
            console.print(
                escape(f"{card.submission} has changed since {scorecard} was written: this is what it is now")
            )
        outcomes = [row for asked in parts for row in grade_in_process(lesson, submission, asked, options, aloud=True)]
    else:
        again = [each for _, each in run(lesson, [Job(submission, asked) for asked in parts], options=options)]
        outcomes = [row for each in again for row in each.outcomes]
        console.print(escape("".join(each.student_output for each in again)))
    for row in outcomes:
        console.print(table.detail(row))
    raise typer.Exit(int(any(row.status == GRADER_ERROR for row in outcomes)))


@app.command()
def export(
    cards: Annotated[list[Path], typer.Argument(help="scorecard.json files, or folders that contain some.")],
    format: Annotated[str, typer.Option("--format", help="gradescope, otter or csv.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; without it, standard output.")] = None,
) -> None:
    """Write scorecards in another system's format; one that cannot be read is named, and the others are written."""
    from ..exports import encoded

    if out is not None and out.is_dir():
        raise UsageError(f"{out} is a folder: --out names the file that export writes")
    read, problems = kept.read_all(kept.below(cards))
    content = encoded(format, read)
    if out is not None:
        can_write(out.parent)
        write(out, content)
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)  # UTF-8 whatever the locale says
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(content.decode())
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(2 if problems else 0)
