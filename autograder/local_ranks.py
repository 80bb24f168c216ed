"""Ranks on this machine without a box: for authors and in handouts, never for grades.

Each rank is a process of its own that imports the submission; what the ranks say to each other goes through this process,
as it does when grading. This file is copied into every handout: the standard library and what grading/ holds.
"""

import multiprocessing
import socket
import sys
import time
from pathlib import Path

from .box import wire, worker
from .box.team import Member, Team
from .errors import BadReply, StudentDied, StudentTimeout

_END_S = 2.0  # for a process that was told to end


class LocalRanks:
    """Teams of local processes, made by their first use, for one test.

    Args:
        submission: folder of the modules. seed: of rank 0's generators; rank r has seed + r.
    """

    def __init__(self, submission: Path, seed: int = 0):
        self._submission, self._seed = str(Path(submission).resolve()), seed
        self._teams: dict[int, Team] = {}
        self._processes: list[multiprocessing.Process] = []

    def ask(self, request: dict, ranks: int, timeout: float) -> tuple[dict, list]:
        """Student.ask_ranks."""
        if ranks not in self._teams:
            self._teams[ranks] = Team([self._member(rank, ranks) for rank in range(ranks)])
        team = self._teams[ranks]
        return team.ask(request, timeout), team.traffic

    def close(self) -> None:
        """Ends all processes."""
        for team in self._teams.values():
            team.close()  # a rank that only waits for a request ends by itself
        for process in self._processes:
            process.join(_END_S)
            _stop(process)

    def _member(self, rank, size):
        requests, theirs = socket.socketpair()
        messages, theirs_too = socket.socketpair()
        arguments = (theirs, theirs_too, self._submission, list(sys.path), self._seed + rank, rank, size)
        process = _context().Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        theirs_too.close()
        self._processes.append(process)
        return Member(requests, messages, _receive, lambda: _stop(process))


def _context():
    """Where it exists, a server that has imported torch once forks each rank; elsewhere each imports it anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _receive(connection, timeout, doing):
    try:
        return wire.receive(connection, time.monotonic() + timeout)
    except wire.DeadlinePassed:
        raise StudentTimeout(f"{doing} took more than {round(timeout, 1):g} s") from None
    except wire.ProtocolError as error:
        raise BadReply(f"{doing} sent something that is no reply: {error}") from None
    except (EOFError, OSError):
        raise StudentDied(f"the process ended while {doing}") from None


def _stop(process):
    if process.is_alive():
        process.kill()
        process.join()


def _serve(requests, messages, submission, path, seed, rank, size):
    """What a rank's process runs."""
    import torch

    from .box import group

    sys.path[:] = [submission, *path]
    torch.set_num_threads(1)
    worker.seed_everything(seed)
    group.join(messages, rank, size)
    worker.serve(requests, submission, [])
