"""Plain data and tensors <-> bytes, by a closed set of kinds: what may cross the border of trust.

A message is a JSON header and the tensors' raw bytes behind it:

    <I header length> {"value": node, "tensors": [spec, ...]} <padding> <bytes of tensor 0> <bytes of tensor 1> ...

A node is null, true, a number, or {"kind": payload}; the kinds are the table _DECODERS. Nothing is unpickled and no
class is looked up, so decoding hostile bytes gives plain data or a ProtocolError, and allocates no more than a small
multiple of the message. This file is copied into every handout: torch and the standard library only.
"""

import json
import math
import struct

import torch

from .caps import Caps

MAX_MESSAGE = 64 << 20  # bytes
MAX_HEADER = 1 << 20  # bytes; JSON grows some 25 times when parsed
MAX_TENSORS = 4096
MAX_DEPTH = 32
MAX_TUPLE_KEYS = 1000

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 "
        "int64 int32 int16 int8 uint8 bool complex64 complex128"
    ).split()
}
_ITEM_SIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}
_DEVICES = ("cpu", "cuda", "mps", "xpu")


class ProtocolError(Exception):
    """The bytes are not a message of ours."""


class TooMuch(ProtocolError):
    """The message is one of ours, but holds more than it may."""


class TooLarge(ValueError):
    """A value that does not fit into a message."""


class Opaque:
    """Stands for an object that is not plain data: all that is known is the name of its type."""

    def __init__(self, type_name: str):
        self.type_name = "".join(char for char in type_name if char.isprintable())[:48]

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


def encode(value) -> list:
    """The message of `value` as a list of buffers. What is not plain data becomes an Opaque.

    Raises:
        TooLarge: it is too large, or nested too deep.
    """
    tensors: list[list] = []
    buffers: list = []
    node = _node(value, tensors, buffers, depth=0)
    header = json.dumps({"value": node, "tensors": tensors}).encode()
    if len(header) > MAX_HEADER:
        raise TooLarge(f"the value is too large to pass: {len(header)} bytes of plain data (at most {MAX_HEADER})")
    header += b" " * (-(4 + len(header)) % 64)  # the first tensor starts aligned
    total = 4 + len(header) + sum(len(buffer) for buffer in buffers)
    if total > MAX_MESSAGE:
        raise TooLarge(f"the value is too large to pass: {total} bytes (at most {MAX_MESSAGE})")
    return [struct.pack("<I", len(header)), header, *buffers]


def _node(value, tensors, buffers, depth):
    if depth > MAX_DEPTH:
        raise TooLarge(f"the value is nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, torch.Tensor):
        return _tensor_node(value, tensors, buffers)
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else {"opaque": "int beyond 64 bits"}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, str):
        return {"str": str(value).encode("utf-8", "replace").decode()}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_node(item, tensors, buffers, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_node(x, tensors, buffers, depth + 1) for x in item] for item in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    return {"opaque": value.type_name if isinstance(value, Opaque) else str(type(value).__name__)[:48]}


