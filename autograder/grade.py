"""One submission -> one scorecard.

A Grader holds a warm sandbox for one lesson. It hands the submission's files to a slot, runs the hidden suite with the
plugin in this process, lets the solution bear witness to what it failed (witness.py), and reads the outcomes off.
"""

import io
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from . import __version__, rules
from .box.choose import open_box
from .box.clock import WALL_FACTOR, Limits
from .box.inside.worker import seed_everything
from .box.session import Processes, Session
from .cases import ASK_FOR_A_REGRADE
from .errors import GraderFault, NotSubmitted, StudentFault, UsageError
from .lesson import Lesson
from .limits import TEST_S, Budget, Cost
from .local_ranks import LocalRanks
from .plugin import GradingPlugin
from .scorecard import FAILED, GRADER_ERROR, Outcome, Scorecard
from .student import in_process
from .submission import Submission
from .witness import Witness, settle

_PYTEST = """-s --noconftest --strict-markers --assert=plain --import-mode=importlib -p no:terminal -p no:cacheprovider
    -p no:unraisableexception -p no:threadexception -p no:logging -p no:faulthandler -p no:doctest -p no:junitxml""".split()


class Grader:
    """Grades submissions of one lesson, one after another.

    Args:
        lesson: what is graded.
        require: layers of the box without which nothing is graded; without: layers left out (for tests of the fallbacks).
        gpu_device: what GPU-marked tests run on; None leaves them pending. only_gpu: run nothing else.
        own_prerequisites: use the student's modules of used lessons, if there are any, instead of the reference ones.
        wall_s: seconds on the clock after which nothing more is started; None is a multiple of the lesson's processor time.

    Raises:
        BoxError: the box does not start here.
    """

    def __init__(
        self,
        lesson: Lesson,
        *,
        require: Iterable[str] = (),
        without: Iterable[str] = (),
        gpu_device: str | None = None,
        only_gpu: bool = False,
        own_prerequisites: bool = False,
        wall_s: float | None = None,
    ):
        torch.set_num_threads(1)
        self.lesson, self._require, self._without = lesson, require, without
        self._gpu_device, self._only_gpu, self._own = gpu_device, only_gpu, own_prerequisites
        self._wall_s = WALL_FACTOR * lesson.deadline_s if wall_s is None else wall_s
        self._needed: dict[tuple[str, str], Cost] = {}  # what tests cost the solution
        self._measured: set[str] = set()  # modules of which all tests are among them
        self.witness = Witness(self._run_on_the_solution, self._import_of_the_solution)
        self._open()

    def _open(self):
        self._sandbox = open_box(self.lesson.packages, self._require, self._without)
        self._shared = [self._sandbox.share(used.name, used.solution_files()) for used in self.lesson.prerequisites()]

    def restart(self) -> None:
        """A new box, after a BoxError."""
        self._sandbox.close()
        self._open()

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def grade(
        self,
        submission: Submission,
        *,
        seed: int | None = None,
        modules: Iterable[str] | None = None,
        tests: Iterable[str] | None = None,
        stop_early: bool = False,
    ) -> Scorecard:
        """The submission's scorecard.

        Args:
            seed: of all inputs; None draws a secret one.
            modules: grade these modules only. tests: and in them these test functions only.
            stop_early: end at the first case that does not pass: for mutants, of which one failure says all.
        """
        seed = secrets.randbits(48) if seed is None else seed
        modules = self._known(modules)
        files, notes = self._without_prerequisites(submission)
        if not self.own_users:  # nothing of a student's may run beside the witness, or have run before it
            self.witness.hear_all(seed, modules, tests)
        started = time.monotonic()
        forbidden = self.lesson.forbidden
        with Session(lambda: self._slot(files, forbidden.names)) as session:
            evidence = rules.scan(session.slot(), files, forbidden) if forbidden.names else []
            connect = _Connect(session, files, submission.problem, submission.missing)
            run = self._run(connect, seed, modules, tests, stop_early)
        evidence += rules.at_run_time(run.used)
        outcomes = rules.charge(
            [*settle(run.rows, self.witness, seed), *_collection_outcomes(run)], evidence, forbidden
        )
        if stop_early and _all_ours(outcomes):  # a broken test ended it, and says nothing of the submission
            return self.grade(submission, seed=seed, modules=modules, tests=tests)
        return Scorecard(
            lesson=self.lesson.name,
            student=submission.student,
            seed=seed,
            outcomes=outcomes,
            submission=submission.source,
            digests=self._digests(submission),
            environment=self._environment(time.monotonic() - started, session),
            layers=self._sandbox.layers,
            visibility=self.lesson.feedback.visibility,
            scale_to=self.lesson.scale_to,
            notes=submission.notes + notes + self._warning(),
            evidence=tuple(evidence),
            student_output=session.output,  # all of it, now that nobody prints any more
            **self._coverage(modules, whole=tests is None and not self._only_gpu),
        )

    @property
    def own_users(self) -> bool:
        """Whether each slot has a user of its own, so that no submission can reach another slot."""
        return "uid" in self._sandbox.layers

    def _slot(self, files, forbidden=()):
        return self._sandbox.slot(
            files,
            prerequisites=self._shared,
            forbidden=forbidden,
            inside=self.lesson.inside,
            gpu=self._gpu_device == "cuda",
            memory_mb=self.lesson.student_memory_mb,
        )

    def _known(self, modules):
        chosen = list(self.lesson.modules if modules is None else modules)
        unknown = [module for module in chosen if module not in self.lesson.modules]
        if unknown:
            raise UsageError(
                f"{self.lesson.name} has no module {unknown[0]!r}: it has {', '.join(self.lesson.modules)}"
            )
        return chosen

    def _digests(self, submission):
        """What was graded with what: cards whose digests are equal may be joined."""
        own = {"prerequisites": "own"} if self._own else {}
        return {"suite": self.lesson.digest(), "submission": submission.digest, **own}

    def _coverage(self, graded, whole):
        """What the scorecard says of the modules that were graded with all their tests, and of the others."""
        covered = tuple(name for name in self.lesson.modules if name in graded and whole)
        return {"modules": covered, "ungraded": tuple(name for name in self.lesson.modules if name not in covered)}

    def _without_prerequisites(self, submission):
        """The files without copies of used lessons' modules: a mistake in lesson 1 costs nothing in lesson 2."""
        used = {f"{module}.py" for lesson in self.lesson.prerequisites() for module in lesson.modules}
        ignored = sorted(used & set(submission.files)) if not self._own else []
        files = {name: content for name, content in submission.files.items() if name not in ignored}
        return files, tuple(
            f"the submission's {name} was not used: the reference module was used instead" for name in ignored
        )

    def _warning(self):
        unconfined = (
            "unconfined: nothing kept this code from the grader's files; for grades use Linux, WSL2 or a container"
        )
        return (unconfined,) if "unconfined" in self._sandbox.layers else ()

    def _environment(self, seconds, session):
        return {
            "autograder": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.system(),
            "seconds": round(seconds, 3),
            "student_cpu_seconds": session.cpu_s,
            "student_peak_mb": session.peak_mb,
        }

    # ------------------------------------------------------------------------------------------ running the suite

    def _run(self, connect, seed, modules, tests, stop_early=False):
        lesson = self.lesson
        limits = (lesson.call_timeout_s, lesson.deadline_s, self._wall_s, TEST_S)
        budget = Budget(*limits, usage=connect.session.usage)
        plugin = self._plugin(connect, budget, seed)
        options = ["--maxfail=1"] if stop_early else []
        self._run_with(plugin, modules, tests, options)
        if plugin.waits and not (stop_early and any(row.status == FAILED for row in plugin.outcomes)):
            connect.session.stop()  # where slots share a user, nothing of it may run beside the solution
            budget.needed = self._needed_by_the_solution(modules, seed)
            self._run_with(plugin, modules, tests, options)
        return plugin

    def _plugin(self, connect, budget, seed):
        return GradingPlugin(
            connect,
            budget,
            inside=self.lesson.inside,
            seed=seed,
            call_timeout=self.lesson.call_timeout_s,
            cpu_s=connect.cpu_s,
            gpu_device=self._gpu_device,
            only_gpu=self._only_gpu,
        )

    def _run_with(self, plugin, modules, tests, options=()):
        run_suite(plugin, self.lesson, modules, tests, options)
        if plugin.box_error is not None:
            raise plugin.box_error

    def _needed_by_the_solution(self, modules, seed):
        """What each test costs the solution here, in processor time: as the witness measured it, or measured now."""
        new = [module for module in modules if module not in self._measured]
        if new:
            self._run_on_the_solution(seed, new, None)
        return self._needed

    # ------------------------------------------------------------------------------------------ the witness

    def _run_on_the_solution(self, seed, modules, tests):
        """Its outcomes; what each test costs it is kept."""
        limits = (self.lesson.call_timeout_s, self.lesson.deadline_s, self._wall_s, TEST_S)
        with self._session_of_the_solution() as session:
            budget = Budget(*limits, usage=session.usage, exact=True)
            budget.needed = {}
            plugin = self._plugin(_Connect(session, self.lesson.solution_files()), budget, seed)
            self._run_with(plugin, modules, tests)
        self._needed |= budget.costs
        self._measured |= set(modules) if tests is None else set()
        return plugin.outcomes

    def _import_of_the_solution(self, module):
        with self._session_of_the_solution() as session:
            try:
                session.slot().channel(module, 0, self.lesson.call_timeout_s).close()
            except StudentFault as fault:
                return f"the lesson's solution cannot be imported here: {fault}\n{fault.detail}"
        return ""

    def _session_of_the_solution(self):
        """Nothing in it is of a student's: with their own prerequisites, too, these are the reference ones."""
        return Session(lambda: self._slot(self.lesson.solution_files(), self.lesson.forbidden.names))


