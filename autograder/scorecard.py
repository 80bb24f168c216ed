"""What a grading says: frozen data, no I/O. Everything that shows or exports results starts here."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from .points import added, in_cents

PASSED = "passed"
FAILED = "failed"
NOT_REACHED = "not_reached"
PENDING_GPU = "pending_gpu"
GRADER_ERROR = "grader_error"
STATUSES = (PASSED, FAILED, NOT_REACHED, PENDING_GPU, GRADER_ERROR)
_MOST_OUTPUT = 200_000  # characters of what joined gradings printed
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
        digests: of the lesson's suite and of the submission: what was graded with what; "prerequisites" is "own" where the
            student's modules of used lessons were taken.
        environment: versions of Python, torch and the package. layers: what confined the student's code.
        visibility: when students may see the hidden tests' rows (Gradescope's words).
        scale_to: what the lesson's points are scaled to in exports' totals, or None.
        notes: what was left out of the submission, how the card was joined. evidence: uses of what the lesson forbids.
        student_output: what the code printed, capped. Instructors only.
        modules: those that were graded with all their tests. ungraded: the lesson's others: the card is partial if there
            are some (--module, --gpu-only). Both are empty in cards of older versions.
        seeds: "module.test" -> the seed of a row that was joined from a grading with another seed.
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
    modules: tuple[str, ...] = ()
    ungraded: tuple[str, ...] = ()
    seeds: dict = field(default_factory=dict)

    @property
    def partial(self) -> str:
        """What the card is where it is not a whole grading of the lesson, in words; "" where it is."""
        if not self.ungraded:
            return ""
        return (
            f"only {', '.join(self.modules)}" if self.modules else "only some tests (those for a GPU, or chosen ones)"
        )

    def seed_of(self, row: Outcome) -> int:
        return self.seeds.get(f"{row.module}.{row.test}", self.seed)

    @cached_property
    def scored(self) -> tuple[Outcome, ...]:
        """The outcomes with the points that they count in the total: scaled, in whole cents that add up to it.

        A partial card is not scaled: scale_to is what the whole lesson is worth.
        """
        return tuple(in_cents(self.outcomes, None if self.ungraded else self.scale_to))

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
        return json.dumps({**head, **totals, "partial": self.partial, **body}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Scorecard":
        """Raises ValueError, KeyError or TypeError where the text is not a scorecard."""
        data = _object(json.loads(text), "a scorecard")
        for total in ("score", "max_score", "pending_gpu_points"):
            data.pop(total)
        data.pop("partial", None)
        data["outcomes"] = tuple(_outcome(row) for row in data["outcomes"])
        data["evidence"] = tuple(Evidence(**_object(found, "evidence")) for found in data["evidence"])
        for name in ("layers", "notes", "modules", "ungraded"):
            data[name] = tuple(_texts(data.get(name, []), name))
        card = cls(**data)
        _texts([card.lesson, card.student, card.submission, card.student_output, card.visibility], "names")
        for name in ("digests", "environment", "seeds"):
            _object(getattr(card, name), name)
        if card.scale_to is not None:
            _amount(card.scale_to, "scale_to")
        return card


def _object(value, what):
    if not isinstance(value, dict):
        raise ValueError(f"{what} should be an object and is {type(value).__name__}")
    return value


def _texts(values, what):
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{what} should be texts")
    return values


def _amount(value, what):
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{what} should be a number from 0 on and is {str(value)[:40]!r}")


def _outcome(row):
    outcome = Outcome(**_object(row, "an outcome"))
    if outcome.status not in STATUSES:
        raise ValueError(f"the status {str(outcome.status)[:40]!r} is none of {', '.join(STATUSES)}")
    for name in ("points", "max_points", "seconds"):
        _amount(getattr(outcome, name), name)
    texts = [getattr(outcome, name) for name in ("test", "module", "question", "title", "message", "detail", "cause")]
    _texts([*texts, outcome.mistake or ""], "an outcome's names and messages")
    return outcome


# ---------------------------------------------------------------------------------------------- joining


def same_work(first: Scorecard, second: Scorecard) -> bool:
    """Whether they grade one submission under one suite, so that their rows belong together."""
    known = all(first.digests.get(what) for what in ("suite", "submission"))  # none where the grading itself failed
    return known and first.lesson == second.lesson and first.digests == second.digests


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
    for what in ("suite", "submission", "prerequisites"):
        if first.digests.get(what) != second.digests.get(what):
            raise ValueError(f"the scorecards are of another {what} each: grade the same {what} on both machines")
    return _merged(first, second)


def join(old: Scorecard, new: Scorecard, when: str) -> Scorecard:
    """One scorecard of an earlier grading and one of now, of the same work: rows that were graded now replace earlier ones.

    A test that waits for a GPU now keeps its earlier verdict. A note says what was kept, and when that was.
    """
    now = {(row.module, row.test): row for row in new.outcomes}
    kept = [row for row in old.outcomes if _stays(row, now.get((row.module, row.test)), new)]
    if not kept:
        return new
    joined = _merged(new, replace(old, outcomes=tuple(kept)))
    here, there = (", ".join(dict.fromkeys(row.module for row in rows)) for rows in (new.outcomes, kept))
    note = f"joined on {when}: the tests of {here} are of this grading, {len(kept)} of {there} of an earlier one"
    return replace(joined, notes=tuple(dict.fromkeys((*new.notes, *old.notes, note))))


def _stays(row, again, new):
    """Whether an earlier row stays beside the new card's: `again` is that test's new row."""
    if again is not None:
        return again.status == PENDING_GPU and row.status != PENDING_GPU
    return row.module not in new.modules


def _merged(first, second):
    """The first card, with what it lacks or leaves pending taken from the second."""
    others = {(row.module, row.test): row for row in second.outcomes}
    rows = [_decided(row, others.pop((row.module, row.test), row)) for row in first.outcomes]
    taken = [row for row in (*rows, *others.values()) if row not in first.outcomes]
    covered = {*first.modules, *second.modules}
    modules = tuple(dict.fromkeys((*first.modules, *second.modules)))
    earlier = {
        key: value for card in (second, first) for key, value in card.environment.items() if key == "merged_with"
    }
    environment = {**first.environment, "merged_with": {**earlier, **second.environment}}
    return replace(
        first,
        outcomes=(*rows, *others.values()),
        evidence=tuple(dict.fromkeys((*first.evidence, *second.evidence))),
        environment=environment,
        modules=modules,
        ungraded=tuple(name for name in first.ungraded if name not in covered) if second.ungraded else (),
        seeds={**first.seeds, **_other_seeds(first, second, taken)},
        student_output=_both(first.student_output, second.student_output),
    )


def _decided(row, other):
    return other if row.status == PENDING_GPU else row


def _other_seeds(first, second, taken):
    seeds = {f"{row.module}.{row.test}": second.seed_of(row) for row in taken}
    return {name: seed for name, seed in seeds.items() if seed != first.seed}


def _both(first, second):
    if not first or not second or first == second:
        return first or second
    return f"{first}\n{second}"[:_MOST_OUTPUT]
