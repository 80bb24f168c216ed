"""What the ranks of one submission say to each other, matched and counted in the grader; pure state, no I/O.

Ranks post operations and wait for their results (group.py tells the messages). A collective is complete when every member
of its group has posted it, a send when its receive was posted. An operation that can never be complete is answered with
an error that names why: the ranks disagree, a rank has returned, all wait for each other.

Ranks are student code: what is not a message is a BadReply, and what they leave here is limited. What one is told of an error
is made of its own words alone, or it would be data that nobody counts; the grader's message names what the others did.
"""

from collections.abc import Iterable, Iterator

from ...errors import BadReply
from .collectives import Disagreement, combine
from .news import News
from .operation import ADVICE, Errors, Operation, Queues
from .order import Order
from .post import Message, read, weight_of

MOST_HELD = 512 << 20  # bytes of tensors that nobody has waited for yet, each with what it costs besides
MOST_PENDING = 10_000  # operations that nobody has waited for yet
MOST_TRAFFIC = 200_000  # operations and tensors of one request
MOST_GROUPS = 64  # of one request: in which of them a rank posts says something that is no bytes of a message
_KINDS = ("wait", "poll", "post", "gone")


class Broker:
    """Serves one team of `size` ranks, for as long as their processes live.

    Attributes:
        traffic: every operation since the last `begin`, in the order in which they came.
        patience_s: seconds that the others may idle once a rank has raised; None where those who wait for it are told.
    """

    patience_s: float | None = None

    def __init__(self, size: int):
        self._size = size
        self.traffic: list[Message] = []
        self._news = News()
        self._returned: set[int] = set()
        self._asking: dict[int, tuple[str, int]] = {}  # rank -> what it asks for: ("wait" or "poll", number)
        self._polled: dict[int, int] = {}  # rank -> number: it did nothing else since it asked for that
        self._pending: dict[tuple[int, int], Operation] = {}  # (rank, number), until the operation is complete
        self._results: dict[tuple[int, int], tuple[Operation, dict]] = {}  # with its answer, until it is waited for
        self._order = Order(size)
        # ("all", group): collectives that some members have not posted yet; ("send" or "recv", group, destination, tag)
        self._queues = Queues()
        self._groups: dict[tuple, tuple] = {}
        self._errors = Errors()
        self._held = self._listed = 0

    def begin(self) -> None:
        """All ranks run again."""
        self.traffic, self._listed, self._news = [], 0, News()
        for each in (self._returned, self._groups, self._errors):
            each.clear()
        self._order.meet()

    def returned(self, rank: int) -> None:
        """The rank has answered its request: it posts nothing more."""
        self._returned.add(rank)

    def lost(self, rank: int) -> str:
        """What the rank is told of a message that would be lost over gloo; empty if there is none."""
        return self._order.lost.get(rank, "")

    def handle(self, rank: int, message) -> None:
        """Takes one message of a rank.

        Raises:
            BadReply: it is not a message, or the ranks leave too much here.
        """
        kind = next((kind for kind in _KINDS if type(message) is dict and kind in message), None)
        self._polled.pop(rank, None)
        if kind == "post" and len(self._returned) == self._size:
            raise BadReply(f"rank {rank} went on sending after all ranks had answered")
        if kind == "post":
            self._post(rank, read(message, rank, self._size))
        elif kind is None or type(message[kind]) is not int or not self._knows(rank, message[kind]):
            raise BadReply("a rank sent something that is not a message between ranks")
        elif kind == "gone":
            self._let_go(rank, message[kind])
        else:
            self._asking[rank] = kind, message[kind]
            if kind == "poll":
                self._polled[rank] = message[kind]

    def answers(self) -> Iterator[tuple[int, dict]]:
        """(rank, answer) for all that can be answered now; what can never be complete is answered with an error."""
        self._give_up()
        for rank, (kind, number) in list(self._asking.items()):
            ready = (rank, number) in self._results
            if ready:
                self._order.learns(rank, *self._results[rank, number][0].times.values())
            if kind == "poll" or ready:
                del self._asking[rank]
            if kind == "poll":
                yield rank, {"ready": ready}
            elif ready:
                _, answer = self._results.pop((rank, number))
                self._held -= weight_of(answer.get("tensors", ()))
                yield rank, answer

    def in_full(self, rank: int, text: str) -> str:
        """A text of the rank's with all that there is to say in the place of an error that it was told."""
        return self._errors.in_full(rank, text)

    def failed(self, rank: int) -> bool:
        """Whether an operation of the rank failed only since another is gone: never, nobody here hears of that."""
        return False

    def __str__(self):
        """What each rank is doing, for a message about a hang."""
        return self.doing(range(self._size))

    def doing(self, ranks: Iterable[int]) -> str:
        return ", ".join(f"rank {rank} {self._doing(rank)}" for rank in ranks)

    def _doing(self, rank):
        if rank in self._returned:
            return "has returned"
        if operation := self._waited_for(rank):
            return f"is waiting in {operation}"
        polled = self._pending.get((rank, self._polled.get(rank, -1)))
        return "computes" if polled is None else f"asks whether {polled} is complete"

    def _knows(self, rank, number):
        return (rank, number) in self._pending or (rank, number) in self._results

    def _waited_for(self, rank):
        """The operation without which the rank cannot go on, if it waits for one that is not complete."""
        kind, number = self._asking.get(rank, ("", 0))
        return self._pending.get((rank, number)) if kind == "wait" else None

    # ------------------------------------------------------------------------------------------ posting

    def _post(self, rank, post):
        self.traffic.append(post.message(rank, self._news.of(rank, post.tensors)))
        self._listed += 1 + len(post.tensors)
        self._held += weight_of(post.tensors)
        if self._held > MOST_HELD:
            raise BadReply(f"the ranks sent more than {MOST_HELD >> 20} MB in messages that no rank received")
        if len(self._pending) + len(self._results) >= MOST_PENDING or self._listed > MOST_TRAFFIC:
            raise BadReply("the ranks started too many operations, or did not wait for them")
        if self._knows(rank, post.number):
            raise BadReply("a rank started two operations with the same number")
        if len(self._groups) >= MOST_GROUPS and post.group not in self._groups:
            raise BadReply(f"the ranks talk in more than {MOST_GROUPS} groups during one call")
        group = self._groups.setdefault(post.group, post.group)
        {"send": self._send, "recv": self._receive}.get(post.name, self._collect)(rank, post, group)

    def _collect(self, rank, post, group):
        """Adds the rank's part to the first collective of the group that it has not posted yet."""
        operation = self._queues.first(("all", group), lambda each: rank not in each.numbers)
        if operation is None:
            operation = Operation(post.name, post.ranks, post.root, post.reduction)
            self._queues.add(("all", group), operation)
        self._take_part(operation, rank, post)
        if (operation.name, operation.root, operation.reduction) != (post.name, post.root, post.reduction):
            other = Operation(post.name, post.ranks, post.root, post.reduction)
            self._refuse(operation, *operation.disagreement(rank, other))
        elif not operation.missing():
            self._queues.remove(operation)
            self._complete(operation)

    def _complete(self, operation):
        """Gives each member its result."""
        given = [operation.parts[rank] for rank in operation.ranks]
        try:
            results = combine(operation.name, given, operation.ranks, operation.root, operation.reduction)
        except Disagreement as why:
            told = f"{operation.name}: what the ranks give does not go together"
            self._refuse(operation, dict.fromkeys(operation.ranks, told), f"{operation.name}: {why}")
            return
        for rank, tensors in zip(operation.ranks, results, strict=True):
            self._settle(rank, operation, {"tensors": tensors, "source": None})
        self._held -= sum(map(weight_of, given))

    def _refuse(self, operation, told, whole=""):
        """Gives it up; told is rank -> what that rank hears, whole is said in its place where the ranks do not hear it."""
        self._queues.remove(operation)
        for rank in operation.numbers:
            self._settle(rank, operation, {"error": told[rank]})
            self._errors.note(rank, told[rank], whole or told[rank])
        self._held -= sum(map(weight_of, operation.parts.values()))

    def _send(self, rank, post, group):
        send = Operation("send", (rank, post.peer), tag=post.tag)
        self._take_part(send, rank, post)
        receive = self._queues.first(("recv", group, post.peer, post.tag), lambda each: rank in each.ranks[:-1])
        if receive is None:
            self._queues.add(("send", group, post.peer, post.tag), send)
        else:
            self._pass_on(send, receive, post)

    def _receive(self, rank, post, group):
        sources = post.ranks if post.peer is None else (post.peer,)
        receive = Operation("recv", (*(source for source in sources if source != rank), rank), tag=post.tag)
        self._take_part(receive, rank, post)
        send = self._queues.first(("send", group, rank, post.tag), lambda each: each.ranks[0] in receive.ranks[:-1])
        if send is None:
            self._queues.add(("recv", group, rank, post.tag), receive)
        else:
            self._pass_on(send, receive, post)

    def _pass_on(self, send, receive, post):
        (source, destination), tensors = send.ranks, send.parts[send.ranks[0]]
        send.times = receive.times = send.times | receive.times
        self._queues.remove(send)
        self._queues.remove(receive)
        self._settle(source, send, {"tensors": [], "source": None})
        self._settle(destination, receive, {"tensors": tensors, "source": post.ranks.index(source)})
        self._held -= weight_of(tensors)

    def _take_part(self, operation, rank, post):
        # A tensor that came is a view of its whole message, all of which would stay with it.
        operation.parts[rank], operation.numbers[rank] = [tensor.clone() for tensor in post.tensors], post.number
        operation.times[rank] = self._order.begins(rank)
        self._pending[rank, post.number] = operation

    def _settle(self, rank, operation, answer):
        number = operation.numbers[rank]
        del self._pending[rank, number]
        self._results[rank, number] = operation, answer
        self._held += weight_of(answer.get("tensors", ()))

    def _let_go(self, rank, number):
        """Nobody keeps what isend returned, nor has waited for it."""
        send = self._pending.get((rank, number)) or self._results.pop((rank, number))[0]
        if send.name == "send":
            self._order.let_go(rank, send.ranks[-1], send.times.get(send.ranks[-1]))

    # ------------------------------------------------------------------------------------------ no way on

    def _give_up(self):
        """Settles what is waited for in vain: a rank that is needed has returned, or all wait for each other."""
        for rank in range(self._size):
            operation = self._waited_for(rank)
            gone = operation.gone(self._returned) if operation else None
            if gone is not None:
                says = f"{{}}, but rank {gone} has returned and will never take part"
                self._refuse(operation, operation.waiting(says))
        waited = {rank: self._waited_for(rank) for rank in range(self._size) if rank not in self._returned}
        if waited and None not in waited.values():
            names = {operation.name for operation in waited.values() if operation}
            whole = f"the ranks are waiting for each other: {self}{ADVICE.get(' '.join(names), '')}"
            for operation in dict.fromkeys(waited.values()):
                self._refuse(operation, operation.waiting("the ranks are waiting for each other: {}"), whole)
