"""Looking at processes and their files from outside, and ending them: what the zygote does with a slot it distrusts."""

import os
import signal
import subprocess

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


def table() -> dict[int, tuple[int, int]]:
    """pid -> (parent, real uid) of every process that is not a zombie."""
    found = {}
    if not os.path.isdir("/proc/self"):
        return _table_of_ps()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/status") as status:
                    fields = dict(line.split(":", 1) for line in status if line.startswith(("State", "PPid", "Uid")))
                if fields["State"].split()[0] not in "ZX":
                    found[int(name)] = int(fields["PPid"]), int(fields["Uid"].split()[0])
            except (OSError, KeyError):  # it ended while we looked
                continue
    return found


def _table_of_ps():
    """The same where there is no /proc (macOS)."""
    rows = subprocess.run(["ps", "-axo", "pid=,ppid=,uid=,stat="], capture_output=True, text=True).stdout.splitlines()
    fields = [row.split() for row in rows]
    return {int(pid): (int(parent), int(uid)) for pid, parent, uid, state in fields if not state.startswith("Z")}


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


def private_bytes(pid: int) -> int:
    """What a process has for itself: resident less shared. Exact (PSS) needs rights that containers do not give."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            _, resident, shared, *_ = map(int, statm.read().split())
        return (resident - shared) * _PAGE
    except OSError:
        return 0


def bytes_below(folder: str) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue
    return total


def sweep(uid: int) -> None:
    """Without Landlock a slot could leave files where everybody may write."""
    for folder in _SHARED_FOLDERS:
        subprocess.run(["find", folder, "-xdev", "-uid", str(uid), "-delete"], capture_output=True, check=False)
