"""A send that nobody keeps or waits for: gloo may lose it, so the box counts it as lost unless the sender could know that it arrived."""

import itertools
import random

import pytest
import torch

from autograder.box.ranks.broker import Broker
from autograder.box.ranks.order import Order
from autograder.box.sandbox import Sandbox
from autograder.box.session import Session
from autograder.errors import BadReply, StudentRaised
from autograder.in_process import InProcess
from autograder.student import Student

WORK = """
import torch
import torch.distributed as dist

KEPT = []


def send(*words):
    rank, x = dist.get_rank(), torch.ones(2)
    if rank == 1:
        if "late" in words:
            dist.barrier()
        dist.recv(x, 0)
        if "reply" in words:
            dist.send(x, 0)
        if "barrier" in words:
            dist.barrier()
        return x.tolist()
    work = dist.isend(x, 1)
    if "late" in words:
        dist.barrier()
    if "wait" in words:
        work.wait()
    if "poll" in words:
        while not work.is_completed():
            pass
    if "future" in words:
        work.get_future().wait()
    if "keep" in words:
        KEPT.append(work)
    if "reply" in words:
        dist.recv(x, 1)
    if "barrier" in words:
        dist.barrier()
    if "raise" in words:
        del work
        raise ValueError("after it was sent")


def batch(all_of_them):
    to, x = 1 - dist.get_rank(), torch.zeros(2)
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, x, to), dist.P2POp(dist.irecv, torch.zeros(2), to)])
    for work in works if all_of_them else works[1:]:
        work.wait()
"""


@pytest.fixture(scope="module")
def session():
    with Sandbox() as sandbox, Session(lambda: sandbox.slot({"sends.py": WORK.encode()})) as session:
        yield session


@pytest.fixture(params=["boxed", "local"])
def two(request, tmp_path):
    """Two ranks of their own for each test: the first loss ends them."""
    if request.param == "boxed":
        processes = request.getfixturevalue("session").processes(("sends", request.node.name), seed=1)
    else:
        (tmp_path / "sends.py").write_text(WORK)
        processes = InProcess(tmp_path)
    yield Student(processes).on(ranks=2)
    processes.close()


@pytest.mark.parametrize(
    "words", [("wait",), ("poll",), ("future",), ("keep",), ("reply",), ("barrier",), ("late", "wait")], ids=" ".join
)
def test_a_send_that_the_sender_knows_to_have_arrived_or_keeps_is_right(two, words):
    assert two.call("sends.send", *words)[1] == [1, 1]


@pytest.mark.parametrize("words", [(), ("late",)], ids=" ".join)
def test_one_that_is_let_go_is_lost_whatever_the_receiver_does_meanwhile(two, words):
    with pytest.raises(BadReply, match="rank 0 let go of what isend returned before it could know that rank 1"):
        two.call("sends.send", *words)


def test_of_a_batch_each_is_waited_for(two):
    two.call("sends.batch", True)

    with pytest.raises(BadReply, match="let go of what isend returned"):
        two.call("sends.batch", False)


def test_what_a_rank_lets_go_of_while_it_raises_is_not_what_is_wrong(two):
    with pytest.raises(StudentRaised, match="ValueError: after it was sent"):
        two.call("sends.send", "raise")


# ---------------------------------------------------------------------------------------------- in the broker alone


def post(name, number, peer, tensors=()):
    message = {"post": name, "id": number, "group": "all", "ranks": [0, 1], "tensors": list(tensors)}
    return message | {"root": None, "reduction": None, "peer": peer, "tag": 0}


def test_in_whatever_order_two_ranks_are_heard_the_verdict_is_the_same():
    """Rank 0 sends, lets go, and sends again what rank 1 receives; both wait for the second message."""
    mine = [post("send", 0, 1, [torch.ones(1)]), {"gone": 0}, post("send", 1, 1, [torch.ones(1)]), {"wait": 1}]
    theirs = [post("recv", 0, 0), {"wait": 0}, post("recv", 1, 0), {"wait": 1}]
    for places in itertools.combinations(range(8), 4):
        broker, ranks = Broker(2), [iter(mine), iter(theirs)]
        waiting: set[int] = set()
        for rank in [0 if at in places else 1 for at in range(8)]:
            while rank in waiting:  # it is answered before it goes on
                waiting -= {answered for answered, _ in broker.answers()}
                if rank in waiting:
                    rank = 1 - rank
            message = next(ranks[rank], None)
            if message is not None:
                broker.handle(rank, message)
                waiting |= {rank} if "wait" in message else set()
                waiting -= {answered for answered, _ in broker.answers()}
        assert "rank 0 let go" in broker.lost(0)


@pytest.mark.parametrize("message", [{"gone": 7}, {"gone": "0"}, {"gone": None}])
def test_what_was_never_begun_cannot_be_let_go(message):
    with pytest.raises(BadReply, match="not a message between ranks"):
        Broker(2).handle(0, message)


def test_what_a_rank_knows_is_what_a_chain_of_messages_tells():
    """Against sets of all that each has heard of, in random histories of four ranks."""
    draw = random.Random(5)
    for _ in range(100):
        order, begun = Order(4), []  # begun: (rank, time, what was known then)
        heard: list[set[int]] = [set() for _ in range(4)]
        for _ in range(30):
            rank = draw.randrange(4)
            if begun and draw.random() < 0.5:
                _, time, known = draw.choice(begun)
                order.learns(rank, time)
                heard[rank] |= known
            else:
                heard[rank].add(len(begun))
                begun.append((rank, order.begins(rank), set(heard[rank])))
        for rank in range(4):
            for at, (by, time, _) in enumerate(begun):
                assert order.knows(rank, by, time) == (at in heard[rank])

        order.meet()
        assert all(order.knows(rank, by, time) for rank in range(4) for by, time, _ in begun)
