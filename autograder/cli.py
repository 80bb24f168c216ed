"""The command `autograder`: one subcommand a verb, no logic.

Exit codes: 0 graded (whatever the scores), 1 a grader error, 2 wrong use or a scorecard that had to be left out, 130 stopped
by Ctrl-C or SIGTERM.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from . import kept, table
from .batch import Job, default_processes, jobs_of, run
from .crowd import refuse_a_class, refuse_one_student
from .errors import AutograderError, UsageError, nearest
from .files import can_write, write
from .grade import grade_in_process
from .lesson import Lesson, find_root, load, load_all
from .scorecard import GRADER_ERROR, STATUSES, Scorecard
from .submission import source_of, take_in_again, take_in_each

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
    processes: Annotated[
        int, typer.Option(help="How many work side by side, a core each; 0 takes all cores.", min=0)
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of all inputs; without it a secret one is drawn.")] = None,
    require: Annotated[str, typer.Option(help="Layers of the box that must be there: landlock,seccomp,uid,…")] = "",
    gpu_only: Annotated[bool, typer.Option("--gpu-only", help="Run nothing but the GPU tests, for `merge`.")] = False,
    gpu_device: Annotated[str, typer.Option(help="What GPU tests run on; by default cuda where there is one.")] = "",
    prerequisites: Annotated[
        str, typer.Option(help="Modules of used lessons: reference, or the student's own.")
    ] = "reference",
    everything: Annotated[bool, typer.Option("--all", help="Show every test, not only what failed.")] = False,
) -> None:
    """Grade a submission, or a folder of them, into OUT/<student>/scorecard.json."""
    chosen = load(lesson)
    chosen.require(module or ())
    options = {"modules": tuple(module) if module else None, "seed": seed}
    grader = {
        "require": tuple(filter(None, require.split(","))),
        "gpu_device": gpu_device or _found_gpu(),
        "only_gpu": gpu_only,
        "own_prerequisites": prerequisites == "own",
    }
    if prerequisites not in ("reference", "own"):
        suggestion = nearest(prerequisites, ("reference", "own"))
        raise UsageError(f"--prerequisites is {prerequisites!r}: give reference or own{suggestion}")
    if gpu_only and not grader["gpu_device"]:
        raise UsageError("--gpu-only needs a GPU, and torch finds none here")
    if each:
        refuse_one_student(submission, chosen)
        found = take_in_each(submission, chosen)
        jobs = jobs_of(found.sources, **options)
        kept.ready(out, [job.student for job in jobs], chosen.name)
        cards, said = _grade_each(chosen, jobs, out, processes or default_processes(), grader)
        console.print(table.many(cards))
        for name, why in found.named:
            console.print(escape(f"not graded: {name}: {why}"))
    else:
        refuse_a_class(submission, chosen)
        job = Job(source_of(submission), options)
        kept.ready(out, [job.student], chosen.name)
        cards = [card for _, card in run(chosen, [job], **grader)]
        said = [kept.keep(cards[0], out)]
        console.print(table.one(cards[0], everything))
    for sentence in filter(None, said):
        console.print(escape(sentence))
    _exit_with(cards)


def _grade_each(lesson: Lesson, jobs: list[Job], out: Path, processes: int, grader: dict):
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
        for _, card in run(lesson, jobs, processes=processes, **grader):
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


def _found_gpu() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


@app.command()
def merge(
    first: Annotated[Path, typer.Argument(help="A scorecard.json in which tests wait for a GPU, or a folder of them.")],
    second: Annotated[Path, typer.Argument(help="The same work's from a machine with a GPU, a scorecard or a folder.")],
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
    _exit_with(merging.cards, wrong=merging.problems)


@app.command("new-lesson")
def new_lesson_command(
    name: Annotated[str, typer.Argument(help="Two digits and words: 10-tokenizers.")],
    modules: Annotated[list[str], typer.Argument(help="Its modules.")],
) -> None:
    """Write the skeleton of a lesson, which works and is to be written over (docs/authors.md)."""
    from .skeleton import new_lesson

    lesson = new_lesson(find_root(), name, modules)
    console.print(
        f"wrote {_relative(lesson.assignment)}, its solution, starter, tests and samples; docs/authors.md goes on"
    )


@app.command()
def replay(
    scorecard: Annotated[Path, typer.Argument(help="A scorecard.json that grade has written.")],
    test: Annotated[str, typer.Option("--test", help="The test function to run again.")],
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Outside the box, for a debugger. Runs student code here!")
    ] = False,
) -> None:
    """Run one test again on the same submission and the same inputs, and show all that there is to see."""
    card = kept.read(scorecard)
    lesson = load(card.lesson)
    rows = [row for row in card.outcomes if row.test == test]
    if not rows:
        names = [row.test for row in card.outcomes]
        raise UsageError(f"{scorecard} has no test {test!r} among its {len(names)}{nearest(test, names)}")
    if not card.submission:
        raise UsageError(f"{scorecard} does not say where its submission was: grade it again")
    submission = take_in_again(card.submission, lesson)
    if submission.digest != card.digests.get("submission"):
        raise UsageError(f"{card.submission} has changed since {scorecard} was written: grade it again")
    options = [{"modules": [row.module], "tests": [test], "seed": card.seed_of(row)} for row in rows]
    if in_process:
        with tempfile.TemporaryDirectory() as folder:
            submission.write(Path(folder))
            outcomes = [row for each in options for row in grade_in_process(lesson, Path(folder), **each)]
    else:
        own = card.digests.get("prerequisites") == "own"
        again = [each for _, each in run(lesson, [Job(submission, each) for each in options], own_prerequisites=own)]
        outcomes = [row for each in again for row in each.outcomes]
        console.print(escape("".join(each.student_output for each in again)))
    for row in outcomes:
        console.print(table.detail(row))
    raise typer.Exit(int(any(row.status == GRADER_ERROR for row in outcomes)))


@app.command()
def starter(lessons: Names = None) -> None:
    """Cut the starters from the solutions."""
    from .handout import write_starter

    for lesson in _lessons(lessons):
        console.print(f"wrote {_relative(write_starter(lesson))}")


@app.command()
def handouts(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the zips that students get."""
    from .handout import build_handout

    can_write(out)
    for lesson in _lessons(lessons):
        console.print(f"wrote {_relative(build_handout(lesson, out))}")


