"""Runs inside the box, in the process of one rank: its way to the grader, and the operations that have begun (group.py)."""

# mypy: disable-error-code="override"

import itertools
import socket
import threading

import torch
import torch.distributed as dist

from .. import wire


class Link:
    """The way to the broker. Operations of several threads take turns."""

    def __init__(self, connection: socket.socket):
        self._connection, self._lock, self._ids = connection, threading.Lock(), itertools.count()
        self._gone: list[int] = []

    def post(self, **message) -> int:
        with self._lock:
            number = next(self._ids)
            wire.send(self._connection, {"id": number, **message})
        self._tell_of_gone()
        return number

    def ask(self, **message) -> dict:
        with self._lock:
            wire.send(self._connection, message)
            answer = wire.receive(self._connection)
        self._tell_of_gone()
        return answer

    def let_go(self, number: int) -> None:
        """Nobody keeps this operation any more. It may be called at any moment, between any two others of the same thread."""
        self._gone.append(number)
        self._tell_of_gone()

    def _tell_of_gone(self):
        while self._gone and self._lock.acquire(blocking=False):  # who holds it does this afterwards
            try:
                wire.send(self._connection, {"gone": self._gone.pop()})
            except (IndexError, OSError):  # another thread was first, or the rank is at its end
                return
            finally:
                self._lock.release()


class Pending(dist.Work):
    """An operation that has begun."""

    _operation, _ended = "", False  # ended: and this process has heard so

    def __init__(self, link, number, outputs, operation=""):
        super().__init__()
        self._operation = operation
        self._link, self.number, self._outputs, self._done = link, number, outputs, False
        self._source = -1  # not known before it is done

    def wait(self, timeout=None) -> bool:
        """Waits until the outputs are filled.

        Raises:
            RuntimeError: the operation cannot be completed: the ranks do not agree on it, or wait for each other.
        """
        if not self._done:
            reply = self._link.ask(wait=self.number)
            self._ended = True
            if "error" in reply:
                raise RuntimeError(reply["error"])
            _fill(self._outputs, reply["tensors"], self._operation)
            self._source, self._done = reply["source"], True
        return True

    def __del__(self):
        if self._operation == "send" and not self._ended:
            self._link.let_go(self.number)

    def is_completed(self) -> bool:
        self._ended = self._ended or self._link.ask(poll=self.number)["ready"]
        return self._ended

    def result(self) -> list[torch.Tensor]:
        self.wait()
        return list(self._outputs)

    def is_success(self) -> bool:
        return self._done

    def exception(self) -> None:
        """There is none: a wait raises what is wrong."""

    def get_future(self) -> torch.futures.Future:
        """Done when it is given: nothing but a wait fetches what came."""
        self.wait()
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(self._outputs)
        return future

    def _source_rank(self) -> int:
        return self._source


class Several(Pending):
    """Operations that were begun together."""

    def __init__(self, parts: list[Pending]):
        dist.Work.__init__(self)
        self._parts, self._source = parts, -1

    def wait(self, timeout=None) -> bool:
        return all([part.wait(timeout) for part in self._parts])

    def is_completed(self) -> bool:
        return all(part.is_completed() for part in self._parts)

    def is_success(self) -> bool:
        return all(part.is_success() for part in self._parts)

    @property
    def _outputs(self):
        return [output for part in self._parts for output in part._outputs]


def _fill(outputs, values, operation):
    """Copies what came into the student's tensors, wherever they are."""
    if len(outputs) != len(values):
        raise RuntimeError(f"{operation}: {len(values)} tensors came, but there are {len(outputs)} to receive them")
    for output, value in zip(outputs, values, strict=True):
        if (output.numel(), output.dtype) != (value.numel(), value.dtype):
            came, here = (f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "") for tensor in (value, output))
            raise RuntimeError(f"{operation}: a tensor {came} came, but the one to receive it is {here}")
        # As with other backends autograd sees nothing of it, not even that the tensor has changed.
        output.data.copy_(value.reshape(output.shape))
