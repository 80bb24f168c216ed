"""What a grading says: frozen data, no I/O. Everything that shows or exports results starts here.

docs/scorecard.md states every field of scorecard.json. What changes there gets a new FORMAT.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property

from . import plausible
from .errors import clean
from .points import added, in_cents

PASSED = "passed"
FAILED = "failed"
NOT_REACHED = "not_reached"
PENDING_GPU = "pending_gpu"
PENDING_PERSON = "pending_person"
GRADER_ERROR = "grader_error"
STATUSES = (PASSED, FAILED, NOT_REACHED, PENDING_GPU, PENDING_PERSON, GRADER_ERROR)
WAITING = (PENDING_GPU, PENDING_PERSON)  # no verdict yet
UNCOUNTED = (*WAITING, GRADER_ERROR)  # not in the total: no verdict yet, or none at all
WRITTEN = "written"  # stands for a module in rows of answers in words
CAUSES = ("unreadable", "missing", "unwritten", "syntax", "import", "timeout", "died")  # why code gave no answer at all
IN_SOURCE, AT_RUN_TIME, NOT_SCANNED = "source", "run", "not scanned"  # how evidence was found, or why there may be more
FORMAT = 2  # of scorecard.json; format 1 is read, too
BY_HAND = "(by hand)"  # a row of a question whose points a person changed, also to more than it is worth
OUR_ERROR = "the grader made an error here, not you: the points of this test are not in the total"


class Printable:
    """A record whose texts are clean, whoever made them: a message can quote what a submission is called, printed or returned.

    All that is shown or exported is of such records, so nobody who shows it can forget it.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # of the dataclasses below
            value = getattr(self, each.name)
            if isinstance(value, str | dict | tuple):
                object.__setattr__(self, each.name, _cleaned(value))


def _cleaned(value):
    """Texts, also in tuples and as keys and values of dicts."""
    if isinstance(value, str):
        return clean(value, "\n\t")
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return type(value)(map(_cleaned, value)) if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class Outcome(Printable):
    """The verdict on one test function, all of its parametrized cases together; or on an answer in words (answers.py).

    Attributes:
        test: the function's name. module: the module that it tests. question: what it belongs to.
        title: what the student reads. status: one of STATUSES.
        points: earned, of max_points. message: why, for the student; empty if passed.
        mistake: the known mistake that was recognised, or None. seconds: wall time of all cases.
        detail: more for the instructor: tracebacks, the grader's own error. Never shown to students.
        cause: one of CAUSES where the code gave no answer (the submission or the module cannot be read, is missing, is the
            unchanged starter, has a syntax error, needs a package that is not there, took too long, or its process ended); else "".
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

    @classmethod
    def ours(
        cls,
        test: str,
        module: str,
        question: str,
        title: str,
        detail: str,
        max_points: float = 0.0,
        seconds: float = 0.0,
    ) -> "Outcome":
        """One that is a fault of ours, the only way to make it: why is for the instructor, and no student's message."""
        return cls(
            test, module, question, title, GRADER_ERROR, 0.0, max_points, OUR_ERROR, seconds=seconds, detail=detail
        )

    @property
    def is_a_test(self) -> bool:
        """Whether it is a test's, and no stand-in for a suite or a grading that came to nothing."""
        return not self.test.startswith("(")

    @property
    def is_written(self) -> bool:
        """Whether it is an answer in words, which a person grades: its points are what they are, and not scaled."""
        return self.module == WRITTEN


@dataclass(frozen=True)
class Evidence(Printable):
    """A use of what the lesson forbids, or a file in which nobody looked for one.

    Attributes:
        module: whose: it stands there, in a file that the module imports, or was called in the module's tests.
        name: what was used. where: "file.py:line". test: during which test it was called.
        how: IN_SOURCE (it stands there), AT_RUN_TIME (it was called) or NOT_SCANNED: name says no more, and where is
            "file.py: why".
    """

    module: str
    name: str
    where: str
    how: str
    test: str = ""

    @property
    def is_a_use(self) -> bool:
        return self.how != NOT_SCANNED


@dataclass(frozen=True)
class Digests(Printable):
    """What was graded, by which tests, with which grader: where they are equal, rows of two gradings belong together.

    Attributes:
        package: of the files of this package that decide a verdict. submission: of the files that were graded.
        modules: module -> of its hidden suite and all that decides its verdicts; all modules of the lesson.
        prerequisites: whose modules of used lessons were taken: "reference", or the student's "own".
    """

    package: str = ""
    submission: str = ""
    modules: dict[str, str] = field(default_factory=dict)
    prerequisites: str = "reference"


