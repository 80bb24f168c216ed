"""What one mistake costs: every wrong sample graded by the whole suite of the modules that it changes.

A mistake should cost the tests that are about it. Where it costs more than a quarter of its module, either tests lean on
one another, which is to be mended, or the sample says in `costs` why the mistake breaks everything. All samples are graded
under one seed, so that the figures can be reproduced. docs/proof.md shows them, in two tables that stand between markers.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from ..batch import Job, run
from ..errors import GraderFault
from ..files import write
from ..lesson import Lesson
from ..options import Asked
from ..points import added, number
from ..scorecard import FAILED, NOT_REACHED, PASSED, Scorecard
from .samples import WRONG, load_samples

SEED = 0
MUCH = 0.25  # of a module's points: what costs more says why
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loss:
    """What one wrong submission loses of a module: `points` of `of`, in these tests; `reason` is the sample's `costs`."""

    name: str
    module: str
    points: float
    of: float
    tests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def share(self) -> float:
        return self.points / self.of if self.of else 0.0

    @property
    def is_much(self) -> bool:
        return self.share > MUCH


@dataclass(frozen=True)
class Summary:
    """The losses of one module, in points: half of the samples lose at most the median, nine in ten at most `most`."""

    samples: int
    of: float
    median: float
    most: float
    worst: Loss

    @classmethod
    def of_losses(cls, losses: Sequence[Loss]) -> "Summary":
        points = [loss.points for loss in losses]
        most = quantiles(points, n=10, method="inclusive")[-1] if len(points) > 1 else points[0]
        return cls(len(losses), losses[0].of, median(points), most, max(losses, key=lambda loss: loss.share))


# ---------------------------------------------------------------------------------------------- measuring


def losses_in(card: Scorecard, name: str, modules: Iterable[str], reason: str = "") -> list[Loss]:
    """What the card's submission lost, by module. Tests that wait for a GPU and those that are broken do not count."""
    found = []
    for module in modules:
        rows = [row for row in card.outcomes if row.module == module and row.status in (PASSED, FAILED, NOT_REACHED)]
        lost = [row for row in rows if row.status != PASSED]
        points, of = added(row.max_points - row.points for row in lost), added(row.max_points for row in rows)
        found.append(Loss(name, module, points, of, tuple(row.test for row in lost), reason))
    return found


def measure(
    lesson: Lesson,
    modules: Iterable[str] = (),
    processes: int | None = None,
    on_progress: OnProgress = lambda done, of: None,
) -> dict[str, list[Loss]]:
    """module -> what each wrong sample loses of it, the most first; of these modules, or of all if none is named.

    Raises:
        GraderFault: a test is broken, so that what it is worth could not be counted.
    """
    modules = tuple(modules) or lesson.modules
    samples = [sample for sample in load_samples(lesson, (WRONG,)) if set(sample.modules) & set(modules)]
    jobs = [Job(sample.submission(), Asked(sample.modules, seed=SEED)) for sample in samples]
    found: dict[str, list[Loss]] = {module: [] for module in modules}
    for done, (index, card) in enumerate(run(lesson, jobs, processes=processes), 1):
        on_progress(done, len(jobs))
        sample = samples[index]
        for row in card.grader_errors:
            raise GraderFault(f"{sample.path}: {row.module} {row.test} is a grader error: {row.detail or row.message}")
        for loss in losses_in(card, sample.name, sample.modules, sample.expect.costs or ""):
            found.get(loss.module, []).append(loss)
    return {module: sorted(losses, key=lambda loss: (-loss.share, loss.name)) for module, losses in found.items()}


def problems(losses: Iterable[Loss]) -> list[str]:
    """Samples that cost much without a reason, and reasons of samples that do not cost much."""
    found = []
    for loss in losses:
        cost = f"{loss.name} costs {number(loss.points)} of {number(loss.of)} points of {loss.module}"
        if loss.is_much and not loss.reason:
            found.append(f"{cost}, more than a quarter: make its tests independent, or say why in `costs`")
        if loss.reason and not loss.is_much:
            found.append(f"{cost}, not more than a quarter: remove `costs`")
    return found


def as_tsv(losses: Iterable[Loss]) -> str:
    """sample, module, points lost, of, the tests that failed: one line for each loss."""
    rows = [(loss.name, loss.module, number(loss.points), number(loss.of), ",".join(loss.tests)) for loss in losses]
    return "".join("\t".join(row) + "\n" for row in rows)


# ---------------------------------------------------------------------------------------------- docs/proof.md

MEDIANS, MUCHES = "what one mistake costs", "what costs more than a quarter"


@dataclass
class CostTables:
    """The two tables of docs/proof.md; rows of modules that are not measured anew stay."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> "CostTables":
        return cls(path, path.read_text("utf-8"))

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's rows."""
        lines = re.findall(r"^\| (\d\d-.*) \|$", self._part(table)[1], re.MULTILINE)
        return [line.split(" | ") for line in lines]

    def put(self, lesson: Lesson, module: str, losses: Sequence[Loss]) -> None:
        if losses:
            summary = Summary.of_losses(losses)
            figures = map(number, (summary.of, summary.samples, summary.median, summary.most, summary.worst.points))
            self._replace(MEDIANS, lesson.name, module, [[*figures, summary.worst.name]])
        much = [loss for loss in losses if loss.is_much]
        self._replace(
            MUCHES,
            lesson.name,
            module,
            [[loss.name, number(loss.points), number(loss.of), loss.reason or "none yet"] for loss in much],
        )

    def write(self) -> None:
        write(self.path, self.text)

    def _replace(self, table, lesson, module, rows):
        before, body, after = self._part(table)
        head = body.lstrip("\n").splitlines()[:2]
        others = [row for row in self.rows(table) if row[:2] != [lesson, module]]
        lines = [
            f"| {' | '.join(row)} |" for row in sorted(others + [[lesson, module, *row] for row in rows], key=_order)
        ]
        self.text = "\n".join([before, "", *head, *lines, "", after])

    def _part(self, table):
        """What is before the table, the table, and what is after it; the markers belong to the outside."""
        begin, end = f"<!-- {table}: written by `make costs` -->", f"<!-- end: {table} -->"
        before, _, rest = self.text.partition(begin)
        body, _, after = rest.partition(end)
        return before + begin, body, end + after


def _order(row):
    return row[:2]  # rows of one module stay in their order: the most first
