"""One submission while it is graded: its slots, its deadline, what tripwires noted, and the processes of its tests."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from .budget import Allowed, Budget, Test
from .clock import Limits, Usage, total
from .ranks.post import Message
from .ranks.team import Member, Team
from .replies import Reply, read
from .slot import Channel, Slot

NO_TEST: Test = ("", "")  # its processes import no module
_NOTHING = {"call": "builtins.abs", "args": [0], "kwargs": {}, "device": "cpu"}  # who answers it has been forked
MOST_NOTES = 50  # of forbidden calls, a test


class Session(ExitStack):
    """The slots of one submission: one, and where a test asks for ranks one a rank. Leaving it closes them.

    Args:
        make: makes a slot. allowed: the time that everything may take. exact: of the Budget.

    Attributes:
        budget: what is left of that time. used: test -> forbidden calls that tripwires noted in it.
    """

    def __init__(self, make: Callable[[], Slot], allowed: Allowed | None = None, exact: bool = False):
        super().__init__()
        self._make = make
        self._slots: list[Slot] = []
        self.budget = Budget(allowed, self.usage, exact)
        self.used: dict[Test, set[str]] = {}

    def slot(self, rank: int = 0) -> Slot:
        while len(self._slots) <= rank:
            self._slots.append(self.enter_context(self._make()))
        return self._slots[rank]

    def processes(self, test: Test, seed: int) -> "BoxedProcesses":
        """Those of one test, whose module is imported before they are asked."""
        return BoxedProcesses(self, test, seed)

    def note(self, test: Test, calls: tuple[str, ...]) -> None:
        for call in calls:
            noted = self.used.setdefault(test, set())
            if len(noted) < MOST_NOTES:
                noted.add(call)

    def usage(self) -> Usage | None:
        """What the submission used so far; None where nobody can read it."""
        return total(slot.usage() for slot in self._slots)

    def measure(self) -> None:
        """From now on the peak of what runs is read, none of which can start a process any more."""
        for slot in self._slots:
            slot.measure()

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


class BoxedProcesses:
    """Processes (seam.py) in the box: a fork of the worker, and a team for each number of ranks, made when first asked."""

    def __init__(self, session: Session, test: Test, seed: int):
        self._session, self._test, self._seed = session, test, seed
        self._channel: Channel | None = None
        self._teams: dict[int, Team] = {}
        self._measures = False

    def ask(self, request: dict[str, object], timeout: float) -> Reply:
        if self._channel is None:  # before the call's time begins: an import is none of it
            self._channel = self._session.slot().channel(self._module, self._seed, self._for_an_import())
        if self._measures:
            self._channel.ask(_NOTHING, self._session.budget.for_a_call(timeout))
            self._session.measure()
        return self._read(self._channel.ask(request, self._session.budget.for_a_call(timeout)))

    def ask_ranks(
        self, request: dict[str, object], ranks: int, timeout: float
    ) -> tuple[dict[int, Reply], list[Message]]:
        if ranks not in self._teams:
            self._teams[ranks] = Team([self._member(rank, ranks) for rank in range(ranks)])
        team = self._teams[ranks]
        if self._measures:
            team.ask(_NOTHING, self._session.budget.for_a_call(timeout))
            self._session.measure()
        by_rank = team.ask(request, self._session.budget.for_a_call(timeout))
        return {rank: self._read(reply) for rank, reply in by_rank.items()}, team.traffic

    def cpu_s(self) -> float:
        """As the box reads it; where nobody can read it, the time on the wall has to do."""
        usage = self._session.usage()
        return time.perf_counter() if usage is None else usage.cpu_s

    def begin_peak(self) -> None:
        self._end_all()
        self._measures = True

    def end_peak(self) -> int:
        usage = self._session.usage()
        self._measures = False
        self._end_all()  # none of them can start a process any more
        return 0 if usage is None else usage.peak

    def _end_all(self):
        self.close()
        self._channel, self._teams = None, {}
        self._session.stop()

    def close(self) -> None:
        for opened in (self._channel, *self._teams.values()):
            if opened is not None:
                opened.close()

    @property
    def _module(self) -> str | None:
        return self._test[0] or None

    def _for_an_import(self) -> Limits:
        return self._session.budget.for_an_import()

    def _member(self, rank: int, ranks: int) -> Member:
        return self._session.slot(rank).member(self._module, self._seed, rank, ranks, self._for_an_import())

    def _read(self, reply: object) -> Reply:
        answer = read(reply)
        self._session.note(self._test, answer.used)
        return answer
