"""Ranks in processes that nothing confines: for authors and in handouts. A copy of this file is in every handout."""

import functools
import shutil
import tempfile
from collections.abc import Sequence

from .. import replies
from ..inside import gloo as inside
from ..inside import uncompiled
from ..local import LocalProcess
from .listener import Event, Listener
from .team import Member, Team


class LocalTeam(Team):
    """A team that starts its own ranks.

    Args:
        folders: what they import from. seed: rank r's generators have seed + r.
        gloo: whether they talk over torch's gloo, and are listened to, or through the broker, as when grading.
    """

    def __init__(self, folders: Sequence[str], size: int, seed: int = 0, gloo: bool = False):
        self._meeting = tempfile.mkdtemp(prefix="ranks-") if gloo else ""
        join = functools.partial(inside.join, self._meeting) if gloo else None
        self._processes = [LocalProcess(folders, seed + rank, rank, size, _prepare, join=join) for rank in range(size)]
        self._listener = Listener(size) if gloo else None
        super().__init__([_member(process) for process in self._processes], self._listener)

    @property
    def events(self) -> list[Event]:
        """What took time while they answered the last request; empty unless they are listened to."""
        return self._listener.events if self._listener else []

    def close(self) -> None:
        """Ends the ranks."""
        for process in self._processes:
            process.close()
        if self._meeting:
            shutil.rmtree(self._meeting, ignore_errors=True)


def _prepare():
    """As when grading: else each rank imports torch's compiler for its first optimizer step, four seconds of it."""
    uncompiled.lay()
    return []


def _member(process):
    return Member(process.requests, process.messages, replies.receive, process.stop, process.usage)
