"""Instead of the box where there is no fork (Windows): two processes with limits of time, for practice.

The grader still decodes plain data only and makes every verdict. But nothing keeps the code from the files of whoever
grades, and the tests of a submission share one process, until one hangs or dies: what one leaves in the modules the next
one finds. Scorecards say "unconfined".
"""

import functools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import BoxError
from ..files import remove_tree
from . import wire
from .clock import Ended, Usage, total
from .inside import callers, tripwires, uncompiled
from .local import LocalProcess
from .policy import DEFAULT, Policy
from .slot import Slot

LAYERS = ("processes", "unconfined")


class UnconfinedBox:
    """Gives slots, as a Sandbox does.

    Args:
        packages: are imported by the submissions themselves. require, without: as for a Sandbox.

    Raises:
        BoxError: a required layer is missing, that is any.
    """

    def __init__(self, packages: Sequence[str] = (), require: Iterable[str] = (), without: Iterable[str] = ()):
        missing = [layer for layer in require if layer not in LAYERS]
        if missing:
            raise BoxError(f"this machine has no {', '.join(missing)}: grade on Linux, in WSL2 or in a container")
        self.layers = LAYERS
        self.folder = Path(tempfile.mkdtemp(prefix="autograder-"))

    def slot(self, files: dict[str, bytes], policy: Policy = DEFAULT) -> Slot:
        """A slot for a submission: files is relative path -> content. Limits other than those of time have no effect here."""
        return Slot(self, files, policy)

    def share(self, name: str, files: dict[str, bytes]) -> Path:
        """A folder with these files that every slot may read."""
        folder = self.folder / "shared" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return folder

    def worker(self, policy: Policy, output: bytearray, most_output: int) -> "LocalWorker":
        return LocalWorker(policy, output, most_output)

    def take_uid(self) -> int:
        return 0

    def free_uid(self, uid: int) -> None:
        """There are none."""

    def close(self) -> None:
        remove_tree(self.folder)


class LocalWorker:
    """A slot's worker (boxed.BoxedWorker) without fork: all tests are answered by one process, a rank by one of its own."""

    def __init__(self, policy: Policy, output: bytearray, most_output: int):
        self._folders = [policy.submission, *policy.prerequisites]
        self._prepare = functools.partial(_prepare, policy.forbidden, policy.relatives, policy.submission)
        self._printed, self._output, self._most = Path(policy.scratch, "output"), output, most_output
        self._read = 0  # bytes of what was printed
        self._process = self._start(0, 0, 0)
        self._ranks: list[LocalProcess] = []
        self.control = self._process.requests

    def _start(self, seed, rank, size):
        return LocalProcess(self._folders, seed, rank, size, self._prepare, self._printed)

    def begin_import(self, module: str) -> None:
        wire.send(self.control, {"import": module})

    def fork(self, request: list[int], count: int) -> list:
        seed, rank, size = request
        if not size:
            self._process.reseed(seed)
            return [self.control.dup()]
        self._ranks.append(self._start(seed, rank, size))
        return [self._ranks[-1].requests, self._ranks[-1].messages]

    def measure(self) -> None:
        """Nobody reads a peak here."""

    def usage(self) -> Usage | None:
        return total([process.usage() for process in (self._process, *self._ranks)])

    def kill(self) -> Ended:
        usage = self.usage()
        for process in (self._process, *self._ranks):
            process.stop()
            process.close()
        self.collect_output()
        return Ended(cpu_s=usage.cpu_s if usage else 0.0)

    def collect_output(self) -> None:
        if self._printed.exists():
            with self._printed.open("rb") as printed:
                printed.seek(self._read)
                self._output += printed.read(max(0, self._most - len(self._output)))
                self._read = printed.tell()


def _prepare(forbidden, relatives, submission):
    """What the zygote of a box does before a worker is there; returns the notes of its tripwires."""
    uncompiled.lay()
    notes = callers.Notes(submission)
    tripwires.lay(forbidden, dict(relatives), notes)
    callers.watch_imports(forbidden, dict(relatives), notes)
    return notes.lines
