"""What one mistake costs: every wrong sample graded by the whole suite of the modules that it changes.

A fault should cost the tests that are about it. Where it costs more than a quarter of its module, either the tests lean on
one another, or the sample says in `costs` why the mistake breaks everything. All are graded under one seed, so that a
figure can be had again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..batch import Job, run
from ..errors import GraderFault
from ..lesson import Lesson
from ..points import added
from ..scorecard import FAILED, NOT_REACHED, PASSED, Scorecard
from .samples import WRONG, Sample, load_samples

SEED = 0
MUCH = 0.25  # of a module's points: what costs more says why
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loss:
    """What one wrong submission loses of a module: points of `of`, in these tests."""

    name: str
    module: str
    points: float
    of: float
    tests: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return self.points / self.of if self.of else 0.0

    @property
    def is_much(self) -> bool:
        return self.share > MUCH


def losses_in(card: Scorecard, name: str, modules: Iterable[str]) -> list[Loss]:
    """What the card's submission lost, by module; tests that wait for a GPU, and those that are broken, do not count.

    Raises:
        GraderFault: nothing was graded.
    """
    found = []
    for module in modules:
        rows = [row for row in card.outcomes if row.module == module and row.status in (PASSED, FAILED, NOT_REACHED)]
        if not rows:
            raise GraderFault(f"{name}: no test of {module} was graded: {[row.detail for row in card.grader_errors]}")
        lost = [row for row in rows if row.status != PASSED]
        points = added(row.max_points - row.points for row in lost)
        found.append(Loss(name, module, points, added(row.max_points for row in rows), tuple(row.test for row in lost)))
    return found


def measure(
    lesson: Lesson,
    modules: Sequence[str] = (),
    processes: int | None = None,
    on_progress: OnProgress = lambda done, of: None,
) -> list[Loss]:
    """What each wrong sample of these modules (all, if none are named) loses, the most first."""
    chosen = [sample for sample in load_samples(lesson, (WRONG,)) if set(sample.modules) & set(modules or lesson.modules)]
    jobs = [Job(sample.submission(), {"modules": sample.modules, "seed": SEED}) for sample in chosen]
    found = []
    for done, (index, card) in enumerate(run(lesson, jobs, processes=processes), 1):
        on_progress(done, len(jobs))
        found += losses_in(card, chosen[index].name, chosen[index].modules)
    return sorted(found, key=lambda loss: (-loss.share, loss.module, loss.name))
