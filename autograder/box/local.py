"""A process of student code that nothing confines: started afresh, because there is no fork here or no box is wanted.

It serves authors, handouts and practice on Windows (unconfined.py). A copy of this file is in every handout: the standard
library, torch and what is beside it.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..starting import NothingFromHere
from . import cpu, wire
from .clock import Usage
from .inside import group, worker

_END_S = 2.0  # for a process that was told to end
_RESEED_S = 60.0  # for one that only waits for requests: it answers at once, if the machine is not very busy


class LocalProcess:
    """A process that answers requests about the modules in `folders`.

    Args:
        folders: what it imports from, the submission first.
        seed: of its generators. rank, size: its place among ranks; with size 0 it is not a rank.
        prepare: is called in it before anything is imported, and returns the notes that go with every reply.
        output: file that gets what it prints; None leaves that where this process prints.
        join: (socket, rank, size) -> None, makes it one of the ranks; None takes the group of the box.

    Attributes:
        requests: where it gets requests and sends replies. messages: where a rank talks to the others.
    """

    def __init__(
        self,
        folders: Sequence[str],
        seed: int = 0,
        rank: int = 0,
        size: int = 0,
        prepare: Callable[[], list] = list,
        output: Path | None = None,
        join: Callable[[socket.socket, int, int], None] | None = None,
    ):
        self.requests, theirs = socket.socketpair()
        self.messages, theirs_too = socket.socketpair()
        arguments = (theirs, theirs_too, list(folders), list(sys.path), seed, rank, size, prepare, output, join)
        self._process = _context().Process(target=_serve, args=arguments, daemon=True)
        with NothingFromHere():
            self._process.start()
        theirs.close()
        theirs_too.close()

    def reseed(self, seed: int) -> None:
        """Raises a ConnectionError if it does not answer: it is not fit for another test."""
        deadline = time.monotonic() + _RESEED_S
        try:
            wire.send(self.requests, {"seed": seed}, deadline)
            wire.receive(self.requests, deadline)
        except (EOFError, wire.DeadlinePassed, wire.ProtocolError) as error:
            raise ConnectionError(f"the process does not answer: {type(error).__name__}") from None

    def usage(self) -> Usage | None:
        """What it used so far; None where neither /proc nor ps says it (Windows): then the wall clock alone limits it."""
        pids = [self._process.pid]
        return Usage(cpu.used_by(pids), *cpu.awake_and_ready(pids)) if cpu.READABLE else None

    def stop(self) -> None:
        """Ends it, whatever it is doing."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def close(self) -> None:
        """Lets it end by itself, if it only waits for a request."""
        self.requests.close()
        self.messages.close()
        self._process.join(_END_S)
        self.stop()


def _context():
    """Where it exists, a server that has imported torch once forks each process; elsewhere each imports it anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The last is what torch imports at a first gradient: a third of a second for each rank.
    context.set_forkserver_preload([__name__, group.__name__, "torch.fx.experimental.symbolic_shapes"])
    return context


def _serve(requests, messages, folders, path, seed, rank, size, prepare, output, join):
    """What the process runs."""
    if output is not None:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
    sys.path[:] = [*folders, *path]
    torch.set_num_threads(1)
    notes = prepare()
    worker.seed_everything(seed)
    if size:
        (join or group.join)(messages, rank, size)
    worker.serve(requests, folders[0], notes)
