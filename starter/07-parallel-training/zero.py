"""Data parallel training in which no number is held twice: ZeRO, the zero redundancy optimizer (Rajbhandari et al. 2020).

A model of Ψ parameters in float32, trained with Adam by W ranks. What one rank holds between two steps, in bytes:

                             parameters   gradients   moments of Adam   module
    plain data parallel      4Ψ           4Ψ          8Ψ                DistributedDataParallel of data_parallel.py
    optimizer sharded        4Ψ           4Ψ          8Ψ / W            ZeroRedundancyOptimizer, "ZeRO-1"
    everything sharded       4Ψ / W       4Ψ / W      8Ψ / W            FullyShardedModule, "ZeRO-3" or FSDP

W is the number of ranks, the world size.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# ---------------------------------------------------------------------------------------------- the optimizer sharded


class ZeroRedundancyOptimizer(torch.optim.Optimizer):
    """An optimizer of which each rank holds a part of the state, and makes a part of the update.

    Every parameter is whole on every rank. Before a step the gradients are equal on all ranks (an all-reduce has made them
    so). Each element is updated by one rank, which alone holds the moments of it, and is sent to the others, so that after a
    step the parameters are equal on all ranks, to the last bit, and what optimizer_class would have made of them in one
    process. This is for optimizers that treat each element alone, and whose state a step makes: SGD, Adam, AdamW.

    With 2 or 4 ranks a rank's part is 1 / W of all elements, give or take 40 %, whenever no parameter has more than 1 / (2W)
    of them. Whole parameters may be shared out, or slices of them. A rank without a part is legal: there may be fewer parameters than
    ranks. A parameter whose grad is None stays as it is, and has no state. A parameter may have any strides and any dtype.
    A step begins at what the parameters are then, as of torch optimizers: they may be clamped or loaded between two steps.
    It leaves the gradients as they are.

    Args:
        params: as for optimizer_class: an iterable of parameters, of which an iterator can be read only once, or of dicts,
            each with "params" (one parameter, or an iterable) and what holds for them alone, such as "lr". The same on
            all ranks.
        optimizer_class: such as torch.optim.AdamW.
        kwargs: what else optimizer_class takes, by name.

    Attributes:
        param_groups: a list of dicts with all options of optimizer_class, defaults too, one for each group, as of torch
            optimizers. A changed option, such as group["lr"], counts from the next step on.
        state: a dict whose values are the dicts of optimizer_class ("exp_avg", …): only those of this rank's part, and
            those that `step` works with: a moment that is changed in place counts at the next step, on all ranks.

    `zero_grad()` clears the gradients of all parameters, also of those that other ranks update.
    """

    def __init__(self, params: Iterable, optimizer_class: type[torch.optim.Optimizer], **kwargs: Any) -> None:
        # TODO(student): share the elements out, and make an optimizer_class of this rank's part, which may be empty
        raise NotImplementedError("ZeroRedundancyOptimizer.__init__ is not implemented yet")

    @torch.no_grad()
    def step(self) -> None:
        """Updates all parameters once. All ranks call it, since they exchange what they have updated."""
        # TODO(student): update this rank's part, then exchange the parts
        raise NotImplementedError("ZeroRedundancyOptimizer.step is not implemented yet")


# ---------------------------------------------------------------------------------------------- everything sharded


class FullyShardedModule(nn.Module):
    """A module of whose parameters each rank holds a part, called like the module: FullyShardedModule(module)(x).

    Between two calls a rank holds its shards, their gradients, and the buffers; the whole parameters are there while they
    are needed in forward and backward, and are not kept for the next call. Forward gathers the shards of all ranks, so an
    update of a shard, on whichever rank, shows in the next call on all of them. Each rank calls the module with a batch of
    its own. Backward gives each rank the gradient of its shards, the mean over the ranks of the gradients of their losses.
    It is added to what is in `.grad` already, as always in torch. The input's gradient is that of the rank's own loss.

    `.parameters()` gives this rank's shards: leaves, always the same ones, which any element-wise torch optimizer can
    update, made before the first call or later. They have about 1 / W of the elements in all, whatever the sizes of
    the parameters; how many there are, how the elements are laid out in them, and what fills one up, is open. `.buffers()`
    are the module's, whole, and `.train()` and `.eval()` reach the module.

    All ranks start with the weights of rank 0, also where theirs were others; with whose buffers, is open. A parameter that occurs at several places of
    the module (tied weights) is sharded once, stays one, and its gradient is the sum over the places. A parameter that
    needs no gradient (requires_grad is False) is sharded as well, and stays as it is, whatever the optimizer: its elements
    are in no shard that learns. All parameters may be such. A parameter that is used by no rank has a gradient of zero, or none.

    Args:
        module: any module that reads its parameters in forward only (no checkpointing within it), whose parameters may have
            different dtypes and any strides, and be at any depth. It is taken over and not to be used afterwards.

    All ranks make it, call it, and run backward, equally often.
    """

    def __init__(self, module: nn.Module) -> None:
        # TODO(student): put this rank's parts of rank 0's parameters into shards, and take the whole parameters out of the module
        raise NotImplementedError("FullyShardedModule.__init__ is not implemented yet")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What module(*args, **kwargs) gives, of any kind."""
        # TODO(student): gather the parameters, put them into the module, call it, and take them out again
        raise NotImplementedError("FullyShardedModule.forward is not implemented yet")
