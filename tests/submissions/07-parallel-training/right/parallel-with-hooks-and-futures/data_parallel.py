"""Data parallelism: every rank has the whole model and a part of the batch; gradients are averaged while backward still runs.

    shard_batch                  who gets which rows
    all_reduce_gradients         the plain way: one message a parameter, after backward
    DistributedDataParallel      the fast way: messages of many parameters, which leave during backward

Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (arXiv:2006.15704).

With equally many rows on each rank, the mean over the ranks of the gradients of their mean losses is the gradient of the mean loss
of the whole batch. So each rank's optimizer, which is plain, makes the same update.
"""

from collections.abc import Iterable
from functools import partial
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
    return batch.tensor_split(world_size)[rank]


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
    pending = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            grad = _dense_gradient(parameter)
            pending.append((parameter, grad, dist.all_reduce(grad, async_op=True)))
    for parameter, grad, work in pending:
        work.wait()
        parameter.grad = grad.div_(dist.get_world_size())


def _dense_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """The gradient as one block of memory, which gloo and NCCL can send; zeros where there is none."""
    if parameter.grad is None:
        return torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    return parameter.grad.detach().contiguous()


@torch.no_grad()
def _broadcast_in_place(tensors: Iterable[torch.Tensor], root: int = 0) -> None:
    """Overwrites each tensor by that of the root, byte by byte, so that any dtype (bool, too) and any strides will do."""
    pending = []
    for tensor in tensors:
        block = tensor.detach().contiguous()
        pending.append((tensor, block, dist.broadcast(block.view(-1).view(torch.uint8), src=root, async_op=True)))
    for tensor, block, work in pending:
        work.wait()
        if block.data_ptr() != tensor.data_ptr():
            tensor.copy_(block)


# ---------------------------------------------------------------------------------------------- buckets


class _Bucket:
    """Parameters whose gradients travel in one message."""

    def __init__(self, first: nn.Parameter) -> None:
        self.parameters = [first]
        self.reset()

    @property
    def kind(self) -> tuple[torch.dtype, torch.device]:
        return self.parameters[0].dtype, self.parameters[0].device

    @property
    def nbytes(self) -> int:
        return sum(map(_bytes_of, self.parameters))

    def has_room_for(self, parameter: nn.Parameter, limit: float) -> bool:
        return self.kind == (parameter.dtype, parameter.device) and self.nbytes + _bytes_of(parameter) <= limit

    def reset(self) -> None:
        self.missing = set(self.parameters)  # whose gradient has not come yet
        self.future = None  # of the means, once the bucket is on its way
        self.stale = False  # whether a gradient has changed since the bucket left

    def note(self, parameter: nn.Parameter) -> None:
        self.missing.discard(parameter)
        self.stale = self.future is not None

    def launch(self) -> None:
        """Begins to average what is in `.grad` now. It leaves `.grad` alone: later backwards may add to it meanwhile."""
        flat = torch.cat([_dense_gradient(parameter).view(-1) for parameter in self.parameters])
        size = dist.get_world_size()
        work = dist.all_reduce(flat, async_op=True)
        self.future = work.get_future().then(lambda future: future.value()[0].div_(size))

    def deliver(self) -> None:
        """Waits for the means, and puts them into `.grad`."""
        means = self.future.wait().split([parameter.numel() for parameter in self.parameters])
        for parameter, mean in zip(self.parameters, means, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(mean.view_as(parameter))


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


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
        _broadcast_in_place([*module.parameters(), *module.buffers()])

        self._buckets: list[_Bucket] = []
        self._departed = 0  # buckets leave in their order on every rank: this many have
        limit = bucket_size_mb * 2**20
        for parameter in reversed([p for p in module.parameters() if p.requires_grad]):
            if self._buckets and self._buckets[-1].has_room_for(parameter, limit):
                self._buckets[-1].parameters.append(parameter)
            else:
                self._buckets.append(_Bucket(parameter))
        for bucket in self._buckets:
            bucket.reset()
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._gradient_came, bucket))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """module(*inputs, **options), whatever it takes and returns. Nothing is communicated."""
        return self.module(*inputs, **options)

    @torch.no_grad()
    def _gradient_came(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        bucket.note(parameter)
        while self._departed < len(self._buckets) and not self._buckets[self._departed].missing:
            self._depart()

    def _depart(self) -> None:
        self._buckets[self._departed].launch()
        self._departed += 1

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Waits until every gradient is its mean over the ranks. Every rank calls it once, after backward and before the optimizer's step.

        After several backwards the gradients become the mean over the ranks of their sums; also where the ranks' backwards reach different
        parameters, and where a rank has had none. Then the next step can begin: with gradients set to None, set to zero, or kept.
        """
        if not self._buckets:
            return
        while self._departed < len(self._buckets):
            self._depart()
        # A bucket that is out of date on one rank is sent again by all: one byte a bucket to agree on which.
        device = self._buckets[0].parameters[0].device
        stale = torch.tensor([bucket.stale for bucket in self._buckets], dtype=torch.uint8, device=device)
        dist.all_reduce(stale, op=dist.ReduceOp.MAX)
        for bucket, again in zip(self._buckets, stale.tolist(), strict=True):
            if again:
                bucket.future.wait()
                bucket.launch()
        for bucket in self._buckets:
            bucket.deliver()
            bucket.reset()
        self._departed = 0
