"""The figures that README quotes, measured in one run on this machine. `make bench`.

Single times say little on a shared machine, so what matters is given as a ratio of what was measured in turns (to
`python -c "import torch"`, to a pool of one), or as a median over many runs.
"""

import statistics
import subprocess
import sys
import time
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
assert card.score == card.max_score > 0 and not card.grader_errors, card
"""


def main() -> None:
    torch.set_num_threads(1)
    for lesson in load_all():
        lesson_figures(lesson)
    box_figures()
    for lesson in load_all()[:2]:
        pool_figures(lesson)


def lesson_figures(lesson):
    with Grader(lesson) as grader:
        cpu, wall = suite_seconds(grader, lesson)
    turns = [(seconds("-c", "import torch"), seconds("-c", COLD, lesson.name)) for _ in range(3)]
    imports, cold = (statistics.median(column) for column in zip(*turns, strict=True))
    times = statistics.median((cold - cpu) / imports for imports, cold in turns)
    show(f"{lesson.name}: its suite on the solution", f"{cpu:.1f} CPU-s, {wall:.1f} s wall")
    show(f"{lesson.name}: graded cold", f"{cold:.1f} s wall = suite + {times:.1f} x import torch ({imports:.2f} s)")


def suite_seconds(grader, lesson):
    """CPU seconds of the grader and the student's processes, and wall seconds; medians of three warm gradings."""
    figures = []
    for _ in range(4):
        cpu, wall = time.process_time(), time.perf_counter()
        card = grader.grade(Submission("solution", "", lesson.solution_files()))
        figures.append((time.process_time() - cpu + card.measurements.student_cpu_seconds, time.perf_counter() - wall))
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
            echo = statistics.median(echoed(channel, x) for _ in range(15))
        show("echo of a 16 MB tensor", f"{1000 * echo:.1f} ms")


def first_call(sandbox):
    with sandbox.slot(ECHO) as slot:
        started = time.perf_counter()
        slot.channel("echo", 1, 10).ask(request(torch.ones(2)), 10)
        return time.perf_counter() - started


def echoed(channel, x):
    started = time.perf_counter()
    channel.ask(request(x), 10)
    return time.perf_counter() - started


def request(x):
    return {"call": "echo.echo", "args": [x], "kwargs": {}, "device": "cpu"}


def pool_figures(lesson):
    """In turns, because a shared machine is not as fast at one time as at another: what counts are the ratios of a turn.

    Without the pool submissions are graded one after another by processes that may use both cores, and that do: the one of
    a test ends on one core while the next begins on the other.
    """
    jobs = [Job(Submission(f"student{i}", "", lesson.solution_files())) for i in range(14)]
    turns = [[steady_rate(lesson, jobs, processes) for processes in (1, None, 2)] for _ in range(3)]
    one, without, two = (statistics.median(rates) for rates in zip(*turns, strict=True))
    of_one, of_none = (statistics.median(rates[2] / rates[i] for rates in turns) for i in (0, 1))
    show(f"{lesson.name}: a minute, a pool of one", f"{60 * one:.0f} submissions")
    show("... without a pool, on all cores", f"{60 * without:.0f}")
    show("... a pool of two", f"{60 * two:.0f}: {of_one:.2f} x and {of_none:.2f} x")


def steady_rate(lesson, jobs, processes):
    """Submissions a second once all processes are warm: the time from the first results to the last."""
    stamps = [time.perf_counter() for _ in run(lesson, jobs, processes=processes)]
    warm = processes or 1
    return (len(stamps) - warm) / (stamps[-1] - stamps[warm - 1])


def seconds(*args):
    """Of a new Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *args], check=True, cwd=Path(__file__).parents[1])
    return time.perf_counter() - started


def show(name, figure):
    print(f"{name:48}{figure}", flush=True)


if __name__ == "__main__":
    main()
