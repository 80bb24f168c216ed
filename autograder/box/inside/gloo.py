"""Runs in the process of one rank on somebody's own machine, never when grading: torch's own gloo, whose every operation is told.

Gloo carries everything. What begins and ends is also told to the process that started the ranks (ranks/listener.py), so
that `traffic` is there, a hang has a name, and a picture of it can be drawn:

    {"begin": operation, "id": n, "at": seconds, "group": …, "ranks": …, "root": …, "peer": …, "tag": …, "shapes": …, "bytes": …,
     "heads": [the first elements of each tensor, 64 KB in all]}
    {"wait": n, "at": seconds}                      the rank can do nothing else until the operation has ended
    {"end": n, "at": seconds, "failed": text or ""}
    {"span": name, "from": seconds, "to": seconds}  what the code itself marked

Nothing is answered. All processes of a machine read the same clock. A copy of this file is in every handout.
"""

# mypy: disable-error-code="override"

import os
import socket
import threading
import time
from contextlib import suppress

import torch
import torch.distributed as dist

from .. import wire
from .group import BrokerGroup
from .pending import Link, Pending, Several

_HEADS = 64 << 10  # bytes of a message that news are looked for in (ranks/news.py)
_told: "Told | None" = None  # this process's, where it is a rank


def join(folder: str, connection: socket.socket, rank: int, size: int) -> None:
    """Makes this process the rank `rank` of `size`, which find each other through a file in `folder`: no port is fixed."""
    global _told
    _told = told = Told(connection)

    def create(options, _=None):
        return ToldGroup(told, options, list(options.global_ranks_in_group or range(size)))

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    dist.Backend.register_backend("told", create, extended_api=True, devices=["cpu"])
    store = dist.FileStore(os.path.join(folder, "ranks"), size)
    dist.init_process_group("told", store=store, rank=rank, world_size=size)


class span:
    """Marks what is computed meanwhile, for a timeline: `with span("F3"):`. Outside of ranks that are told it does nothing."""

    def __init__(self, name: str) -> None:
        self._name = str(name)

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if _told is not None:
            _told.tell({"span": self._name, "from": self._begin, "to": time.perf_counter()})


def warm_up() -> None:
    """What torch does at a first gradient and a first meeting would be half of a picture."""
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad((x * x).sum(), [x], torch.tensor(1.0))
    dist.barrier()


class Told(Link):
    """The way to the process that listens."""

    def __init__(self, connection: socket.socket):
        super().__init__(connection)
        self._telling = threading.Lock()

    def tell(self, message: dict) -> None:
        with self._telling, suppress(OSError):  # nobody listens any more: all is being ended
            wire.send(self._connection, message)

    def post(self, **message) -> int:
        """Of an operation that BrokerGroup describes: its tensors stay here."""
        tensors, number = message.pop("tensors"), next(self._ids)
        shapes = [list(tensor.shape) for tensor in tensors]
        tag = message["tag"]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        size += tag.bit_length() // 8 + 1 if tag else 0  # as the broker counts it when grading
        message |= {"begin": message.pop("post"), "id": number, "shapes": shapes, "bytes": size}
        message["heads"] = _heads(tensors)
        self.tell({**message, "at": time.perf_counter()})
        return number

    def let_go(self, number: int) -> None:
        """Nothing is told: gloo itself takes such a message back."""

    def ended(self, number: int, failed: str = "") -> None:
        self.tell({"end": number, "at": time.perf_counter(), "failed": failed})


def _heads(tensors):
    """What whoever listens looks at. Tensors without plain bytes, which gloo may carry, have none."""
    heads, left = [], _HEADS
    for tensor in tensors:
        plain = tensor.detach().reshape(-1) if tensor.layout is torch.strided else torch.empty(0)
        heads.append(plain[: -(-left // plain.element_size())])
        left = max(left - heads[-1].nbytes, 0)
    return heads


class Watched(Pending):
    """An operation of gloo that has begun."""

    def __init__(self, told: Told, number: int, work: dist.Work, outputs: list):
        super().__init__(told, number, outputs)
        self._told, self._work = told, work
        self._ending, self._over = threading.Lock(), False
        with suppress(RuntimeError):  # sends and receives have none: they end when they are waited for
            work.get_future().add_done_callback(lambda future: self._end())

    def wait(self, timeout=None) -> bool:
        self._told.tell({"wait": self.number, "at": time.perf_counter()})
        try:
            done = self._work.wait(timeout) if timeout else self._work.wait()
        except RuntimeError as error:
            self._end(str(error) or "failed")
            raise
        self._end()
        return done

    def is_completed(self) -> bool:
        return self._work.is_completed()

    def get_future(self) -> torch.futures.Future:
        return self._work.get_future()

    def _source_rank(self) -> int:
        return self._work._source_rank()

    def _end(self, failed=""):
        with self._ending:
            if not self._over:
                self._over = self._done = True
                self._told.ended(self.number, failed)


class ToldGroup(BrokerGroup):
    """Tells of each operation what BrokerGroup would post of it, and lets gloo do it."""

    def __init__(self, told: Told, options, ranks: list[int]):
        super().__init__(told, options.group_rank, ranks, str(options.group_id))
        self._gloo = dist.ProcessGroup(options.store, options.group_rank, options.group_size)
        backend = dist.ProcessGroupGloo(options.store, options.group_rank, options.group_size, _on_this_machine())
        self._gloo._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
        self._gloo._set_default_backend(dist.ProcessGroup.BackendType.GLOO)

    def getBackendName(self):
        return "told"


def _on_this_machine():
    """Gloo's options: it listens on the address of this machine itself, so no name is looked up and no firewall asks."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    return options


def _done_by_gloo(name):
    describe = getattr(BrokerGroup, name)

    def method(self, *args, **kwargs):
        described = describe(self, *args, **kwargs)
        if isinstance(described, Several):  # its parts have gone through this already
            return described
        return Watched(self._link, described.number, getattr(self._gloo, name)(*args, **kwargs), described._outputs)

    method.__name__ = name
    return method


for _name in set(vars(BrokerGroup)) - set(dir(object)) - {"getBackendName"}:
    if callable(getattr(dist.ProcessGroup, _name, None)):
        setattr(ToldGroup, _name, _done_by_gloo(_name))
