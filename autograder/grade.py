"""One submission -> one scorecard.

A Grader holds a warm sandbox for one lesson. It hands the submission's files to a slot, runs the hidden suite with the
plugin in this process, lets the solution bear witness (witness.py), and reads the outcomes off.
"""

import platform
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from . import __version__, answers, digests, rules
from .box.budget import TEST_S, Allowed, Budget, Cost, Test
from .box.choose import open_box
from .box.clock import WALL_FACTOR
from .box.inside.scan import last_parts
from .box.policy import Policy
from .box.seam import Processes
from .box.session import Session
from .errors import GraderFault, NotSubmitted, StudentFault
from .in_process import InProcess
from .intake.choose import is_the_starter
from .lesson import Lesson
from .options import ALL, AS_USUAL, Asked, GraderOptions
from .plugin import GradingPlugin
from .scorecard import FAILED, GRADER_ERROR, WRITTEN, Digests, Measurements, Outcome, Scorecard
from .submission import Submission, starters_of
from .suite import importing_from, run_suite
from .witness import Witness, settle


class Grader:
    """Grades submissions of one lesson, one after another.

    Args:
        lesson: what is graded. options: how.

    Raises:
        BoxError: the box does not start here.
    """

    def __init__(self, lesson: Lesson, options: GraderOptions = AS_USUAL):
        torch.set_num_threads(1)
        self.lesson, self._options = lesson, options
        wall_s = WALL_FACTOR * lesson.deadline_s if options.wall_s is None else options.wall_s
        self._allowed = Allowed(lesson.call_timeout_s, lesson.deadline_s, wall_s, TEST_S)
        self._needed: dict[Test, Cost] = {}  # what tests cost the solution
        self._measured: set[str] = set()  # modules of which all tests are among them
        self._stubs = _stubs(lesson)
        self._suites = {module: lesson.suite_digest(module) for module in lesson.modules}
        if lesson.written:
            self._suites[WRITTEN] = lesson.written_digest()
        self.witness = Witness(self._run_on_the_solution, self._import_of_the_solution)
        self._open()

    def _open(self):
        self._sandbox = open_box(self.lesson.packages, self._options.require, self._options.without)
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

    def grade(self, submission: Submission, asked: Asked = ALL) -> Scorecard:
        """The submission's scorecard.

        Raises:
            GraderFault: the machine kept it from being read.
        """
        if submission.unread:
            raise GraderFault(submission.unread)
        seed = secrets.randbits(48) if asked.seed is None else asked.seed
        modules, tests = self._known(asked.modules), asked.tests
        files, notes = without_prerequisites(submission, self.lesson, self._options)
        if not self.own_users:  # nothing of a student's may run beside the witness, or have run before it
            self.witness.hear_all(seed, modules, tests)
        started = time.monotonic()
        forbidden = self.lesson.forbidden
        with Session(lambda: self._slot(files, forbidden.names), self._allowed) as session:
            evidence = rules.scan(session, files, forbidden, self.lesson.modules) if forbidden.names else []
            connect = _Connect(session.processes, files, submission.problem, submission.missing, self._stubs)
            run = self._run(session, connect, seed, modules, tests, asked.stop_early)
        evidence += rules.at_run_time(session.used, forbidden)
        everything = False if asked.stop_early else asked.in_a_class or None  # what the witness is asked
        outcomes = rules.charge(
            [*settle(run.rows, self.witness, seed, everything), *_collection_outcomes(run)], evidence, forbidden
        )
        if asked.stop_early and _all_ours(outcomes):  # a broken test ended it, and says nothing of the submission
            return self.grade(submission, replace(asked, seed=seed, stop_early=False))
        return Scorecard(
            lesson=self.lesson.name,
            student=submission.student,
            seed=seed,
            outcomes=(*outcomes, *self._answers(submission, asked)),
            submission=submission.source,
            digests=self._digests(submission),
            environment=self._environment(),
            measurements=Measurements(round(time.monotonic() - started, 3), session.cpu_s, session.peak_mb or None),
            layers=self._sandbox.layers,
            visibility=self.lesson.feedback.visibility,
            scale_to=self.lesson.scale_to,
            notes=submission.notes + notes + self._warning(),
            evidence=tuple(evidence),
            student_output=session.output,  # all of it, now that nobody prints any more
            **self._coverage(modules, whole=tests is None and not self._options.only_gpu),
        )

    @property
    def own_users(self) -> bool:
        """Whether each slot has a user of its own, so that no submission can reach another slot."""
        return "uid" in self._sandbox.layers

    def _slot(self, files, forbidden=()):
        policy = Policy(
            prerequisites=tuple(map(str, self._shared)),
            forbidden=tuple(forbidden),
            relatives=tuple(last_parts(forbidden).items()),
            inside=self.lesson.inside,
            gpu=self._options.gpu_device == "cuda",
            memory_mb=self.lesson.student_memory_mb,
        )
        return self._sandbox.slot(files, policy)

    def _known(self, modules):
        chosen = list(self.lesson.modules if modules is None else modules)
        self.lesson.require(chosen)
        return chosen

    def _answers(self, submission, asked):
        """The rows of answers in words: with all tests of a module, not with chosen ones."""
        if submission.answers is None or asked.tests is not None or self._options.only_gpu:
            return ()
        return answers.rows(self.lesson, submission.answers)

    def _digests(self, submission):
        """What was graded with what."""
        own = "own" if self._options.own_prerequisites else "reference"
        return Digests(digests.of_the_package(), submission.digest, dict(self._suites), own)

    def _coverage(self, graded, whole):
        """What the scorecard says of the modules that were graded with all their tests, and of the others."""
        covered = tuple(name for name in self.lesson.modules if name in graded and whole)
        return {"modules": covered, "ungraded": tuple(name for name in self.lesson.modules if name not in covered)}

    def _warning(self):
        unconfined = (
            "unconfined: nothing kept this code from the grader's files; for grades use Linux, WSL2 or a container"
        )
        return (unconfined,) if "unconfined" in self._sandbox.layers else ()

    def _environment(self):
        return {
            "autograder": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a type of its own, which nobody else should need torch to read
            "platform": platform.system(),
        }

    # ------------------------------------------------------------------------------------------ running the suite

    def _run(self, session, connect, seed, modules, tests, stop_early=False):
        plugin = self._plugin(connect, session.budget, seed)
        options = ["--maxfail=1"] if stop_early else []
        self._run_with(plugin, modules, tests, options)
        if plugin.waits and not (stop_early and any(row.status == FAILED for row in plugin.outcomes)):
            session.stop()  # where slots share a user, nothing of it may run beside the solution
            session.budget.needed = self._needed_by_the_solution(modules, seed)
            self._run_with(plugin, modules, tests, options)
        return plugin

    def _plugin(self, connect, budget, seed):
        return GradingPlugin(
            connect,
            budget,
            inside=self.lesson.inside,
            seed=seed,
            call_timeout=self.lesson.call_timeout_s,
            gpu_device=self._options.gpu_device,
            only_gpu=self._options.only_gpu,
            misnamed=self.lesson.misnamed,
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
        with self._session_of_the_solution() as session:
            session.budget.needed = {}
            plugin = self._plugin(_Connect(session.processes, self.lesson.solution_files()), session.budget, seed)
            self._run_with(plugin, modules, tests)
        self._needed |= session.budget.costs
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
        files, forbidden = self.lesson.solution_files(), self.lesson.forbidden.names
        return Session(lambda: self._slot(files, forbidden), self._allowed, exact=True)


def without_prerequisites(submission: Submission, lesson: Lesson, options: GraderOptions):
    """The files without copies of used lessons' modules: a mistake in lesson 1 costs nothing in lesson 2. And what to note."""
    used = {f"{module}.py" for each in lesson.prerequisites() for module in each.modules}
    ignored = sorted(used & set(submission.files)) if not options.own_prerequisites else []
    files = {name: content for name, content in submission.files.items() if name not in ignored}
    return files, tuple(
        f"the submission's {name} was not used: the reference module was used instead" for name in ignored
    )


def _stubs(lesson):
    """The starters in which there is something to write: a module can also be handed out whole."""
    solution = lesson.solution_files()
    return {name: stub for name, stub in starters_of(lesson).items() if not is_the_starter(solution[name], stub)}


def _all_ours(outcomes):
    """Whether there are grader errors, and no failure of the student's."""
    statuses = {row.status for row in outcomes}
    return GRADER_ERROR in statuses and FAILED not in statuses


def _collection_outcomes(run):
    return [
        Outcome.ours("(collection)", _module_of(file), "", "The hidden tests can be loaded", problem)
        for file, problem in run.collection_errors
    ]


def _module_of(file):
    return Path(file).stem.removeprefix("test_").partition("__")[0]


# ---------------------------------------------------------------------------------------------- connections


@dataclass(frozen=True)
class _Connect:
    """The plugin's way to the student: fresh forks for each test, after the module was found in the submission.

    Attributes:
        processes: of a test and a seed.
        problem: why nothing was submitted; missing: module -> why it is not among the files; both for the student.
        stubs: "module.py" -> what was handed out. Nothing of a module that is still that is run: no test passes on it.
    """

    processes: Callable[[Test, int], Processes]
    files: dict[str, bytes]
    problem: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    stubs: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, test: Test, seed: int) -> Processes:
        module, _ = test
        if self.problem:
            raise NotSubmitted(self.problem, cause="unreadable")
        name = f"{module}.py"
        if name not in self.files:
            why = self.missing.get(module) or f"{name} is missing from the submission"
            raise NotSubmitted(why, cause="missing")
        if is_the_starter(self.files[name], self.stubs.get(name)):
            raise NotSubmitted(f"{name} is the unchanged starter: nothing in it is written yet", cause="unwritten")
        return self.processes(test, seed)


def grade_in_process(
    lesson: Lesson, submission: Submission, asked: Asked, options: GraderOptions = AS_USUAL, aloud: bool = False
) -> tuple[Outcome, ...]:
    """Outcomes of a submission run in this very process: for an author's debugger, never for a grade.

    Args:
        aloud: the tests and the student's code have the terminal; who quits a debugger there ends it all, as Ctrl-C does.
    """
    files, _ = without_prerequisites(submission, lesson, options)
    used = [each.solution for each in lesson.prerequisites()]
    with tempfile.TemporaryDirectory() as name, importing_from(Path(name).resolve(), *used):
        replace(submission, files=files).write(Path(name))
        processes = lambda _, seed: InProcess(Path(name), seed, used)  # noqa: E731
        connect = _Connect(processes, files, submission.problem, submission.missing)
        plugin = GradingPlugin(connect, Budget(), inside=lesson.inside, seed=asked.seed or 0, misnamed=lesson.misnamed)
        run_suite(plugin, lesson, asked.modules or lesson.modules, asked.tests, aloud=aloud)
    return plugin.outcomes
