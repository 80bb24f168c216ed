"""The second backend, whole: a submission in this very process, its ranks in processes that nothing confines.

For authors and in handouts, never for grades. Values go through the wire both ways, so in-place changes, dtypes and tuples
behave as in the box; what ranks say to each other goes through this process, as it does when grading. A copy of this file
is in every handout.
"""

import bdb
import linecache
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .box import replies, wire
from .box.inside import worker
from .box.ranks.local import LocalTeam
from .box.ranks.post import Message
from .errors import BadReply


class InProcess:
    """The processes of a test (box/seam.py, Processes).

    Args:
        submission: folder of the modules.
        seed: of the generators: this process's, which are left alone if it is None; rank r has seed + r.
        used: folders of the modules that those of the submission build on.
        gloo: whether ranks talk to each other over torch's gloo, as on any machine, instead of through this process.
    """

    def __init__(self, submission: Path, seed: int | None = None, used: Sequence[Path] = (), gloo: bool = False):
        self._root = str(Path(submission).resolve())
        self._folders = [self._root, *(str(Path(folder).resolve()) for folder in used)]
        self._seed = seed or 0
        self._gloo = gloo
        self._teams: dict[int, LocalTeam] = {}
        for folder in reversed(self._folders):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        if seed is not None:
            worker.seed_everything(seed)

    def ask(self, request: dict[str, object], timeout: float) -> replies.Reply:
        """Without a limit of time: nobody is there to end it but Ctrl-C, and who leaves the debugger."""
        _show_to_debuggers(request)
        reply = worker.answer(_through_the_wire(request), self._root, _ends())
        try:
            return replies.read(_through_the_wire(reply, wire.REPLY))
        except (ValueError, wire.ProtocolError) as error:
            raise BadReply(f"your code returned something that cannot be passed on: {error}") from error

    def ask_ranks(
        self, request: dict[str, object], ranks: int, timeout: float
    ) -> tuple[dict[int, replies.Reply], list[Message]]:
        if ranks not in self._teams:
            self._teams[ranks] = LocalTeam(self._folders, ranks, self._seed, self._gloo)
        team = self._teams[ranks]
        return {rank: replies.read(reply) for rank, reply in team.ask(request, timeout).items()}, team.traffic

    def cpu_s(self) -> float:
        """Of the one process that there is."""
        return time.process_time()

    def begin_peak(self) -> None:
        """Nobody reads it here."""

    def end_peak(self) -> int:
        return 0

    def close(self) -> None:
        """Ends the ranks."""
        for team in self._teams.values():
            team.close()


def _ends():
    """What the person at the keyboard raises: Ctrl-C and leaving a debugger, its own or pytest's. In the box it would be the
    student's."""
    pytest = sys.modules.get("pytest")
    return (KeyboardInterrupt, bdb.BdbQuit, *((pytest.exit.Exception,) if pytest else ()))


def _show_to_debuggers(request):
    """Gives the lines of a probe a place where a debugger finds them; the worker compiles it under that name."""
    source = request.get("source")
    if isinstance(source, str):
        text = "if True:\n" + source if source[:1] in " \t" else source
        linecache.cache["<probe>"] = (len(text), None, text.splitlines(keepends=True), "<probe>")


def _through_the_wire(value, caps=None):
    message = b"".join(bytes(buffer) for buffer in wire.encode(value))
    return wire.decode(bytearray(message), caps)
