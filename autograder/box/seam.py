"""The seam between a test and the processes that answer it. Whatever is on its other side, a test sees the same.

Two backends: session.py when grading, ../in_process.py for authors and in handouts (a copy of this file is there, too).
"""

from typing import Protocol

from .ranks.post import Message
from .replies import Reply


class Processes(Protocol):
    """Those of one test, shared by its cases: one process, and a group for each number of ranks that it asks for.

    None is there before it is asked. A StudentFault is raised where no reply comes.
    """

    def ask(self, request: dict[str, object], timeout: float) -> Reply:
        """The reply of the one process, whose code may compute `timeout` seconds."""
        ...

    def ask_ranks(
        self, request: dict[str, object], ranks: int, timeout: float
    ) -> tuple[dict[int, Reply], list[Message]]:
        """Rank -> reply, in the order in which they came, and what the ranks sent to each other meanwhile."""
        ...

    def cpu_s(self) -> float:
        """Seconds of processor time that all processes of the submission have used; what two readings differ by is a cost."""
        ...

    def begin_peak(self) -> None:
        """The next request is measured, in processes that are started for it."""
        ...

    def end_peak(self) -> int:
        """The most bytes that one of these had in memory at once; 0 where nobody can read it. They end."""
        ...

    def close(self) -> None:
        """Ends what was started for the test."""
        ...
