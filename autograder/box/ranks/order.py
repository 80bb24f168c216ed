"""What a rank can know of what the others have begun, by vector clocks (Fidge 1988, Mattern 1989), and what it lost by letting
go of it before it knew. A copy is in every handout.

A rank knows its own operations, and of another's those that came before something which it was told: what it received, a
collective that is complete, a send that has ended. Time plays no part, so a verdict that hangs on it is the same each time.
"""


class Order:
    """Of `size` ranks: how many operations of each other one each knows to have begun.

    Attributes:
        lost: rank -> what it is told of a message that it let go of; gloo takes one back that nobody has begun to receive.
    """

    def __init__(self, size: int):
        self._known = [[0] * size for _ in range(size)]
        self.lost: dict[int, str] = {}

    def begins(self, rank: int) -> tuple[int, ...]:
        """The rank begins an operation: what it knows then, this operation too."""
        self._known[rank][rank] += 1
        return tuple(self._known[rank])

    def learns(self, rank: int, *times: tuple[int, ...]) -> None:
        """The rank is told what began at these times."""
        self._known[rank] = [max(counts) for counts in zip(self._known[rank], *times, strict=True)]

    def knows(self, rank: int, other: int, time: tuple[int, ...]) -> bool:
        """Whether the rank knows that what the other one began at this time has begun."""
        return self._known[rank][other] >= time[other]

    def let_go(self, rank: int, to: int, time: tuple[int, ...] | None) -> None:
        """The rank no longer keeps what isend returned for a message that `to` began to receive at this time, if it has at all."""
        if time is None or not self.knows(rank, to, time):
            self.lost[rank] = (
                f"rank {rank} let go of what isend returned before it could know that rank {to} received the message, "
                "which gloo may lose then: keep it, and call its wait()"
            )

    def meet(self) -> None:
        """All of them know what all of them have begun: each has answered the call before, of which nothing is lost any more."""
        self.lost.clear()
        for rank in range(len(self._known)):
            self.learns(rank, *map(tuple, self._known))
