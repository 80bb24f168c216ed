"""`autograder grade --each` as a process of its own, and what there is of it while it runs and afterwards."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from conftest import TOY_SOLUTION, write_lesson

PATIENCE_S = 60.0


def write_course(root, students):
    """A lesson, and so many right submissions."""
    write_lesson(root)
    for number in range(students):
        folder = root / "submissions" / f"student{number:02}"
        folder.mkdir(parents=True)
        (folder / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION))
    return root


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
            parents[int(stat.parent.name)] = int(stat.read_bytes().rpartition(b")")[2].split()[1])
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
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            running.add(pid)
    return running


def wait_until(condition, patience=PATIENCE_S):
    give_up = time.monotonic() + patience
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


def graders(pid):
    """The grading processes of a command: those of its pool."""
    found = set()
    for process in descendants(pid) - {pid}:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        found |= {process} if b"spawn_main" in command else set()
    return found


def named(text):
    """Processes in whose command line a text is."""
    found = set()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found |= {int(command.parent.name)} if text.encode() in command.read_bytes() else set()
        except OSError:
            continue
    return found
