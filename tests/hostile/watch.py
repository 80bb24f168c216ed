"""What an attacker would like to have, and what must be as it was after each sample.

    Watch             secrets on the disk, in memory and in the environment; sockets that anybody may write to
    WatchedSandbox    a box with another submission in it, the neighbour, that remembers the users of its slots

The samples are told where all of it is (`targets`): nothing rests on a name that is hard to guess.
"""

import json
import os
import resource
import secrets
import socket
import time
from pathlib import Path

import torch

from autograder.box.sandbox import Sandbox
from autograder.errors import StudentFault

CANARY = f"CANARY-{secrets.token_hex(8)}"
MARKER = 12345.678  # in tensors of the grader and of the neighbour only
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/run")
NEIGHBOUR = f"""
import torch
secret, held = {CANARY!r}, torch.full((1 << 16,), {MARKER})
def ask(): return float(held.mean())
"""


class WatchedSandbox(Sandbox):
    current = None  # the box that is open

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        WatchedSandbox.current = self
        self.uids = set()  # users of the slots since the sample began
        self.neighbour = super().slot({"neighbour.py": NEIGHBOUR.encode()})
        self.ask_the_neighbour()

    def slot(self, *args, **options):
        slot = super().slot(*args, **options)
        self.uids |= {slot._uid} - {0}
        return slot

    def ask_the_neighbour(self):
        channel = self.neighbour.channel("neighbour", 1, 5.0)
        try:
            reply = channel.ask({"call": "neighbour.ask", "args": [], "kwargs": {}, "device": "cpu"}, 5.0)
            return reply.get("value")
        finally:
            channel.close()

    @property
    def zygote(self) -> int:
        return self._process.pid

    def close(self):
        self.neighbour.close()
        super().close()


class Watch:
    def __init__(self, folder: Path, hidden: dict[str, Path]):
        os.environ["HOSTILE_CANARY"] = CANARY
        self._held = torch.full((1 << 16,), MARKER)
        self._folder = folder
        self._files = {
            **hidden,
            "results": _planted(folder / "results" / "results.json", 0o666),
            "closed": _planted(folder / "closed" / "secret.txt", 0o600),
        }
        self._listeners = {
            "stream_socket": _listener(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "engine.sock")),
            "datagram_socket": _listener(socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "log.sock")),
            "abstract_stream": _listener(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{CANARY[-6:]}-stream"),
            "abstract_datagram": _listener(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{CANARY[-6:]}-datagram"),
            "tcp": _listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": _listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        }

    def targets(self) -> dict:
        """What a sample is told: the module `targets`."""
        box = WatchedSandbox.current
        return {
            **{name: str(path) for name, path in self._files.items()},
            **{name: opened.getsockname() for name, opened in self._listeners.items()},
            "results_folder": str(self._folder / "results"),
            "box_folder": str(box.folder),
            "neighbour": str(box.neighbour._submission / "neighbour.py"),
            "neighbour_pid": box.neighbour._worker.pid,
            "grader_pid": os.getpid(),
            "zygote_pid": box.zygote,
            "secret_begins": CANARY[:7],
            "marker": MARKER,
        }

    # ------------------------------------------------------------------------------------------ before and after

    def begin(self) -> None:
        """A sample is graded next."""
        WatchedSandbox.current.uids.clear()  # they are free again, and may be another grader's by now
        self._state, self._names, self._counts = self._look(), _names(), _counts()

    def problems(self) -> list[str]:
        """What is not as it was when the sample began."""
        deadline = time.monotonic() + 1
        while (grown := _more(_counts(), self._counts)) and time.monotonic() < deadline:
            time.sleep(0.02)  # the last reader of a pipe ends a moment after the pipe
        state = self._look()
        changed = [what for what in state if state[what] != self._state[what]]
        users = WatchedSandbox.current.uids or {os.getuid(), None}
        return [
            *(f"{what} changed: {self._state[what]} -> {state[what]}"[:400] for what in changed),
            *grown,
            *(f"left behind: {name}" for name, user in _names() - self._names if user in users | {None}),
            *(f"something came to {name}" for name, opened in self._listeners.items() if _came(opened)),
            *_neighbour_problems(),
        ]

    def _look(self):
        box = WatchedSandbox.current
        return {
            **{f"the file {name}": _state_of(path) for name, path in self._files.items()},
            "the results folder": sorted(os.listdir(self._folder / "results")),
            "the box's folder": sorted(os.listdir(box.folder)),
            "the zygote": (box.zygote, *_privileges(box.zygote)),
            "the grader": _privileges(os.getpid()),
        }


def _planted(path, mode):
    path.parent.mkdir()
    path.write_text(json.dumps({"score": 0, "secret": CANARY}))
    path.chmod(mode)
    path.parent.chmod(mode | mode >> 2 & 0o111)  # who may read the file may enter its folder
    return path


def _listener(family, kind, address):
    opened = socket.socket(family, kind)
    opened.bind(address)
    opened.setblocking(False)
    if kind == socket.SOCK_STREAM:
        opened.listen()
    if isinstance(address, str) and address[0] == "/":
        os.chmod(address, 0o777)
    return opened


def _came(opened):
    try:
        return opened.accept() if opened.type & 0xF == socket.SOCK_STREAM else opened.recv(100)
    except BlockingIOError:
        return None


def _neighbour_problems():
    try:
        answer = WatchedSandbox.current.ask_the_neighbour()
    except StudentFault as fault:
        return [f"the neighbour: {fault}"]
    return [] if isinstance(answer, float) and abs(answer - MARKER) < 0.01 else [f"the neighbour answers {answer}"]


# ---------------------------------------------------------------------------------------------- looking


def _state_of(path):
    status, text = path.stat(), path.read_text()[-100:]
    return status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink, status.st_size, os.listxattr(path), text


def _privileges(pid):
    limits = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
    return (
        os.getpriority(os.PRIO_PROCESS, pid),
        sorted(os.sched_getaffinity(pid)),
        [resource.prlimit(pid, limit) for limit in limits],
    )


def _names():
    """What could be left where everybody may write: (path, its user), and (name of an abstract socket, None)."""
    rows = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()]
    names = {(row, None) for row in rows if row.startswith("@hostile")}
    for top in SHARED_FOLDERS:
        try:
            names |= {(entry.path, entry.stat(follow_symlinks=False).st_uid) for entry in os.scandir(top)}
        except OSError:  # it is not there, or an entry of somebody else's is gone
            continue
    for kind in ("shm", "sem", "msg"):
        rows = [line.split() for line in Path("/proc/sysvipc", kind).read_text().splitlines()[1:]]
        names |= {(f"SysV {kind} {row[1]}", int(uid)) for row in rows for uid in row[2:] if uid.isdigit()}
    return names


def _counts():
    return {
        "processes of the slots": len(_processes(WatchedSandbox.current)),
        "descriptors of the grader": len(os.listdir("/proc/self/fd")),
        "threads of the grader": len(os.listdir("/proc/self/task")),
    }


def _more(now, before):
    return [f"more {what}: {before[what]} -> {now[what]}" for what in now if now[what] > before[what]]


def _processes(box):
    """What runs below the zygote, and what the users of the slots run; no zombies."""
    parents, found = {}, {box.zygote}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent, *_ = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
            if state not in (b"Z", b"X"):
                parents[int(name)] = int(parent)
                found |= {int(name)} if os.stat(f"/proc/{name}").st_uid in box.uids else set()
        except OSError:  # it ended meanwhile
            continue
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found}
        grown, found = not children <= found, found | children
    return found
