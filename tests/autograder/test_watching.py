"""Who looks at a slot, a kernel or a box is not ended by what it sees."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from autograder.box.policy import Policy
from autograder.box.zygote import disk, loop, memory, processes
from autograder.errors import BoxError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@contextmanager
def sleeping(then=lambda: None):
    """The process id of a fork that leads a group of its own, and has done something first."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        then()
        os.write(write, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    try:
        yield pid
    finally:
        processes.kill(pid)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:  # a watchdog has collected it
            pass


@pytest.fixture
def zygote():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield loop.Zygote(ours, ["seccomp"])


def lives(pid):
    return pid in processes.table()


@pytest.mark.parametrize("name", [b"\xff\xfe\xff", b"\rThreads: x", b"\x85VmHWM: x", b"a) R (b", b"\nThreads: x"])
def test_a_process_may_have_any_name(name):
    with sleeping(lambda: ctypes.CDLL(None).prctl(15, name, 0, 0, 0)) as pid:
        reading = memory.at_most(pid)

        assert (reading.threads, reading.bytes > 1 << 20, lives(pid)) == (1, True, True)


def test_what_breaks_a_look_at_a_slot_ends_that_slot_alone(zygote, monkeypatch):
    with sleeping() as bad, sleeping() as good:
        for pid in (bad, good):
            zygote._slots[pid] = loop.Slot(pid, Policy(scratch=f"/none/{pid}"))
        used = memory.used

        def break_of_it(pids, *limits):
            return used([int("x")] if bad in pids else pids, *limits)

        monkeypatch.setattr(memory, "used", break_of_it)
        zygote._watch()

        assert "nobody can look at (ValueError)" in zygote._slots[bad].reason
        assert (zygote._slots[good].reason, lives(bad), lives(good)) == ("", False, True)


def test_what_breaks_a_reading_ends_that_slot_alone(zygote, monkeypatch):
    with sleeping() as pid:
        slot = zygote._slots[pid] = loop.Slot(pid, Policy())
        monkeypatch.setattr(memory.Peak, "read", lambda peak: int("x"))

        assert zygote._usage(slot).peak == 0
        assert slot.reason
        assert not lives(pid)


def test_a_worker_that_cannot_be_started_leaves_nothing_open(zygote, monkeypatch):
    def refuse():
        raise OSError("no process is left")

    monkeypatch.setattr(os, "fork", refuse)
    read, write = os.pipe()
    control = os.dup(read)

    assert "busy" in zygote._spawn(Policy(), control, write)
    assert os.read(read, 1) == b""  # nobody has the other end
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(control)
    os.close(read)


def test_a_folder_that_its_owner_closed_has_no_end(tmp_path):
    (tmp_path / "shut").mkdir(0o300)
    inside, said = os.pipe()
    pid = os.fork()
    if not pid:
        if not os.geteuid():
            os.chown(tmp_path, 65534, 65534)
            os.chown(tmp_path / "shut", 65534, 65534)
            os.chdir(tmp_path)
            os.setresuid(65534, 65534, 65534)
        os.write(said, b"x" if disk.bytes_below(".") >= 1 << 50 else b"-")
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(inside, 1) == b"x"
    os.close(inside)
    os.close(said)


def leave_the_first_thread():
    """A process of two threads, of which the first has ended."""

    def stay():
        held = b"x" * (50 << 20)
        time.sleep(60)
        del held

    threading.Thread(target=stay).start()
    time.sleep(0.1)


def test_a_process_whose_first_thread_has_left_is_seen():
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        leave_the_first_thread()
        os.write(write, b"x")
        ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
    try:
        os.read(read, 1)
        time.sleep(0.1)

        assert lives(pid)
        assert processes.face(pid) != pid
        assert memory.at_most(pid).bytes > 50 << 20
        assert memory.walked([pid], 0, 0) > 50 << 20
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


def test_a_notebooks_kernel_ends_whatever_broke_its_watch(tmp_path, monkeypatch):
    kernel = pytest.importorskip("autograder.notebooks.kernel")

    def break_of_it(*_):
        raise ValueError("a name that nobody can read")

    monkeypatch.setattr(kernel, "_watch", break_of_it)
    home = tmp_path / "home"
    home.mkdir()
    with sleeping() as pid:
        kernel._keep(pid, Policy(), home, ["seccomp", "landlock"], set())
        end = time.monotonic() + 10
        while (lives(pid) or home.exists()) and time.monotonic() < end:
            time.sleep(0.05)

        assert (lives(pid), home.exists()) == (False, False)


def test_a_notebooks_folder_goes_where_its_processes_could_not_be_ended(tmp_path, monkeypatch):
    kernel = pytest.importorskip("autograder.notebooks.kernel")

    def break_of_it(*_):
        raise OSError("nothing can be read of /proc")

    monkeypatch.setattr(kernel, "_end", break_of_it)
    home = tmp_path / "home"
    home.mkdir()
    with sleeping() as pid:
        kernel._keep(pid, Policy(), home, ["seccomp", "landlock"], set())
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while home.exists() and time.monotonic() < end:
            time.sleep(0.05)

        assert not home.exists()


def test_a_box_that_broke_is_a_new_one_for_the_next_notebook(monkeypatch):
    boxed = pytest.importorskip("autograder.notebooks.boxed")
    done = []

    def grade(submission, asked):
        done.append(submission)
        if submission == "hostile":
            raise BoxError("the box's zygote is gone")
        return "card"

    grader = SimpleNamespace(grade=grade, restart=lambda: done.append("restart"))
    monkeypatch.setattr(boxed, "_grader", lambda lesson, suites: grader)
    lesson = SimpleNamespace(modules=(), suite_digest=str)

    with pytest.raises(BoxError):
        boxed._grade(lesson, "hostile")

    assert boxed._grade(lesson, "honest") == "card"
    assert done == ["hostile", "restart", "honest"]
