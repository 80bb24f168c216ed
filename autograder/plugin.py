"""The pytest plugin that grades: fixtures for tests, marks, and from reports to outcomes.

A hidden test is an ordinary pytest function. What it raises says how it ended: nothing (passed), a StudentFault (failed,
with its message), a GraderFault (grader_error), anything else failed too: either the test is broken, or the student
returned something that it cannot use. None of it is a verdict before witness.py has heard the solution on it.
"""

import hashlib
import math
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from . import marks
from .bounds import bounded_memory
from .box.budget import Budget, Test
from .box.seam import Processes
from .cases import NOTHING, Case, Row, case_of
from .check import Check
from .errors import AuthorError, BoxError, StudentTimeout
from .scorecard import NOT_REACHED, PASSED, PENDING_GPU, Outcome
from .student import Student


class TestOverrun(Exception):
    """The test's own code ran too long."""


class GradingPlugin:
    """Runs hidden tests against one submission.

    Args:
        connect: (test, seed) -> its processes; raises NotSubmitted if its module is not there. Its parametrized cases
            share them: starting and ending processes is most of what a grading costs.
        budget: the time that everything may take.
        inside: source of the helpers that probes may use.
        seed: secret of this grading; each case's inputs come from it and the case's name.
        call_timeout: seconds of processor time that one call may take.
        gpu_device: what GPU tests run on ("cuda"; "cpu" stands in for it in our own tests); None leaves them pending.
        only_gpu: runs nothing but GPU tests.
        misnamed: path -> why the lesson has no function of that name, or "" (lesson.py).
    """

    def __init__(
        self,
        connect: Callable[[Test, int], Processes],
        budget: Budget,
        *,
        inside: str = "",
        seed: int = 0,
        call_timeout: float = 10.0,
        gpu_device: str | None = None,
        only_gpu: bool = False,
        misnamed: Callable[[str], str] = lambda path: "",
    ):
        self._connect, self._inside, self._seed = connect, inside, seed
        self._budget, self._call_timeout = budget, call_timeout
        self._gpu_device, self._only_gpu = gpu_device, only_gpu
        self._misnamed = misnamed
        self._written: dict[Test, set[tuple]] = {}  # where each test was collected: of one name there may be two
        self._problems: dict[Test, str] = {}  # tests that cannot be graded as they are, and why
        self._rows: dict[Test, Row] = {}
        self._unreached: dict[str, Case] = {}  # case -> why
        self._processes: Processes | None = None  # of the test that is being run
        self._student: Student | None = None  # of the case
        self.box_error: BoxError | None = None
        self.interrupted = False  # by Ctrl-C
        self.collection_errors: list[tuple[str, str]] = []  # (file, what happened)

    @property
    def waits(self) -> bool:
        """Whether the rest was not run, because the budget must know first what the solution needs: run_suite again then."""
        return self._budget.is_tight and self._budget.needed is None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(row.outcome() for row in self._rows.values())

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(self._rows.values())

    # ------------------------------------------------------------------------------------------ pytest's hooks

    def pytest_configure(self, config):
        for mark, meaning in marks.MARKS.items():
            config.addinivalue_line("markers", f"{mark}: {meaning}")

    def pytest_collectreport(self, report):
        if report.failed:
            error = report.nodeid or "the suite", _sentence_first(str(report.longrepr))
            self.collection_errors += [error] if error not in self.collection_errors else []

    def pytest_keyboard_interrupt(self, excinfo):
        self.interrupted = excinfo.type is KeyboardInterrupt  # and no interruption of pytest's own

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(self, collector, name, obj):
        """A test whose cases cannot be made is one broken test: pytest would leave out its whole file."""
        try:
            return (yield)
        except (pytest.fail.Exception, pytest.Collector.CollectError) as error:
            item = pytest.Function.from_parent(collector, name=name)
            self._problems[_key(item)] = str(error).partition("\n")[0].replace(item.nodeid, name)
            return [item]

    def pytest_itemcollected(self, item):
        line = item.location[1] or 0
        self._written.setdefault(_key(item), set()).add((item.path, line + 1))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session):
        """Looks at each test that is to be run for what its author must mend."""
        tests: dict[str, set[str]] = {}
        for module, test in self._written:
            tests.setdefault(module, set()).add(test)
        for item in session.items:
            key = _key(item)
            if len(self._written[key]) > 1:
                self._problems[key] = marks.two_of_a_name(key[1], self._written[key])
            elif key not in self._problems:
                self._problems[key] = marks.problem(item, tests[key[0]])

    def pytest_collection_modifyitems(self, items):
        if self._only_gpu:
            items[:] = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if _key(item) not in self._rows or not self._rows[_key(item)].cases]
        for item in items:
            row = _row_of(item)
            self._rows.setdefault((row.module, row.test), row)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self._student = None
        if self._problems.get(_key(item)) and not self._rows[_key(item)].is_lost:
            raise AuthorError(self._problems[_key(item)])
        why = self._why_not(item)
        if why is not None:
            self._unreached[item.nodeid] = why
            pytest.skip(why.message)
        self._budget.begin(_key(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        before = time.process_time()
        try:
            with _alarm(self._budget.for_the_tests_own_code()), bounded_memory(gpu=self._gpu_device == "cuda"):
                return (yield)
        finally:
            self._budget.end(time.process_time() - before)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item, nextitem):
        if nextitem is None or _key(nextitem) != _key(item):
            self._disconnect()
            if self.waits:
                item.session.shouldstop = "the next tests get what the solution needs"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        """Takes the verdict, and reports to pytest no more than that there is one: its own texts cost 0.2 s a failure."""
        row = self._rows[_key(item)]
        row.seconds += call.duration
        if item.nodeid in self._unreached:
            if call.when == "setup":
                row.cases.append(self._unreached[item.nodeid])
        elif call.excinfo is not None:
            row.cases.append(case_of(call.excinfo.value, self._returned()))
            self._disconnect()  # the process may be gone, or in any state
            if isinstance(call.excinfo.value, StudentTimeout | TestOverrun):
                self._budget.overran(call.excinfo.value)
            elif isinstance(call.excinfo.value, BoxError):  # nothing that follows could be run
                self.box_error = call.excinfo.value
                item.session.shouldstop = "the box broke"
        elif call.when == "call":
            row.cases.append(Case(PASSED))
        outcome: Literal["passed", "skipped", "failed"] = "passed"
        if call.excinfo is not None:
            outcome = "skipped" if item.nodeid in self._unreached else "failed"
        return pytest.TestReport(item.nodeid, item.location, {}, outcome, None, call.when, duration=call.duration)

    def _why_not(self, item):
        """The case as it counts if it is not to be run."""
        row = self._rows[_key(item)]
        if item.get_closest_marker("gpu") and self._gpu_device is None:
            return Case(PENDING_GPU, "waits for a machine with a GPU")
        if row.is_lost:
            return Case(NOT_REACHED, "not reached: an earlier case of this test failed", because=row.key)
        spent = self._budget.spent()
        if spent:
            return Case(NOT_REACHED, spent)
        for test in row.needs:
            needed = self._rows.get((row.module, test))
            if needed is not None and needed.verdict().status != PASSED:
                return Case(NOT_REACHED, f"not reached: it builds on {needed.title!r}", because=needed.key)
        return None

    # ------------------------------------------------------------------------------------------ fixtures

    @pytest.fixture
    def student(self, request):
        """The submission: run, call, raises, accepts, on."""
        if self._processes is None:
            seed = self._seed_of(request.node, "student")  # not that of the inputs: student code can read its own
            self._processes = self._connect(_key(request.node), seed)
        device = self._device_of(request.node)
        self._student = Student(self._processes, self._inside, device, self._call_timeout, misnamed=self._misnamed)
        return self._student

    def _returned(self):
        """What the student's code gave back in this case, if it is one thing."""
        replies = [] if self._student is None else self._student.replies
        return replies[0].value if len(replies) == 1 and replies[0].raised is None else NOTHING

    def _disconnect(self):
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    @pytest.fixture
    def device(self, request):
        """Where the test runs: the CPU, or the GPU in tests that are marked so."""
        return torch.device(self._device_of(request.node))

    def _device_of(self, item):
        return (item.get_closest_marker("gpu") and self._gpu_device) or "cpu"

    @pytest.fixture
    def check(self, device):
        """Compares, and names the mistake."""
        return Check(device.type)

    @pytest.fixture
    def rng(self, request):
        """Where all random inputs come from."""
        return torch.Generator().manual_seed(self._seed_of(request.node))

    def _seed_of(self, item, purpose="inputs"):
        return seed_of(self._seed, item, purpose)


def seed_of(seed: int, item: pytest.Item, purpose: str = "inputs") -> int:
    """What a case's inputs come from (or, for the purpose "student", its process's generators), in a grading with this seed."""
    name = f"{seed}/{purpose}/{item.path.name}/{item.name}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _key(item):
    """(module, test function). A suite's parts are called test_<module>__<part>.py."""
    module = item.path.stem.removeprefix("test_").removesuffix("_public").partition("__")[0]
    return module, item.originalname or item.name


def _row_of(item):
    module, test = _key(item)
    said = (item.function.__doc__ or "").strip() or test.removeprefix("test_").replace("_", " ")
    return Row(
        test=test,
        module=module,
        question=marks.question_of(item, module),
        title=said.splitlines()[0],
        max_points=marks.points_of(item),
        needs=marks.needs_of(item),
    )


def _sentence_first(report):
    """pytest's text of an error, behind the sentence that it ends with."""
    said = re.findall(r"^E +(\S.*)", report, re.MULTILINE)
    return f"{said[-1]}\n{report}" if said else report


class _alarm:
    """Raises TestOverrun in the test after `seconds` of this process's processor time; other processes cost it nothing.

    Signals reach the main thread only; elsewhere, and on Windows, it does nothing.
    """

    def __init__(self, seconds):
        here = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        self._seconds = seconds if here and math.isfinite(seconds) else 0

    def __enter__(self):
        if self._seconds:
            self._before = signal.signal(signal.SIGPROF, self._ring)
            signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_):
        if self._seconds:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, self._before)

    def _ring(self, *_):
        raise TestOverrun(f"the test's own code used more than {self._seconds:g} s of processor time")