@app.command()
def zips(lessons: Names = None, out: OutFolder = Path("dist")) -> None:
    """Build the Otter zips that grade on Gradescope."""
    from .package import build_zip

    can_write(out)
    for lesson in _lessons(lessons):
        console.print(f"wrote {_relative(build_zip(lesson, out))}")


@app.command("rehearse")
def rehearse_zips(lessons: Names = None, dist: DistFolder = Path("dist"), out: OutFolder = Path("results")) -> None:
    """Grade solution, stub and a wrong sample of every lesson through the zips, as Gradescope would.

    Exits with 1 where the solution does not get everything or the stub gets something.
    """
    from .rehearse import rehearse, showpieces, surprises

    can_write(out)
    cards, wrong = [], []
    for lesson in _lessons(lessons):
        for submission in showpieces(lesson):
            with console.status(f"{lesson.name}: {submission.student}"):
                card = rehearse(dist / f"{lesson.name}-autograder.zip", submission.files).card
            cards.append(replace(card, student=f"{lesson.name} {submission.student}"))
            wrong += surprises(lesson.name, submission.student, card)
            kept_as = out / lesson.name / submission.student / kept.CARD
            write(kept_as, replace(card, student=submission.student).to_json())  # a rehearsal replaces the one before
    console.print(table.many(cards))
    console.print(f"scorecards: {out}/<lesson>/<submission>/scorecard.json")
    for sentence in wrong:
        console.print(f"[bold magenta]error:[/] {escape(sentence)}")
    _exit_with(cards, failed=bool(wrong))


@app.command()
def export(
    cards: Annotated[list[Path], typer.Argument(help="scorecard.json files, or folders with some below.")],
    format: Annotated[str, typer.Option("--format", help="gradescope, otter or csv.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; without it, standard output.")] = None,
) -> None:
    """Write scorecards in another system's format; one that cannot be read is named, and the others are written."""
    from .exports import encoded

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


