"""The broker between ranks: what is matched, what each rank gets, and what is said when nothing can come of it."""

import itertools
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.box import codec
from autograder.box.ranks import broker as module
from autograder.box.ranks.broker import Broker
from autograder.errors import BadReply

sys.path.insert(0, str(Path(__file__).parents[1]))
import fuzz_ranks  # noqa: E402

NUMBERS = itertools.count()


def post(operation, *tensors, ranks=(0, 1), **details):
    """A post of the whole group, with a number that no other has."""
    message = {"post": operation, "id": next(NUMBERS), "group": "0", "ranks": list(ranks), "tensors": list(tensors)}
    return message | {"root": None, "reduction": None, "peer": None, "tag": 0} | details


def begin_and_wait(broker, rank, message):
    broker.handle(rank, message)
    broker.handle(rank, {"wait": message["id"]})


def answers_of(broker):
    return dict(broker.answers())


def both(*messages):
    """The answers to two ranks that post one message each and wait."""
    broker = Broker(2)
    for rank, message in enumerate(messages):
        begin_and_wait(broker, rank, message)
    return answers_of(broker)


def errors_of(*messages):
    """What is said of the errors of two ranks that post one message each and wait, to who reads what they raise."""
    broker = Broker(2)
    for rank, message in enumerate(messages):
        begin_and_wait(broker, rank, message)
    return [broker.in_full(rank, f"RuntimeError: {answer['error']}!")[14:-1] for rank, answer in broker.answers()]


def listed(answer):
    return [tensor.tolist() for tensor in answer["tensors"]]


# ---------------------------------------------------------------------------------------------- matching


def test_a_collective_is_answered_when_all_have_posted_it():
    broker = Broker(2)
    begin_and_wait(broker, 1, post("all_reduce", torch.tensor([1.0, 2.0]), reduction="sum"))

    assert answers_of(broker) == {}

    begin_and_wait(broker, 0, post("all_reduce", torch.tensor([10.0, 20.0]), reduction="sum"))

    assert [listed(answer) for answer in answers_of(broker).values()] == [[[11.0, 22.0]]] * 2


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [5, 9]), ("avg", [2.5, 4.5]), ("product", [6, 14]), ("min", [2, 2]), ("max", [3, 7])],
)
def test_reductions(reduction, expected):
    answers = both(
        post("all_reduce", torch.tensor([2.0, 7.0]), reduction=reduction),
        post("all_reduce", torch.tensor([3.0, 2.0]), reduction=reduction),
    )

    assert listed(answers[0]) == listed(answers[1]) == [expected]


@pytest.mark.parametrize(
    ("operation", "first", "second", "results"),
    [
        ("barrier", [], [], ([], [])),
        ("broadcast", [], [5], ([[5]], [])),
        ("reduce", [1], [2], ([], [[3]])),
        ("all_gather", [1], [2], ([[1], [2]], [[1], [2]])),
        ("gather", [1], [2], ([], [[1], [2]])),
        ("scatter", [], [1, 2], ([[1]], [[2]])),
        ("reduce_scatter", [1, 2], [10, 20], ([[11]], [[22]])),
        ("all_to_all", [1, 2], [3, 4], ([[1], [3]], [[2], [4]])),
    ],
)
def test_each_collective_gives_each_rank_its_part(operation, first, second, results):
    details = {"root": 1} if operation in ("broadcast", "reduce", "gather", "scatter") else {}
    details |= {"reduction": "sum"} if "reduce" in operation else {}
    tensors = [[torch.tensor([value]) for value in values] for values in (first, second)]

    answers = both(*(post(operation, *given, **details) for given in tensors))

    assert (listed(answers[0]), listed(answers[1])) == results


def test_a_send_ends_with_its_receive():
    broker = Broker(2)
    begin_and_wait(broker, 0, post("send", torch.tensor([4]), peer=1))

    assert answers_of(broker) == {}

    begin_and_wait(broker, 1, post("recv", peer=0))

    assert listed(answers_of(broker)[1]) == [[4]]


