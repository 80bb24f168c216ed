"""Ranks on this machine without a box: for authors and in handouts, never for grades.

Each rank is a process of its own that imports the submission; what the ranks say to each other goes through this process,
as it does when grading. This file is copied into every handout: the standard library and what grading/ holds.
"""

from pathlib import Path

from .box.clock import Limits
from .box.local import LocalProcess
from .box.ranks.team import Member, Team
from .box.replies import receive


class LocalRanks:
    """Teams of local processes, made by their first use, for one test.

    Args:
        submission: folder of the modules. seed: of rank 0's generators; rank r has seed + r.
    """

    def __init__(self, submission: Path, seed: int = 0):
        self._submission, self._seed = str(Path(submission).resolve()), seed
        self._teams: dict[int, Team] = {}
        self._processes: list[LocalProcess] = []

    def ask(self, request: dict, ranks: int, timeout: float | Limits) -> tuple[dict, list]:
        """Student.ask_ranks."""
        if ranks not in self._teams:
            self._teams[ranks] = Team([self._member(rank, ranks) for rank in range(ranks)])
        team = self._teams[ranks]
        return team.ask(request, timeout), team.traffic

    def close(self) -> None:
        """Ends all processes."""
        for process in self._processes:
            process.close()

    def _member(self, rank, size):
        process = LocalProcess([self._submission], self._seed + rank, rank, size)
        self._processes.append(process)
        return Member(process.requests, process.messages, receive, process.stop, process.usage)