@app.command()
def mutants(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    module: Annotated[list[str] | None, typer.Option("--module", help="This module only.")] = None,
    processes: Annotated[
        int, typer.Option(help="How many work side by side, a core each; 0 takes all cores.", min=0)
    ] = 0,
) -> None:
    """Grade systematic mutants of a lesson's solutions, list those that survive, and write docs/proof.md."""
    from .prove import ProofTable, as_entry, prove

    chosen = load(lesson)
    chosen.require(module or ())
    table_of_proofs = ProofTable.read(chosen.root / "docs" / "proof.md")
    unexplained = 0
    for name in module or chosen.modules:
        with _progress(name) as on_progress:
            proof = prove(chosen, name, processes or default_processes(), on_progress)
        solution = (chosen.solution / f"{name}.py").read_text("utf-8")
        for mutant in proof.survivors:
            print(mutant.diff(solution, f"{name}.py"), as_entry(name, mutant), sep="\n", end="\n\n")
        for old, new in proof.stale:
            print(
                f"equivalent.toml explains a mutant of {name} that does not survive: {old!r} -> {new!r}: remove the entry"
            )
        console.print(
            f"{name}: {proof.killed} of {proof.mutants} killed, {len(proof.explained)} explained, {len(proof.survivors)} survive: {proof.share:.1f} %"
        )
        table_of_proofs.put(chosen, proof)
        unexplained += len(proof.survivors) + len(proof.stale)
    table_of_proofs.write()
    raise typer.Exit(1 if unexplained else 0)


@app.command()
def flaky(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    seeds: Annotated[int, typer.Option("-n", help="How many seeds.", min=1)] = 30,
    processes: Annotated[
        int, typer.Option(help="How many work side by side, a core each; 0 takes all cores.", min=0)
    ] = 0,
) -> None:
    """Grade the solution and every right sample under many seeds: one lost point fails."""
    from .prove import lost_points

    with _progress(f"{seeds} seeds") as on_progress:
        lost = lost_points(load(lesson), range(seeds), processes or default_processes(), on_progress)
    for name, seed, test, message in lost:
        console.print(escape(f"{name}, seed {seed}: {test}: {message}"))
    console.print(f"{len(lost)} points lost under {seeds} seeds")
    raise typer.Exit(1 if lost else 0)


@app.command()
def idle(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    processes: Annotated[
        int, typer.Option(help="How many work side by side, a core each; 0 takes all cores.", min=0)
    ] = 0,
) -> None:
    """List the tests that no wrong sample and no mutant fails: they carry no weight."""
    from .prove import idle_tests

    with _progress("samples and mutants") as on_progress:
        found = idle_tests(load(lesson), processes or default_processes(), on_progress)
    for module, tests in found.items():
        console.print(*(f"{module}.{test}" for test in sorted(tests)), sep="\n")
    console.print(f"{sum(map(len, found.values()))} tests carry no weight")


@contextmanager
def _progress(name: str):
    with Progress(
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _lessons(names: list[str] | None) -> list[Lesson]:
    return [load(name) for name in names] if names else load_all()


def _relative(path: Path) -> str:
    return os.path.relpath(path, find_root()) if path.is_relative_to(find_root()) else str(path)


def _exit_with(cards: list[Scorecard], wrong: Sequence[str] = (), failed: bool = False) -> None:
    """2 where something was wrong with what was given, 1 after a grader error or where something `failed`, else 0."""
    broken = [(card, row) for card in cards for row in card.grader_errors]
    for card, row in broken[:5]:
        console.print(
            f"[bold magenta]grader error[/] {escape(f'{card.student}: {row.module} {row.test}: {row.detail or row.message}')}"
        )
    if broken:
        console.print(f"{len(broken)} grader errors: mend the tests, then grade again.")
    for problem in wrong:
        console.print(f"[red]error:[/red] {escape(problem)}")
    raise typer.Exit(2 if wrong else 1 if broken or failed else 0)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends no grading
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's wish to stop is as Ctrl-C
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