def test_messages_between_two_ranks_keep_their_order():
    broker = Broker(2)
    for value in (1, 2):
        broker.handle(0, post("send", torch.tensor([value]), peer=1))
    received = []
    for _ in range(2):
        begin_and_wait(broker, 1, post("recv", peer=0))
        received += listed(answers_of(broker)[1])

    assert received == [[1], [2]]


def test_tags_part_messages():
    broker = Broker(2)
    broker.handle(0, post("send", torch.tensor([1]), peer=1, tag=7))
    begin_and_wait(broker, 1, post("recv", peer=0, tag=8))

    assert answers_of(broker) == {}


def test_a_receive_from_any_names_the_sender():
    broker = Broker(3)
    begin_and_wait(broker, 0, post("recv", ranks=(0, 1, 2)))
    broker.handle(2, post("send", torch.tensor([4]), peer=0, ranks=(0, 1, 2)))

    assert answers_of(broker)[0]["source"] == 2


def test_groups_do_not_mix():
    broker = Broker(2)
    begin_and_wait(broker, 0, post("all_reduce", torch.ones(1), reduction="sum", group="0"))
    begin_and_wait(broker, 1, post("all_reduce", torch.ones(1), reduction="sum", group="1"))

    assert "waiting for each other" in answers_of(broker)[0]["error"]


def test_a_poll_says_whether_a_wait_would_return():
    broker = Broker(2)
    first, second = post("barrier"), post("barrier")
    broker.handle(0, first)
    broker.handle(0, {"poll": first["id"]})
    before = answers_of(broker)
    broker.handle(1, second)
    broker.handle(0, {"poll": first["id"]})

    assert (before, answers_of(broker)) == ({0: {"ready": False}}, {0: {"ready": True}})


def test_traffic_lists_what_each_rank_gave():
    broker = Broker(2)
    broker.handle(1, post("send", torch.ones(2, 3), peer=0))

    (message,) = broker.traffic

    assert (message.rank, message.operation, message.peer, message.bytes) == (1, "send", 0, 24)
    assert message.shapes == ((2, 3),)


def test_news_is_what_the_rank_has_not_sent_in_this_call():
    broker, noise = Broker(2), torch.randn(500)
    for rank in (0, 1, 0):
        broker.handle(rank, post("send", noise, peer=1 - rank))
    broker.begin()
    broker.handle(0, post("send", noise, peer=1))
    whole = broker.traffic[0].news
    broker.begin()
    broker.handle(0, post("send", torch.zeros(500), peer=1))
    broker.handle(1, post("send", noise, peer=0))
    broker.handle(0, post("send", noise, peer=1))
    broker.handle(0, post("send", noise, peer=1))

    zeros, other, first, again = (message.news for message in broker.traffic)
    assert (other, first) == (whole, pytest.approx(whole, rel=0.02))
    assert 1600 < whole <= 2000
    assert max(zeros, again) < 50


@pytest.mark.parametrize(("shape", "size"), [((0,), 8), ((20_261, 0), 16), ((), 4), ((1, 1), 4)])
def test_sizes_are_what_a_tensor_without_elements_says(shape, size):
    broker = Broker(2)
    broker.handle(1, post("send", torch.ones(shape), peer=0))

    assert broker.traffic[0].bytes == size


# ---------------------------------------------------------------------------------------------- no way on


def test_ranks_that_call_different_collectives_are_told():
    errors = errors_of(post("barrier"), post("broadcast", torch.ones(1), root=1))

    assert errors[0] == errors[1]
    assert errors[0] == (
        "the ranks disagree: rank 0 calls barrier, rank 1 calls broadcast with root 1; "
        "they should call the same, in the same order"
    )


def test_the_ranks_that_disagree_are_told_in_their_order():
    broker = Broker(2)
    for rank in (1, 0):
        begin_and_wait(broker, rank, post("broadcast", torch.ones(1), root=rank))

    error = broker.in_full(0, answers_of(broker)[0]["error"])
    assert "rank 0 calls broadcast with root 0, rank 1 calls broadcast with root 1" in error


def test_tags_are_told_where_they_part_messages():
    errors = errors_of(post("send", torch.ones(1), peer=1, tag=3), post("recv", peer=0, tag=4))

    assert errors[0].endswith(
        "rank 0 is waiting in send to rank 1 with tag 3, rank 1 is waiting in recv from rank 0 with tag 4"
    )


