"""What the processes of a slot keep in memory, read from outside.

A fork shares the pages of its parent until one of them writes, and then has a page of its own that no counter of the kernel
tells from a shared one, but for the fault that made it. So a look first adds up what a slot can have at most, which costs as
good as nothing; only where that is too much are its pages walked, at some 5 ms a process, and shared ones counted once.

The kernel keeps memory for a process, too, and shows it to nobody: for each range of addresses, for what is on its way through
a socket. So these are counted, and each is taken to be as large as it can be.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from .processes import acting_as, face, may_start, start_no_more

_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FLAGS, _FAULTS = 6, 7  # places in /proc/PID/stat behind the name
_COUNTED = (b"RssAnon", b"RssShmem", b"VmSwap", b"VmPTE", b"HugetlbPages", b"Threads")
_TRIES = 5
ENDLESS = 1 << 50
_A_MAP = 256  # bytes for a range of addresses: measured 246, with the tree that they are in
_WALKED = (b"Pss_Anon", b"Pss_Shmem", b"SwapPss", b"Private_Hugetlb", b"Shared_Hugetlb")


@dataclass(frozen=True)
class Reading:
    """Of one process, or of all of a slot: bytes that it has at most, those that the kernel may keep for it, and its threads."""

    bytes: int = 0
    kernel: int = 0
    threads: int = 0


def at_most(pid: int, inherited: int = 0) -> Reading:
    """What a process has for itself: no less than it is; nothing, of a process that ended.

    `inherited` are the bytes that the zygote has. A fork shares them, as far as it has not written to them: a page that it
    wrote to was one fault. A program that was started afresh shares none.
    """
    shown = pid
    fields, stat = _fields(f"/proc/{pid}/status", _COUNTED), _stat(pid)
    if b"RssAnon" not in fields and fields.get(b"Threads", 0) > 1:
        shown, inherited = face(pid), 0  # a thread's flags do not say what it shares
        fields = _fields(f"/proc/{shown}/status", _COUNTED)
    if not fields or not stat:
        return Reading()
    own = fields.get(b"RssAnon", 0) + fields.get(b"VmSwap", 0)
    if int(stat[_FLAGS]) & _FORKED_WITHOUT_EXEC and inherited:
        written = min(inherited, own, int(stat[_FAULTS]) * _PAGE)
        own = max(0, own - inherited) + written
    others = sum(fields.get(name, 0) for name in (b"RssShmem", b"VmPTE", b"HugetlbPages"))
    kernel = _most_maps() * _A_MAP + _descriptors(shown) * _in_a_socket()
    return Reading(own + others, kernel, fields.get(b"Threads", 0))


def together(pids: Iterable[int], inherited: int) -> Reading:
    """at_most of all."""
    readings = [at_most(pid, inherited) for pid in pids]
    return Reading(*(sum(getattr(each, name) for each in readings) for name in ("bytes", "kernel", "threads")))


def used(pids: Sequence[int], inherited: int, uid: int, limit: int) -> tuple[int, int]:
    """(bytes, threads) of all: the bytes at most, or counted one by one where more than `limit` of them are possible."""
    found = together(pids, inherited)
    if found.bytes + found.kernel <= limit:
        return found.bytes, found.threads
    counted = walked(pids, inherited, uid)
    return (found.bytes if counted is None else counted), found.threads


class Peak:
    """The most bytes that one process of a slot has had for itself at once since `begin`: what it had then, and what came to it."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        # Bytes that were not its own at the beginning: libraries, and what a fork shares.
        self._others: dict[int, int] = {}
        self._is_known = False

    def begin(self, processes: Callable[[], list[int]], uid: int, inherited: int) -> None:
        """From here on nothing of the slot can start a process or a thread: what ended meanwhile would take its peak along."""
        for _ in range(_TRIES):
            self._pids = processes()
            start_no_more(self._pids, uid)
            with acting_as(uid):
                self._is_known = all([_forget_peak(pid) for pid in self._pids])
            self._others = {pid: _peak(pid) - _beyond(pid, inherited) for pid in self._pids}
            if self._is_known and set(processes()) == set(self._pids) and not any(map(may_start, self._pids)):
                return
        self._is_known = False

    def read(self) -> int:
        """0 where it was not begun; without end where one of the processes ended, became another program, or was not to be held."""
        peaks = {pid: _peak(pid) for pid in self._pids}
        if self._pids and not (self._is_known and all(peaks.values()) and all(map(_is_a_fork, self._pids))):
            return ENDLESS
        return max((peak - self._others[pid] for pid, peak in peaks.items()), default=0)


def _peak(pid):
    return _fields(f"/proc/{pid}/status", (b"VmHWM",)).get(b"VmHWM", 0)


def _beyond(pid, inherited):
    """What it has beyond the pages that all forks begin with."""
    fields = _fields(f"/proc/{pid}/status", _COUNTED)
    return max(0, sum(fields.get(name, 0) for name in (b"RssAnon", b"RssShmem", b"VmSwap")) - inherited)


def _forget_peak(pid):
    try:
        with open(f"/proc/{pid}/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")  # the peak is what it has now
    except OSError:
        return False
    return True


def _is_a_fork(pid):
    stat = _stat(pid)
    return bool(stat) and bool(int(stat[_FLAGS]) & _FORKED_WITHOUT_EXEC)


def walked(pids: Iterable[int], inherited: int, uid: int) -> int | None:
    """Bytes of all these processes, shared pages counted once, less what the zygote has: None where nobody may look.

    Of the pages that are still shared with the zygote a part counts as theirs, never more than the zygote has.
    """
    pages, maps, sockets, seen = 0, 0, set(), False
    with acting_as(uid):
        for pid in map(face, pids):
            fields = _fields(f"/proc/{pid}/smaps_rollup", _WALKED)
            seen = seen or bool(fields)
            pages += sum(fields.values())
            maps += _maps(pid)
            sockets |= _sockets(pid)
    return max(0, pages - inherited) + maps * _A_MAP + len(sockets) * _in_a_socket() if seen else None


# ---------------------------------------------------------------------------------------------- what the kernel keeps


@cache
def _most_maps():
    return _number("/proc/sys/vm/max_map_count", 65530)


@cache
def _in_a_socket():
    """Bytes that can wait in a socket, which nobody in a slot can raise (seccomp.py): as many as its other end may send."""
    return _number("/proc/sys/net/core/wmem_default", 212992)


def _number(path, otherwise):
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return otherwise


def _descriptors(pid):
    """How many it has open: since Linux 6.2 the size of the folder says it."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _maps(pid):
    try:
        with open(f"/proc/{pid}/maps", "rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _sockets(pid):
    """Their names, by which one that several processes have is known."""
    try:
        paths = [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]
    except OSError:
        return set()
    return {name for name in map(_read_link, paths) if name.startswith("socket:")}


def _read_link(path):
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return ""


# ---------------------------------------------------------------------------------------------- files of /proc


def _fields(path, names):
    """The lines "name: number kB", in bytes, and those without a unit; empty if the process is gone.

    One of the lines is the process's name, which holds what it likes but b"\\n".
    """
    found = {}
    for line in _read(path).split(b"\n"):
        name, _, rest = line.partition(b":")
        number, *unit = rest.split() or [b""]
        if name in names and number.isdigit():
            found[name] = int(number) << (10 if unit else 0)
    return found


def _stat(pid):
    """The fields behind the name, which may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path):
    """Bytes: a text in /proc may be in no encoding."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
