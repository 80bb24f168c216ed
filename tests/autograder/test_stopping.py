"""Ctrl-C, a scheduler's SIGTERM, and a grader that is killed: finished scorecards stay, nothing else does."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from commands import PATIENCE_S, alive, descendants, finished, grading, temporary, wait_until, write_course

from autograder.grade import Grader
from autograder.lesson import load
from autograder.pool import ctrl_c_later
from autograder.scorecard import Scorecard
from autograder.submission import Submission

SUBMISSIONS = 60
__all__ = ["temporary"]  # a fixture


@pytest.fixture
def course(tmp_path):
    """More submissions than are graded before the signal comes."""
    return write_course(tmp_path, SUBMISSIONS)


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
