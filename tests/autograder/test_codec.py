"""The codec: what goes in comes out, and hostile bytes give a ProtocolError and nothing else."""

import json
import math
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autograder.box import codec
from autograder.box.caps import REPLY


def through(value):
    return codec.decode(bytearray(b"".join(bytes(buffer) for buffer in codec.encode(value))))


def message(header, tail=b""):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytearray(struct.pack("<I", len(body)) + body + tail)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=200, deadline=None)
def test_plain_data_comes_out_as_it_went_in(value):
    if not _within_64_bits(value):
        return
    result = through(value)

    assert result == value
    assert type(result) is type(value)


def _within_64_bits(value):
    if isinstance(value, dict):
        return all(_within_64_bits(key) and _within_64_bits(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_within_64_bits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@pytest.mark.parametrize("dtype", list(codec.DTYPES.values()), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 5)])
def test_tensors_keep_shape_dtype_and_bits(dtype, shape):
    tensor = (torch.rand(shape) * 5).to(dtype)

    result = through([1, tensor, tensor])[1]

    assert result.dtype == dtype
    assert result.shape == tensor.shape
    assert torch.equal(result.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)) if shape else True


def test_views_and_conjugates_go_as_what_they_show():
    matrix = torch.arange(6.0).reshape(2, 3)

    assert torch.equal(through(matrix.T), matrix.T)
    assert torch.equal(through(matrix[:, ::2]), matrix[:, ::2])
    assert torch.equal(through(torch.tensor([1 + 2j]).conj()), torch.tensor([1 - 2j]))


def test_special_floats_come_through():
    result = through([math.inf, -math.inf, math.nan])

    assert result[:2] == [math.inf, -math.inf]
    assert math.isnan(result[2])


def test_gradients_hooks_and_subclasses_stay_behind():
    class Liar(torch.Tensor):
        pass

    result = through(torch.ones(2, requires_grad=True).as_subclass(Liar) * 2)

    assert type(result) is torch.Tensor
    assert not result.requires_grad


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (torch.nn.Linear(1, 1), "Linear"),
        (torch.ones(2, device="meta"), "meta tensor"),
        (torch.ones(2).to_sparse(), "float32 tensor of an unusual kind"),
        (2**70, "int beyond 64 bits"),
    ],
)
def test_what_is_no_plain_data_is_only_named(value, name):
    assert through([value])[0].type_name == name


def test_an_expanded_tensor_is_too_large_to_pass():
    with pytest.raises(ValueError, match="too large"):
        codec.encode(torch.zeros(1).expand(1 << 36))


def test_a_list_that_holds_itself_is_nested_too_deep():
    loop = []
    loop.append(loop)

    with pytest.raises(ValueError, match="nested"):
        codec.encode(loop)