def _all_ours(outcomes):
    """Whether there are grader errors, and no failure of the student's."""
    statuses = {row.status for row in outcomes}
    return GRADER_ERROR in statuses and FAILED not in statuses


def _collection_outcomes(run):
    return [
        Outcome("(collection)", Path(file).stem.removeprefix("test_"), "", "The hidden tests can be loaded",
                GRADER_ERROR, 0.0, 0.0, ASK_FOR_A_REGRADE, detail=problem)
        for file, problem in run.collection_errors
    ]  # fmt: skip


def run_suite(
    plugin: GradingPlugin,
    lesson: Lesson,
    modules: Iterable[str],
    tests: Iterable[str] | None = None,
    options: Sequence[str] = (),
) -> None:
    """Runs pytest in this process on the modules' hidden suites, with nothing but `plugin`, which has the verdicts then."""
    files = [path for module in modules for path in lesson.hidden_tests(module)]
    args = [*_PYTEST, *options, "-c", os.devnull, "--rootdir", str(lesson.tests), *map(str, files)]
    plugins = [plugin] if tests is None else [plugin, _Only(set(tests))]
    said = io.StringIO()
    with (
        _only_our_plugins(),
        _importing_from(lesson.tests.parent, lesson.tests),
        redirect_stdout(said),
        redirect_stderr(said),
    ):
        code = pytest.main(args, plugins=plugins)
    if plugin.interrupted:
        raise KeyboardInterrupt
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        raise GraderFault(f"pytest could not run {files[0]}: {said.getvalue()[-2000:]}")


