"""Starting processes, looking at them from outside, and ending them: what the zygote does with slots."""

import ctypes
import errno
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

_FORK_TRIES = 200
_FORK_AGAIN_S = 0.1
_HELPER_S = 0.5
_STATUS = re.compile(
    rb"\nState:\t(?P<state>\w).*?\nPPid:\t(?P<parent>\d+).*?\nUid:\t(?P<uid>\d+).*?\nNSpgid:\t(?P<group>\d+)",
    re.DOTALL,
)
_ENDED = (b"Z", b"X")
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


def fork_patiently() -> int:
    """os.fork: a machine that is out of processes for a moment, because something else bombs it, is not a reason to give up."""
    for _ in range(_FORK_TRIES):
        try:
            return os.fork()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
            time.sleep(_FORK_AGAIN_S)
    return os.fork()


class Entry(NamedTuple):
    """A process: its parent, its real user, the leader of its group."""

    parent: int
    uid: int
    group: int


def table(ended: bool = False) -> dict[int, Entry]:
    """pid -> Entry of every process; with `ended` those too that nobody has collected yet (zombies)."""
    found = {}
    if not os.path.isdir("/proc/self"):
        return _table_of_ps(ended)
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _STATUS.search(_beginning(f"/proc/{name}/status"))
            if fields and (ended or fields["state"] not in _ENDED or face(int(name)) != int(name)):
                found[int(name)] = Entry(int(fields["parent"]), int(fields["uid"]), int(fields["group"]))
    return found


def _beginning(path):
    """Read without a file object, which would cost as much again as the kernel does: the table is made ten times a second."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # it ended while we looked
        return b""
    try:
        return os.read(descriptor, 1024)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def with_descendants(pids: set[int], known: dict[int, Entry]) -> list[int]:
    """These, and all that they started, as far as they are in the table."""
    found, more = set(pids), set(pids)
    while more:
        more = {pid for pid, entry in known.items() if entry.parent in found} - found
        found |= more
    return [pid for pid in found if pid in known]


def face(pid: int) -> int:
    """Whose folder in /proc shows what a process has: its own, or that of a thread that runs on where the first has ended.

    Such a process looks like a zombie, with neither memory nor files.
    """
    if not _has_ended(pid):
        return pid
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return pid
    return next((thread for thread in threads if thread != pid and not _has_ended(thread)), pid)


def _has_ended(thread):
    fields = _STATUS.search(_beginning(f"/proc/{thread}/status"))
    return fields is None or fields["state"] in _ENDED


def _table_of_ps(ended):
    """The same where there is no /proc (macOS)."""
    rows = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,uid=,pgid=,stat="], capture_output=True, text=True
    ).stdout.splitlines()
    fields = [row.split() for row in rows]
    return {int(pid): Entry(*map(int, rest)) for pid, *rest, state in fields if ended or state[0] != "Z"}


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def collect(worker_pid: int) -> float:
    """Reaps every child that ended; returns the CPU seconds of the worker, with its collected children, if it was one."""
    cpu = 0.0
    try:
        while True:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return cpu
            if pid == worker_pid:
                cpu = usage.ru_utime + usage.ru_stime
    except ChildProcessError:
        return cpu


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """As root in a container one may not look at what another user's process has open: that user may. 0 changes nothing.

    Only what decides on files changes (setfsuid), so that nobody may signal, trace or limit this process meanwhile.
    """
    if not uid:
        yield
        return
    libc = ctypes.CDLL(None)
    group, user = libc.setfsgid(uid), libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(user)
        libc.setfsgid(group)


def kill_group(leader: int) -> None:
    """All processes of a group at once: seccomp keeps a slot's processes in the group of its worker."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_user(uid: int) -> None:
    """All processes of a user at once, the ones that it is just starting too, which no list of processes shows."""
    _as_user(uid, lambda: os.kill(-1, signal.SIGKILL))


def start_no_more(pids: list[int], uid: int) -> None:
    """From now on these cannot start a process or a thread. 0 is the user of this process."""

    def limit():
        for pid in pids:
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))

    _as_user(uid, limit) if uid else limit()  # in a container root may not, but the user may


def may_start(pid: int) -> bool:
    """Whether it can start processes, or has ended."""
    return re.search(rb"\nMax processes +0 +0 ", _beginning(f"/proc/{pid}/limits")) is None


def _as_user(uid, act):
    helper = os.fork()
    if not helper:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
        finally:
            os._exit(0)
    _wait_briefly(helper)


def _wait_briefly(helper):
    """The helper is the slot's user for a moment, and could be stopped by it: then it is killed, and the caller tries again."""
    deadline = time.monotonic() + _HELPER_S
    while time.monotonic() < deadline:
        if os.waitpid(helper, os.WNOHANG)[0]:
            return
        time.sleep(0.0005)
    kill(helper)
    os.waitpid(helper, 0)


def sweep(uid: int) -> None:
    """Without Landlock a slot could leave files where everybody may write."""
    for folder in _SHARED_FOLDERS:
        subprocess.run(["find", folder, "-xdev", "-uid", str(uid), "-delete"], capture_output=True, check=False)
