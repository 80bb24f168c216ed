"""The figures that README quotes, measured in one run on this machine. `make bench`.

Single times say little on a shared machine, so what matters is given as a ratio to `python -c "import torch"`, or as a
median over many runs.
"""

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from autograder.batch import Job, run
from autograder.box.sandbox import Sandbox
from autograder.grade import Grader
from autograder.lesson import load_all
from autograder.submission import Submission

ECHO = {"echo.py": b"def echo(x):\n    return x\n"}
COLD = """
import sys
from autograder.grade import Grader
from autograder.lesson import load
from autograder.submission import Submission
lesson = load(sys.argv[1])
with Grader(lesson) as grader:
    card = grader.grade(Submission("solution", "", lesson.solution_files()))
assert card.score == card.max_score, card
"""


def main() -> None:
    torch.set_num_threads(1)
    imports = median(5, lambda: python("-c", "import torch"))
    show('python -c "import torch"', f"{imports:.2f} s wall")
    for lesson in load_all():
        lesson_figures(lesson, imports)
    box_figures()
    for lesson in load_all()[:2]:
        pool_figures(lesson)


def lesson_figures(lesson, imports):
    with Grader(lesson) as grader:
        cpu, wall = suite_seconds(grader, lesson)
    cold = median(3, lambda: python("-c", COLD, lesson.name))
    show(f"{lesson.name}: its suite on the solution", f"{cpu:.1f} CPU-s, {wall:.1f} s wall")
    show(f"{lesson.name}: graded cold", f"{cold:.1f} s wall = suite + {(cold - cpu) / imports:.1f} x import torch")


def suite_seconds(grader, lesson):
    """CPU seconds of the grader and the student's processes, and wall seconds; medians of three warm gradings."""
    figures = []
    for _ in range(4):
        cpu, wall = time.process_time(), time.perf_counter()
        card = grader.grade(Submission("solution", "", lesson.solution_files()))
        figures.append(
            (time.process_time() - cpu + card.environment["student_cpu_seconds"], time.perf_counter() - wall)
        )
    return tuple(statistics.median(column) for column in zip(*figures[1:], strict=True))


def box_figures():
    with Sandbox() as confined, Sandbox(without=["uid", "landlock", "seccomp", "rlimits", "no_new_privs"]) as bare:
        pairs = [(first_call(confined), first_call(bare)) for _ in range(25)]
        extra = statistics.median(one - other for one, other in pairs)
        show("fork, confinement and first call", f"{1000 * statistics.median(one for one, _ in pairs):.1f} ms")
        show("... over an unconfined fork", f"{1000 * extra:.1f} ms more")
        with confined.slot(ECHO) as slot:
            channel = slot.channel("echo", 1, 10)
            x = torch.rand(4 << 20)
            echo = median(15, lambda: channel.ask(request(x), 10))
        show("echo of a 16 MB tensor", f"{1000 * echo:.1f} ms")


def first_call(sandbox):
    with sandbox.slot(ECHO) as slot:
        started = time.perf_counter()
        slot.channel("echo", 1, 10).ask(request(torch.ones(2)), 10)
        return time.perf_counter() - started


def request(x):
    return {"call": "echo.echo", "args": [x], "kwargs": {}, "device": "cpu"}


def pool_figures(lesson):
    """Each worker of the pool has a core of its own, so one worker is one core's worth. Without the pool, submissions one
    after another use more of two cores: the process of a test ends on one while the next test begins on the other.
    """
    jobs = [Job(Submission(f"student{i}", "", lesson.solution_files())) for i in range(24)]
    with one_core():
        one = steady_rate(lesson, jobs, 1)
    alone, two = (steady_rate(lesson, jobs, processes) for processes in (1, 2))
    show(f"{lesson.name}: a minute, one worker", f"{60 * one:.0f} submissions")
    show("... one after another, on all cores", f"{60 * alone:.0f}")
    show("... two workers", f"{60 * two:.0f}: {two / one:.2f} x and {two / alone:.2f} x")


@contextmanager
def one_core():
    """Processes that are started in here keep to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def steady_rate(lesson, jobs, processes):
    """Submissions a second once all processes are warm: the time from the first results to the last."""
    stamps = [time.perf_counter() for _ in run(lesson, jobs, processes=processes)]
    return (len(stamps) - processes) / (stamps[-1] - stamps[processes - 1])


def python(*args):
    subprocess.run([sys.executable, *args], check=True, cwd=Path(__file__).parents[1])


def median(times, action):
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def show(name, figure):
    print(f"{name:48}{figure}", flush=True)


if __name__ == "__main__":
    main()