class _Only:
    """Leaves the named test functions of the suite."""

    def __init__(self, tests):
        self._tests = tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if (item.originalname or item.name) in self._tests]


@contextmanager
def _importing_from(*folders):
    """Parts of a suite find what they share. Afterwards all is forgotten: the next suite may have others of the same names."""
    places = [str(folder) for folder in folders]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
        for name, module in list(sys.modules.items()):
            if os.path.dirname(getattr(module, "__file__", None) or "") in places:
                del sys.modules[name]


@contextmanager
def _only_our_plugins():
    """Without the plugins that happen to be installed here, and without options from the environment."""
    before = {
        name: os.environ.pop(name, None)
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    }
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


# ---------------------------------------------------------------------------------------------- connections


@dataclass(frozen=True)
class _Connect:
    """The plugin's way to the student: fresh forks for each test, after the module was found in the submission.

    Attributes:
        problem: why nothing was submitted; missing: module -> why it is not among the files; both for the student.
    """

    session: Session
    files: dict[str, bytes]
    problem: str = ""
    missing: dict[str, str] = field(default_factory=dict)

    def __call__(self, module: str, seed: int, limits: Limits) -> Processes:
        if self.problem:
            raise NotSubmitted(self.problem, cause="unreadable")
        if f"{module}.py" not in self.files:
            why = self.missing.get(module) or f"{module}.py is missing from the submission"
            raise NotSubmitted(why, cause="missing")
        return self.session.processes(module, seed, limits)

    def cpu_s(self) -> float:
        """Student.cpu_s; where nobody can read it, the time on the wall has to do."""
        usage = self.session.usage()
        return time.perf_counter() if usage is None else usage.cpu_s


def grade_in_process(
    lesson: Lesson, folder: Path, *, seed: int, modules: Iterable[str], tests: Iterable[str] | None = None
):
    """Outcomes of a folder's modules run in this very process: for an author's debugger, never for a grade."""
    ask = in_process(folder)

    def connect(module, seed, _limits):
        seed_everything(seed)
        ranks = LocalRanks(folder, seed)
        return SimpleNamespace(ask=ask, ask_ranks=ranks.ask, close=ranks.close, prepare=lambda _ranks: None)

    plugin = GradingPlugin(connect, Budget(), inside=lesson.inside, seed=seed)
    run_suite(plugin, lesson, modules, tests)
    return plugin.outcomes
