"""For authors of lessons: new-lesson, what a suite says (messages), and what it is worth: mutants, costs, flaky, idle."""

from typing import Annotated

import typer
from rich.markup import escape

from ..batch import default_processes
from ..files import write
from ..lesson import find_root, load, load_all
from ..points import number
from .shared import Processes, app, console, progress, relative


@app.command("new-lesson")
def new_lesson_command(
    name: Annotated[str, typer.Argument(help="Two digits and words: 10-tokenizers.")],
    modules: Annotated[list[str], typer.Argument(help="Its modules.")],
) -> None:
    """Write the skeleton of a lesson, which works and is to be written over (docs/authors.md)."""
    from ..author.skeleton import new_lesson

    lesson = new_lesson(find_root(), name, modules)
    console.print(
        f"wrote {relative(lesson.assignment)}, its solution, starter, tests and samples; docs/authors.md says what comes next"
    )


@app.command()
def messages(
    lesson: Annotated[str, typer.Argument(help="The lesson; without one, every lesson.")] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Only those that break a rule of wording, with advice.")
    ] = False,
) -> None:
    """List every message that a student can see: a lesson's titles and mistakes, and what the grader itself says."""
    from ..author.messages import grader_messages, suite_messages

    found = [message for each in ([load(lesson)] if lesson else load_all()) for message in suite_messages(each)]
    found += grader_messages()
    for message in found:
        line = f"{relative(message.file)}:{message.line}: {message.kind}: {message.text.strip()}"
        if not check:
            print(line)
        elif message.faults:
            print(f"{line}\n    {'; '.join(message.faults)}")
    raise typer.Exit(1 if check and any(message.faults for message in found) else 0)


@app.command()
def mutants(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    module: Annotated[list[str] | None, typer.Option("--module", help="This module only.")] = None,
    processes: Processes = 0,
) -> None:
    """Grade systematic mutants of a lesson's solutions, list those that survive, and write docs/proof.md."""
    from ..author.prove import ProofTable, as_entry, prove

    chosen = load(lesson)
    chosen.require(module or ())
    table_of_proofs = ProofTable.read(chosen.root / "docs" / "proof.md")
    unexplained = 0
    for name in module or chosen.modules:
        with progress(name) as on_progress:
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
        if proof.losses:
            console.print(escape(_what_a_mistake_costs(name, "mutant", proof.losses)))
        table_of_proofs.put(chosen, proof)
        unexplained += len(proof.survivors) + len(proof.stale)
    table_of_proofs.write()
    raise typer.Exit(1 if unexplained else 0)


@app.command()
def costs(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    module: Annotated[list[str] | None, typer.Option("--module", help="This module only.")] = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="What some mutants cost, too.")] = False,
    processes: Processes = 0,
) -> None:
    """Grade every wrong sample by whole suites, list those that cost more than a quarter, and write docs/proof.md."""
    from ..author.costs import CostTables, as_tsv, measure, problems
    from ..author.prove import ProofTable, losses_of_mutants

    chosen = load(lesson)
    chosen.require(module or ())
    processes, page = processes or default_processes(), chosen.root / "docs" / "proof.md"
    with progress("wrong samples") as on_progress:
        found = measure(chosen, module or (), processes, on_progress)
    tables = CostTables.read(page)
    for name, losses in found.items():
        tables.put(chosen, name, losses)
        if losses:
            console.print(escape(_what_a_mistake_costs(name, "sample", losses)))
    tables.write()
    everything = [loss for losses in found.values() for loss in losses]
    rows = chosen.root / "results" / "costs" / f"{chosen.name}.tsv"
    write(rows, as_tsv(everything))
    console.print(f"what each costs, and in which tests: {relative(rows)}")
    if mutants:
        table_of_proofs = ProofTable.read(page)
        for name in found:
            losses = losses_of_mutants(chosen, name, processes)
            table_of_proofs.put_losses(chosen, name, losses)
            console.print(escape(_what_a_mistake_costs(name, "mutant", losses)))
        table_of_proofs.write()
    wrong = problems(everything)
    console.print(escape("\n".join(wrong)))
    raise typer.Exit(1 if wrong else 0)


def _what_a_mistake_costs(module, kind, losses):
    from ..author.costs import Summary

    summary = Summary.of_losses(losses)
    median, most, worst, of = map(number, (summary.median, summary.most, summary.worst.points, summary.of))
    return (
        f"{module}: a {kind} costs {median} of {of} points in the median, nine in ten at most {most}; "
        f"the worst {worst}: {summary.worst.name}"
    )


@app.command()
def flaky(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    seeds: Annotated[int, typer.Option("-n", help="How many seeds.", min=1)] = 30,
    processes: Processes = 0,
) -> None:
    """Grade the solution and every right sample under many seeds: one lost point fails."""
    from ..author.prove import lost_points

    with progress(f"{seeds} seeds") as on_progress:
        lost = lost_points(load(lesson), range(seeds), processes or default_processes(), on_progress)
    for name, seed, test, message in lost:
        console.print(escape(f"{name}, seed {seed}: {test}: {message}"))
    console.print(f"{len(lost)} points lost under {seeds} seeds")
    raise typer.Exit(1 if lost else 0)


@app.command()
def idle(
    lesson: Annotated[str, typer.Argument(help="The lesson.")],
    processes: Processes = 0,
) -> None:
    """List the tests that no wrong sample and no mutant fails, and the mistakes that none of them was told."""
    from ..author.idle import idle as idle_of

    with progress("samples and mutants") as on_progress:
        found = idle_of(load(lesson), processes or default_processes(), on_progress)
    for module, tests in found.tests.items():
        console.print(*(f"{module}.{test}" for test in sorted(tests)), sep="\n")
    for sentences in found.sentences.values():
        for one in sentences:
            print(f"{relative(one.file)}:{one.line}: {one.text}")
    console.print(
        f"{sum(map(len, found.tests.values()))} tests carry no weight, and "
        f"{sum(map(len, found.sentences.values()))} mistakes were told to nobody"
    )
