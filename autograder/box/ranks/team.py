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
from dataclasses import dataclass

from ...errors import StudentFault, StudentTimeout
from .. import wire
from ..clock import Clock, Limits, Usage, total
from .broker import Broker


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
    """Ranks 0, 1 … of one submission, that live as long as their test."""

    def __init__(self, members: Sequence[Member]):
        self._members = members
        self._broker = Broker(len(members))

    @property
    def traffic(self):
        """What the ranks sent while they answered the last request (post.Message)."""
        return self._broker.traffic

    def ask(self, request: dict, timeout: float | Limits) -> dict[int, object]:
        """Sends one request to every rank and returns rank -> reply, in the order in which the replies came.

        All ranks together may compute for `timeout` seconds, each of them counted.

        Raises:
            StudentTimeout, StudentDied, BadReply: of any rank; the others are stopped then.
        """
        try:
            return self._ask(request, Clock(timeout, self._usage))
        except StudentFault:
            for member in self._members:
                member.stop()
            raise

    def close(self) -> None:
        for member in self._members:
            member.requests.close()
            member.messages.close()

    def _usage(self):
        return total([member.usage() for member in self._members])

    def _ask(self, request, clock):
        self._broker.begin()
        replies: dict[int, object] = {}
        with selectors.DefaultSelector() as selector:
            for rank, member in enumerate(self._members):
                self._send(member.requests, request, clock)
                for connection in (member.requests, member.messages):
                    selector.register(connection, selectors.EVENT_READ, rank)
            while len(replies) < len(self._members):
                patience = clock()
                if not patience:
                    raise StudentTimeout(f"the code of the ranks {clock.over}: {self._broker}")
                ready = selector.select(patience)
                for key, _ in ready:
                    if key.fileobj is self._members[key.data].requests:
                        replies[key.data] = self._receive(key.data, key.fileobj, clock, wire.REPLY)
                        selector.unregister(key.fileobj)
                        self._hear(key.data, clock)  # what it sent before it replied comes before its return
                        self._broker.returned(key.data)
                    else:
                        self._hear(key.data, clock)
                for rank, answer in self._broker.answers():
                    self._answer(self._members[rank].messages, answer, clock)
        return replies

    def _hear(self, rank, clock):
        """Takes all messages of a rank that are there; what comes when the time is over is not received any more."""
        connection = self._members[rank].messages
        while select.select([connection], [], [], 0)[0]:
            self._broker.handle(rank, self._receive(rank, connection, clock, None))

    def _receive(self, rank, connection, clock, caps):
        return self._members[rank].receive(connection, clock, f"running rank {rank}", caps)

    @staticmethod
    def _send(connection, value, clock):
        try:
            wire.send(connection, value, clock)
        except (OSError, wire.DeadlinePassed):
            pass  # what receive says about the process is the better message

    def _answer(self, connection, answer, clock):
        try:
            self._send(connection, answer, clock)
        except ValueError as error:  # raised before the first byte is sent: the result of a collective is too large
            self._send(connection, {"error": str(error)}, clock)
