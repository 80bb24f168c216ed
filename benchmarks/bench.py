"""The figures that README quotes, measured in one run on this machine. `make bench`, or `make bench LESSON=…`.

Single times say little on a shared machine, so what matters is given as a ratio of what was measured in turns (to the
same suite in one process, to `python -c "import torch"`, to a pool of one), or as a median over many runs.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from autograder.author.samples import load_samples
from autograder.batch import Job, run
from autograder.box.sandbox import Sandbox
from autograder.grade import Grader
from autograder.lesson import load_all
from autograder.options import Asked, GraderOptions
from autograder.submission import Submission

ROOT = Path(__file__).parents[1]
ECHO = {"echo.py": b"def echo(x):\n    return x\n"}
SMALL = {
    "small.py": b"""
import torch
def echo(x):
    return x
def unwritten(x):
    raise NotImplementedError("unwritten is not implemented yet")
def gradient(x):
    layer = torch.nn.Linear(4, 4)
    layer(x).sum().backward()
    return layer.weight.grad
"""
}
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
IN_PROCESS = """
import sys, time, torch
from autograder.grade import grade_in_process
from autograder.lesson import load
from autograder.options import Asked
from autograder.submission import Submission
torch.set_num_threads(1)
lesson = load(sys.argv[1])
solution = Submission("solution", "", lesson.solution_files())
for _ in range(2):
    before = time.process_time()
    outcomes = grade_in_process(lesson, solution, Asked(seed=0))
    cpu = time.process_time() - before
    assert all(outcome.status in ("passed", "pending_gpu") for outcome in outcomes), outcomes
