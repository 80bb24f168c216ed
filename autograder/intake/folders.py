"""A folder -> its entries: no link is followed, no pipe is waited for, and what vanishes or is closed is said."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from . import reader
from .entries import LEFT, Entry, Reading

_DEEPEST = 100


def read_folder(top: Path) -> Reading:
    """All entries below `top`, by name; needless folders once and unopened."""
    entries: list[Entry] = []
    todo = [("", 0)]
    while todo:
        folder, depth = todo.pop()
        try:
            with os.scandir(os.path.join(top, folder) if folder else top) as found:
                names = sorted(item.name for item in found)
        except OSError as error:
            if not folder:
                return Reading((), "unreadable")
            entries.append(Entry(folder, LEFT, why=cannot_be_read(error)))
            continue
        inner = []
        for name in names:
            entry = _entry(top, f"{folder}/{name}" if folder else name)
            if entry.kind == reader.FOLDER and depth < _DEEPEST:
                inner.append((entry.name, depth + 1))
            entries.append(entry)
            if len(entries) > reader.MAX_ENTRIES:
                return Reading(tuple(entries), "many")
        todo += reversed(inner)
    return Reading(tuple(entries))


def _entry(top, name):
    path = os.path.join(top, name)
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return Entry(name, reader.NEEDLESS if reader.unneeded(f"{name}/") else reader.FOLDER)
        if not stat.S_ISREG(status.st_mode):
            return Entry(name, reader.LINK)
        return read_file(Path(path), name, status.st_size)
    except OSError as error:
        return Entry(name, LEFT, why=cannot_be_read(error))


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


def cannot_be_read(error: OSError) -> str:
    """Without the path, which is none of the student's business."""
    why = error.strerror.lower() if error.strerror else str(error)
    return f"it cannot be read ({why})"
