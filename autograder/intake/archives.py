"""An archive -> its entries, read by a process that may crash, starve or hang without harm (reader.py).

What comes back is a stream of frames from a process that a stranger's bytes have been through: it is read up to caps of
this side, and whatever does not fit ends the reader.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import GraderFault
from . import reader
from .entries import Entry, Reading

WALL_S = 120  # a machine may be busy: the limit on CPU time comes first
_READER = Path(__file__).with_name("reader.py")
_COMMAND = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_READER)]
_REASONS = {"many", "much", "memory", "damaged", "foreign"}
_KINDS = {
    reader.READ, reader.UNREAD, reader.FOLDER, reader.LINK, reader.ENCRYPTED, reader.DAMAGED, reader.UNKNOWN,
    reader.NEEDLESS,
}  # fmt: skip
_MOST_FRAMES = reader.MAX_ENTRIES + 2000


def read_archive(archive: BinaryIO) -> Reading:
    """The entries of an open archive, a real file; the reading's `trouble` says in a word why they are not all there.

    Raises:
        GraderFault: no process can be started here.
    """
    process = _start(archive)
    clock = threading.Timer(WALL_S, process.kill)
    clock.daemon = True
    clock.start()
    entries: list[Entry] = []
    try:
        trouble = _collect(process.stdout, entries)
    finally:
        clock.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    return Reading(tuple(entries), trouble)


def _start(archive):
    kept = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    try:
        return subprocess.Popen(
            _COMMAND, stdin=archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise GraderFault(f"no process can be started to read archives: {error}") from error


def _collect(stream, entries):
    """Fills `entries`; the reason why it ended early, or an empty string."""
    try:
        for kind, name, size, content in _frames(stream):
            if kind == reader.END:
                return ""
            if kind == reader.FAILED:
                return name if name in _REASONS else "damaged"
            entries.append(Entry(name, kind, size, content if kind == reader.READ else None))
    except ValueError:  # no frame of ours
        return "damaged"
    return "limits"  # it ended without a last word: killed, by one limit or another


def _frames(stream) -> Iterator[tuple[bytes, str, int, bytes]]:
    left = reader.MAX_CONTENT
    for _ in range(_MOST_FRAMES):
        head = stream.read(reader.HEAD.size)
        if len(head) < reader.HEAD.size:
            return
        kind, name_length, size, length = reader.HEAD.unpack(head)
        left -= length
        if kind not in _KINDS | {reader.END, reader.FAILED} or name_length > reader.MAX_NAME or left < 0:
            raise ValueError("not a frame")
        name, content = stream.read(name_length), stream.read(length)
        if len(name) < name_length or len(content) < length:
            return
        yield kind, name.decode("utf-8", "surrogateescape"), size, content
    raise ValueError("too many frames")
