"""What came of a test: its cases, by what each raised, and the row that they make.

A StudentFault failed, a GraderFault is an error of ours, and whatever else a test raises failed too: either it is broken, or
the student returned something that it cannot use. Which of these it was is not said here: witness.py settles it.
"""

import re
import traceback
from dataclasses import dataclass, field, replace

from .differences import kind_of
from .errors import GraderFault, NotImported, NotSubmitted, StudentFault, StudentRaised
from .scorecard import FAILED, GRADER_ERROR, NOT_REACHED, PASSED, PENDING_GPU, Outcome

BY_TEST, BY_IMPORT = "test", "import"  # what the solution must pass before a failure is the student's
NOTHING = object()  # no reply came, or several
UNUSABLE = "the test could not use what your code returned"
_STUB = re.compile(r"[A-Za-z_][A-Za-z0-9_.]* is not implemented yet")  # what stub.py writes into a starter


@dataclass(frozen=True)
class Case:
    """What came of one parametrized case.

    Attributes:
        settled_by: BY_TEST or BY_IMPORT while the failure may still be ours; empty where it is a fact of the submission.
        if_the_students: the message where it looks like an error of the test, and turns out to be the student's.
        because: (module, test) that kept this one from being run.
        cause: what kind of fault it was (Outcome.cause).
    """

    status: str
    message: str = ""
    mistake: str | None = None
    detail: str = ""
    settled_by: str = ""
    if_the_students: str = ""
    because: tuple[str, str] | None = None
    cause: str = ""


@dataclass
class Row:
    """One test function while it is being run."""

    test: str
    module: str
    question: str
    title: str
    max_points: float
    needs: tuple[str, ...] = ()
    cases: list[Case] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        return self.module, self.test

    @property
    def is_lost(self) -> bool:
        """Whether a case failed: cases are all or nothing, and the first that did not pass is the one that is told."""
        return any(case.status in (FAILED, GRADER_ERROR) for case in self.cases)

    def verdict(self) -> Case:
        """The first case that did not pass speaks for the function; a fault of ours speaks loudest."""
        order = {GRADER_ERROR: 0, FAILED: 1, NOT_REACHED: 2, PENDING_GPU: 3, PASSED: 4}
        return min(self.cases, key=lambda case: order[case.status], default=Case(NOT_REACHED, "the test did not run"))

    def outcome(self) -> Outcome:
        case = self.verdict()
        if case.status == GRADER_ERROR:
            return self.ours(case.detail)
        points = self.max_points if case.status == PASSED else 0.0
        return Outcome(
            self.test, self.module, self.question, self.title, case.status, points, self.max_points,
            case.message, case.mistake, round(self.seconds, 3), case.detail, case.cause,
        )  # fmt: skip

    def ours(self, why: str) -> Outcome:
        """The outcome where the failure is a fault of ours."""
        names = (self.test, self.module, self.question, self.title)
        return Outcome.ours(*names, why, self.max_points, round(self.seconds, 3))

    def charged_to_the_student(self) -> "Row":
        """The same where the solution passed: what looked like an error of the test was made by what came back."""
        return replace(self, cases=[_charged(case) for case in self.cases])


def _charged(case):
    return replace(case, status=FAILED, message=case.if_the_students) if case.status == GRADER_ERROR else case


def case_of(error: BaseException, returned: object = NOTHING) -> Case:
    """How a case ended, by the type of what it raised.

    Args:
        returned: the only thing that the student's code gave back in this case, if it is one.
    """
    if isinstance(error, StudentFault):
        return Case(FAILED, str(error), error.mistake, error.detail, settled_by=_settled_by(error), cause=error.cause)
    sentence = str(error) if isinstance(error, GraderFault) else traceback.format_exception_only(error)[-1].strip()
    trace = f"{sentence}\n{''.join(traceback.format_exception(error, limit=-4))}"  # what to do comes first
    unusable = _unusable(error, returned)
    if isinstance(error, GraderFault):
        return Case(GRADER_ERROR, detail=trace, settled_by=BY_TEST, if_the_students=unusable)
    says = str(error).splitlines() if isinstance(error, AssertionError) else []
    return Case(FAILED, says[0] if says else unusable, detail=trace, settled_by=BY_TEST)


def _unusable(error, returned):
    """What a student is told when a test stumbled over a reply: what came, and of how many parts it should be."""
    what = "" if returned is NOTHING else f" ({_described(returned)})"
    count = _UNPACKED.search(str(error)) if isinstance(error, ValueError) else None
    should = f"it should be {count[1]} values" if count else "check its type and shape"
    return f"{UNUSABLE}{what}: {should}"


_UNPACKED = re.compile(r"values to unpack \(expected (\d+)")


def _described(value):
    return f"{kind_of(value)} of {len(value)}" if isinstance(value, (list, tuple, dict)) else kind_of(value)


def _settled_by(fault):
    """What the solution must pass before the fault is the student's: nothing, where no mistake of ours can make it."""
    if isinstance(fault, NotSubmitted) or _is_the_starters(fault):
        return ""
    return BY_IMPORT if isinstance(fault, NotImported) else BY_TEST


def _is_the_starters(fault):
    """Whether the code ended where the starter says that nothing was written yet: no solution does."""
    unwritten = isinstance(fault, StudentRaised) and fault.types[:1] == ("NotImplementedError",)
    return unwritten and _STUB.fullmatch(fault.text) is not None
