"""A folder -> its entries: no link is followed, no pipe is waited for, and what vanishes or is closed is said."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from . import reader
from .entries import LEFT, Entry, Reading

_DEEPEST = 100
# That something is gone that was there, may not be opened, or that the machine is in trouble. A link or a pipe is none of them.
_OURS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS),
}


def read_folder(top: Path) -> Reading:
    """All entries below `top`, by name; needless folders once and unopened."""
    entries: list[Entry] = []
    todo = [("", 0)]
    while todo:
        folder, depth = todo.pop()
        try:
            with os.scandir(os.path.join(top, folder) if folder else top) as found:
                is_folder = {item.name: item.is_dir(follow_symlinks=False) for item in found}
        except OSError as error:
            if not folder:
                return Reading((), "unreadable")
            entries.append(unread(folder, error))
            continue
        inner = []
        for name in sorted(is_folder):
            entry = _entry(top, f"{folder}/{name}" if folder else name, is_folder[name])
            if entry.kind == reader.FOLDER and depth < _DEEPEST:
                inner.append((entry.name, depth + 1))
            entries.append(entry)
            if len(entries) > reader.MAX_ENTRIES:
                return Reading(tuple(entries), "many")
        todo += reversed(inner)
    return Reading(tuple(entries))


def _entry(top, name, was_folder):
    path = os.path.join(top, name)
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return Entry(name, reader.NEEDLESS if reader.unneeded(f"{name}/") else reader.FOLDER)
        if not stat.S_ISREG(status.st_mode):
            return Entry(name, reader.LINK)
        return read_file(Path(path), name, status.st_size)
    except OSError as error:
        matters = not reader.unneeded(f"{name}/") if was_folder else bool(reader.worth_reading(name))
        return unread(name, error, matters)


def read_file(path: Path, name: str, size: int) -> Entry:
    """A regular file as an entry called `name`. Raises OSError."""
    most = reader.worth_reading(name)
    if most == reader.MAX_ARCHIVE:
        return Entry(name, reader.READ, size, path=path)
    if not most:
        return Entry(name, reader.UNREAD, size)
    with open_unfollowed(path) as stream:
        content = stream.read(most + 1)
    return Entry(name, reader.READ, max(size, len(content)), content)


def open_unfollowed(path: Path) -> BinaryIO:
    """A regular file; what was swapped for a link or a pipe meanwhile is not followed and does not block.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    stream = open(os.open(path, flags), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError("it is not a regular file")
    return stream


def unread(name: str, error: OSError, matters: bool = True) -> Entry:
    """An entry that could not be read; `matters`: it might have been a part of the work."""
    return Entry(name, LEFT, why=cannot_be_read(error), ours=matters and is_ours(error))


def is_ours(error: OSError) -> bool:
    """Whether the machine, and nothing that the student did, kept it from being read."""
    return error.errno in _OURS


def cannot_be_read(error: OSError) -> str:
    """Without the path, which is none of the student's business."""
    why = error.strerror.lower() if error.strerror else str(error)
    return f"it cannot be read ({why})"
