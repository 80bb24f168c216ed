"""A slot's worker in the box: a process that the zygote forked and confined, and that forks a child for each test."""

import os
import socket
import threading
import time
from dataclasses import asdict

from ..errors import BoxError
from . import wire
from .clock import Ended, Usage
from .policy import Policy

_DRAIN_S = 2.0
_PATIENCE_S, _AGAIN_S = 60.0, 0.2


class BoxedWorker:
    """Started when made.

    Args:
        sandbox: whose zygote starts it. policy: what it may do. output: is extended by what it prints, up to most_output.
    """

    def __init__(self, sandbox, policy: Policy, output: bytearray, most_output: int):
        self._sandbox = sandbox
        self.control, theirs = socket.socketpair()
        read, write = os.pipe()
        with theirs:
            reply = _started(sandbox, policy, [theirs.fileno(), write])
        os.close(write)
        if "busy" in reply:
            os.close(read)
            raise BoxError(reply["busy"])
        self.pid = reply["pid"]
        self._drain = threading.Thread(target=_drain, args=(read, output, most_output), daemon=True)
        self._drain.start()

    def begin_import(self, module: str) -> None:
        """Its reply comes on `control`."""
        wire.send_command(self.control, b"I", module)

    def fork(self, request: list[int], count: int) -> list[socket.socket]:
        """Our ends of a new child's `count` connections; request: its seed, rank and world size."""
        pairs = [socket.socketpair() for _ in range(count)]
        try:
            wire.send_command(self.control, b"F", request, [theirs.fileno() for _, theirs in pairs])
        except OSError:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        return [ours for ours, _ in pairs]

    def usage(self) -> Usage:
        """What it and all that it started used so far."""
        return Usage(**self._sandbox.ask(b"U", self.pid))

    def measure(self) -> None:
        """Begins to measure the peak of all that runs, which can start nothing any more."""
        self._sandbox.ask(b"M", self.pid)

    def collect_output(self) -> None:
        """A thread does it all the time."""

    def kill(self) -> Ended:
        """Ends it with all that it started."""
        ended = Ended(**self._sandbox.ask(b"K", self.pid))
        self._drain.join(_DRAIN_S)  # its pipe has no writer any more
        self.control.close()
        return ended


def _started(sandbox, policy, descriptors):
    """The zygote's reply: a machine that has no process left, because something else fills it, is asked again."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        reply = sandbox.ask(b"S", asdict(policy), descriptors)
        if "busy" not in reply or time.monotonic() > deadline:
            return reply
        time.sleep(_AGAIN_S)


def _drain(pipe, output, most):
    with open(pipe, "rb", buffering=0) as stream:
        while chunk := stream.read(65536):
            output += chunk[: max(0, most - len(output))]
