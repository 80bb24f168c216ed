"""Many submissions: jobs, and the engines that carry them.

A job is a submission, or the path of one, and how it is graded; what comes back is its scorecard. An engine only carries
jobs: `_here` in this process, one after another; `_pool` in warm ones on this machine, side by side (pool.py). Each process
holds a Grader, and so a box of its own. A fault of ours, and be it that a process dies, costs no other submission.
"""

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .box.choose import own_users
from .errors import AutograderError, BoxError, GraderFault, SubmissionError, UsageError
from .intake.entries import Source
from .lesson import Lesson
from .options import ALL, AS_USUAL, Asked, GraderOptions
from .pool import Lost, Pool, cores
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
        BoxError: the box does not start here. GraderFault: no grading process lives long enough to grade anything.
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
    return len(cores()) or os.cpu_count() or 1


def _grader(lesson, options):
    """Imported where one is made: with it comes torch, more than a second, which the holder of a pool does not need."""
    from .grade import Grader

    return Grader(lesson, options)


def _here(lesson, jobs, options):
    with _grader(lesson, options) as grader:
        for index, job in enumerate(jobs):
            yield index, _grade(grader, job)


def _pool(lesson, jobs, processes, options):
    with Pool(processes, partial(_grader, lesson, options)) as pool:
        heard = _heard(pool, jobs, options)
        for index, card in pool.each(_work, [(job, heard) for job in jobs]):
            yield index, _lost_twice(lesson, jobs[index], card) if isinstance(card, Lost) else card


def _lost_twice(lesson, job, lost):
    why = f"the process that graded it died, and so did a second one (by {lost.how}): is there enough memory, or disk?"
    return _lost(lesson, job, f"{why} Grade it again with --processes 1")


def _heard(pool, jobs, options):
    """What the witness says of all that is asked, where slots share a user: before any process runs student code."""
    seeds = {job.asked.seed for job in jobs}
    if own_users(options.without) or len(seeds) > 1:
        return None
    asked = {(job.asked.modules, job.asked.tests) for job in jobs}
    what = (seeds.pop(), *(asked.pop() if len(asked) == 1 else (None, None)))
    ((_, heard),) = pool.each(_hear, [what])
    if isinstance(heard, Lost):
        raise GraderFault(f"the process that ran the lesson's solution died, and so did a second one, by {heard.how}")
    return heard


# ---------------------------------------------------------------------------------------------- in any process that grades


def _hear(grader, seed, modules, tests):
    grader.witness.hear_all(seed, modules or grader.lesson.modules, tests)
    return grader.witness.memory


def _work(grader, job, heard):
    if heard is not None:
        grader.witness.recall(heard)
    return _grade(grader, job)


def _grade(grader, job):
    """One scorecard: what cannot be read fails with the reason; a fault of ours costs no other submission."""
    try:
        work = job.source if isinstance(job.source, Submission) else take_in(job.source, grader.lesson)
        return grader.grade(work, job.asked)
    except Exception as error:  # whatever it was, it must cost no other submission
        is_its_own = isinstance(error, SubmissionError)  # what is gone, say
        if isinstance(error, UsageError) and not is_its_own:
            raise
        if _interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, BoxError):
            grader.restart()
        why = str(error) if isinstance(error, AutograderError) else f"{type(error).__name__}: {error}"
        return _lost(grader.lesson, job, why)


def _lost(lesson, job, why):
    ungraded = lesson.modules if job.asked.modules or job.asked.tests else ()  # it replaces no whole card
    return Scorecard.lost(lesson.name, job.student, why, ungraded)


def _interrupted(error):
    """Whether Ctrl-C came first, and closing what was open then failed."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
