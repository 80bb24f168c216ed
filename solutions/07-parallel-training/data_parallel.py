"""Data parallelism: every rank has the whole model and a part of the batch; gradients are averaged while backward still runs.

    shard_batch                  who gets which rows
    all_reduce_gradients         the plain way: one message a parameter, after backward
    DistributedDataParallel      the fast way: messages of many parameters, which leave during backward

Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (arXiv:2006.15704).

With equally many rows on each rank, the mean over the ranks of the gradients of their mean losses is the gradient of the mean loss
of the whole batch. So each rank's optimizer, which is plain, makes the same update.
"""

import itertools  # solution only
from collections.abc import Iterable  # solution only
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
    # student: check the rank, then cut the batch
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1} (world_size - 1), not {rank}")
    return batch.tensor_split(world_size)[rank]


@torch.no_grad()
def all_reduce_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over all ranks: the sum over the ranks, divided by their number.

    A parameter that has a gradient on some ranks only counts as zero on the others, and has the mean on all of them afterwards. Where no rank
    has one, it stays None or becomes zero. Frozen parameters (requires_grad is False) take no part: one that still has a gradient keeps it
    as it is. A gradient is averaged, and sent, in its own dtype; parameters themselves stay as they are. It is all_reduce that averages: no
    rank does the work of another, and each gradient is sent once.

    Args:
        model: the same on all ranks, but for the gradients.
    """
    # student: every rank takes part for every parameter, in the same order, whether it has a gradient or not
    for parameter in model.parameters():
        if parameter.requires_grad:
            mean = _flat_gradient(parameter) / dist.get_world_size()  # a copy, contiguous
            dist.all_reduce(mean)
            _set_gradient(parameter, mean)


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:  # solution only
    """(numel,): its gradient, or zeros."""
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()


def _set_gradient(parameter: nn.Parameter, flat: torch.Tensor) -> None:  # solution only
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    parameter.grad.copy_(flat.view(parameter.shape))


# ---------------------------------------------------------------------------------------------- buckets


class _Bucket:  # solution only
    """Gradients that travel together, in one all-reduce.

    Attributes:
        missing: parameters whose gradient has not come since `start`; the bucket is full when there are none.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.start()

    def start(self) -> None:
        """A new step begins: nothing has come, nothing was sent."""
        self.missing = set(self.parameters)
        self._seen: list = []

    def send(self) -> None:
        """Sends a copy of the gradients as they are now. Backward goes on meanwhile, and may change them."""
        self._seen = self._versions()
        self._mean = torch.cat([_flat_gradient(parameter) for parameter in self.parameters]) / dist.get_world_size()
        self._work = dist.all_reduce(self._mean, async_op=True)

    def has_changed(self) -> bool:
        """Whether what was sent is no longer what the gradients are: there was another backward."""
        pairs = zip(self._seen, self._versions(), strict=True)
        return any(old is not new or version != current for (old, version), (new, current) in pairs)

    def receive(self, wanted: Iterable[bool]) -> None:
        """The means become the gradients of the parameters that are wanted."""
        self._work.wait()
        means = self._mean.split([parameter.numel() for parameter in self.parameters])
        for parameter, mean, is_wanted in zip(self.parameters, means, wanted, strict=True):
            if is_wanted:
                _set_gradient(parameter, mean)

    def _versions(self) -> list:
        """What tells whether a gradient was replaced, or changed in place: torch counts the latter."""
        grads = [parameter.grad for parameter in self.parameters]
        return [(grad, None if grad is None else grad._version) for grad in grads]


def _buckets(parameters: Iterable[nn.Parameter], most_bytes: float) -> list[_Bucket]:  # solution only
    """Fills one bucket after the other, in the given order."""
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        own = parameter.numel() * parameter.element_size()
        if groups and parameter.dtype == groups[-1][0].dtype and size + own <= most_bytes:
            groups[-1].append(parameter)
            size += own
        else:
            groups.append([parameter])
            size = own
    return [_Bucket(group) for group in groups]


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
    gradient is sent once; after n of them, at most n times. What the ranks have to agree on besides, such as which buckets have changed
    since they left, may be sent as well: a few bytes for each parameter.

    A parameter that has no part in the loss, on all or on some ranks, counts as zero there. Where no rank has a gradient, it stays None
    or becomes zero. Nothing is sent for frozen parameters, which get no gradient.

    Args:
        module: of the same architecture on all ranks. Parameters may have several dtypes.
        bucket_size_mb: the most that a bucket holds, in units of 2^20 bytes; need not be an integer.

    Attributes:
        module: the given module.
    """

    def __init__(self, module: nn.Module, bucket_size_mb: float = 25) -> None:
        # student: broadcast, make the buckets, and have backward tell of each gradient (register_post_accumulate_grad_hook)
        super().__init__()
        self.module = module
        self._broadcast()
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._buckets = _buckets(reversed(trained), bucket_size_mb * 2**20)
        self._sent = 0  # how many buckets are on their way: the first ones, on every rank
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(
                    lambda parameter, bucket=bucket: self._note(parameter, bucket)
                )

    @torch.no_grad()
    def _broadcast(self) -> None:  # solution only
        for tensor in itertools.chain(self.module.parameters(), self.module.buffers()):
            values = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """module(*inputs, **options), whatever it takes and returns. Nothing is communicated."""
        # student: one line
        return self.module(*inputs, **options)

    def _note(self, parameter: nn.Parameter, bucket: _Bucket) -> None:  # solution only
        """Backward has made a gradient. Full buckets leave in their order: all ranks must send the same one next."""
        bucket.missing.discard(parameter)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            self._send_next()

    @torch.no_grad()
    def _send_next(self) -> None:  # solution only
        self._buckets[self._sent].send()
        self._sent += 1

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Waits until every gradient is its mean over the ranks. Every rank calls it once, after backward and before the optimizer's step.

        After several backwards (none of them with create_graph) the gradients become the mean over the ranks of their sums; also where the
        ranks' backwards reach different parameters, and where a rank has had none. Then the next step can begin: with gradients
        set to None, set to zero, or kept.
        """
        # student: send what has not left yet, wait for all, and be ready for the next backward
        if not self._buckets:
            return
        while self._sent < len(self._buckets):
            self._send_next()
        changed, wanted = self._agree()
        for bucket, again in zip(self._buckets, changed, strict=True):
            if again:  # a later backward added to it; what came of the first is not used
                bucket.send()
        for bucket in self._buckets:
            bucket.receive(itertools.islice(wanted, len(bucket.parameters)))
            bucket.start()
        self._sent = 0

    def _agree(self) -> tuple[list[bool], Iterable[bool]]:  # solution only
        """(for each bucket, has it changed on any rank; for each of its parameters in turn, has any rank a gradient)."""
        changed = [bucket.has_changed() for bucket in self._buckets]
        here = [parameter.grad is not None for bucket in self._buckets for parameter in bucket.parameters]
        anywhere = torch.tensor(changed + here, dtype=torch.uint8, device=self._buckets[0].parameters[0].device)
        dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
        flags = anywhere.bool().tolist()
        return flags[: len(changed)], iter(flags[len(changed) :])
