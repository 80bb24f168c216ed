"""Hostile bytes through the decoder for a while: no exception but ProtocolError, no hang, no allocation above its cap.

Then replies of any shape through all that reads them: a value, or a fault of the student's. `make fuzz` runs it for five
minutes; tests/autograder/test_codec.py and test_replies.py do so for a moment.
"""

import argparse
import contextlib
import json
import resource
import struct
import time

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autograder.box import codec
from autograder.box import replies as reading
from autograder.box.caps import REPLY
from autograder.check import Check
from autograder.errors import CheckFailed, StudentFault
from autograder.student import Student

SLOWEST_S = 2.0
MOST_BYTES = 512 << 20  # address space above what torch maps at the start

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=30,
)
kinds = st.sampled_from([*codec._DECODERS, "pickle", ""])
nodes = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(),
    lambda inner: st.dictionaries(
        kinds, inner | st.lists(inner, max_size=4) | st.text(max_size=8), min_size=1, max_size=2
    ),
    max_leaves=30,
)
sizes = st.integers(-2, 5) | st.sampled_from([2**31, 2**39, 2**40, 2**62, 2**64])
specs = st.tuples(
    st.sampled_from([*codec.DTYPES, "object"]), st.lists(sizes, max_size=18), st.sampled_from(["cpu", "cuda", "x"])
)
headers = st.fixed_dictionaries({"value": nodes | json_values, "tensors": st.lists(specs, max_size=4)}) | json_values


@st.composite
def messages(draw):
    """Random bytes, well-formed headers of nonsense, and valid messages with a few bytes changed."""
    if draw(st.booleans()):
        body = json.dumps(draw(headers)).encode()
        length = len(body) + draw(st.sampled_from([0, 0, 0, 1, -1, 2**20]))
        return bytearray(struct.pack("<I", length % 2**32) + body + draw(st.binary(max_size=64)))
    valid = bytearray(b"".join(bytes(b) for b in codec.encode({"a": [torch.arange(5), 1.5, "x", (b"y",)], 2: None})))
    for place, patch in draw(st.lists(st.tuples(st.integers(0, len(valid)), st.binary(max_size=6)), max_size=4)):
        valid[place : place + len(patch)] = patch
    return valid


def list_of(value, caps):
    """Of a reply, as a test would unpack it: below its caps that is soon done."""
    if caps is not None and isinstance(value, (torch.Tensor, list, tuple, dict)) and getattr(value, "ndim", 1):
        list(value)


@given(messages())
@settings(
    max_examples=2000, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
def decode_one(message):
    started = time.process_time()  # CPU time: another process may have the core
    for caps in (None, REPLY):
        try:
            list_of(codec.decode(bytearray(message), caps), caps)
        except codec.ProtocolError:
            pass
    assert time.process_time() - started < SLOWEST_S, f"decoding took too long: {bytes(message)!r}"


keys = st.text(max_size=4) | st.integers() | st.none() | st.tuples(st.integers(), st.floats())
leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
    | st.sampled_from([codec.Opaque("Made"), torch.float16, torch.ones(2), torch.zeros(0, 3), torch.tensor(1j)])
    | st.sampled_from([torch.tensor([float("nan")]), torch.ones(2, dtype=torch.bool), torch.ones(2).to(torch.float8_e5m2)])
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
names = st.lists(st.text(max_size=100) | st.sampled_from(["ValueError", "Exception"]), max_size=4)
errors = st.fixed_dictionaries(
    {"types": names | values, "text": st.text() | values, "where": st.text() | values},
    optional={"traceback": st.text() | values, "more": values},
)
well_formed = st.fixed_dictionaries({"types": names, "text": st.text(), "where": st.text(), "traceback": st.text()})
replies = (
    values
    | st.fixed_dictionaries(
        {}, optional={"value": values, "error": errors | well_formed | values, "used": names | values}
    )
    | st.fixed_dictionaries({"error": well_formed})
)


class Answering:
    """Processes that give one reply to everything."""

    def __init__(self, reply):
        self._reply = reply

    def ask(self, request, timeout):
        return reading.read(self._reply)


def read_one(reply):
    """Whatever comes, a test sees a value or a StudentFault, and compares the value with anything."""
    student, check = Student(Answering(reply)), Check()
    with contextlib.suppress(StudentFault):
        reading.check_import("toy", reply)
    with contextlib.suppress(StudentFault):
        student.raises(ValueError, "toy.work", says=("x", 3))
    with contextlib.suppress(StudentFault):
        value = student.call("toy.work")
        for expected in (
            1,
            0.5,
            "a",
            None,
            [1, 2],
            {"a": 1},
            torch.ones(2),
            torch.ones(2, dtype=torch.int64),
            (torch.ones(2), 3),
        ):
            with contextlib.suppress(CheckFailed):
                check(value, expected)


read_many = settings(
    max_examples=500, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)(given(replies)(read_one))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    end = time.monotonic() + options.parse_args().seconds
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_BYTES,) * 2)
    rounds = 0
    while time.monotonic() < end:
        decode_one()
        read_many()
        rounds += 1
    print(
        f"{rounds * 2000} messages: values or ProtocolErrors, each in under {SLOWEST_S} CPU-s, below {MOST_BYTES >> 20} MB"
    )


if __name__ == "__main__":
    main()