print(cpu)
"""


TURNS = 5
LAYERS = ("uid", "landlock", "seccomp", "rlimits", "no_new_privs", "cgroup")


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    lessons = [lesson for lesson in load_all() if lesson.name in names or not names]
    for lesson in lessons:
        test_figures(lesson)
        cold_figures(lesson)
    process_figures()
    box_figures()
    for lesson in lessons[:2]:
        pool_figures(lesson)


# ---------------------------------------------------------------------------------------------- what a test costs


def test_figures(lesson):
    """CPU seconds of the whole suite, in turns: in one process, in the box, in one that confines nothing, stubs, and a mistake with
    its witness.

    A box without layers is what a fork for each test and its messages cost. The starter itself is not run. With a line of the
    student's in each module it is, and each test ends where nothing is written.
    """
    solution, starter = lesson.solution_files(), lesson.starter_files()
    begun = {name: stub + b"\n# mine\n" for name, stub in starter.items()}
    with Grader(lesson) as grader, Grader(lesson, GraderOptions(without=LAYERS)) as bare:
        for each in (grader, bare):
            graded(each, solution, 0)  # the first grading of a grader is another measure: cold_figures
        turns = [
            (
                in_process(lesson),
                graded(grader, solution, 0),
                graded(bare, solution, 0),
                graded(grader, starter, 0),
                graded(grader, begun, 0),
                witness(grader, lesson, turn),
            )
            for turn in range(TURNS)
        ]
        tests = len(grader.grade(Submission("student", "", starter)).outcomes)
    one, boxed, *_ = (statistics.median(column) for column in zip(*turns, strict=True))
    extra = statistics.median(boxed - one for one, boxed, *_ in turns)
    show(f"{lesson.name}: boxed, to the same suite in process", ratio((boxed, one) for one, boxed, *_ in turns))
    show("... CPU seconds", f"{boxed:.2f} and {one:.2f}: {1000 * extra / tests:.1f} ms more a test, of {tests} tests")
    show("... in a box without layers, to the same", ratio((forked, one) for one, _, forked, *_ in turns))
    show("... the starter, to the solution", ratio((stub, boxed) for _, boxed, _, stub, *_ in turns))
    show("... the starter with a line more in each module", ratio((begun, boxed) for _, boxed, *_, begun, _ in turns))
    show("... the witness, once a seed where a test failed", ratio((heard, boxed) for _, boxed, *_, heard in turns))


def in_process(lesson):
    """CPU seconds of the solution's second grading in a process of its own, which is as warm as a grader's."""
    return float(seconds("-c", IN_PROCESS, lesson.name)[1])


def graded(grader, files, seed):
    """CPU seconds of one grading: the grader's, and those of the student's processes."""
    cpu = time.process_time()
    card = grader.grade(Submission("student", "", files), Asked(seed=seed))
    return time.process_time() - cpu + card.measurements.student_cpu_seconds


def witness(grader, lesson, turn):
    """CPU seconds of what the solution is run for where one test failed; under the same seed it is not run again."""
    wrong = load_samples(lesson, ("wrong",))[0].submission()
    first, again = (graded(grader, wrong.files, 1 + turn) for _ in range(2))
    return first - again


def ratio(pairs):
    return f"{statistics.median(one / other for one, other in pairs):.2f} x"


# ---------------------------------------------------------------------------------------------- a cold start


def cold_figures(lesson):
    with Grader(lesson) as grader:
        graded(grader, lesson.solution_files(), 0)
        suite = statistics.median(graded(grader, lesson.solution_files(), 0) for _ in range(3))
    turns = [(seconds("-c", "import torch")[0], seconds("-c", COLD, lesson.name)[0]) for _ in range(3)]
    imports, cold = (statistics.median(column) for column in zip(*turns, strict=True))
    times = statistics.median((cold - suite) / imports for imports, cold in turns)
    show("... graded cold", f"{cold:.1f} s wall = suite + {times:.1f} x import torch ({imports:.2f} s)")


def box_figures(pairs=25):
    with Sandbox() as confined, Sandbox(without=LAYERS) as bare:
        times = [(first_call(confined), first_call(bare)) for _ in range(pairs)]
        extra = statistics.median(one - other for one, other in times)
        show("fork, confinement and first call", f"{1000 * statistics.median(one for one, _ in times):.1f} ms")
        show("... over an unconfined fork", f"{1000 * extra:.1f} ms more")
        with confined.slot(ECHO) as slot:
            channel = slot.channel("echo", 1, 10)
            x = torch.rand(64, 32768, dtype=torch.float64)
            echo = statistics.median(echoed(channel, x) for _ in range(15))
        show("echo of a 16 MB tensor", f"{1000 * echo:.1f} ms")


def process_figures(count=100):
    """CPU milliseconds of the process of a test, its fork and its end included, by what the test asks of it."""
    asked = {
        "a number, sent back": request(1, "small.echo"),
        "a tensor, sent back": request(torch.ones(2), "small.echo"),
        "what is not written yet": request(torch.ones(2), "small.unwritten"),
        "the gradient of a layer": request(torch.ones(4, 4), "small.gradient"),
    }
    with Sandbox() as sandbox, sandbox.slot(SMALL) as slot:
        turns = [[process_seconds(slot, each, count) for each in asked.values()] for _ in range(TURNS)]
    for name, column in zip(asked, zip(*turns, strict=True), strict=True):
        show(f"the process of a test: {name}", f"{1000 * statistics.median(column):.1f} CPU-ms")


def process_seconds(slot, asked, count):
    before = slot.usage().cpu_s
    for _ in range(count):
        channel = slot.channel("small", 1, 10)
        channel.ask(asked, 10)
        channel.close()
    slot.channel("small", 1, 10).close()  # a fork collects those before it
    return (slot.usage().cpu_s - before) / (count + 1)


def first_call(sandbox):
    with sandbox.slot(ECHO) as slot:
        started = time.perf_counter()
        slot.channel("echo", 1, 10).ask(request(torch.ones(2)), 10)
        return time.perf_counter() - started


def echoed(channel, x):
    started = time.perf_counter()
    channel.ask(request(x), 10)
    return time.perf_counter() - started


def request(x, path="echo.echo"):
    return {"call": path, "args": [x], "kwargs": {}, "device": "cpu"}


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
    """Wall seconds of a new Python process, and what it printed."""
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, *args], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, ended.stdout


def show(name, figure):
    print(f"{name:60}{figure}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
