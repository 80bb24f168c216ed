"""How much time a submission gets, and has used, while it is graded.

All limits are seconds of processor time: that of the submission's processes as the box reads it, that of the tests' own
code as this process has it. A busy machine costs nobody a point.

    a call, an import   `call_timeout_s` of lesson.toml, or what its test asks for
    a test              TEST_S for the calls of all its cases together, and as much for its own code, which a student's
                        value must not keep busy
    the lesson          `deadline_s`, for all of that together

What is slow costs its own test. Once two tests took too long, or half of the lesson's time is used up, a test gets
LEAST_S + TIMES x what the solution needs for it on this machine: so the whole stays bounded, and what is as fast as it
should be still passes. Behind each limit stand those of clock.py, for code that waits instead of computing, and
behind all of them a limit on the wall for everything: `wall_s` of lesson.toml in the zip, which keeps a grading below the
ten minutes that Gradescope gives it, and WALL_FACTOR x `deadline_s` elsewhere.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import BoxError
from .clock import TOO_BUSY, Limits, Spent, Usage

Test = tuple[str, str]  # module, function


@dataclass
class Cost:
    """Seconds of processor time: of the submission's processes in a test's calls, and of the test's own code."""

    calls: float = 0.0
    own: float = 0.0


TEST_S = 60.0
MOST_OVERRUNS = 2
LEAST_S = Cost(0.5, 5.0)  # the tests' own code does more where it fails: it looks for the mistake
TIMES = 10.0
_LOOK_S = 0.5
_LEAST_LEFT_S = 0.1


@dataclass(frozen=True)
class Allowed:
    """What a submission may take: without limits, as for an author.

    Attributes:
        call_s, lesson_s: the limits of lesson.toml. test_s: TEST_S. wall_s: the time on the wall, for everything.
    """

    call_s: float = math.inf
    lesson_s: float = math.inf
    wall_s: float = math.inf
    test_s: float = math.inf


class Budget:
    """Of one submission.

    Args:
        allowed: what it may take; None limits nothing.
        usage: what the submission used so far; gives None where nobody can read it.
        exact: look at each test's begin and end, to learn what it costs; else only at what takes long.

    Attributes:
        costs: what each test has cost.
        needed: what each test cost the solution; None as long as that is not known.
    """

    def __init__(
        self,
        allowed: Allowed | None = None,
        usage: Callable[[], Usage | None] = lambda: None,
        exact: bool = False,
    ):
        self._allowed, self._usage, self._exact = allowed or Allowed(), usage, exact
        self._looked_at = time.monotonic()
        self._end = self._looked_at + self._allowed.wall_s
        self._calls = self._own = 0.0  # of all tests
        self._spent = Spent()
        self._test: Test | None = None
        self._cost = Cost()  # of the test; what comes before any test is nobody's
        self._base: float | None = None  # what had been used before the test's first call
        self._overruns: list[BaseException] = []
        self.costs: dict[Test, Cost] = {}
        self.needed: dict[Test, Cost] | None = None

    # ------------------------------------------------------------------------------------------ what the plugin tells

    def begin(self, test: Test) -> None:
        """A case of the test begins."""
        if test != self._test:
            self._test, self._base = test, None
            self._cost = self.costs.setdefault(test, Cost())

    def end(self, own_s: float) -> None:
        """A case of the test ended, whose own code used so much."""
        self._own += own_s
        self._cost.own += own_s
        if self._exact and self._base is not None:
            self._look()

    def overran(self, error: BaseException) -> None:
        """A call or a test took too long. A failed import is told again to each test of its module, and counts once."""
        if not any(error is known for known in self._overruns):
            self._overruns.append(error)

    # ------------------------------------------------------------------------------------------ what is allowed

    def spent(self) -> str:
        """Why no further test can be run; "" while one can.

        Raises:
            BoxError: the time on the wall is over, and for most of it the submission neither computed nor slept.
        """
        if time.monotonic() > self._end:
            self._look()
            if self._was_starved():
                raise BoxError(f"the {self._allowed.wall_s:g} s for the whole lesson were used up: {TOO_BUSY}")
            return "the time for the whole lesson was used up"
        self._look_now_and_then()
        if self._left() <= 0:
            return f"the {self._allowed.lesson_s:g} s of processor time for the whole lesson were used up"
        return ""

    @property
    def is_tight(self) -> bool:
        """Whether what the solution needs is the measure from now on."""
        return len(self._overruns) >= MOST_OVERRUNS or self._left() < self._allowed.lesson_s / 2

    def for_an_import(self) -> Limits:
        return self._before_the_end(Limits.of(max(min(self._allowed.call_s, self._left()), _LEAST_LEFT_S)))

    def for_a_call(self, timeout: float) -> Limits:
        """The limits of a call that may take `timeout`: less, if its test or the lesson have less left."""
        if self._exact or self._is_measured():
            self._look()
        else:
            self._look_now_and_then()
        self._base = self._calls if self._base is None else self._base
        of_test = self._of_test("calls") - self._cost.calls
        cpu_s, whose = min((timeout, ""), (of_test, self._whose()), (self._left(), " with those of all tests"))
        return self._before_the_end(Limits.of(max(cpu_s, _LEAST_LEFT_S)), whose)

    def for_the_tests_own_code(self) -> float:
        """Seconds that are left to it; infinite if nothing limits it."""
        return max(min(self._of_test("own") - self._cost.own, self._left()), _LEAST_LEFT_S)

    def _of_test(self, part):
        if not self._is_measured():
            return self._allowed.test_s
        needed = (self.needed or {}).get(self._test or ("", ""), Cost())
        return min(self._allowed.test_s, getattr(LEAST_S, part) + TIMES * getattr(needed, part))

    def _whose(self):
        if self._is_measured():
            return f": after {MOST_OVERRUNS} that took too long, a test gets {TIMES:g} times what it should need"
        return " with the other calls of its test"

    def _is_measured(self):
        return self.needed is not None and self.is_tight

    def _left(self):
        return self._allowed.lesson_s - self._calls - self._own

    def _before_the_end(self, limits, whose=""):
        left = max(self._end - time.monotonic(), _LEAST_LEFT_S)
        wall_s = min(limits.wall_s, left)
        starved_s = min(limits.starved_s, left - wall_s)
        return replace(limits, wall_s=wall_s, starved_s=starved_s, whose=whose, spent=self._spent)

    def _was_starved(self):
        """Whether a quiet machine would have done it in half the time; never where nobody can read what was used."""
        return self._calls > 0 and self._calls + self._own + self._spent.idle_s < self._allowed.wall_s / 2

    # ------------------------------------------------------------------------------------------ what was used

    def _look_now_and_then(self):
        """What takes less than half a second on the wall costs no look."""
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._look()

    def _look(self):
        usage = self._usage()
        self._looked_at = time.monotonic()
        if usage is None:
            return
        self._calls = max(self._calls, usage.cpu_s)
        if self._base is not None:
            self._cost.calls = self._calls - self._base
