"""What the files of a slot take on the disk, with a name or without, read from outside."""

import errno
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass

from ..policy import Policy
from .processes import acting_as, face

_BLOCK = 4096
_DEEPEST = 100
_ENDLESS = 1 << 50
_NAMELESS_S = 1.0
_NAMELESS_MB = 8


def bytes_below(folder: str) -> int:
    """What the files below a folder take; each entry counts as a block.

    What cannot be walked counts as without end: a tree too deep, or a folder that its owner has closed to who looks as its owner.
    """
    total, todo = 0, [(folder, 0)]
    while todo:
        path, depth = todo.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    total += _BLOCK + entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append((entry.path, depth + 1))
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM):
                return _ENDLESS
        if depth > _DEEPEST or total > _ENDLESS:
            return _ENDLESS
    return total


@dataclass
class Nameless:
    """A slot's files without a name: a look at them costs more than all the rest of a watch."""

    bytes: int = 0  # at the last look
    _looked_at: float = 0.0
    _room: int = 0  # bytes that the disk had left

    def look(self, pids: list[int], policy: Policy) -> int:
        """Bytes: a second old, unless the disk was filled since then by what might be such files."""
        left, now = room(policy.scratch), time.monotonic()
        if now - self._looked_at > _NAMELESS_S or self._room - left > _NAMELESS_MB << 20:
            self.bytes = deleted_bytes(pids, policy.uid, policy.scratch, policy.file_mb << 20)
            self._looked_at, self._room = now, left
        return self.bytes


def room(folder: str) -> int:
    """Bytes that the disk of a folder has left; 0, which asks for a look, where nobody says."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def deleted_bytes(pids: list[int], uid: int, folder: str, largest: int) -> int:
    """What files below a folder take that have no name any more, but are held by processes of the user `uid`.

    `largest` is the size a file can have: what a process maps but has not open counts as that.
    """
    sizes: dict[int, int] = {}
    with acting_as(uid):
        for pid in map(face, pids):
            for inode in _deleted_and_mapped(pid, folder):
                sizes.setdefault(inode, largest)
            sizes |= _deleted_and_open(pid)
    return sum(sizes.values())


def _deleted_and_open(pid):
    """inode -> bytes."""
    found: dict[int, int] = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it ended while we looked
        return found
    for name in names:
        with suppress(OSError):  # closed since: others that come and go hide nothing behind them
            status = os.stat(f"/proc/{pid}/fd/{name}")
            if not status.st_nlink and stat.S_ISREG(status.st_mode):
                found[status.st_ino] = status.st_blocks * 512
    return found


def _deleted_and_mapped(pid, folder):
    """Inodes. A line of maps: addresses, rights, offset, device, inode, path."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            lines = [line.split(None, 5) for line in maps if line.endswith(b" (deleted)\n")]
    except OSError:
        return []
    return [int(line[4]) for line in lines if line[5].startswith(os.fsencode(folder))]