HOSTILE = {
    "empty": b"",
    "short": b"\1\2",
    "header length beyond the end": struct.pack("<I", 2**32 - 1),
    "no JSON": message(b"nonsense"),
    "bare NaN": message(b'{"value": NaN, "tensors": []}'),
    "deep nesting": message(b"[" * 200_000),
    "deep nodes": message(b'{"tensors": [], "value": ' + b'{"list": [' * 100 + b"1" + b"]}" * 100 + b"}"),
    "long integer": message(b'{"tensors": [], "value": ' + b"9" * 5000 + b"}"),
    "integer beyond 64 bits": message({"value": 2**63, "tensors": []}),
    "unknown kind": message({"value": {"object": 1}, "tensors": []}),
    "two kinds": message({"value": {"str": "a", "list": []}, "tensors": []}),
    "pickle": message({"value": {"pickle": "gASV"}, "tensors": []}),
    "no such tensor": message({"value": {"tensor": 5}, "tensors": []}),
    "negative index": message({"value": {"tensor": -1}, "tensors": [["float32", [0], "cpu"]]}),
    "tensor past the end": message({"value": 1, "tensors": [["float32", [1 << 30], "cpu"]]}),
    "huge product of sizes": message({"value": 1, "tensors": [["float32", [1 << 39] * 16, "cpu"]]}),
    "negative size": message({"value": 1, "tensors": [["float32", [-1], "cpu"]]}),
    "zero times huge": message({"value": 1, "tensors": [["float32", [0, 1 << 39, 1 << 39, 1 << 39], "cpu"]]}),
    "boolean size": message({"value": 1, "tensors": [["float32", [True], "cpu"]]}, b"\0" * 4),
    "unknown dtype": message({"value": 1, "tensors": [["object", [1], "cpu"]]}, b"\0" * 8),
    "unhashable dtype": message({"value": 1, "tensors": [[[], [1], "cpu"]]}),
    "bytes behind the end": message({"value": 1, "tensors": []}, b"tail"),
    "tensor as key": message({"value": {"dict": [[{"tensor": 0}, 1]]}, "tensors": [["float32", [0], "cpu"]]}),
    "list as key": message({"value": {"dict": [[{"list": []}, 1]]}, "tensors": []}),
    "no hexadecimal": message({"value": {"bytes": "zz"}, "tensors": []}),
    "unknown float": message({"value": {"float": "1e999"}, "tensors": []}),
    "many tensors": message({"value": 1, "tensors": [["float32", [0], "cpu"]] * 5000}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    try:
        codec.decode(bytearray(HOSTILE[name]))
    except codec.ProtocolError:
        return
    assert name == "zero times huge", "it was decoded"  # harmless: no element, no allocation


def test_a_forged_boolean_is_true_or_false():
    result = codec.decode(message({"value": {"tensor": 0}, "tensors": [["bool", [2], "cpu"]]}, b"\2\0"))

    assert result.tolist() == [True, False]
    assert (result == torch.tensor([True, False])).all()


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(min_size=1, max_size=8))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_messages_give_a_value_or_a_protocol_error(rubbish, place, patch):
    valid = bytearray(b"".join(bytes(b) for b in codec.encode({"a": [torch.arange(4), 1.5, "x", (b"y",)], 2: None})))
    valid[place : place + len(patch)] = patch
    for data in (bytearray(rubbish), valid, message(rubbish)):
        try:
            codec.decode(data)
        except codec.ProtocolError:
            continue


# ---------------------------------------------------------------------------------------------- what a reply may hold


def reply_of(*specs, value=None, data=b""):
    return message({"value": value, "tensors": [["bool", list(shape), "cpu"] for shape in specs]}, data)


TOO_MUCH = {
    "eight million rows of nothing": reply_of([1 << 23, 0]),
    "rows of nothing inside": reply_of([0, 1 << 23]),
    "many rows of nothing, by two sizes": reply_of([1 << 16, 0, 1 << 16]),
    "rows of nothing that add up": reply_of(*[[1 << 16, 0]] * 33),
    "a million rows of one byte": reply_of([1 << 20], data=bytes(1 << 20)),
    "sixty megabytes of booleans, which are half a gigabyte in float64": reply_of([60, 1 << 10, 1 << 10], data=bytes(60 << 20)),
    "two thousand tensors": reply_of(*[[0]] * 2000),
    "a text of half a megabyte": reply_of(value={"str": "a" * (600 << 10)}),
    "lists of half a megabyte": reply_of(value={"list": [1] * (300 << 10)}),
    "tuples that have one hash": reply_of(value={"list": [{"tuple": [-1, -2] * 9}] * 9000}),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_reply_may_not_stand_for_more_than_a_test_can_take(name):
    with pytest.raises(codec.TooMuch, match="at most"):
        codec.decode(TOO_MUCH[name], REPLY)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_with_caps_too(name):
    with pytest.raises(codec.ProtocolError):
        codec.decode(bytearray(HOSTILE[name]), REPLY)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1 << 16, 0), torch.zeros(1 << 16, 32, dtype=torch.bool), "a" * (400 << 10), [torch.zeros(1)] * 1000],
    ids=["rows", "elements", "text", "tensors"],
)
def test_what_is_below_the_caps_is_used_in_a_moment(value):
    """The largest replies under what tests do: unpacking, lists, sets, float64, texts, comparisons."""
    sent = bytearray(b"".join(bytes(buffer) for buffer in codec.encode(value)))
    started = time.process_time()
    result = codec.decode(sent, REPLY)

    assert len(list(result)) >= 1000
    for use in (
        set,
        repr,
        sorted,
        lambda reply: reply.double(),
        lambda reply: reply == reply,
        lambda reply: dict.fromkeys(reply),
    ):
        try:
            use(result)
        except (TypeError, RuntimeError, AttributeError):
            continue
    assert time.process_time() - started < 5


@pytest.mark.parametrize("size", [10**4000, -(10**4000), 1 << 40], ids=["huge", "negative", "large"])
def test_what_is_said_of_impossible_sizes_is_short(size):
    too_much = REPLY.problem([["bool", [1 << 17] + [size] * 15, "cpu"]], 0)

    assert too_much.startswith("a tensor of shape (131072, ")
    assert len(too_much) < 250
