"""Warm processes that carry calls side by side, each on a core of its own; one that dies costs the call that it held.

Each holds one call at a time, so that what a dead one held is known for certain. That call is made once more, after all
others, by a new process; one that loses its process twice is given back as Lost. All other calls go on meanwhile.

A pool of n takes n cores and leaves the others alone: nobody's threads slow another call down, and nothing is lost to moving
short-lived processes about (a tenth of the throughput).

Ctrl-C is for the process that has the pool, which then ends the others; so does its own end, whatever it was: they notice
that their connection is closed. They close what they hold first, so that nothing of it stays behind.
"""

import gc
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Protocol

from .errors import GraderFault
from .starting import NothingFromHere

_TRIES = 2
_END_S = 60.0


class Held(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True)
class Lost:
    """In place of a result: each process that held the call died, the last one so."""

    how: str


@dataclass
class _Call:
    index: int
    function: Callable
    arguments: tuple
    losses: int = 0


def cores() -> list[int]:
    """Those that this process may use; none where a process cannot keep to one (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Pool:
    """Entering it starts the processes, leaving it ends them.

    Args:
        processes: how many. make: makes what each of them holds; it goes to another process, as functions and results do.

    Raises:
        GraderFault: no process lives until it can be called. And what `make` or a function raises there.
    """

    def __init__(self, processes: int, make: Callable[[], Held]):
        self._wanted, self._make = processes, make
        self._processes: list[_Process] = []
        self._stillborn = 0  # that died before they could be called, one after another

    def __enter__(self):
        with NothingFromHere():
            resource_tracker.ensure_running()  # which takes the mask of ctrl_c_later away, if it is started under it
        try:
            with ctrl_c_later():  # the processes inherit it, and would else be interrupted in their imports
                for core in islice(cycle(cores() or [None]), self._wanted):
                    self._processes.append(_Process(core, self._make))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.ended()

    def each(self, function: Callable, arguments: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
        """(index, result of function(what is held, *arguments), or Lost) as they come."""
        waiting = deque(_Call(index, function, each) for index, each in enumerate(arguments))
        self._hand_out(waiting)
        while waiting or any(process.call for process in self._processes):
            said = wait([process.connection for process in self._processes])
            for process in [process for process in self._processes if process.connection in said]:
                results = self._heard(process, waiting)
                self._hand_out(waiting)  # first: whoever takes the results may take their time
                yield from results

    def _hand_out(self, waiting):
        for process in self._processes:
            if waiting and process.ready and process.call is None:
                process.give(waiting.popleft())

    def _heard(self, process, waiting):
        """What is given back after a word of a process, or its death: at most one result."""
        call = process.call
        try:
            result = process.hear()
        except (EOFError, ConnectionResetError):
            return self._after_death(process, waiting)
        if call is None:
            self._stillborn = 0  # it said that it is ready
            return []
        return [(call.index, result)]

    def _after_death(self, process, waiting):
        """What is given back for the call that it held, if that is given up; else the call waits again, behind all others."""
        self._processes.remove(process)
        how, call, given_up = process.ended(), process.call, []
        if call is not None:
            call.losses += 1
            if call.losses < _TRIES:
                waiting.append(call)
            else:
                given_up = [(call.index, Lost(how))]
        self._stillborn = 0 if process.ready else self._stillborn + 1
        if waiting and self._stillborn < _TRIES:  # else fewer go on
            with ctrl_c_later():
                self._processes.append(_Process(process.core, self._make))
        if waiting and not self._processes:
            raise GraderFault(
                f"no grading process lives until it can grade: the last one ended by {how}; what was finished is kept: "
                "is there enough memory for so many --processes?"
            )
        return given_up


class _Process:
    """One of a pool, seen by the process that has the pool. Started when made."""

    def __init__(self, core: int | None, make: Callable[[], Held]):
        context = multiprocessing.get_context("spawn")  # one that has used torch must not be forked
        self.core, self.ready = core, False
        self.call: _Call | None = None
        self.connection, theirs = context.Pipe()
        with theirs, NothingFromHere():
            self._process = context.Process(target=_live, args=(theirs, core, make))
            self._process.start()

    def give(self, call: _Call) -> None:
        self.call = call
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which hearing it will say
            self.connection.send((call.function, call.arguments))

    def hear(self):
        """Its result, which frees it; None when it is ready for its first call.

        Raises:
            EOFError, ConnectionResetError: it has died. And what was raised there.
        """
        raised, value = self.connection.recv()
        self.ready, self.call = True, None
        if raised:
            raise value
        return value

    def end(self) -> None:
        """Tells it to end: at leisure if it has nothing to do, else at once, because what it does is for nobody."""
        if self.ready and self.call is None:
            with suppress(OSError):
                self.connection.send(None)
        self.connection.close()

    def ended(self) -> str:
        """How, when it has; one that does not end is killed."""
        self.connection.close()
        self._process.join(_END_S)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def ctrl_c_later():
    """Ctrl-C waits until the end of the block. The mask is for the processes that start in it and inherit it; the handler
    for this one: the system gives a signal to any thread that does not block it, and Python raises in the main one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[bool] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other one may set a handler, or is interrupted
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------------------------------------- in a process of the pool

_held: Held | None = None


def _live(connection, core, make):
    global _held
    calls = _listen(connection)
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})  # what it starts inherits it
        _held = make()
    except SystemExit:
        os._exit(1)  # told to end
    except BaseException as error:
        _send(connection, True, error)
        return
    gc.collect()
    gc.freeze()  # what was imported stays: to look through it again is a twentieth of each grading
    _send(connection, False, None)
    while (call := calls.get()) is not None:
        function, arguments = call
        try:
            result = function(_held, *arguments)
        except BaseException as error:
            _send(connection, True, error)
        else:
            _send(connection, False, result)
    _held.close()


def _listen(connection):
    """The calls, None at the end. Ctrl-C is not for this process. A handler and no SIG_IGN, which the box would inherit."""
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # ctrl_c_later blocked it
    signal.signal(signal.SIGTERM, _end)
    calls: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read_on, args=(connection, calls), daemon=True).start()
    return calls


def _read_on(connection, calls):
    """Ends this process when the other end of the connection is closed, by the process that has the pool or by its death."""
    call = True
    try:
        while call is not None:
            call = connection.recv()
            calls.put(call)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)  # to the main thread, which alone may touch what is held
        calls.put(None)  # wakes it, should it have begun to wait for a call just when the signal came


def _end(*_):
    """Ends this process at once, and what it holds with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if _held is None:
        raise SystemExit  # it closes what is being made
    _held.close()
    os._exit(1)


def _send(connection, raised, value):
    try:
        if raised:
            pickle.loads(
                pickle.dumps(value)
            )  # not every exception can be made again: one that cannot is told as a text
            value.add_note("".join(traceback.format_exception(value)))
        connection.send((raised, value))
    except (BrokenPipeError, ConnectionResetError):  # nobody hears it: _read_on ends this process
        pass
    except Exception as error:
        said = "".join(traceback.format_exception(value)) if raised else type(value).__name__
        connection.send((True, GraderFault(f"a grading process cannot send {said}: {error}")))