def test_a_rank_that_polls_is_told_from_one_that_computes():
    broker = Broker(2)
    message = post("recv", peer=1)
    broker.handle(0, message)
    broker.handle(0, {"poll": message["id"]})
    answers_of(broker)

    assert str(broker) == "rank 0 asks whether recv from rank 1 is complete, rank 1 computes"

    broker.handle(0, post("send", torch.ones(1), peer=1))

    assert str(broker) == "rank 0 computes, rank 1 computes"


def test_shapes_that_differ_are_told():
    errors = errors_of(*(post("all_reduce", torch.ones(size), reduction="sum") for size in (1, 2)))

    assert errors[1] == "all_reduce: rank 0 gives (1,) float32, rank 1 gives (2,) float32"


def test_a_rank_that_has_returned_is_not_waited_for():
    broker = Broker(2)
    begin_and_wait(broker, 0, post("barrier"))
    broker.returned(1)

    assert "rank 1 has returned" in answers_of(broker)[0]["error"]


def test_a_receive_from_any_waits_as_long_as_one_may_send():
    broker = Broker(3)
    begin_and_wait(broker, 0, post("recv", ranks=(0, 1, 2)))
    broker.returned(1)
    before = answers_of(broker)
    broker.returned(2)

    assert (before, "has returned" in answers_of(broker)[0]["error"]) == ({}, True)


def test_ranks_that_both_send_first_wait_for_each_other():
    errors = errors_of(post("send", torch.ones(1), peer=1), post("send", torch.ones(1), peer=0))

    assert errors[0] == (
        "the ranks are waiting for each other: rank 0 is waiting in send to rank 1, rank 1 is waiting in send to rank 0; "
        "one of them should receive first"
    )


def test_a_rank_that_computes_may_still_come():
    broker = Broker(2)
    begin_and_wait(broker, 0, post("barrier"))

    assert answers_of(broker) == {}


# ---------------------------------------------------------------------------------------------- ranks are student code


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (post("recv", peer=1, tag=4711), post("recv", peer=0, tag=815)),
        (post("recv", peer=1, tag=-4711), post("barrier", group="815")),
        (post("broadcast", root=0), post("broadcast", torch.ones(815), root=1)),
        (post("all_reduce", torch.ones(4711), reduction="sum"), post("all_reduce", torch.ones(815), reduction="sum")),
        (post("all_reduce", torch.ones(815), reduction="max"), post("all_reduce", torch.ones(815), reduction="min")),
        (post("all_to_all"), post("all_to_all", *[torch.ones(1)] * 815)),
        (post("scatter", root=1), post("scatter", *[torch.ones(1)] * 815, root=1)),
    ],
    ids=["tags", "groups", "roots", "sizes", "reductions", "numbers of tensors", "numbers of a root's tensors"],
)
def test_an_error_tells_a_rank_its_own_words_only(first, second):
    """Else it hears what nobody counts: a tag alone has 64 bits."""
    told = both(first, second)[0]["error"]

    assert not [word for word in ("815", "root 1", "min") if word in told]


def test_what_a_rank_was_told_is_found_by_its_longest_words():
    broker = Broker(2)
    for tag in (12, 1):
        begin_and_wait(broker, 0, post("recv", peer=1, tag=tag))
        begin_and_wait(broker, 1, post("recv", peer=0))
        answers_of(broker)

    said = "waiting for each other: rank 0 is waiting in recv from rank 1 with tag {}, rank 1 is waiting in recv from rank 0"
    for tag in (12, 1):
        text = f"it failed: the ranks are waiting for each other: rank 0 is waiting in recv from rank 1 with tag {tag}"
        assert said.format(tag) in broker.in_full(0, text)
    assert broker.in_full(0, "another error") == "another error"


@pytest.mark.parametrize(
    ("tag", "size"), [(0, 0), (1, 1), (127, 1), (128, 2), (-128, 2), ((1 << 31) - 1, 4), (1 - (1 << 31), 4)]
)
def test_a_tag_counts_as_bytes(tag, size):
    broker = Broker(2)
    broker.handle(0, post("send", peer=1, tag=tag))
    broker.handle(1, post("recv", peer=0, tag=tag))

    assert [message.bytes for message in broker.traffic] == [size, size]


