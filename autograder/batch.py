"""Many submissions: jobs, and the engines that carry them.

A job is a submission, or the path of one, and how it is graded; what comes back is its scorecard. An engine only carries
jobs: `_here` in this process, one after another; `_pool` in warm ones on this machine, side by side. Each process holds a
Grader, and so a box of its own, and in the pool it keeps to a core of its own: a pool of n takes n cores and leaves the
others alone, nobody's threads slow another submission down, and nothing is lost to moving short-lived processes about (a
tenth of the throughput).

Ctrl-C is for the process that asked for the pool, which then ends the others; so does its own end, whatever it was. They
close their boxes first: no process and no file of a submission stays behind.
"""

import gc
import multiprocessing
import multiprocessing.util
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from .box.choose import own_users
from .errors import AutograderError, BoxError, GraderFault, UsageError
from .grade import Grader
from .intake.entries import Source
from .lesson import Lesson
from .options import ALL, AS_USUAL, Asked, GraderOptions
from .scorecard import Scorecard
from .submission import Submission, take_in


@dataclass(frozen=True)
class Job:
    """A submission (or where it is), and what of it is graded."""

    source: Submission | Source | Path
    asked: Asked = ALL

    @property
    def student(self) -> str:
        return self.source.name if isinstance(self.source, Path) else self.source.student


def jobs_of(sources: Iterable[Source], asked: Asked = ALL) -> list[Job]:
    """A job for each."""
    return [Job(source, asked) for source in sources]


def run(
    lesson: Lesson, jobs: Sequence[Job], *, processes: int | None = None, options: GraderOptions = AS_USUAL
) -> Iterator[tuple[int, Scorecard]]:
    """(index of the job, scorecard) as they are finished, one for each job, whatever happens to it.

    Args:
        processes: how many work side by side, in a pool; None grades in this process. options: of the Grader.

    Raises:
        BoxError: the box does not start here. GraderFault: a grading process died.
    """
    jobs = _with_a_seed(jobs)
    if processes is None or not jobs:
        return _here(lesson, jobs, options)
    return _pool(lesson, jobs, min(processes, len(jobs)), options)


def _with_a_seed(jobs):
    """One seed for a class: the witness is heard once on each test, and all are judged on the same inputs."""
    shared = secrets.randbits(48)
    return [replace(job, asked=replace(job.asked, seed=shared)) if job.asked.seed is None else job for job in jobs]


def default_processes() -> int:
    """The number of cores that this process may use."""
    return len(_cores()) or os.cpu_count() or 1


def _cores():
    """Those that this process may use; none where a process cannot keep to one (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def _here(lesson, jobs, options):
    with Grader(lesson, options) as grader:
        for index, job in enumerate(jobs):
            yield index, _grade(grader, job)


def _pool(lesson, jobs, processes, options):
    """Spawned processes, because one that has used torch must not be forked."""
    context = multiprocessing.get_context("spawn")
    cores = context.SimpleQueue()
    for core in islice(cycle(_cores() or [None]), processes):  # each process takes one
        cores.put(core)
    told_to_end, end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(processes, context, _start, (lesson, options, cores, told_to_end))
    try:
        with ctrl_c_later():  # the processes inherit it, and would else be interrupted in their imports
            hearing = _hearing(executor, jobs, options)
        heard = hearing.result() if hearing else None
        with ctrl_c_later():
            futures = {executor.submit(_work, job, heard): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise GraderFault(f"a grading process died; what was finished is kept: {error}") from error
    except BaseException:  # Ctrl-C, or the caller wants no more: what is being graded now would be for nobody
        end.close()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        end.close()
        told_to_end.close()


def _hearing(executor, jobs, options):
    """What the witness says of all that is asked, where slots share a user: before any process runs student code."""
    seeds = {job.asked.seed for job in jobs}
    if own_users(options.without) or len(seeds) > 1:
        return None
    asked = {(job.asked.modules, job.asked.tests) for job in jobs}
    return executor.submit(_hear, seeds.pop(), *(asked.pop() if len(asked) == 1 else (None, None)))


@contextmanager
def ctrl_c_later():
    """Ctrl-C waits until the end of the block. The mask is for the processes that start in it and inherit it; the handler
    for this one: the system gives a signal to any thread that does not block it, and Python raises in the main one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[bool] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other one may set a handler, or is interrupted
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------------------------------------- in a process of the pool

_grader: Grader | None = None


def _start(lesson, options, cores, told_to_end):
    global _grader
    try:
        _listen(told_to_end)
        core = cores.get()
        if core is not None:
            os.sched_setaffinity(0, {core})  # the box is started below, and inherits it
        _grader = Grader(lesson, options)
        gc.collect()
        gc.freeze()  # what was imported stays: to look through it again is a twentieth of each grading
    except SystemExit:
        os._exit(1)  # told to end: the executor would report an exception
    multiprocessing.util.Finalize(None, _grader.close, exitpriority=10)


def _listen(told_to_end):
    """Ctrl-C is not for this process: it ends when it is told to. A handler and no SIG_IGN, which the box would inherit."""
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # ctrl_c_later blocked it
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with, args=(told_to_end,), daemon=True).start()


def _end_with(told_to_end):
    """Ends this process when the other end of the pipe is closed, by the process that has the pool or by its death."""
    try:
        told_to_end.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)  # to the main thread, which alone may touch the grader


def _end(*_):
    """Ends this process at once, and its box with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if _grader is None:
        raise SystemExit  # it closes the box that is being started
    _grader.close()
    os._exit(1)


def _own_grader() -> Grader:
    assert _grader is not None  # _start made it
    return _grader


def _hear(seed, modules, tests):
    grader = _own_grader()
    grader.witness.hear_all(seed, modules or grader.lesson.modules, tests)
    return grader.witness.memory


def _work(job, heard):
    grader = _own_grader()
    if heard is not None:
        grader.witness.recall(heard)
    return _grade(grader, job)


def _grade(grader, job):
    """One scorecard: what cannot be read fails with the reason; a fault of ours costs no other submission."""
    try:
        work = job.source if isinstance(job.source, Submission) else take_in(job.source, grader.lesson)
        return grader.grade(work, job.asked)
    except Exception as error:  # whatever it was, it must cost no other submission
        if isinstance(error, UsageError):
            raise
        if _interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, BoxError):
            grader.restart()
        why = str(error) if isinstance(error, AutograderError) else f"{type(error).__name__}: {error}"
        partial = grader.lesson.modules if job.asked.modules or job.asked.tests else ()  # it replaces no whole card
        return Scorecard.lost(grader.lesson.name, job.student, why, partial)


def _interrupted(error):
    """Whether Ctrl-C came first, and closing what was open then failed."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
