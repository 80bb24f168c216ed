"""Runs inside the box, in the process of one rank: a torch.distributed process group that needs no network.

Every operation goes through the grader (broker.py, on the other side), which matches it with those of the other ranks,
so student code uses torch.distributed as on any machine. This side speaks first and only reads when it waits, so neither
side ever blocks on the other's full buffer:

    {"post": operation, "id": n, ...}     it begins; no answer
    {"wait": n}                           -> {"tensors": [...], "source": rank or None} or {"error": text}
    {"poll": n}                           -> {"ready": whether a wait would return at once}
    {"gone": n}                           nobody keeps this send any more, and nobody has waited for it; no answer

A send ends when its receive has begun, as in gloo: two ranks that both send first wait for ever. A copy of this file is
in every handout: it imports nothing else of ours than what is beside it.
"""

# mypy: disable-error-code="override"
# torch calls a backend with lists of tensors and their options only; its other overloads are for users of the class.

import os
import socket

import torch.distributed as dist

from .pending import Link, Pending, Several

_REDUCTIONS = {
    "sum": dist.ReduceOp.SUM,
    "avg": dist.ReduceOp.AVG,
    "product": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "band": dist.ReduceOp.BAND,
    "bor": dist.ReduceOp.BOR,
    "bxor": dist.ReduceOp.BXOR,
}


def join(connection: socket.socket, rank: int, size: int) -> None:
    """Makes this process the rank `rank` of `size`: the default process group exists afterwards."""
    link = Link(connection)

    def create(options, _=None):
        ranks = options.global_ranks_in_group or range(size)
        return BrokerGroup(link, options.group_rank, list(ranks), str(options.group_id))

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    dist.Backend.register_backend("broker", create, extended_api=True, devices=["cpu", "cuda"])
    dist.init_process_group("broker", store=dist.HashStore(), rank=rank, world_size=size)


def _name_of(reduction) -> str:
    """What the grader calls it: it takes no other names, which would be words from one rank to another."""
    for name, known in _REDUCTIONS.items():
        if reduction == known:
            return name
    raise RuntimeError(f"the reduction {reduction} is not supported here, only {', '.join(_REDUCTIONS)}")


def _require_contiguous(tensors, operation) -> None:
    """As gloo and NCCL do: what works here has to work there."""
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise RuntimeError(f"{operation}: the tensor has to be contiguous, one block of memory: use .contiguous()")


class BrokerGroup(dist.ProcessGroup):
    """The methods that torch.distributed calls. `ranks` are the members' ranks in the whole world, in their order here."""

    def __init__(self, link: Link, rank: int, ranks: list[int], name: str):
        super().__init__(rank, len(ranks))  # type: ignore[call-arg]  # one of its two constructors
        self._link, self._ranks, self._name = link, ranks, name

    @property
    def group_name(self):
        """By which torch finds the group again: functional collectives and meshes of devices hand on the name alone."""
        return self._name

    def getBackendName(self):
        return "broker"

    def _post(self, operation, tensors=(), outputs=(), *, root=None, reduction=None, peer=None, tag=0):
        if reduction is not None:
            reduction = _name_of(reduction)
        number = self._link.post(
            post=operation, group=self._name, ranks=self._ranks, tensors=list(tensors),
            root=root, reduction=reduction, peer=peer, tag=tag,
        )  # fmt: skip
        return Pending(self._link, number, list(outputs), operation)

    # ------------------------------------------------------------------------------------------ one to one

    def send(self, tensors, peer, tag=0):
        self._require_another(peer, "send")
        _require_contiguous(tensors, "send")
        return self._post("send", tensors, peer=peer, tag=tag)

    def recv(self, tensors, peer, tag=0):
        self._require_another(peer, "recv")
        _require_contiguous(tensors, "recv")
        return self._post("recv", outputs=tensors, peer=peer, tag=tag)

    def recv_anysource(self, tensors, tag=0):
        _require_contiguous(tensors, "recv")
        return self._post("recv", outputs=tensors, tag=tag)

    def _require_another(self, peer, operation):
        if peer == self.rank():
            raise RuntimeError(
                f"rank {self._ranks[peer]} calls {operation} with itself: a message goes to another rank"
            )

    # ------------------------------------------------------------------------------------------ collectives

    def barrier(self, opts=None):
        return self._post("barrier")

    def broadcast(self, tensors, opts):
        is_root = opts.rootRank == self.rank()
        return self._post("broadcast", tensors if is_root else (), () if is_root else tensors, root=opts.rootRank)

    def allreduce(self, tensors, opts):
        return self._post("all_reduce", tensors, tensors, reduction=opts.reduceOp)

    allreduce_coalesced = allreduce  # type: ignore[assignment]

    def reduce(self, tensors, opts):
        outputs = tensors if opts.rootRank == self.rank() else ()
        return self._post("reduce", tensors, outputs, root=opts.rootRank, reduction=opts.reduceOp)

    def allgather(self, outputs, tensors, opts=None):
        return self._post("all_gather", tensors, outputs[0])

    def all_gather_single(self, output, tensor, opts=None):
        return self._post("all_gather", [tensor], self._slices(output))

    def gather(self, outputs, tensors, opts):
        return self._post("gather", tensors, outputs[0] if opts.rootRank == self.rank() else (), root=opts.rootRank)

    def scatter(self, outputs, tensors, opts):
        return self._post("scatter", tensors[0] if opts.rootRank == self.rank() else (), outputs, root=opts.rootRank)

    def reduce_scatter(self, outputs, tensors, opts):
        return self._post("reduce_scatter", tensors[0], outputs, reduction=opts.reduceOp)

    def reduce_scatter_single(self, output, tensor, opts):
        return self._post("reduce_scatter", self._slices(tensor), [output], reduction=opts.reduceOp)

    def alltoall(self, outputs, tensors, opts=None):
        return self._post("all_to_all", tensors, outputs)

    def all_to_all_single(self, output, tensor, output_sizes, sizes, opts=None):
        tensors, outputs = (
            each.split(counts) if counts else self._slices(each)
            for each, counts in ((tensor, sizes), (output, output_sizes))
        )
        return self._post("all_to_all", tensors, outputs)

    _allgather_base, _reduce_scatter_base, alltoall_base = all_gather_single, reduce_scatter_single, all_to_all_single

    # What torch calls for several at once: a coalescing manager, functional collectives.

    def allgather_into_tensor_coalesced(self, outputs, tensors, opts=None):
        return Several([self.all_gather_single(*pair) for pair in zip(outputs, tensors, strict=True)])

    def reduce_scatter_tensor_coalesced(self, outputs, tensors, opts):
        return Several([self.reduce_scatter_single(*pair, opts) for pair in zip(outputs, tensors, strict=True)])

    all_gather_single_coalesced = allgather_into_tensor_coalesced
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced  # type: ignore[assignment]

    def _slices(self, tensor):
        """A tensor's equal parts, one a rank: views of it."""
        size = self.size()
        if tensor.numel() % size:
            raise RuntimeError(f"a tensor {tuple(tensor.shape)} cannot be cut into {size} parts of equal size")
        if tensor.is_contiguous() or tensor.shape[0] % size:
            return list(tensor.view(size, -1))
        return list(tensor.chunk(size))
