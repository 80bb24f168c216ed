"""Proves a suite under many seeds, of which a class gets one: what holds of it must not hang on the inputs that are drawn.

lost_points        correct work, that is the solution and every right sample: one lost point is one too many
broken_promises    every wrong sample: it fails the tests that it names, and its mistake is named, whatever the inputs
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from ..batch import Job, run
from ..lesson import Lesson
from ..options import Asked
from ..scorecard import GRADER_ERROR, PASSED, PENDING_GPU, Scorecard
from ..submission import Submission
from .samples import RIGHT, WRONG, load_samples

OnProgress = Callable[[int, int], None]


def lost_points(
    lesson: Lesson,
    seeds: Iterable[int],
    modules: Collection[str] = (),
    processes: int | None = None,
    on_progress: OnProgress = lambda done, of: None,
) -> list[tuple[str, int, str]]:
    """(submission, seed, what was lost) of every test that correct work did not pass under one of the seeds.

    modules: () is all of the lesson.
    """
    solution = Job(Submission("solution", "", lesson.solution_files()), Asked(tuple(modules) or None))
    right = {f"right/{sample.name}": _job(sample, modules) for sample in _samples(lesson, RIGHT, modules)}
    return sorted(
        (name, seed, f"{row.test}: {_why(row)}")
        for name, seed, card in _graded(lesson, {"solution": solution, **right}, seeds, processes, on_progress)
        for row in card.outcomes
        if row.status not in (PASSED, PENDING_GPU)
    )


def broken_promises(
    lesson: Lesson,
    seeds: Iterable[int],
    modules: Collection[str] = (),
    processes: int | None = None,
    on_progress: OnProgress = lambda done, of: None,
) -> list[tuple[str, int, str]]:
    """(sample, seed, what it promises and does not keep) of the wrong samples; only the tests that they name are run.

    modules: () is all of the lesson.
    """
    samples = {f"wrong/{sample.name}": sample for sample in _samples(lesson, WRONG, modules)}
    jobs = {name: _job(sample, modules) for name, sample in samples.items()}
    return sorted(
        (name, seed, problem)
        for name, seed, card in _graded(lesson, jobs, seeds, processes, on_progress)
        for problem in samples[name].problems(card)
    )


def _samples(lesson, kind, modules):
    return [one for one in load_samples(lesson, (kind,)) if not modules or set(modules) & set(one.modules)]


def _job(sample, modules):
    """Of the sample's modules those that are asked for: a right work is often a whole lesson."""
    chosen = tuple(module for module in sample.modules if not modules or module in modules)
    return Job(sample.submission(), replace(sample.asked, modules=chosen))


def _graded(lesson, jobs, seeds, processes, on_progress) -> Iterator[tuple[str, int, Scorecard]]:
    """(name, seed, scorecard) of all jobs under all seeds. Those of one seed stand together: the solution is asked once."""
    cases = [
        (name, seed, replace(job, asked=replace(job.asked, seed=seed))) for seed in seeds for name, job in jobs.items()
    ]
    for done, (at, card) in enumerate(run(lesson, [job for _, _, job in cases], processes=processes), 1):
        on_progress(done, len(cases))
        name, seed, _ = cases[at]
        yield name, seed, card


def _why(row):
    """What a failure says; of a grader error, what the solution got."""
    return row.detail.partition("\n")[0] if row.status == GRADER_ERROR else row.message
