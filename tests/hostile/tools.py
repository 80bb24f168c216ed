"""Laid beside every hostile sample as tools.py: what attacks have in common, whatever the lesson.

    from attack import *      all of this, and the lesson's wrong answers where attacks/<lesson>.py has some
    @at_call                  the function is run by `called()`, which wrong answers begin with
    @answer                   the function replaces the one in `answers[0]`, which wrong answers end with
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

__all__ = [
    "answer",
    "answers",
    "at_call",
    "called",
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
answers = [None]  # what wrong answers ask for their values


def at_call(function):
    _on_call.append(function)
    return function


def answer(function):
    answers[0] = function
    return function


def called():
    """The student's code was called: what a sample does then comes first."""
    for function in _on_call:
        function()