def test_groups_are_limited(monkeypatch):
    monkeypatch.setattr(module, "MOST_GROUPS", 3)
    broker = Broker(2)
    for group in "0120":
        broker.handle(0, post("barrier", group=group))

    with pytest.raises(BadReply, match="more than 3 groups"):
        broker.handle(0, post("barrier", group="3"))

    broker.begin()
    broker.handle(0, post("barrier", group="3"))


def test_a_tensor_that_waits_keeps_no_more_than_itself():
    broker, root = Broker(2), post("scatter", torch.ones(5000), torch.ones(1), root=0)
    received = bytearray(b"".join(bytes(part) for part in codec.encode(root)))
    broker.handle(0, codec.decode(received))
    broker.handle(0, {"wait": root["id"]})
    broker.handle(1, post("scatter", root=0))

    assert listed(answers_of(broker)[0]) == [[1.0] * 5000]
    assert sys.getrefcount(received) == 2  # this name and the argument
    assert broker._held < 2000


def test_what_was_given_up_is_forgotten():
    broker = Broker(3)
    broker.returned(1)
    for tag in range(100):
        begin_and_wait(broker, 0, post("recv", peer=1, tag=tag))
        assert answers_of(broker)
        begin_and_wait(broker, 0, post("send", torch.ones(9), peer=1, tag=tag))
        assert answers_of(broker)
        begin_and_wait(broker, 0, post("all_reduce", torch.ones(9), reduction="sum", ranks=[0, 1, 2]))
        assert answers_of(broker)

    assert (len(broker._queues), broker._queues._queues, broker._pending, broker._held) == (0, {}, {}, 0)


def test_who_took_part_in_what_was_given_up_is_told_when_it_waits():
    broker, later = Broker(3), post("barrier", ranks=[0, 1, 2])
    broker.handle(2, later)
    begin_and_wait(broker, 0, post("barrier", ranks=[0, 1, 2]))
    broker.returned(1)
    answers_of(broker)
    broker.handle(2, {"wait": later["id"]})

    assert answers_of(broker)[2]["error"].startswith("rank 2 is waiting in barrier, but rank 1 has returned")


def test_a_given_up_receive_takes_no_later_message():
    broker = Broker(2)
    for _ in range(2):
        begin_and_wait(broker, 0, post("recv", peer=1))
        broker.returned(1)
        answers_of(broker)
        broker.begin()
    broker.handle(1, post("send", torch.tensor([4]), peer=0))
    begin_and_wait(broker, 0, post("recv", peer=1))

    assert listed(answers_of(broker)[0]) == [[4]]


def test_who_sends_after_all_have_answered_is_refused():
    broker, before = Broker(2), post("barrier")
    broker.handle(0, before)
    for rank in range(2):
        broker.returned(rank)
    broker.handle(0, {"wait": before["id"]})

    with pytest.raises(BadReply, match="rank 1 went on sending after all ranks had answered"):
        broker.handle(1, post("barrier"))


@pytest.mark.parametrize(
    "message",
    [
        7,
        {},
        {"wait": 3},
        {"wait": [1]},
        {"post": "barrier"},
        post("explode"),
        post(["barrier"]),
        post("send", torch.ones(1)),
        post("send", torch.ones(1), peer=2),
        post("send", torch.ones(1), peer=-1),
        post("send", torch.ones(1), peer=0),
        post("recv", ranks=(0,)),
        post("broadcast", torch.ones(1)),
        post("broadcast", torch.ones(1), root=True),
        post("all_reduce", torch.ones(1)),
        post("barrier", ranks=(1,)),
        post("barrier", ranks=(0, 0)),
        post("barrier", ranks=(0, 5)),
        post("barrier", "no tensor"),
        post("barrier", group=["0"]),
        post("barrier", group="0" * 1000),
        post("all_reduce", torch.ones(1), reduction="a word to rank 1"),
        post("all_reduce", torch.ones(1), reduction=["sum"]),
        post("recv", peer=1, tag=1 << 40),
        post("barrier") | {"id": "0"},
        post("barrier") | {"junk": torch.ones(1)},
        post("barrier", tag=1),
        post("barrier") | {"ranks": None},
    ],
    ids=lambda message: str(message)[:80],
)
def test_a_message_that_is_none_is_a_bad_reply(message):
    with pytest.raises(BadReply):
        Broker(2).handle(0, message)


