"""Hostile messages between ranks for a while: no exception but BadReply, an answer for each that can be sent, and no bookkeeping that slips.

Ranks are student code. Three of them talk: mostly what can go on, of all operations, reductions, dtypes and shapes, in groups and
in disagreement; now and then a field that is nonsense, a number twice, a wait for what nobody began, a return in the middle.
`make fuzz` runs it for five minutes; tests/autograder/test_broker.py does so for a moment.
"""

import argparse
import random
import time

import torch

from autograder.box import codec
from autograder.box.ranks.broker import MOST_HELD, Broker
from autograder.box.ranks.collectives import COLLECTIVES, REDUCING, REDUCTIONS, ROOTED
from autograder.errors import BadReply

RANKS = 3
SLOWEST_S = 2.0
GROUPS = ([0, 1, 2], [0, 1, 2], [2, 0, 1], [0, 1], [1, 2])
DTYPES = (torch.float32, torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.complex64, torch.float8_e5m2)
SHAPES = ((2,), (2,), (), (0,), (2, 1), (0, 3), (1,) * 18)
NONSENSE = (
    None,
    True,
    False,
    -1,
    3,
    2**70,
    1.5,
    float("nan"),
    "",
    "x" * 300,
    "\x1b[2J\u202e",
    [],
    [0, 0],
    [7],
    {},
    torch.ones(2),
)


def post_of(rank: int, name: str, numbers, draw: random.Random) -> dict:
    """A post that `rank` may begin."""
    ranks = draw.choice([group for group in GROUPS if rank in group])
    others = [place for place, each in enumerate(ranks) if each != rank]
    return {
        "post": name,
        "id": next(numbers),
        "group": draw.choice("001"),
        "ranks": ranks,
        "tensors": tensors_of(len(ranks), draw),
        "root": draw.randrange(len(ranks)) if name in ROOTED else None,
        "reduction": draw.choice([*REDUCTIONS]) if name in REDUCING else None,
        "peer": draw.choice(others) if name == "send" else draw.choice([*others, None]) if name == "recv" else None,
        "tag": draw.randrange(2) if name in ("send", "recv") else 0,
    }


def tensors_of(ranks: int, draw: random.Random) -> list[torch.Tensor]:
    """As many as there are ranks, which most collectives want, or others; all of one kind, or not."""
    count = draw.choice([1, ranks, ranks, draw.randrange(5)])
    kinds = [(draw.choice(SHAPES), draw.choice(DTYPES)) for _ in range(count)]
    if draw.random() < 0.8:
        kinds = kinds[:1] * count
    return [torch.zeros(shape).to(dtype) for shape, dtype in kinds]


def spoilt(message, draw: random.Random):
    """The message with a field that is nonsense, that is missing, or that nobody knows; or none at all."""
    field = draw.choice([*message, "more", None])
    if field is None:
        return draw.choice(NONSENSE)
    if draw.random() < 0.2:
        return {name: value for name, value in message.items() if name != field}
    return message | {field: draw.choice(NONSENSE)}


def turns_of(draw: random.Random):
    """(rank, message or "return"), one after the other, without an end."""
    numbers = iter(range(10**6))
    while True:
        if draw.random() < 0.5:  # a collective of all that can come to its end
            name = draw.choice([*COLLECTIVES])
            first = post_of(0, name, numbers, draw) | {"ranks": [0, 1, 2], "group": "0"}
            posts = [(rank, first | {"id": next(numbers)}) for rank in range(RANKS)]
            draw.shuffle(posts)
        else:
            rank = draw.randrange(RANKS)
            posts = [(rank, post_of(rank, draw.choice([*COLLECTIVES, "send", "recv", "send", "recv"]), numbers, draw))]
        for rank, message in posts:
            yield rank, spoilt(message, draw) if draw.random() < 0.01 else message
            said = draw.choice(["wait", "wait", "wait", "poll", "poll", "gone"])
            yield rank, {said: message["id"] - (draw.random() < 0.01)}
        if draw.random() < 0.02:
            yield draw.randrange(RANKS), "return"


def talk(seed: int, length: int = 60) -> int:
    """Whatever three ranks say: BadReply ends it, else each answer can be sent, and soon. How many answers there were."""
    draw, broker, started, count = random.Random(seed), Broker(RANKS), time.process_time(), 0
    broker.begin()
    try:
        for (rank, message), _ in zip(turns_of(draw), range(length), strict=False):
            if message == "return":
                broker.returned(rank)
            else:
                broker.handle(rank, as_sent(message))
            count += sum(can_be_sent(*answer) for answer in broker.answers())
            assert 0 <= broker._held <= MOST_HELD, seed
            assert str(broker).isprintable(), seed
    except (BadReply, codec.ProtocolError):  # a message that is not one, or could not be received
        pass
    assert time.process_time() - started < SLOWEST_S, seed
    return count


def can_be_sent(rank, answer) -> bool:
    assert 0 <= rank < RANKS
    assert answer == {"ready": answer.get("ready")} or ("error" in answer) != ("tensors" in answer)
    assert answer.get("error", "").isprintable(), answer
    assert len(answer.get("error", "")) < 2000, answer
    codec.encode(answer)
    return True


def as_sent(message):
    """What the grader gets of a message, through the wire."""
    return codec.decode(bytearray(b"".join(bytes(part) for part in codec.encode(message))))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    seconds = options.parse_args().seconds
    end, first, answers, talks = time.monotonic() + seconds, random.SystemRandom().randrange(2**60), 0, 0
    while time.monotonic() < end:
        answers += talk(first + talks)
        talks += 1
    print(
        f"{talks} conversations of {RANKS} ranks, {answers} answers: each answered or a BadReply, in under {SLOWEST_S} CPU-s"
    )


if __name__ == "__main__":
    main()
