"""Laid beside every hostile sample: wrong answers to all that the suite asks, and what attacks have in common.

    from attack import *      wrong answers under the names of the module `attention`, and the words below
    @at_call                  the function is run inside every call of the student's code, before it answers
    @answer                   the function (q, k, v) -> output replaces the wrong answer of all zeros
    reached(what, attempt)    runs attempt(): if it does not raise it has reached something, and says so on stdout

`targets` is written by the grader of the samples (grade.py): the paths, process ids and addresses that an attacker is
given for nothing.
"""

import ctypes
import json
import os
import platform
import struct
import sys
import time

import targets
import torch
from torch import nn

__all__ = [
    "CausalAttention",
    "ScaledDotProductAttention",
    "answer",
    "at_call",
    "causal_mask",
    "libc",
    "local_of_a_caller",
    "message",
    "reached",
    "read_text",
    "send_raw",
    "swarm",
    "syscall",
    "targets",
]

libc = ctypes.CDLL(None, use_errno=True)


def reached(what, attempt):
    """Says on stdout whether attempt() was refused; what it reached is a line that the grader of the samples looks for."""
    try:
        got = attempt()
    except Exception as error:
        print(f"refused: {what}: {type(error).__name__}: {error}", flush=True)
    else:
        print(f"REACHED: {what}: {str(got)[:200]!r}", flush=True)


def read_text(path):
    with open(path) as stream:
        return stream.read(500)


def syscall(x86_64, aarch64, *args):
    """A system call by its number, past libc. Raises OSError where the kernel refuses."""
    number = {"x86_64": x86_64, "aarch64": aarch64}[platform.machine()]
    result = libc.syscall(number, *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def swarm(count, work):
    """work(descriptor) in `count` forks at once; comes back a moment after all have written a byte to the descriptor."""
    ready, done = os.pipe()
    os.set_inheritable(done, True)
    for _ in range(count):
        if not os.fork():
            try:
                work(done)
                os.write(done, b"x")
                time.sleep(9)
            finally:
                os._exit(0)
    for _ in range(count):
        os.read(ready, 1)
    time.sleep(0.5)


# ---------------------------------------------------------------------------------------------- the worker's own sockets


def local_of_a_caller(name):
    """The local variable `name` of whoever called the student's code: nothing in a process is out of its reach."""
    frame = sys._getframe()
    while frame is not None:
        if name in frame.f_locals:
            return frame.f_locals[name]
        frame = frame.f_back
    raise LookupError(name)


def message(value, tensors=(), payload=b""):
    """Bytes of a message of the box: `value` is a node of its JSON header, or the whole header as text."""
    header = value if isinstance(value, str) else json.dumps({"value": value, "tensors": list(tensors)})
    header = header.encode()
    header += b" " * (-(4 + len(header)) % 64)
    return struct.pack("<QI", 4 + len(header) + len(payload), len(header)) + header + payload


def send_raw(data):
    """Sends bytes to the grader on the socket of the running test."""
    local_of_a_caller("connection").sendall(data)


# ---------------------------------------------------------------------------------------------- wrong answers

_on_call = []
_output = [lambda q, k, v: torch.zeros(*q.shape[:-1], v.shape[-1])]


def at_call(function):
    _on_call.append(function)
    return function


def answer(function):
    _output[0] = function
    return function


def _called():
    for function in _on_call:
        function()


def causal_mask(length, device=None):
    _called()
    return torch.zeros(length, length, dtype=torch.bool)


class ScaledDotProductAttention(nn.Module):
    def __init__(self, temperature, attn_dropout=0.1):
        super().__init__()
        _called()

    def forward(self, q, k, v, mask=None):
        return _output[0](q, k, v), torch.zeros(*q.shape[:-1], k.shape[-2])


class CausalAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        _called()
        self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        return _output[0](x, x, x), torch.zeros(x.shape[0], self.num_heads, x.shape[1], x.shape[1])
