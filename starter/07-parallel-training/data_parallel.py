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
    # TODO(student): check the rank, then cut the batch
    raise NotImplementedError("shard_batch is not implemented yet")


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
    # TODO(student): every rank takes part for every parameter, in the same order, whether it has a gradient or not
    raise NotImplementedError("all_reduce_gradients is not implemented yet")


# ---------------------------------------------------------------------------------------------- buckets


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
        # TODO(student): broadcast, make the buckets, and have backward tell of each gradient (register_post_accumulate_grad_hook)
        raise NotImplementedError("DistributedDataParallel.__init__ is not implemented yet")

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """module(*inputs, **options), whatever it takes and returns. Nothing is communicated."""
        # TODO(student): one line
        raise NotImplementedError("DistributedDataParallel.forward is not implemented yet")

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Waits until every gradient is its mean over the ranks. Every rank calls it once, after backward and before the optimizer's step.

        After several backwards (none of them with create_graph) the gradients become the mean over the ranks of their sums; also where the
        ranks' backwards reach different parameters, and where a rank has had none. Then the next step can begin: with gradients
        set to None, set to zero, or kept.
        """
        # TODO(student): send what has not left yet, wait for all, and be ready for the next backward
        raise NotImplementedError("DistributedDataParallel.finish_gradient_synchronization is not implemented yet")
