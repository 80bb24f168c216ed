"""One submission in the box, and one test of it, as the grader sees them (sandbox.py tells the whole)."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..errors import BoxError, StudentDied, StudentFault, shown
from ..files import cannot_be_written, remove_tree
from . import replies, wire
from .clock import Clock, Ended, Limits, Usage
from .policy import Policy
from .ranks.team import Member

OUTPUT_CAP = 65536  # bytes kept of what a submission prints


class Worker(Protocol):
    """The process that has imported a submission: boxed.BoxedWorker, or unconfined.LocalWorker."""

    control: socket.socket

    def begin_import(self, module: str) -> None: ...
    def fork(self, request: list[int], count: int) -> list[socket.socket]: ...
    def measure(self) -> None: ...

    def usage(self) -> Usage | None: ...
    def collect_output(self) -> None: ...
    def kill(self) -> Ended: ...


class Box(Protocol):
    """What a slot is in: sandbox.Sandbox, or unconfined.UnconfinedBox."""

    folder: Path

    def worker(self, policy: Policy, output: bytearray, most_output: int) -> Worker: ...
    def take_uid(self) -> int: ...
    def free_uid(self, uid: int) -> None: ...


@contextmanager
def _whose_files_are_ours(path: Path) -> Iterator[None]:
    """A disk that is full, or any other trouble with what the grader itself writes for a slot, is ours."""
    try:
        yield
    except OSError as error:
        raise BoxError(cannot_be_written(path, error)) from error


class Slot:
    """One submission in the box. Made by Sandbox.slot; close it."""

    def __init__(self, sandbox: Box, files: dict[str, bytes], policy: Policy):
        self._sandbox, self._policy = sandbox, policy
        with _whose_files_are_ours(sandbox.folder):
            self._folder = Path(tempfile.mkdtemp(prefix="slot-", dir=sandbox.folder))
        self._submission = self._folder / "submission"
        self._uid = 0
        self._worker: Worker | None = None
        self._imported: set[str] = set()
        self._broken: dict[str, StudentFault] = {}
        self._reason = ""
        self._output = bytearray()
        self.cpu_s, self.peak_mb = 0.0, 0
        try:
            self._uid = sandbox.take_uid()
            with _whose_files_are_ours(self._submission):
                self._write(files)
        except BoxError:
            self.close()
            raise

    def _write(self, files):
        self._submission.mkdir()
        for name, content in files.items():
            path = self._submission / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._folder.chmod(0o750)
        if self._uid:
            os.chown(self._folder, 0, self._uid)  # readable to the slot's group, that is to it alone
            for path in [self._submission, *self._submission.rglob("*")]:
                os.chown(path, 0, self._uid)
                path.chmod(0o750 if path.is_dir() else 0o640)

    @property
    def output(self) -> str:
        """What the submission printed so far, capped; never parsed."""
        if self._worker is not None:
            self._worker.collect_output()
        return shown(self._output.decode("utf-8", "replace"), OUTPUT_CAP, keep="\n\t")

    def usage(self) -> Usage | None:
        """What the submission used so far, in workers that are gone too; None where nobody can read it."""
        running = Usage(0.0) if self._worker is None else self._worker.usage()
        return running and replace(running, cpu_s=self.cpu_s + running.cpu_s)

    def measure(self) -> None:
        """Begins to measure the peak of its processes, which can start none any more."""
        if self._worker is not None:
            self._worker.measure()

    def channel(self, module: str | None, seed: int, timeout: float | Limits) -> "Channel":
        """A fresh fork of the worker for one test of `module`, which is imported first, within `timeout`.

        Raises:
            StudentFault: the module cannot be imported, now or when it was tried before.
        """
        (connection,) = self._fork(module, [seed, 0, 0], 1, timeout)
        return Channel(self, connection)

    def member(self, module: str | None, seed: int, rank: int, size: int, timeout: float | Limits) -> Member:
        """As channel, but the fork is one of `size` ranks; each needs a slot of its own."""
        requests, messages = self._fork(module, [seed + rank, rank, size], 2, timeout)
        return Member(requests, messages, self.receive, self.stop, self.usage)

    def _fork(self, module, request, count, timeout):
        """A fork that has the other ends of `count` connections."""
        if module in self._broken:
            raise self._broken[module].with_traceback(None)
        worker = self._worker or self._start()
        if module is not None and module not in self._imported:
            self._import(worker, module, timeout)
        try:
            return worker.fork(request, count)
        except OSError:
            raise self._died("your code's process ended before the test began") from None

    def _start(self) -> Worker:
        scratch = self._folder / "scratch"
        remove_tree(scratch)  # a worker that was killed left its own
        with _whose_files_are_ours(scratch):
            scratch.mkdir(mode=0o700)
            if self._uid:
                os.chown(scratch, self._uid, self._uid)
        policy = replace(self._policy, submission=str(self._submission), scratch=str(scratch), uid=self._uid)
        self._worker = self._sandbox.worker(policy, self._output, OUTPUT_CAP)
        return self._worker

    def _import(self, worker, module, timeout):
        try:
            worker.begin_import(module)
            reply = self.receive(worker.control, Clock(timeout, self.usage), f"importing {module}.py")
            replies.check_import(module, reply)
        except OSError:
            self._broken[module] = self._died(f"your code's process ended while {module}.py was imported")
            raise self._broken[module] from None
        except StudentFault as fault:
            self._broken[module] = fault
            raise
        self._imported.add(module)

    def receive(self, connection: socket.socket, clock: Clock, doing: str, caps: wire.Caps | None = wire.REPLY):
        """The reply on `connection`; after anything else than a reply the slot starts afresh for the next test."""
        try:
            return replies.receive(connection, clock, doing, caps)
        except StudentDied as died:
            raise self._died(str(died)) from None
        except BaseException:  # the grader's own too: no memory is left for it, the test's time is over
            self.stop()
            raise

    def _died(self, what):
        self.stop()
        reason = f"it used {self._reason}" if self._reason else "it crashed, called os._exit, or ran out of memory"
        return StudentDied(f"{what}: {reason}")

    def stop(self) -> None:
        """Kills the worker and all that it started; the next channel starts a new one."""
        if self._worker is None:
            return
        ended = self._worker.kill()
        self._worker, self._imported = None, set()
        self._reason = ended.reason
        self.cpu_s += ended.cpu_s
        self.peak_mb = max(self.peak_mb, ended.peak_mb)

    def close(self) -> None:
        self.stop()
        remove_tree(self._folder)
        self._sandbox.free_uid(self._uid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Channel:
    """The process of one test."""

    def __init__(self, slot: Slot, connection: socket.socket):
        self._slot, self._connection = slot, connection

    def ask(self, request: dict, timeout: float | Limits):
        """Sends a request and returns the reply, for which the code may compute `timeout` seconds.

        Raises:
            StudentTimeout, StudentDied, BadReply. BoxError: the machine gave the code no processor.
        """
        doing = f"calling {request['call']}" if "call" in request else "running the code"
        clock = Clock(timeout, self._slot.usage)
        try:
            wire.send(self._connection, request, clock)
        except wire.DeadlinePassed:
            self._slot.stop()
            raise clock.fault(doing) from None
        except OSError:
            pass  # the process is gone; what receive says about it is the better message
        return self._slot.receive(self._connection, clock, doing)

    def close(self) -> None:
        self._connection.close()