def _tensor_node(tensor, tensors, buffers):
    """A strided tensor goes as its bytes; one without plain bytes is named and stays."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.device.type == "meta":
        return {"opaque": "meta tensor"}
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or dtype not in DTYPES:
        return {"opaque": f"{dtype} tensor of an unusual kind"}
    if tensor.numel() * tensor.dtype.itemsize > MAX_MESSAGE:  # an expanded tensor can claim terabytes
        raise TooLarge(f"the tensor is too large to pass: shape {tuple(tensor.shape)}")
    plain = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    device = tensor.device.type if tensor.device.type in _DEVICES else "cpu"
    tensors.append([dtype, list(plain.shape), device])
    buffers.append(_bytes_of(plain))
    return {"tensor": len(tensors) - 1}


def _bytes_of(tensor):
    """A copy: only numpy could lend the bytes themselves, and a handout must work without it."""
    buffer = bytearray(tensor.numel() * tensor.element_size())
    if buffer:
        torch.frombuffer(buffer, dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return buffer


def decode(message, caps: Caps | None = None):
    """The value in a message, a bytearray. Tensors carry `came_from`, the type of their device.

    Args:
        caps: what it may hold, where it comes from student code for a test to use.

    Raises:
        ProtocolError: whatever the bytes are, nothing else.
    """
    try:
        header, start = _header(message)
        if caps is not None and (problem := caps.problem(header["tensors"], start - 4)):
            raise TooMuch(problem)
        tensors = _tensors(header["tensors"], message, start)
        return _value(header["value"], tensors, 0)
    except ProtocolError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ProtocolError(f"malformed message: {type(error).__name__}") from None


def _header(message):
    if len(message) < 4:
        raise ProtocolError("the message is too short")
    (length,) = struct.unpack_from("<I", message)
    if length > MAX_HEADER + 64 or 4 + length > len(message):
        raise ProtocolError("the header is too long")
    header = json.loads(bytes(memoryview(message)[4 : 4 + length]), parse_constant=_refuse_constant)
    if type(header) is not dict or type(header.get("tensors")) is not list or len(header["tensors"]) > MAX_TENSORS:
        raise ProtocolError("the header is not a header")
    return header, 4 + length


def _refuse_constant(name):
    raise ProtocolError(f"a bare {name} in the header")


def _tensors(specs, message, start):
    tensors = []
    for dtype, shape, device in specs:
        if dtype not in DTYPES or device not in _DEVICES or type(shape) is not list or len(shape) > 16:
            raise ProtocolError("a tensor of an unknown kind")
        if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
            raise ProtocolError("a tensor with impossible sizes")
        end = start + math.prod(shape) * _ITEM_SIZE[dtype]
        if end > len(message):
            raise ProtocolError("a tensor that is longer than the message")
        tensors.append(_tensor(dtype, shape, message, start, end))
        tensors[-1].came_from = device
        start = end
    if start != len(message):
        raise ProtocolError("bytes after the last tensor")
    return tensors


def _tensor(dtype, shape, message, start, end):
    if start == end:
        return torch.empty(shape, dtype=DTYPES[dtype])
    if dtype == "bool":  # a forged byte of 2 would be neither true nor false
        return torch.frombuffer(message, dtype=torch.uint8, count=end - start, offset=start).ne(0).reshape(shape)
    if start % _ITEM_SIZE[dtype]:
        message, start, end = bytearray(memoryview(message)[start:end]), 0, end - start
    count = (end - start) // _ITEM_SIZE[dtype]
    return torch.frombuffer(message, dtype=DTYPES[dtype], count=count, offset=start).reshape(shape)


def _value(node, tensors, depth):
    if depth > MAX_DEPTH:
        raise ProtocolError("nested too deep")
    if node is None or type(node) in (bool, float):
        return node
    if type(node) is int:
        if not -(1 << 63) <= node < 1 << 63:
            raise ProtocolError("an integer beyond 64 bits")
        return node
    if type(node) is not dict or len(node) != 1:
        raise ProtocolError("something that is not a node")
    ((kind, payload),) = node.items()
    return _DECODERS[kind](payload, tensors, depth + 1)


def _items(payload, tensors, depth):
    if type(payload) is not list:
        raise ProtocolError("something that is not a list")
    return [_value(node, tensors, depth) for node in payload]


def _dict(payload, tensors, depth):
    result, tuples = {}, 0
    for key, value in payload:
        key = _value(key, tensors, depth)
        if isinstance(key, (torch.Tensor, Opaque)):
            raise ProtocolError("a key that is not plain data")
        tuples += isinstance(key, tuple)  # they can be made to have one hash, and then cost the square of their number
        if tuples > MAX_TUPLE_KEYS:
            raise ProtocolError("too many keys that are tuples")
        result[key] = _value(value, tensors, depth)
    return result


def _text(payload, tensors, depth):
    if type(payload) is not str:
        raise ProtocolError("something that is not a string")
    return payload


_DECODERS = {
    "tensor": lambda index, tensors, depth: tensors[_index(index)],
    "list": _items,
    "tuple": lambda payload, tensors, depth: tuple(_items(payload, tensors, depth)),
    "dict": _dict,
    "str": _text,
    "bytes": lambda payload, tensors, depth: bytes.fromhex(payload),
    "float": lambda payload, tensors, depth: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[payload],
    "dtype": lambda payload, tensors, depth: DTYPES[payload],
    "opaque": lambda payload, tensors, depth: Opaque(_text(payload, tensors, depth)),
}


def _index(index):
    if type(index) is not int or index < 0:
        raise ProtocolError("a tensor that does not exist")
    return index
