"""Proves a suite: mutants of the solution must fail it, and correct work must pass it under every seed.

    mutants    how many of all small changes to the solution a module's suite finds; the rest are listed, or explained
    flaky      the solution and every right sample under many seeds: one lost point is one too many

tests/submissions/NN-lesson/equivalent.toml explains survivors: a mutant that no test can or should find, each with a reason.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..batch import Job, run
from ..errors import LessonError, nearest
from ..files import write
from ..lesson import Lesson
from ..options import Asked
from ..points import number
from ..scorecard import FAILED, GRADER_ERROR, NOT_REACHED, PASSED, PENDING_GPU, Scorecard
from ..submission import Submission
from ..tomls import record_of, toml_of
from .costs import SEED, Loss, Summary, losses_in
from .mutants import Mutant, mutants_of
from .samples import RIGHT, load_samples

_CALL_TIMEOUT_S = (
    4.0  # of processor time, as in lesson.toml: a mutant that hangs is found all the same, and no slow one
)
_MOST_MEASURED = 40  # mutants of a module that are graded by its whole suite, to see what they cost
OnProgress = Callable[[int, int], None]


class Equivalent(BaseModel):
    """A mutant that is as right as the solution, named by the changed lines of both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    old: str
    new: str
    why: str


class _Explanations(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    equivalent: tuple[Equivalent, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What mutation says of one module's suite."""

    module: str
    tests: int
    samples: int
    mutants: int
    explained: tuple[tuple[Mutant, str], ...] = ()
    survivors: tuple[Mutant, ...] = ()
    losses: tuple[Loss, ...] = ()  # of at most _MOST_MEASURED mutants
    stale: tuple[tuple[str, str], ...] = ()  # (old, new) of entries of equivalent.toml that explain no survivor

    @property
    def killed(self) -> int:
        return self.mutants - len(self.explained) - len(self.survivors)

    @property
    def share(self) -> float:
        """Percent killed of those that can be."""
        return 100 * self.killed / max(1, self.mutants - len(self.explained))


# ---------------------------------------------------------------------------------------------- mutants


def prove(
    lesson: Lesson, module: str, processes: int | None = None, on_progress: OnProgress = lambda done, of: None
) -> Proof:
    """Grades every mutant of a module's solution."""
    file = f"{module}.py"
    mutants = mutants_of((lesson.solution / file).read_text("utf-8"), file)
    reasons = _reasons(lesson, module)
    survivors = []
    jobs = [job_of(lesson, module, mutant, Asked((module,), stop_early=True)) for mutant in mutants]
    cards = run(hurried(lesson), jobs, processes=processes)
    for done, (index, card) in enumerate(cards, 1):
        on_progress(done, len(mutants))
        if not lost_tests(card):
            survivors.append(mutants[index])
    survivors.sort(key=lambda mutant: mutant.line)
    explained = tuple(
        (mutant, reasons[mutant.old, mutant.new]) for mutant in survivors if (mutant.old, mutant.new) in reasons
    )
    stale = tuple(sorted(set(reasons) - {(mutant.old, mutant.new) for mutant, _ in explained}))
    unexplained = tuple(mutant for mutant in survivors if (mutant.old, mutant.new) not in reasons)
    samples = [sample for sample in load_samples(lesson) if module in sample.modules]
    tests, losses = _count_tests(lesson, module), tuple(losses_of_mutants(lesson, module, processes))
    return Proof(module, tests, len(samples), len(mutants), explained, unexplained, losses, stale)


def losses_of_mutants(lesson: Lesson, module: str, processes: int | None = None) -> list[Loss]:
    """What mutants lose of the whole suite: of at most _MOST_MEASURED, evenly spread over the module, since a mutant that
    is only to be found ends at the first test that fails. Those that lose nothing are left out."""
    mutants = mutants_of((lesson.solution / f"{module}.py").read_text("utf-8"), f"{module}.py")
    chosen = mutants[:: -(-len(mutants) // _MOST_MEASURED) or 1]
    jobs = [job_of(lesson, module, mutant, Asked((module,), seed=SEED)) for mutant in chosen]
    found = []
    for index, card in run(hurried(lesson), jobs, processes=processes):
        found += losses_in(card, f"line {chosen[index].line}: {chosen[index].old} -> {chosen[index].new}", [module])
    return [loss for loss in found if loss.points]


def hurried(lesson: Lesson) -> Lesson:
    """The lesson with less time for a call: a mutant that hangs is found all the same."""
    return lesson.model_copy(update={"call_timeout_s": min(lesson.call_timeout_s, _CALL_TIMEOUT_S)})


def job_of(lesson: Lesson, module: str, mutant: Mutant, asked: Asked) -> Job:
    """How a mutant of a module is graded."""
    files = lesson.solution_files() | {f"{module}.py": mutant.source.encode()}
    return Job(Submission("mutant", "", files), asked)


def lost_tests(card: Scorecard) -> set[str]:
    """The tests that found something; one that the solution fails too finds nothing."""
    return {row.test for row in card.outcomes if row.status in (FAILED, NOT_REACHED)}


def _count_tests(lesson, module):
    texts = [path.read_text("utf-8") for path in lesson.hidden_tests(module)]
    return sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in texts)


def _reasons(lesson, module):
    return {(entry.old, entry.new): entry.why for entry in explanations(lesson) if entry.module == module}


def explanations(lesson: Lesson) -> tuple[Equivalent, ...]:
    """The entries of the lesson's equivalent.toml.

    Raises:
        LessonError: one is not complete, names no module of the lesson, or stands there twice.
    """
    path = lesson.samples / "equivalent.toml"
    entries = record_of(path, _Explanations, toml_of(path)).equivalent if path.exists() else ()
    for place, entry in enumerate(entries, 1):
        where = f"{path}: entry {place} ({entry.old!r})"
        if entry.module not in lesson.modules:
            raise LessonError(
                f"{where}: {lesson.name} has no module {entry.module!r}{nearest(entry.module, lesson.modules)}"
            )
        if not entry.why.strip():
            raise LessonError(f"{where}: why is empty: say why no test can or should find it")
        if any(
            (entry.module, entry.old, entry.new) == (other.module, other.old, other.new)
            for other in entries[: place - 1]
        ):
            raise LessonError(f"{where} stands there twice: remove one")
    return entries


def as_entry(module: str, mutant: Mutant) -> str:
    """The stanza of equivalent.toml for a survivor, with the reason left to write."""
    lines = [
        "[[equivalent]]",
        f'module = "{module}"',
        f"old = {_quoted(mutant.old)}",
        f"new = {_quoted(mutant.new)}",
        'why = ""',
    ]
    return "\n".join(lines)


def _quoted(text):
    return f"'{text}'" if "'" not in text else f"'''{text}'''"


# ---------------------------------------------------------------------------------------------- flaky


def lost_points(
    lesson: Lesson, seeds: Iterable[int], processes: int | None = None, on_progress: OnProgress = lambda done, of: None
):
    """(submission, seed, test, message) of every point that correct work lost under one of the seeds."""
    right = [(f"right/{sample.name}", sample.submission(), sample.modules) for sample in load_samples(lesson, (RIGHT,))]
    correct = [("solution", Submission("solution", "", lesson.solution_files()), None), *right]
    cases = [
        (name, seed, Job(submission, Asked(modules, seed=seed)))
        for seed in seeds
        for name, submission, modules in correct
    ]
    found = []
    for done, (index, card) in enumerate(run(lesson, [job for _, _, job in cases], processes=processes), 1):
        on_progress(done, len(cases))
        name, seed, _ = cases[index]
        found += [(name, seed, row.test, _why(row)) for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)]
    return sorted(found)


def _why(row):
    """What a failure says; of a grader error, what the solution got."""
    return row.detail.partition("\n")[0] if row.status == GRADER_ERROR else row.message


# ---------------------------------------------------------------------------------------------- docs/proof.md

_HEAD = """# Proof

What shows that the hidden suites find mistakes. `make mutants LESSON=…` writes a lesson's lines: systematic mutants of each
solution (autograder/author/mutants.py), graded by the module's suite. *Explained* are survivors that no test can or should find,
each with its reason in `tests/submissions/<lesson>/equivalent.toml`; killed is the share of the others. The last columns say
what a mutant costs, of the module's points: at most 40 mutants, evenly spread over the module, are graded by its whole suite.

A line is as old as the last run for its module: tests and samples that came later are not counted in it.

| lesson | module | tests | samples | mutants | killed | explained | survivors | points | median | worst |
|---|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass
class ProofTable:
    """docs/proof.md: one line a module, kept for the modules that were not proved anew; `sections`, which follow, are kept."""

    path: Path
    lines: dict[tuple[str, str], str] = field(default_factory=dict)
    sections: str = ""

    @classmethod
    def read(cls, path: Path) -> "ProofTable":
        text = path.read_text("utf-8") if path.exists() else ""
        table, heading, rest = text.partition("\n## ")
        lines = re.finditer(r"^\| (\d\d-\S+) \| (\S+) \|.*$", table, re.MULTILINE)
        return cls(path, {(line[1], line[2]): line[0] for line in lines}, heading + rest)

    def put(self, lesson: Lesson, proof: Proof) -> None:
        figures = [
            proof.tests,
            proof.samples,
            proof.mutants,
            f"{proof.share:.1f} %",
            len(proof.explained),
            len(proof.survivors),
        ]
        self.lines[lesson.name, proof.module] = f"| {lesson.name} | {proof.module} | {' | '.join(map(str, figures))} |"
        self.put_losses(lesson, proof.module, proof.losses)

    def put_losses(self, lesson: Lesson, module: str, losses: Sequence[Loss]) -> None:
        """What mutants cost, as the last cells of the module's line, if it has one."""
        line = self.lines.get((lesson.name, module))
        if line is None or not losses:
            return
        summary = Summary.of_losses(losses)
        cells = line.strip("| ").split(" | ")[:8] + [
            number(x) for x in (summary.of, summary.median, summary.worst.points)
        ]
        self.lines[lesson.name, module] = f"| {' | '.join(cells)} |"

    def write(self) -> None:
        write(self.path, _HEAD + "\n".join(self.lines[key] for key in sorted(self.lines)) + "\n" + self.sections)
