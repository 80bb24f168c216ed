"""What a grading says: frozen data, no I/O. Everything that shows or exports results starts here."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property

PASSED = "passed"
FAILED = "failed"
NOT_REACHED = "not_reached"
PENDING_GPU = "pending_gpu"
GRADER_ERROR = "grader_error"
STATUSES = (PASSED, FAILED, NOT_REACHED, PENDING_GPU, GRADER_ERROR)
CAUSES = ("unreadable", "missing", "syntax", "import", "timeout", "died")  # why code gave no answer at all


@dataclass(frozen=True)
class Outcome:
    """The verdict on one test function: all of its parametrized cases together.

    Attributes:
        test: the function's name. module: the module that it tests. question: what it belongs to.
        title: what the student reads. status: one of STATUSES.
        points: earned, of max_points. message: why, for the student; empty if passed.
        mistake: the known mistake that was recognised, or None. seconds: wall time of all cases.
        detail: more for the instructor: tracebacks, the grader's own error. Never shown to students.
        cause: one of CAUSES where the code gave no answer (the submission or the module cannot be read, is missing, is no
            Python, needs a package that is not there, took too long, or its process ended); else "".
    """

    test: str
    module: str
    question: str
    title: str
    status: str
    points: float
    max_points: float
    message: str = ""
    mistake: str | None = None
    seconds: float = 0.0
    detail: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Evidence:
    """A use of what the lesson forbids.

    Attributes:
        module: where. name: what was used. where: "file.py:line". how: "source" (it stands there) or "run" (it was called).
        test: during which test it was called.
    """

    module: str
    name: str
    where: str
    how: str
    test: str = ""


@dataclass(frozen=True)
class Scorecard:
    """One submission, graded.

    Attributes:
        lesson, student, submission: names; submission is where it was taken from.
        seed: of all random inputs: with it the grading can be replayed. Instructors only.
        digests: of the lesson's suite and of the submission: what was graded with what.
        environment: versions of Python, torch and the package. layers: what confined the student's code.
        visibility: when students may see the hidden tests' rows (Gradescope's words).
        scale_to: what the lesson's points are scaled to in exports' totals, or None.
        notes: what was left out of the submission. evidence: uses of what the lesson forbids.
        student_output: what the code printed, capped. Instructors only.
    """

    lesson: str
    student: str
    seed: int
    outcomes: tuple[Outcome, ...]
    submission: str = ""
    digests: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    visibility: str = "visible"
    scale_to: float | None = None
    notes: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    student_output: str = ""

    @cached_property
    def scored(self) -> tuple[Outcome, ...]:
        """The outcomes with the points that they count in the total: scaled, in whole cents that add up to it."""
        return tuple(_in_cents(self.outcomes, self.scale_to))

    @property
    def counted(self) -> tuple[Outcome, ...]:
        """Of `scored`, what the total is made of: what waits for a GPU is outside until it has run."""
        return tuple(outcome for outcome in self.scored if outcome.status != PENDING_GPU)

    @property
    def score(self) -> float:
        return added(outcome.points for outcome in self.counted)

    @property
    def max_score(self) -> float:
        return added(outcome.max_points for outcome in self.counted)

    @property
    def pending_gpu_points(self) -> float:
        return added(outcome.max_points for outcome in self.scored if outcome.status == PENDING_GPU)

    @property
    def grader_errors(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == GRADER_ERROR)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_json(self) -> str:
        """scorecard.json: the totals for readers, and all that from_json needs."""
        totals = {"score": self.score, "max_score": self.max_score, "pending_gpu_points": self.pending_gpu_points}
        body = asdict(self)
        head = {key: body.pop(key) for key in ("lesson", "student")}
        return json.dumps({**head, **totals, **body}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Scorecard":
        """Raises ValueError, KeyError or TypeError where the text is no scorecard."""
        data = json.loads(text)
        for total in ("score", "max_score", "pending_gpu_points"):
            data.pop(total)
        data["outcomes"] = tuple(Outcome(**outcome) for outcome in data["outcomes"])
        data["evidence"] = tuple(Evidence(**found) for found in data["evidence"])
        data["layers"], data["notes"] = tuple(data["layers"]), tuple(data["notes"])
        return cls(**data)


def merge(first: Scorecard, second: Scorecard) -> Scorecard:
    """One scorecard of two gradings of the same work: what waits for a GPU in one is taken from the other.

    Raises:
        ValueError: they are not of the same lesson, student, suite and submission.
    """
    for what in ("lesson", "student"):
        if getattr(first, what) != getattr(second, what):
            raise ValueError(
                f"the scorecards are of different {what}s: {getattr(first, what)} and {getattr(second, what)}"
            )
    for what in ("suite", "submission"):
        if first.digests.get(what) != second.digests.get(what):
            raise ValueError(f"the scorecards are of another {what} each: grade the same {what} on both machines")
    others = {(row.module, row.test): row for row in second.outcomes}
    rows = [_decided(row, others.pop((row.module, row.test), row)) for row in first.outcomes]
    return replace(
        first,
        outcomes=(*rows, *others.values()),
        evidence=tuple(dict.fromkeys((*first.evidence, *second.evidence))),
        environment={**first.environment, "merged_with": second.environment},
    )


def _decided(row, other):
    return other if row.status == PENDING_GPU else row


# ---------------------------------------------------------------------------------------------- points in cents


def added(points: Iterable[float]) -> float:
    """The sum of amounts in cents, in cents: 30 times 0.1 is 3.0."""
    return round(math.fsum(points), 2)


def number(points: float) -> str:
    """Points as people read them: 3, 0.5, 12.34."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def _in_cents(outcomes, scale_to):
    """The outcomes, worth whole cents that are the total's: the exact values, rounded down, and the cents that are then
    missing go to those that lost most (largest remainder), so that none is a cent or more from its exact value.

    Which of equals get a cent depends on their names, not on their order: two cards of one suite agree.
    """
    if not all(math.isfinite(row.max_points) for row in outcomes):
        return outcomes
    points = [Fraction(str(row.max_points)) for row in outcomes]  # 0.1 as it is written
    factor = Fraction(str(scale_to)) / sum(points) if scale_to and sum(points) else 1
    exact = [100 * factor * worth for worth in points]
    cents = [math.floor(value) for value in exact]
    missing = math.floor(sum(exact) + Fraction(1, 2)) - sum(cents)
    lost = sorted(range(len(cents)), key=lambda i: (cents[i] - exact[i], outcomes[i].module, outcomes[i].test))
    for index in lost[:missing]:
        cents[index] += 1
    return [_worth(row, worth) for row, worth in zip(outcomes, cents, strict=True)]


def _worth(row, cents):
    """The row, worth so many cents; it has earned all of them or none, or the same share as before."""
    share = row.points / row.max_points if row.max_points else 0.0
    earned = round(share * cents) / 100 if math.isfinite(share) else row.points
    return replace(row, points=earned, max_points=cents / 100)
