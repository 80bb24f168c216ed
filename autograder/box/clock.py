"""How long a wait for student code lasts. The limit is processor time, so that a busy machine costs nobody a point.

A wait ends when one of three is used up:

    cpu_s    seconds of processor time of all processes of the slot, or of all ranks' slots, as the box reads them
    idle_s   seconds on end in which none of them computes, or would if the machine were less busy: a sleep, a deadlock
    wall_s   seconds on the wall: for what sleeps and works in turns, and where the box cannot read the other two

Time in which the code could have computed but got no processor is not counted on the wall, and has a limit of its own: what
ends by that one is the machine's fault, and nobody's zero.

The clock starts when it is made and is absolute: bytes that drip in do not set it back. It looks at the processes only
while something is waited for, first after a quarter of a second: an answer that comes sooner costs no look. What a
process computed before the first look is not counted.
"""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..errors import BoxError, StudentTimeout

LOOK_S = 0.25
WALL_FACTOR = 8.0  # a machine that is so busy is still fair
STARVED_FACTOR = 4.0  # of wall_s
TOO_BUSY = "the machine is too busy to judge this; try again when less runs beside it"
LEAST_IDLE_S = 2.0
LEAST_WALL_S = 30.0
_NAP = 0.05  # share of a time in which a process that only looks whether it can go on computes


@dataclass
class Spent:
    """What the waits of a lesson add up: seconds on the wall in which the code waited by itself, not for a processor."""

    idle_s: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Those of one wait.

    Attributes:
        whose: is told to the student where it is not the call's own limit on processor time.
        starved_s: the most that is waited for a processor. spent: what all waits with it add up.
    """

    cpu_s: float
    idle_s: float
    wall_s: float
    whose: str = ""
    starved_s: float = 0.0
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, timeout: "float | Limits") -> "Limits":
        """The limits of a call that may compute for `timeout` seconds."""
        if isinstance(timeout, Limits):
            return timeout
        wall_s = max(WALL_FACTOR * timeout, LEAST_WALL_S)
        return cls(timeout, max(timeout, LEAST_IDLE_S), wall_s, starved_s=STARVED_FACTOR * wall_s)


@dataclass(frozen=True)
class Usage:
    """What processes used until now.

    Attributes:
        cpu_s: seconds of processor time. awake: whether any of them computes, or waits for a processor or a disk.
        ready: whether any computes, or waits for a processor.
        peak: the most bytes that one of those that run has had in memory at once, since it is measured; 0 where nobody reads it.
    """

    cpu_s: float
    awake: bool = False
    ready: bool = False
    peak: int = 0


@dataclass(frozen=True)
class Ended:
    """What a slot's processes had used when they were killed.

    Attributes:
        reason: the limit that they had passed; "" if none. peak_mb: the most memory that was seen.
    """

    reason: str = ""
    cpu_s: float = 0.0
    peak_mb: int = 0


def total(usages: "Iterable[Usage | None]") -> Usage | None:
    """Of several slots together; None if one of them cannot be read."""
    read = list(usages)
    known = [usage for usage in read if usage is not None]
    if len(known) < len(read):
        return None
    peak = max((usage.peak for usage in known), default=0)
    awake, ready = any(usage.awake for usage in known), any(usage.ready for usage in known)
    return Usage(sum(usage.cpu_s for usage in known), awake, ready, peak)


class Clock:
    """Of one wait. Calling it gives the seconds to wait before it must be called again; 0 says that the time is over.

    Args:
        limits: seconds of processor time, or all three limits.
        usage: looks at the processes; gives None where that is not possible.

    Attributes:
        over: what the code did, once the time is over: "used more than …".
        starved: whether it ended because the code got no processor.
    """

    def __init__(self, limits: Limits | float, usage: Callable[[], Usage | None] = lambda: None):
        self.limits, self._usage = Limits.of(limits), usage
        self._step = min(LOOK_S, self.limits.cpu_s / 4)
        self._every = self._next_look()
        self._began = now = time.monotonic()
        self._end, self._looked_at = now + self.limits.wall_s, now
        self._first: Usage | None = None
        self._last: Usage | None = None
        self._idle = self._starved = 0.0
        self.over, self.starved = "", False

    def __call__(self) -> float:
        now = time.monotonic()
        if now >= min(self._looked_at + self._every, self._end):
            self._look(now)
        if now >= self._end and not self.over:
            self.over = f"did not answer within {_number(now - self._began)} s"
            self.starved = self._starved > max(self.limits.starved_s, (now - self._began) / 2)
        if self.over:
            return 0.0
        return max(0.001, min(self._end, self._looked_at + self._every) - now)

    def fault(self, doing: str, besides: str = "") -> StudentTimeout | BoxError:
        """What is raised once the time is over; `doing` says what took it, `besides` what else is known."""
        if not self.starved:
            return StudentTimeout(f"{doing} {self.over}{besides}")
        waited = f"and for {_number(self._starved)} s of these it waited for a processor"
        return BoxError(f"{doing} {self.over}, {waited}: {TOO_BUSY}")

    def _next_look(self):
        """At no even distance: what sleeps and works in turns could be in step with it."""
        return self._step * random.uniform(0.75, 1.25)

    def _look(self, now):
        usage = self._usage()
        passed, self._looked_at = now - self._looked_at, time.monotonic()
        self._every = self._next_look()
        if usage is None:
            return
        if self._first is None or self._last is None:
            self._first = self._last = usage
            return
        used = usage.cpu_s - self._last.cpu_s
        self._note_idling(passed, napped=not usage.awake and used <= max(0.01, _NAP * passed))
        self._note_starving(max(0.0, passed - used) if usage.ready else 0.0)
        self._last = usage
        if usage.cpu_s - self._first.cpu_s > self.limits.cpu_s:
            self.over = f"used more than {_number(self.limits.cpu_s)} s of processor time{self.limits.whose}"
        elif self._idle > self.limits.idle_s:
            self.over = f"did nothing for {_number(self.limits.idle_s)} s: it is waiting for something"

    def _note_idling(self, passed, napped):
        """What kept this process from looking does not count as theirs."""
        stretch = min(passed, 2 * self._step)
        self._idle = self._idle + stretch if napped else 0.0
        self.limits.spent.idle_s += stretch if napped else 0.0

    def _note_starving(self, seconds):
        """The wall waits too, until the code has starved for too long."""
        self._end += min(seconds, max(0.0, self.limits.starved_s - self._starved))
        self._starved += seconds


def _number(seconds):
    return f"{round(seconds, 1):g}"