@dataclass(frozen=True)
class Measurements:
    """What a grading took; of joined ones, all of them together. None where it could not be read.

    Attributes:
        seconds: on the clock. student_cpu_seconds: of processor time of the submission's processes.
        student_peak_mb: the most memory that they had; of ranks, added up.
    """

    seconds: float | None = None
    student_cpu_seconds: float | None = None
    student_peak_mb: float | None = None


@dataclass(frozen=True)
class Scorecard(Printable):
    """One submission, graded.

    Attributes:
        lesson, student, submission: names; submission is where it was taken from.
        seed: of all random inputs: with it the grading can be replayed. Instructors only.
        digests: what was graded with what. environment: versions of Python, torch and the package, and the platform.
        measurements: what the grading took. layers: what confined the student's code.
        visibility: when students may see the hidden tests' rows (Gradescope's words).
        scale_to: what the lesson's points are scaled to in exports' totals, or None.
        notes: what was left out of the submission, how the card was joined. evidence: uses of what the lesson forbids.
        student_output: what the code printed, capped. Instructors only.
        modules: those that were graded with all their tests. ungraded: the lesson's others: the card is partial if there
            are some (--module, --gpu-only).
        seeds: "module.test" -> the seed of a row that was joined from a grading with another seed.
    """

    lesson: str
    student: str
    seed: int
    outcomes: tuple[Outcome, ...]
    submission: str = ""
    digests: Digests = Digests()
    environment: dict = field(default_factory=dict)
    measurements: Measurements = Measurements()
    layers: tuple[str, ...] = ()
    visibility: str = "visible"
    scale_to: float | None = None
    notes: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    student_output: str = ""
    modules: tuple[str, ...] = ()
    ungraded: tuple[str, ...] = ()
    seeds: dict = field(default_factory=dict)

    @classmethod
    def lost(cls, lesson: str, student: str, why: str, ungraded: tuple[str, ...] = ()) -> "Scorecard":
        """Of a submission that could not be graded, by a fault of ours: nothing of it is in a total, not even a zero."""
        row = Outcome.ours("(grading)", "", "", "The submission can be graded", why)
        return cls(lesson, student, 0, (row,), ungraded=ungraded)

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

        A grader error is worth nothing: the total is that of the suite without this test. A partial card is not scaled:
        scale_to is what the whole lesson is worth.
        """
        return self.scaled_to(None if self.ungraded else self.scale_to)

    def scaled_to(self, points: float | None) -> tuple[Outcome, ...]:
        """`scored`, where the tests without a grader error are worth so many points together; None: what they say."""
        sound = iter(in_cents([row for row in self.tests if row.status != GRADER_ERROR], points))
        answers = iter(in_cents([row for row in self.outcomes if row.is_written], None))
        return tuple(
            next(answers)
            if row.is_written
            else next(sound)
            if row.status != GRADER_ERROR
            else replace(row, points=0.0, max_points=0.0)
            for row in self.outcomes
        )

    @property
    def tests(self) -> tuple[Outcome, ...]:
        """The outcomes without answers in words."""
        return tuple(row for row in self.outcomes if not row.is_written)

    @property
    def whole_points(self) -> float:
        """What the suite is worth with the tests that wait for a GPU, and with those that are grader errors."""
        scale_to = None if self.ungraded else self.scale_to
        return scale_to or added(row.max_points for row in in_cents(self.tests, None))

    @property
    def counted(self) -> tuple[Outcome, ...]:
        """Of `scored`, what the total is made of: not what waits for a GPU or a person, and no grader error."""
        return tuple(row for row in self.scored if row.status not in UNCOUNTED)

    @property
    def is_lost(self) -> bool:
        """Whether nothing was graded, by faults of ours: then there is no score, and 0 would be one."""
        return bool(self.grader_errors) and all(row.status in UNCOUNTED for row in self.tests)

    @property
    def score(self) -> float:
        return added(outcome.points for outcome in self.counted)

    @property
    def max_score(self) -> float:
        return added(outcome.max_points for outcome in self.counted)

    @property
    def pending_gpu_points(self) -> float:
        return self._waiting_for(PENDING_GPU)

    @property
    def pending_person_points(self) -> float:
        return self._waiting_for(PENDING_PERSON)

    def _waiting_for(self, status):
        return added(outcome.max_points for outcome in self.scored if outcome.status == status)

    @property
    def grader_errors(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == GRADER_ERROR)

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_json(self) -> str:
        """scorecard.json: the totals for readers, and all that from_json needs."""
        body = asdict(self)
        names = {key: body.pop(key) for key in ("lesson", "student")}
        return json.dumps({"format": FORMAT, **names, **self._totals(), **body}, indent=2, allow_nan=False) + "\n"

    def _totals(self):
        """What is worked out from the rows, for those who read the file without this package."""
        return {
            "score": self.score,
            "max_score": self.max_score,
            "pending_gpu_points": self.pending_gpu_points,
            "pending_person_points": self.pending_person_points,
            "grader_errors": len(self.grader_errors),
            "partial": self.partial,
        }

    @classmethod
    def from_json(cls, text: str) -> "Scorecard":
        """Raises FormatError of a scorecard in another format; ValueError, KeyError or TypeError where it is not a scorecard."""
        data = _object(json.loads(text), "a scorecard")
        _refuse_another_format(data)
        plausible.depth(data.get("environment"), "its environment")
        for name in (*_TOTALS, *(["pending_person_points"] if data.pop("format") > 1 else [])):
            data.pop(name)
        data["outcomes"] = tuple(_outcome(row) for row in data["outcomes"])
        data["evidence"] = tuple(_record(Evidence, found, "evidence") for found in data["evidence"])
        data["digests"] = _digests(data["digests"])
        data["measurements"] = _measurements(data["measurements"])
        for name in ("layers", "notes", "modules", "ungraded"):
            data[name] = tuple(_texts(data[name], name))
        plausible.name_of_a_folder(data["student"])
        card = _record(cls, data, "a scorecard")
        _texts([card.lesson, card.student, card.submission, card.student_output, card.visibility], "names")
        for name in ("environment", "seeds"):
            _object(getattr(card, name), name)
        plausible.seeds(card.seed, *card.seeds.values())
        if card.scale_to is not None:
            plausible.amount(card.scale_to, "scale_to")
        return card


_TOTALS = ("score", "max_score", "pending_gpu_points", "grader_errors", "partial")  # of every format


class FormatError(ValueError):
    """A scorecard of another format; the text goes on after the file's name, and says what to do."""


