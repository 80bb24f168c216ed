"""Data parallelism: every rank has the whole model and a part of the batch; gradients are averaged while backward still runs.

    shard_batch                  who gets which rows
    all_reduce_gradients         the plain way: one message a parameter, after backward
    DistributedDataParallel      the fast way: messages of many parameters, which leave during backward

Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (arXiv:2006.15704).

With equally many rows on each rank, the mean over the ranks of the gradients of their mean losses is the gradient of the mean loss
of the whole batch. So each rank's optimizer, which is plain, makes the same update.
"""

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
    if rank < 0 or rank >= world_size:
        raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
    return batch.tensor_split(world_size)[rank]


def own_gradient(parameter: nn.Parameter) -> torch.Tensor:
    """This rank's gradient of a parameter, dense and contiguous; zeros where there is none."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    return gradient.detach().contiguous()


def set_gradient(parameter: nn.Parameter, mean: torch.Tensor) -> None:
    """Writes the mean into .grad, in place if there is a plain one."""
    gradient = parameter.grad
    if gradient is not None and not gradient.is_sparse and gradient.is_contiguous():
        if gradient.data_ptr() != mean.data_ptr():
            gradient.copy_(mean)
    else:
        parameter.grad = mean.clone()


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
    world_size = dist.get_world_size()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        mean = own_gradient(parameter)
        dist.all_reduce(mean)
        mean /= world_size
        set_gradient(parameter, mean)


# ---------------------------------------------------------------------------------------------- buckets


def broadcast_in_place(tensor: torch.Tensor) -> None:
    """Gives a tensor the numbers of rank 0, whatever its strides."""
    message = tensor.detach().contiguous()
    dist.broadcast(message, 0)
    if message.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(message)


def make_buckets(parameters: list[nn.Parameter], limit: float) -> list[list[nn.Parameter]]:
    """Lists of parameters, in the given order; each list of one dtype and device, and of at most limit bytes unless it has one only."""
    buckets = []
    held = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        joins = False
        if buckets:
            last = buckets[-1][-1]
            joins = last.dtype == parameter.dtype and last.device == parameter.device and held + size <= limit
        if joins:
            buckets[-1].append(parameter)
            held += size
        else:
            buckets.append([parameter])
            held = size
    return buckets


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
            for parameter in module.parameters():
                broadcast_in_place(parameter)
            for buffer in module.buffers():
                broadcast_in_place(buffer)
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        learning.reverse()
        self._buckets = make_buckets(learning, bucket_size_mb * 2**20)
        self._clear()
        for number in range(len(self._buckets)):
            for place, parameter in enumerate(self._buckets[number]):
                parameter.register_post_accumulate_grad_hook(self._make_hook(number, place))

    def _clear(self) -> None:
        """Nothing has come and nothing has left."""
        self._come = [set() for _ in self._buckets]  # places in each bucket whose gradient has come
        self._sent = []  # of each bucket that has left: the message, its handle, the gradients as they were
        self._stale = False  # whether a gradient changed after its bucket had left

    def _make_hook(self, number: int, place: int):
        def hook(parameter: torch.Tensor) -> None:
            if number < len(self._sent):
                self._stale = True
                return
            self._come[number].add(place)
            # the buckets leave in their order on all ranks: a full one waits for those before it
            while len(self._sent) < len(self._buckets):
                following = len(self._sent)
                if len(self._come[following]) < len(self._buckets[following]):
                    break
                self._send_next()

        return hook

    @torch.no_grad()
    def _send(self, number: int):
        message = torch.cat([own_gradient(parameter).flatten() for parameter in self._buckets[number]])
        return message, dist.all_reduce(message, async_op=True)

    def _send_next(self) -> None:
        number = len(self._sent)
        message, handle = self._send(number)
        seen = []
        for parameter in self._buckets[number]:
            gradient = parameter.grad
            seen.append((gradient, None if gradient is None else gradient._version))
        self._sent.append((message, handle, seen))

    def _is_stale(self) -> bool:
        """Whether a gradient is no longer what this rank has sent: a later backward added to it, or somebody set it to zero."""
        if self._stale:
            return True
        for bucket, (_, _, seen) in zip(self._buckets, self._sent):
            for parameter, (gradient, version) in zip(bucket, seen):
                if parameter.grad is not gradient:
                    return True
                if gradient is not None and gradient._version != version:
                    return True
        return False

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
        while len(self._sent) < len(self._buckets):
            self._send_next()
        # a rank does not know whether another one has had a second backward: they ask each other with one number
        stale = torch.tensor([float(self._is_stale())], device=self._buckets[0][0].device)
        dist.all_reduce(stale)
        messages = []
        for message, handle, _ in self._sent:
            handle.wait()
            messages.append(message)
        if stale.item() > 0:
            again = [self._send(number) for number in range(len(self._buckets))]
            messages = []
            for message, handle in again:
                handle.wait()
                messages.append(message)
        world_size = dist.get_world_size()
        for bucket, message in zip(self._buckets, messages):
            message /= world_size
            start = 0
            for parameter in bucket:
                end = start + parameter.numel()
                set_gradient(parameter, message[start:end].view(parameter.shape))
                start = end
        self._clear()
