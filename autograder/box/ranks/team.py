"""The ranks of one submission: several processes that answer one request together; the grader's side.

    Member    one rank: its process is a fork of a worker in a slot of its own (or a local process, in_process.py)
    Team      all of them, and the broker through which they talk

One thread waits for all: replies to the request come on one connection of a member, messages to other ranks on the
other. Every wait has the request's clock.
"""

import select
import selectors
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ...errors import BadReply, StudentDied, StudentFault, StudentTimeout
from .. import replies, wire
from ..clock import Clock, Limits, Usage, total
from .broker import Broker
from .listener import Listener
from .post import Message


@dataclass(frozen=True)
class Member:
    """A rank's process.

    Attributes:
        requests: where it gets requests and sends replies. messages: where it talks to the other ranks.
        receive: (connection, clock, what it is doing, caps) -> value; raises a StudentFault when none comes.
        stop: ends the process, whatever it is doing. usage: what it has used, None where nobody can read it.
    """

    requests: socket.socket
    messages: socket.socket
    receive: Callable[[socket.socket, Clock, str, wire.Caps | None], object]
    stop: Callable[[], None]
    usage: Callable[[], Usage | None] = lambda: None


class Team:
    """Ranks 0, 1 … of one submission, that live as long as their test.

    Args:
        through: what carries their messages; a Listener where they talk over gloo.
    """

    def __init__(self, members: Sequence[Member], through: Broker | Listener | None = None):
        self._members = members
        self._broker = through or Broker(len(members))

    @property
    def traffic(self) -> list[Message]:
        """What the ranks sent while they answered the last request."""
        return self._broker.traffic

    def ask(self, request: dict, timeout: float | Limits) -> dict[int, object]:
        """Sends one request to every rank and returns rank -> reply, in the order in which the replies came.

        All ranks together may compute for `timeout` seconds, each of them counted.

        Raises:
            StudentTimeout, StudentDied, BadReply: of any rank; the others are stopped then. What a rank raised before
                comes first in the text: the rest may be no more than its consequence.
            BoxError: the machine gave them no processor.
        """
        by_rank: dict[int, object] = {}
        try:
            self._ask(request, Clock(timeout, self._usage), by_rank)
        except StudentFault as fault:
            self._stop()
            raise self._with_its_cause(fault, by_rank) from None
        except BaseException:  # of the grader: no memory is left, the test's time is over, Ctrl-C
            self._stop()
            raise
        return by_rank

    def _stop(self):
        """Ends every rank; one that cannot be ended keeps none of the others alive."""
        with ExitStack() as stack:
            for member in self._members:
                stack.callback(member.stop)

    def _too_late(self, clock):
        return clock.fault("the code of the ranks", f": {self._broker}")

    def _with_its_cause(self, fault, by_rank):
        if isinstance(fault, BadReply):
            return fault
        for rank, reply in by_rank.items():
            raised = replies.read(reply).raised
            if raised is not None and not self._broker.failed(rank):
                said = ": ".join(filter(None, [f"rank {rank}", raised.types[0], raised.text]))
                return type(fault)(f"{said}; after that, {fault}", detail=raised.traceback)
        return fault

    def close(self) -> None:
        for member in self._members:
            member.requests.close()
            member.messages.close()

    def _usage(self):
        return total([member.usage() for member in self._members])

    def _ask(self, request, clock, by_rank):
        for rank in range(len(self._members)):
            self._hear(rank, clock)  # what was sent after the last call is no part of this one
        self._broker.begin()
        with selectors.DefaultSelector() as selector:
            for rank, member in enumerate(self._members):
                self._send(member.requests, request, clock)
                for connection in (member.requests, member.messages):
                    selector.register(connection, selectors.EVENT_READ, rank)
            while len(by_rank) < len(self._members):
                patience = clock()
                if not patience:
                    raise self._too_late(clock)
                ready = selector.select(patience)
                for key, _ in ready:
                    if key.fileobj is self._members[key.data].requests:
                        reply = self._receive(key.data, key.fileobj, clock, wire.REPLY)
                        by_rank[key.data] = self._reply(key.data, reply)
                        selector.unregister(key.fileobj)
                        self._hear(key.data, clock)  # what it sent before it replied comes before its return
                        self._broker.returned(key.data)
                        self._require_kept(key.data, by_rank[key.data])
                        clock = self._for_the_others(by_rank[key.data], clock)
                    else:
                        self._hear(key.data, clock)
                for rank, answer in self._broker.answers():
                    self._answer(self._members[rank].messages, answer, clock)

    def _require_kept(self, rank, reply):
        """What a rank lets go of while it raises is not what is wrong with it."""
        lost = self._broker.lost(rank)
        if lost and replies.read(reply).raised is None:
            raise BadReply(lost)

    def _for_the_others(self, reply, clock):
        """The time that is left to the other ranks: little, if one has raised and nobody tells those who wait for it."""
        idle_s = self._broker.patience_s
        if idle_s is None or replies.read(reply).raised is None:
            return clock
        return Clock(replace(clock.limits, idle_s=idle_s), self._usage)

    def _hear(self, rank, clock):
        """Takes all messages of a rank that are there; what comes when the time is over is not received any more."""
        connection = self._members[rank].messages
        while select.select([connection], [], [], 0)[0]:
            self._broker.handle(rank, self._receive(rank, connection, clock, None))

    def _reply(self, rank, reply):
        """What the rank answered; in what it raised, errors of the broker in full. Nothing in it is of a type that is known."""
        error = reply.get("error") if type(reply) is dict else None
        for name in ("text", "traceback"):
            if type(error) is dict and type(error.get(name)) is str:
                error[name] = self._broker.in_full(rank, error[name])
        return reply

    def _receive(self, rank, connection, clock, caps):
        try:
            return self._members[rank].receive(connection, clock, f"running rank {rank}", caps)
        except StudentTimeout:  # in the middle of a message
            raise self._too_late(clock) from None
        except StudentDied as died:
            others = self._broker.doing(other for other in range(len(self._members)) if other != rank)
            raise StudentDied(f"{died}" + (f" ({others})" if others else "")) from None

    @staticmethod
    def _send(connection, value, clock):
        try:
            wire.send(connection, value, clock)
        except (OSError, wire.DeadlinePassed):
            pass  # what receive says about the process is the better message

    def _answer(self, connection, answer, clock):
        try:
            self._send(connection, answer, clock)
        except ValueError:  # raised before the first byte is sent: the result of a collective is too large
            self._send(connection, {"error": "the result is too large to pass from rank to rank"}, clock)
