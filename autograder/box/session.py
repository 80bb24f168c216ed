"""One submission while it is graded: its slots, and the processes of its tests; opened by what first needs them."""

from collections.abc import Callable
from contextlib import ExitStack

from .clock import Limits, Usage, total
from .ranks.team import Team
from .slot import Channel, Slot


class Session(ExitStack):
    """The slots of one submission: one, and where a test asks for ranks one a rank. Leaving it closes them.

    Args:
        make: makes a slot.
    """

    def __init__(self, make: Callable[[], Slot]):
        super().__init__()
        self._make = make
        self._slots: list[Slot] = []

    def slot(self, rank: int = 0) -> Slot:
        while len(self._slots) <= rank:
            self._slots.append(self.enter_context(self._make()))
        return self._slots[rank]

    def processes(self, module: str, seed: int, timeout: float | Limits) -> "Processes":
        """The processes of one test of `module`, whose import may compute for `timeout` seconds."""
        return Processes(self, module, seed, timeout)

    def usage(self) -> Usage | None:
        """What the submission used so far; None where nobody can read it."""
        return total([slot.usage() for slot in self._slots])

    def stop(self) -> None:
        """Kills all that runs of the submission; the next test starts it anew."""
        for slot in self._slots:
            slot.stop()

    @property
    def output(self) -> str:
        """What the submission printed so far, rank by rank."""
        return "".join(slot.output for slot in self._slots)

    @property
    def cpu_s(self) -> float:
        return round(sum(slot.cpu_s for slot in self._slots), 3)

    @property
    def peak_mb(self) -> int:
        return sum(slot.peak_mb for slot in self._slots)


class Processes:
    """Those of one test: a fork of the worker, and a team for each number of ranks that it asks for."""

    def __init__(self, session: Session, module: str, seed: int, timeout: float | Limits):
        self._session, self._module, self._seed, self._timeout = session, module, seed, timeout
        self._channel: Channel | None = None
        self._teams: dict[int, Team] = {}

    def prepare(self, ranks: int = 0) -> None:
        """Imports the module and starts one process, or so many ranks, if that was not done before."""
        if not ranks and self._channel is None:
            self._channel = self._session.slot().channel(self._module, self._seed, self._timeout)
        if ranks and ranks not in self._teams:
            self._teams[ranks] = Team([self._member(rank, ranks) for rank in range(ranks)])

    def ask(self, request: dict, timeout: float | Limits):
        """The reply of one process (Channel.ask)."""
        self.prepare()
        return self._channel.ask(request, timeout)

    def ask_ranks(self, request: dict, ranks: int, timeout: float | Limits) -> tuple[dict, list]:
        """The replies of a team, and what its ranks sent to each other (Team.ask, Team.traffic)."""
        self.prepare(ranks)
        team = self._teams[ranks]
        return team.ask(request, timeout), team.traffic

    def close(self) -> None:
        for opened in (self._channel, *self._teams.values()):
            if opened is not None:
                opened.close()

    def _member(self, rank, ranks):
        return self._session.slot(rank).member(self._module, self._seed, rank, ranks, self._timeout)
