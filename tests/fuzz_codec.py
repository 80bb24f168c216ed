"""Hostile bytes through the decoder for a while: no exception but ProtocolError, no hang, no allocation above its cap.

`make fuzz` runs it for five minutes. The same strategies run for a moment in tests/autograder/test_codec.py.
"""

import argparse
import json
import resource
import struct
import time

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autograder.box import codec
from autograder.box.caps import REPLY

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
        rounds += 1
    print(
        f"{rounds * 2000} messages: values or ProtocolErrors, each in under {SLOWEST_S} CPU-s, below {MOST_BYTES >> 20} MB"
    )


if __name__ == "__main__":
    main()