def test_a_number_is_used_once():
    broker, message = Broker(2), post("barrier")
    broker.handle(0, message)

    with pytest.raises(BadReply, match="the same number"):
        broker.handle(0, message)


def test_what_nobody_waits_for_is_limited(monkeypatch):
    monkeypatch.setattr(module, "MOST_HELD", 3000)
    broker = Broker(2)
    for _ in range(2):
        broker.handle(0, post("send", torch.ones(100), peer=1))

    with pytest.raises(BadReply, match="no rank received"):
        broker.handle(0, post("send", torch.ones(100), peer=1))


def test_results_that_nobody_waits_for_count(monkeypatch):
    monkeypatch.setattr(module, "MOST_HELD", 3000)
    broker = Broker(2)
    for _ in range(2):  # the root waits for its own part; the other never does
        begin_and_wait(broker, 0, post("broadcast", torch.ones(100), root=0))
        broker.handle(1, post("broadcast", root=0))
        answers_of(broker)

    with pytest.raises(BadReply, match="no rank received"):
        broker.handle(0, post("broadcast", torch.ones(100), root=0))


def test_what_was_waited_for_is_let_go(monkeypatch):
    monkeypatch.setattr(module, "MOST_HELD", 6000)
    broker = Broker(2)

    for _ in range(50):
        for rank in range(2):
            begin_and_wait(broker, rank, post("all_reduce", torch.ones(100), reduction="sum"))
        answers_of(broker)


def test_tensors_without_elements_are_limited(monkeypatch):
    monkeypatch.setattr(module, "MOST_TRAFFIC", 1000)

    with pytest.raises(BadReply, match="too many operations"):
        Broker(2).handle(0, post("send", *[torch.ones(0)] * 1000, peer=1))


def test_operations_are_limited(monkeypatch):
    monkeypatch.setattr(module, "MOST_PENDING", 20)
    broker = Broker(2)
    for _ in range(20):
        broker.handle(0, post("barrier"))

    with pytest.raises(BadReply, match="too many operations"):
        broker.handle(0, post("barrier"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(torch.ones(2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("send", "recv", "barrier", "broadcast", "all_reduce", "all_gather", "scatter", "reduce_scatter", "all_to_all")


@settings(deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(["wait", "poll", *post("barrier")]), PLAIN | st.sampled_from(NAMES)) | PLAIN)
def test_whatever_a_rank_sends_is_taken_or_a_bad_reply(message):
    with suppress(BadReply):
        Broker(2).handle(0, message)


def test_three_ranks_that_say_anything_are_answered_or_end_with_a_bad_reply():
    assert sum(fuzz_ranks.talk(seed) for seed in range(60)) > 60


@settings(deadline=None, database=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(NAMES), st.integers(0, 2), st.integers(0, 3), st.sampled_from("01")
        ),
        max_size=12,
    )
)
def test_ranks_that_all_wait_or_return_are_all_answered(posts):
    """However senselessly three ranks post: if each returns once it is answered, none is left without an answer."""
    broker, waiting = Broker(3), {}
    for rank, name, other, count, group in posts:
        if rank in waiting:
            continue
        rooted = name in ("broadcast", "scatter")
        details = {"root": other if rooted else None, "peer": other if name in ("send", "recv") else None}
        details["reduction"] = "sum" if "reduce" in name else None
        if details["peer"] == rank:
            continue
        message = post(name, *[torch.ones(count)] * count, ranks=(0, 1, 2), group=group, **details)
        begin_and_wait(broker, rank, message)
        waiting[rank] = message["id"]
        for answered in answers_of(broker):
            del waiting[answered]
    running = {0, 1, 2} - set(waiting)
    while running:
        for rank in running:
            broker.returned(rank)
        running = set(answers_of(broker))
        waiting = {rank: number for rank, number in waiting.items() if rank not in running}

    assert waiting == {}
