"""Ctrl-C, a scheduler's SIGTERM, and a grader that is killed: finished scorecards stay, nothing else does."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.grade import Grader
from autograder.lesson import load
from autograder.pool import ctrl_c_later
from autograder.scorecard import Scorecard
from autograder.submission import Submission

PATIENCE_S = 60.0
SUBMISSIONS = 60


@pytest.fixture
def course(tmp_path):
    """A lesson, and more submissions than are graded before the signal comes."""
    write_lesson(tmp_path)
    for number in range(SUBMISSIONS):
        folder = tmp_path / "submissions" / f"student{number:02}"
        folder.mkdir(parents=True)
        (folder / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION))
    return tmp_path


@pytest.fixture
def temporary():
    """Where the grader's temporary files lie; not in tmp_path, which slots as other users cannot reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def grading(course, temporary, processes):
    """`autograder grade --each` in a session of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "autograder.cli", "grade", "submissions", "--each", "--lesson", "99-toy"]
    return subprocess.Popen(
        [*command, "--out", "out", "--processes", str(processes)], cwd=course, text=True,
        env={**os.environ, "AUTOGRADER_ROOT": str(course), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def finished(course):
    return sorted((course / "out").glob("*/scorecard.json"))


def descendants(pid):
    """All processes that a process started, and that these started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found, more = set(), {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= more
    return found


def alive(pids):
    """Those that run; one that has ended may still wait for its parent to hear of it."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def wait_until(condition):
    give_up = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("stop", "processes", "code"),
    [
        (lambda pid: os.killpg(pid, signal.SIGINT), 1, 130),  # Ctrl-C reaches every process of the terminal
        (lambda pid: os.killpg(pid, signal.SIGINT), 2, 130),
        (lambda pid: os.kill(pid, signal.SIGTERM), 2, 130),
        (lambda pid: os.kill(pid, signal.SIGKILL), 2, -signal.SIGKILL),
    ],
    ids=["Ctrl-C, one process", "Ctrl-C, a pool", "SIGTERM", "SIGKILL"],
)
def test_what_was_finished_stays_and_nothing_else(course, temporary, stop, processes, code):
    grader = grading(course, temporary, processes)
    assert wait_until(lambda: len(finished(course)) >= 2 or grader.poll() is not None)
    started = descendants(grader.pid)
    assert len(started) >= processes

    stop(grader.pid)
    said, _ = grader.communicate(timeout=PATIENCE_S)  # ends when nobody can print any more

    cards = [Scorecard.from_json(path.read_text()) for path in finished(course)]
    assert grader.returncode == code
    assert 2 <= len(cards) < SUBMISSIONS
    assert {card.score for card in cards} == {cards[0].max_score}
    assert {path.name for path in (course / "out").glob("*/*")} == {"scorecard.json"}
    assert wait_until(lambda: not alive(started)), "processes stay behind"
    assert wait_until(lambda: not list(temporary.iterdir())), "files of submissions stay behind"
    if code == 130:
        assert f"stopped: {len(cards)} of {SUBMISSIONS} submissions are graded, their scorecards are in out" in said
        assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_ctrl_c_while_a_pool_starts_is_no_traceback(course, temporary):
    grader = grading(course, temporary, 2)
    # Two that import torch now, and Python's resource tracker.
    assert wait_until(lambda: len(descendants(grader.pid)) >= 3)

    os.killpg(grader.pid, signal.SIGINT)
    said, _ = grader.communicate(timeout=PATIENCE_S)

    assert grader.returncode == 130
    assert f"stopped: 0 of {SUBMISSIONS} submissions are graded" in said
    assert "Traceback" not in said
    assert not list(temporary.iterdir())


def test_ctrl_c_while_a_hidden_test_runs_ends_the_grading(course, monkeypatch):
    """pytest would end its session and say so to nobody."""
    monkeypatch.setenv("AUTOGRADER_ROOT", str(course))
    (course / "tests" / "lessons" / "99-toy" / "test_toy.py").write_text(
        "import pytest\n\n\n@pytest.mark.points(1)\ndef test_interrupted(student):\n    raise KeyboardInterrupt\n"
    )
    lesson = load("99-toy")

    with Grader(lesson) as grader, pytest.raises(KeyboardInterrupt):
        grader.grade(Submission("ada", "", lesson.solution_files()))


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Ctrl-C cannot wait here")
def test_ctrl_c_waits_although_another_thread_would_take_it():
    """A display has a thread of its own, which does not block the signal."""
    done, steps = threading.Event(), []
    other = threading.Thread(target=done.wait)
    other.start()

    def start():
        with ctrl_c_later():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            steps.append("a process is started, and told what it needs")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        done.set()
        other.join()

    assert len(steps) == 1
