"""The processor time that processes used, read from outside: /proc, or `ps` where there is none (macOS).

What a process says about its own time can be forged, and what a clock on the wall says depends on who else is busy.
"""

import os
import subprocess
import sys
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PROC = os.path.isdir("/proc/self")
READABLE = _PROC or sys.platform == "darwin"
_READY = b"R"  # runs, or waits for a processor
_AWAKE = b"RDU"  # or waits for a disk (macOS says U)


@dataclass
class Meter:
    """Adds up what the processes of one slot used, those that ended included.

    A child that its parent collects is counted on in its parent. One that nobody collects (its parent ignores SIGCHLD)
    takes its time along when it ends: what the sum loses between two looks is kept in `_gone`.
    """

    seconds: float = 0.0
    _sum: float = 0.0
    _gone: float = 0.0

    def read(self, pids: list[int]) -> None:
        """`pids` are all processes of the slot, those too that ended and were not collected yet."""
        total = used_by(pids)
        if total < self._sum:  # or one was collected while we read, between its parent and itself: then this is right
            total = max(total, used_by(pids))
        self._gone += max(0.0, self._sum - total)
        self._sum = total
        self.seconds = max(self.seconds, total + self._gone)


def used_by(pids: list[int]) -> float:
    """Seconds that these processes used, with the children that they collected."""
    if not _PROC:
        return _used_by_ps(pids)
    ticks = 0
    for pid in pids:
        fields = _fields(f"/proc/{pid}/stat")
        ticks += sum(map(int, fields[11:15])) if fields else 0  # utime, stime, and both of collected children
    return ticks / _TICKS


def awake_and_ready(pids: list[int]) -> tuple[bool, bool]:
    """Whether any thread of these processes computes or would, if the machine were less busy; and if a processor were free."""
    states = set().union(*map(_states, pids)) if _PROC else {state[0].encode() for state in _ps("stat=", pids)}
    return any(state in _AWAKE for state in states), any(state in _READY for state in states)


def _states(pid):
    """Those of its threads."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it ended
        return set()
    return {fields[0] for fields in (_fields(f"/proc/{pid}/task/{id}/stat") for id in threads) if fields}


def _fields(path):
    """Those behind the name, which may hold anything; none if the process is gone."""
    try:
        with open(path, "rb", buffering=0) as stat:
            return stat.read(1024).rpartition(b")")[2].split()
    except OSError:
        return []


def _used_by_ps(pids):
    return sum(_seconds(text) for text in _ps("time=", pids))


def _seconds(text):
    """Of [[days-]hours:]minutes:seconds[.hundredths]."""
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = map(float, ["0", "0", *clock.split(":")][-3:])
    return ((float(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _ps(column, pids):
    command = ["ps", "-o", column, "-p", ",".join(map(str, pids))]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() if pids else []
