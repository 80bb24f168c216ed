"""Data parallelism: every rank has the whole model and a part of the batch; gradients are averaged while backward still runs.

    shard_batch                  who gets which rows
    all_reduce_gradients         the plain way: one message a parameter, after backward
    DistributedDataParallel      the fast way: messages of many parameters, which leave during backward

Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (arXiv:2006.15704).

With equally many rows on each rank, the mean over the ranks of the gradients of their mean losses is the gradient of the mean loss
of the whole batch. So each rank's optimizer, which is plain, makes the same update.
"""

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def shard_batch(batch: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """The rows of a batch that a rank works on.

    Each row belongs to exactly one rank, in any order. Where world_size does not divide the rows, either sizes differ by one, or each rank
    raises a ValueError. Nothing is communicated: no process group is needed.

    Args:
        batch: (B, ...) of any dtype, rows first; it is not changed.
        rank: whose rows: 0 to world_size - 1, and not necessarily this process's.
        world_size: the number of ranks.

    Returns:
        (about B / world_size, ...), dtype and device of batch.

    Raises:
        ValueError: rank is not in 0..world_size - 1.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
    return batch[rank::world_size]


@torch.no_grad()
def all_reduce_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over all ranks: the sum over the ranks, divided by their number.

    A parameter that has a gradient on some ranks only counts as zero on the others, and has the mean on all of them afterwards. Where no rank
    has one, it stays None or becomes zero. Frozen parameters (requires_grad is False) take no part. A gradient is averaged in its own
    dtype; parameters themselves stay as they are. It is all_reduce that averages: no rank does the work of another, and each gradient
    is sent once.

    Args:
        model: the same on all ranks, but for the gradients.
    """
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        flat = _flat_gradients([parameter])
        dist.all_reduce(flat)
        _hand_out(flat, [parameter])


# ---------------------------------------------------------------------------------------------- flat buffers


def _flat_gradients(parameters: list[nn.Parameter]) -> torch.Tensor:
    """(n,) a new tensor of all their gradients one after the other, zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad.detach()).reshape(-1) for p in parameters])


def _hand_out(flat: torch.Tensor, parameters: list[nn.Parameter]) -> None:
    """Divides a sum over the ranks by their number; the gradients become views of it where strides allow."""
    flat /= dist.get_world_size()
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        piece = piece.view(p.shape)
        p.grad = piece if p.is_contiguous() else torch.empty_like(p).copy_(piece)  # backward wants the parameter's strides


def _broadcast(tensor: torch.Tensor) -> None:
    """Rank 0's numbers into tensor, as bytes: of any dtype and layout."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel():
        dist.broadcast(flat.view(torch.uint8), 0)
        if not tensor.is_contiguous():
            tensor.copy_(flat.view(tensor.shape))


# ---------------------------------------------------------------------------------------------- buckets


def _stamp(parameters: list[nn.Parameter]) -> list[tuple[torch.Tensor | None, int]]:
    """Which tensors their gradients are, and in which version: a later backward changes one or the other."""
    return [(p.grad, -1 if p.grad is None else p.grad._version) for p in parameters]


def _same(a: list, b: list) -> bool:
    return all(x is y and i == j for (x, i), (y, j) in zip(a, b, strict=True))


class DistributedDataParallel(nn.Module):
    """A module whose gradients are averaged over the ranks while backward still runs (Li et al. 2020, section 3.2).

        model = DistributedDataParallel(module)
        optimizer = torch.optim.AdamW(model.parameters())
        loss_function(model(inputs), targets).backward()        # with this rank's rows
        model.finish_gradient_synchronization()
        optimizer.step()

    Making it broadcasts rank 0's parameters (frozen ones too) and buffers into the module's own, in place: the module is not copied.

    Then the parameters that require a gradient are put into buckets, one after the other in the reverse of the order of `parameters()`,
    which is about the order in which backward makes their gradients. A parameter joins the bucket of the one before it if it has the
    same dtype and the bucket still holds at most bucket_size_mb · 2^20 bytes then. So small parameters share a bucket, and
    one that is larger has its own.

    Each bucket is averaged by one all_reduce; no rank does more than another. A bucket leaves during backward, as soon as its gradients
    are there: if there are several buckets, one is on its way before backward has reached the first layer. After one backward each
    gradient is sent once; after n of them, at most n times.

    A parameter that has no part in the loss, on all or on some ranks, counts as zero there. Where no rank has a gradient, it stays None
    or becomes zero. Nothing is sent for frozen parameters, which get no gradient.

    Args:
        module: of the same architecture on all ranks. Parameters may have several dtypes.
        bucket_size_mb: the most that a bucket holds, in units of 2^20 bytes; need not be an integer.

    Attributes:
        module: the given module.
    """

    def __init__(self, module: nn.Module, bucket_size_mb: float = 25) -> None:
        super().__init__()
        self.module = module
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                _broadcast(tensor)

        self._buckets: list[list[nn.Parameter]] = []
        last, room = None, 0.0
        for p in reversed([p for p in module.parameters() if p.requires_grad]):
            size = p.numel() * p.element_size()
            if last != (p.dtype, p.device) or size > room:
                self._buckets.append([])
                last, room = (p.dtype, p.device), bucket_size_mb * 2**20
            self._buckets[-1].append(p)
            room -= size

        this = weakref.ref(self)  # the hooks live as long as the module, which may be wrapped again

        def arrived(index: int, p: nn.Parameter) -> None:
            if (wrapper := this()) is not None:
                wrapper._arrived(index, p)

        for index, bucket in enumerate(self._buckets):
            for p in bucket:
                p.register_post_accumulate_grad_hook(lambda p, index=index: arrived(index, p))
        self._begin()

    def _begin(self) -> None:
        self._missing = [set(bucket) for bucket in self._buckets]  # whose gradient has not come yet
        self._sent: list[tuple[torch.Tensor, dist.Work, list]] = []  # of buckets 0, 1, ...: they leave in this order

    def _arrived(self, index: int, p: nn.Parameter) -> None:
        self._missing[index].discard(p)
        while (n := len(self._sent)) < len(self._buckets) and not self._missing[n]:
            self._sent.append(self._send(self._buckets[n]))

    @torch.no_grad()
    def _send(self, bucket: list[nn.Parameter]) -> tuple[torch.Tensor, dist.Work, list]:
        flat = _flat_gradients(bucket)
        return flat, dist.all_reduce(flat, async_op=True), _stamp(bucket)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """module(*inputs, **options), whatever it takes and returns. Nothing is communicated."""
        return self.module(*inputs, **options)

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Waits until every gradient is its mean over the ranks. Every rank calls it once, after backward and before the optimizer's step.

        After several backwards the gradients become the mean over the ranks of their sums; also where the ranks' backwards reach different
        parameters, and where a rank has had none. Then the next step can begin: with gradients set to None, set to zero, or kept.
        """
        if not self._buckets:
            return
        self._sent += [self._send(bucket) for bucket in self._buckets[len(self._sent) :]]
        # A bucket is sent again if its gradients have changed since it left, on whichever rank: one byte a bucket tells.
        stale = [not _same(stamp, _stamp(bucket)) for bucket, (_, _, stamp) in zip(self._buckets, self._sent, strict=True)]
        stale = torch.tensor(stale, dtype=torch.uint8, device=self._sent[0][0].device)
        dist.all_reduce(stale, dist.ReduceOp.MAX)
        for index in stale.nonzero().flatten().tolist():
            self._sent[index][1].wait()
            self._sent[index] = self._send(self._buckets[index])
        for bucket, (flat, work, _) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            _hand_out(flat, bucket)
        self._begin()
