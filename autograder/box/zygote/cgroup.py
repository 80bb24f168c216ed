"""A control group of the kernel's for each slot, where this machine lets us make some (delegated.py): it counts the slot's
processes and threads, and lets it start no more than its limit, whoever else runs as the same user.

All that is written is in groups made here. No process is moved but one that was started here, and that one moves itself. A group
is held by a lock on its folder, which is free when its zygote has ended: then the grader of that zygote, or whoever starts next,
removes it.
"""

import errno
import fcntl
import os
import tempfile
import time
from contextlib import suppress

_PREFIX = "llm-autograder-"
_TRIES = 3
_PATIENCE_S = 1.0


class Group:
    """One that `make` has made: a folder of the kernel's, and the lock that says that somebody uses it."""

    def __init__(self, folder: str, lock: int):
        self.folder, self._lock = folder, lock

    def enter(self) -> None:
        """Puts the process that calls it into the group, with all that it starts from then on."""
        write(self.folder, "cgroup.procs", "0")

    def remove(self) -> None:
        """Once all in it are dead. One that holds somebody after all is left for the next who sweeps."""
        _remove_patiently(self.folder)
        os.close(self._lock)


def make(place: str, most: int) -> Group | None:
    """A group for a slot of so many processes and threads; None where there is no place, or none can be made now."""
    for _ in range(_TRIES if place else 0):  # a sweep may take one for forgotten before it is locked
        folder = ""
        try:
            folder = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            _remove(folder)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write(folder, "pids.max", str(most))
            return Group(folder, lock)
        except OSError:
            _remove(folder)
            os.close(lock)
    return None


def sweep(place: str, patience_s: float = 0.0) -> None:
    """Removes what killed graders have left there: groups that nobody holds, and nobody is in."""
    with suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(_PREFIX):
                _remove_unless_held(os.path.join(place, name), patience_s)


def _remove_unless_held(folder, patience_s):
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_patiently(folder, patience_s)
        finally:
            os.close(lock)


def _remove_patiently(folder, patience_s=_PATIENCE_S):
    """Who was killed is in its group for a moment more."""
    deadline = time.monotonic() + patience_s
    while not _remove(folder) and time.monotonic() < deadline:
        time.sleep(0.001)


def _remove(folder):
    """Whether it is gone."""
    try:
        os.rmdir(folder)
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def write(folder: str, name: str, text: str) -> None:
    """In one write, which is how the kernel takes it."""
    descriptor = os.open(os.path.join(folder, name), os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
