"""Runs inside the box, in one process with the student's code; imports the wire and nothing else of ours.

One worker serves one submission. It imports the student's modules once and forks a child for each test; a child answers
the requests of its test and ends. Everything that it sends is a claim about values: nothing here decides a verdict, and
nothing here is a secret. `answer` is also what runs in-process for authors and in handouts (a copy of this file), so
importing it needs no Unix.
"""

import functools
import importlib
import os
import random
import socket
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress

import torch

from .. import wire

TEXT_CAP = 2000  # characters of an exception's text
TRACEBACK_CAP = 6000


def main(
    control: socket.socket,
    submission: str,
    used: list[str],
    join: Callable,
    fork: Callable[[], int],
    settle: Callable[[], object],
) -> None:
    """Serves one submission until the grader closes the control socket.

    The grader sends b"I", then a module's name: import it, reply. Or b"F" with a socket, then a fork's seed, rank and
    world size: fork a child that answers on that socket. A world size above 0 brings a second socket, for messages to
    the other ranks.

    Args:
        used: where tripwires note forbidden calls; what is in it goes with every reply.
        join: (socket, rank, world size) -> None: makes a process one of several ranks.
        fork: os.fork, or one that waits for a machine that has no process left.
        settle: called after each import, so that what the processes of tests would each do is done once.
    """
    while True:
        command, request, descriptors = wire.receive_command(control, 2)
        if not command:
            return
        if command == b"I":
            reply = answer({"import": request}, submission)
            settle()
            _reply(control, reply, used)
        elif command == b"F" and descriptors:
            connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            _fork(control, connections, request, submission, used, join, fork)


def _fork(control, connections, request, submission, used, join, fork):
    _collect_children()
    if fork():
        for connection in connections:
            connection.close()
        return
    try:
        control.close()
        seed, rank, size = request
        seed_everything(seed)
        if size:
            join(connections[1], rank, size)
        serve(connections[0], submission, used)
    finally:
        os._exit(0)  # not sys.exit: no atexit handler of the student's runs, and the loop above is the parent's


def _collect_children():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def seed_everything(seed: int) -> None:
    """A forked child inherits its parent's generators: without this each test would see the same numbers."""
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which looks for every kind of accelerator
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def serve(connection: socket.socket, submission: str, used: list[str]) -> None:
    """Answers the requests of one test until the grader closes the connection."""
    while True:
        try:
            request = wire.receive(connection)
        except EOFError:
            return
        _reply(connection, answer(request, submission), used)


def _reply(connection, reply, used):
    _flush()
    if used:
        reply["used"] = list(used)
    try:
        wire.send(connection, reply)
    except (ValueError, RuntimeError, TypeError) as error:  # raised by encode, before the first byte is sent
        wire.send(connection, {"error": _describe(error, "")})


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # the student may have closed or replaced it
            pass


# ---------------------------------------------------------------------------------------------- requests


def answer(request: dict, submission: str, through: tuple[type[BaseException], ...] = ()) -> dict:
    """Performs one request and returns {"value": ...} or {"error": ...}; the second is the student's exception.

    Args:
        through: exceptions that are nobody's answer, where somebody at a terminal may end all (in_process.py).
    """
    try:
        return {"value": _perform(request)}
    except through:
        raise
    except BaseException as error:  # SystemExit, skips and interrupts too: in here they are the student's
        return {"error": _describe(error, submission)}


def _perform(request):
    if "import" in request:
        importlib.import_module(request["import"])
        return None
    if "seed" in request:  # for the next test, where there is no fork for each
        return seed_everything(request["seed"])
    args = _on_device(request["args"], request["device"])
    kwargs = _on_device(request["kwargs"], request["device"])
    if "call" in request:
        function = _find(request["call"])
    else:
        function = _probe(request["source"], request["name"], request["inside"])
    value = function(*args, **kwargs)
    return None if "silent" in request else value  # silent: that it returns is all that is asked


def _find(path):
    """The function at "module.name" or "module.Class.name"; a colon ends a module that is in a package: "package.module:name"."""
    module, _, names = path.partition(":" if ":" in path else ".")
    return functools.reduce(getattr, names.split("."), importlib.import_module(module))


def _probe(source, name, inside):
    """The function that a test's probe is here: its globals are torch and the lesson's helpers, nothing of the test."""
    scope = {"__name__": "probe", "torch": torch, "inside": _inside(inside)}
    # An indented function is one statement under `if`: dedenting would change its multi-line strings.
    exec(compile("if True:\n" + source if source[:1] in " \t" else source, "<probe>", "exec"), scope)
    return scope[name]


@functools.lru_cache(maxsize=8)
def _inside(source):
    module = types.ModuleType("inside")
    exec(compile(source, "<inside>", "exec"), module.__dict__)
    return module


def prepare(inside: str) -> None:
    """Makes the helpers that most probes use, before the processes of tests are forked, each of which would do it again.

    What is wrong with them is told to each probe.
    """
    with suppress(Exception):
        _inside(inside)


def _on_device(value, device):
    """The arguments with their tensors on `device`: they cross the border as bytes."""
    if device == "cpu":
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_on_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------------- exceptions


def _describe(error, submission):
    """An exception as plain data; its class is named, never sent."""
    return {
        "types": [base.__name__ for base in type(error).__mro__ if issubclass(base, BaseException)],
        "text": _text(error)[:TEXT_CAP],
        "where": _where(error, submission),
        "traceback": _traceback(error),
    }


def _traceback(error):
    """None of what is not written yet: reading the sources for it is most of what a stub's test costs."""
    if type(error) is NotImplementedError:
        return ""
    return "".join(traceback.format_exception(error, limit=-8))[-TRACEBACK_CAP:]


def _text(error):
    try:
        return str(error)
    except Exception:  # a student's __str__ may raise anything
        return ""


def _where(error, submission):
    """The last line of the student's own files that the exception passed: "attention.py:42 in forward"."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}:{error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if submission and code.co_filename.startswith(submission):
            return f"{os.path.relpath(code.co_filename, submission)}:{line} in {code.co_name}"
    return ""
