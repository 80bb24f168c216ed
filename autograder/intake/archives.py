"""An archive -> its entries, read by a process that may crash, starve or hang without harm (reader.py).

What comes back is a stream of frames from a process that a stranger's bytes have been through: it is read up to caps of
this side, and whatever does not fit ends the reader.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import GraderFault
from . import kinds, reader
from .entries import Entry, Reading

WALL_S = 120  # a machine may be busy: the limit on CPU time comes first
_READER = Path(__file__).with_name("reader.py")
_COMMAND = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_READER)]
_REASONS = {"many", "much", "memory", "damaged", "foreign"}
_KINDS = {
    reader.READ, reader.UNREAD, reader.FOLDER, reader.LINK, reader.ENCRYPTED, reader.DAMAGED, reader.UNKNOWN,
    reader.NEEDLESS,
}  # fmt: skip
_HEAD = 4096  # bytes that tell an archive
_MOST_FRAMES = reader.MAX_ENTRIES + 2000


@dataclass
class Budget:
    """What the archives of one submission may hold and take, all of them together; an archive that fails takes time only.

    Attributes:
        entries: of any kind that is needed. python: bytes of Python. cpu_s, wall_s: of their readers.
        is_inner: what archives in them hold is not read, and not kept.
    """

    entries: int = _MOST_FRAMES
    python: int = 16 << 20  # twice of what is accepted: names decide later which files count
    cpu_s: float = 30.0
    wall_s: float = WALL_S
    is_inner: bool = False

    @property
    def is_spent(self) -> bool:
        return min(self.cpu_s, self.wall_s) <= 0

    def takes(self, entry: Entry) -> str:
        """Counts an entry; why no more is read, or an empty string."""
        self.entries -= entry.kind != reader.NEEDLESS
        if entry.content is not None and kinds.python_like(entry.name):
            self.python -= len(entry.content)
        return "many" if self.entries < 0 else "python" if self.python < 0 else ""


def read_archive(archive: BinaryIO, budget: Budget | None = None) -> Reading:
    """The entries of an open archive, a real file; the reading's `trouble` says in a word why they are not all there.

    Raises:
        GraderFault: no process can be started here.
    """
    budget = budget or Budget()
    if budget.is_spent:
        return Reading((), "limits")
    began, cpu, left = time.monotonic(), cpu_of_readers(), (budget.entries, budget.python)
    reading = _read(archive, budget)
    budget.wall_s -= time.monotonic() - began
    budget.cpu_s -= cpu_of_readers() - cpu
    if reading.trouble:
        budget.entries, budget.python = left
        return Reading((), reading.trouble)
    return reading


def cpu_of_readers() -> float:
    """Seconds of processor time of all processes that this one has waited for; 0 where the system does not say it (Windows)."""
    times = os.times()
    return times.children_user + times.children_system


def _read(archive, budget):
    process = _start(archive)
    clock = threading.Timer(min(WALL_S, budget.wall_s), process.kill)
    clock.daemon = True
    clock.start()
    entries: list[Entry] = []
    try:
        trouble = _collect(process.stdout, entries, budget)
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


def _collect(stream, entries, budget):
    """Fills `entries`; the reason why it ended early, or an empty string."""
    try:
        for kind, name, size, content in _frames(stream):
            if kind == reader.END:
                return ""
            if kind == reader.FAILED:
                return name if name in _REASONS else "damaged"
            if budget.is_inner and name and not kinds.python_like(name):
                content = content[:_HEAD]
            entry = Entry(name, kind, size, content if kind == reader.READ else None)
            entries.append(entry)
            trouble = budget.takes(entry)
            if trouble:
                return trouble
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
