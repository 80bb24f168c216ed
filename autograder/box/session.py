"""One submission while it is graded: its slots, and the processes of its tests; opened by what first needs them."""

from collections.abc import Callable
from contextlib import ExitStack

from .slot import Channel, Slot
from .team import Team


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

    def processes(self, module: str, seed: int, timeout: float) -> "Processes":
        """The processes of one test of `module`, which is imported within `timeout` seconds."""
        return Processes(self, module, seed, timeout)

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

    def __init__(self, session: Session, module: str, seed: int, timeout: float):
        self._session, self._module, self._seed, self._timeout = session, module, seed, timeout
        self._channel: Channel | None = None
        self._teams: dict[int, Team] = {}

    def ask(self, request: dict, timeout: float):
        """The reply of one process (Channel.ask)."""
        if self._channel is None:
            self._channel = self._session.slot().channel(self._module, self._seed, self._timeout)
        return self._channel.ask(request, timeout)

    def ask_ranks(self, request: dict, ranks: int, timeout: float) -> tuple[dict, list]:
        """The replies of a team, and what its ranks sent to each other (Team.ask, Team.traffic)."""
        if ranks not in self._teams:
            self._teams[ranks] = Team([self._member(rank, ranks) for rank in range(ranks)])
        team = self._teams[ranks]
        return team.ask(request, timeout), team.traffic

    def close(self) -> None:
        for opened in (self._channel, *self._teams.values()):
            if opened is not None:
                opened.close()

    def _member(self, rank, ranks):
        return self._session.slot(rank).member(self._module, self._seed, rank, ranks, self._timeout)