def _refuse_another_format(data):
    if "outcomes" not in data:  # any other JSON
        raise ValueError("it has no outcomes")
    if "format" not in data:
        raise FormatError("has no format number: an older version of llm-autograder wrote it; grade again")
    number = data["format"]
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"its format should be a number from 1 on and is {str(number)[:40]!r}")
    if number > FORMAT:
        raise FormatError(
            f"has format {number}, and this version of llm-autograder reads formats 1 to {FORMAT}: "
            "install the version that wrote it, or grade again"
        )


def _digests(value):
    digests = _record(Digests, value, "digests")
    _texts([digests.package, digests.submission, digests.prerequisites], "digests")
    _texts(list(_object(digests.modules, "digests of modules").values()), "digests of modules")
    return digests


def _measurements(value):
    measured = _record(Measurements, value, "measurements")
    for name, amount in asdict(measured).items():
        if amount is not None:
            plausible.amount(amount, name)
    return measured


def _object(value, what):
    if not isinstance(value, dict):
        raise ValueError(f"{what} should be an object and is {type(value).__name__}")
    return value


def _record(kind, value, what):
    """A record of which every field is there, and no other."""
    for field_ in fields(kind):
        _object(value, what)[field_.name]
    return kind(**value)


def _texts(values, what):
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{what} should be texts")
    return values


def _outcome(row):
    outcome = _record(Outcome, row, "an outcome")
    if outcome.status not in STATUSES:
        raise ValueError(f"the status {str(outcome.status)[:40]!r} is none of {', '.join(STATUSES)}")
    for name in ("points", "max_points", "seconds"):
        plausible.amount(getattr(outcome, name), name)
    if outcome.points > outcome.max_points and not (outcome.module == WRITTEN or outcome.test == BY_HAND):
        raise ValueError(f"a test has {outcome.points:g} of {outcome.max_points:g} points")
    texts = [getattr(outcome, name) for name in ("test", "module", "question", "title", "message", "detail", "cause")]
    _texts([*texts, outcome.mistake or ""], "an outcome's names and messages")
    return outcome
