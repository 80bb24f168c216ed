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
from torch.autograd.function import FunctionCtx  # solution only

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
        # student: share the elements out, and make an optimizer_class of this rank's part, which may be empty
        # This one knows all parameters, and will update a part of them: most optimizers make their state in a step.
        self._optimizer = optimizer_class(params, **kwargs)
        super().__init__(self._optimizer.param_groups, self._optimizer.defaults)
        self.param_groups, self.state = self._optimizer.param_groups, self._optimizer.state
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        sizes = [parameter.numel() for parameter in parameters]
        self._owner = dict(zip(parameters, _share_out(sizes, dist.get_world_size()), strict=True))
        for parameter, owner in self._owner.items():
            if owner != dist.get_rank():
                self.state.pop(parameter, None)  # Adagrad makes its state here, not in the first step

    @torch.no_grad()
    def step(self) -> None:
        """Updates all parameters once. All ranks call it, since they exchange what they have updated."""
        # student: update this rank's part, then exchange the parts
        whole = [group["params"] for group in self.param_groups]
        for group in self.param_groups:
            group["params"] = [each for each in group["params"] if self._owner[each] == dist.get_rank()]
        self._optimizer.step()
        for group, parameters in zip(self.param_groups, whole, strict=True):
            group["params"] = parameters
        for parameter, owner in self._owner.items():
            values = parameter.contiguous()  # what is sent has to be one block of memory
            dist.broadcast(values, src=owner)
            parameter.copy_(values)


def _share_out(sizes: list[int], world_size: int) -> list[int]:  # solution only
    """An owner for each of several sizes: the largest first, each to the rank that has least so far.

    The rank with least has at most its fair share, 1 / W; the last thing that it gets, half of one. So no rank is
    more than 1 / (2W) above what it should have.
    """
    owners, loads = [0] * len(sizes), [0] * world_size
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        owner = loads.index(min(loads))
        owners[number] = owner
        loads[owner] += sizes[number]
    return owners


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
        # student: put this rank's parts of rank 0's parameters into shards, and take the whole parameters out of the module
        super().__init__()
        self.module = module
        # Where the parameter of each number stands: of tied ones there are several places.
        self._places: list[tuple[nn.Module, str, int]] = []
        parameters = list(dict.fromkeys(module.parameters()))
        number = {parameter: n for n, parameter in enumerate(parameters)}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    self._places.append((part, name, number[parameter]))
                    part._parameters[name] = None
        # One long shard for each kind of parameter: what is in one tensor has one dtype, and is trained or not.
        kinds: dict[tuple, list[int]] = {}
        for parameter, n in number.items():
            kinds.setdefault((parameter.dtype, parameter.device, parameter.requires_grad), []).append(n)
        self._numbers = list(kinds.values())  # of the parameters in each shard, in their order
        self._shapes = [parameter.shape for parameter in parameters]
        self._shards = nn.ParameterList(
            nn.Parameter(_scatter([parameters[n] for n in numbers]), requires_grad=parameters[numbers[0]].requires_grad)
            for numbers in self._numbers
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What module(*args, **kwargs) gives, of any kind."""
        # student: gather the parameters, put them into the module, call it, and take them out again
        parameters = self._gather()
        for part, name, number in self._places:
            part._parameters[name] = parameters[number]
        try:
            return self.module(*args, **kwargs)
        finally:
            for part, name, _ in self._places:
                part._parameters[name] = None

    def _gather(self) -> dict[int, torch.Tensor]:  # solution only
        """The whole parameters by number, as views of what was gathered, which autograd leads back to the shards."""
        parameters = {}
        for flat, numbers in zip(_Gather.apply(*self._shards), self._numbers, strict=True):
            sizes = [self._shapes[n].numel() for n in numbers]
            values = flat[: sum(sizes)].split(sizes)
            parameters |= {n: value.view(self._shapes[n]) for n, value in zip(numbers, values, strict=True)}
        return parameters


class _Gather(torch.autograd.Function):  # solution only
    """Shards (n,) of this rank -> the shards of all ranks, one after the other, (W · n,); backward reduces and scatters.

    One function for all shards, so that its backward runs once, on every rank at the same place: collectives have to come
    in one order. Where the loss does not depend on some of the parameters, autograd fills in zeros.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, *shards: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_all_gather(shard) for shard in shards)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return tuple(
            _mean_of_my_part(gradient) if needed else None
            for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=True)
        )


def _scatter(parameters: list[nn.Parameter]) -> torch.Tensor:  # solution only
    """This rank's part of rank 0's parameters, which lie one after the other, and zeros after the last: (n,)."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    flat = nn.functional.pad(flat, (0, -len(flat) % world_size))
    shard = flat.new_empty(len(flat) // world_size)
    dist.scatter(shard, list(flat.chunk(world_size)) if rank == 0 else None, src=0)
    return shard


def _all_gather(shard: torch.Tensor) -> torch.Tensor:  # solution only
    parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, shard.detach())
    return torch.cat(parts)


def _mean_of_my_part(gradient: torch.Tensor) -> torch.Tensor:  # solution only
    """(W · n,) -> (n,): of this rank's part the mean over all ranks. Nobody gets the rest."""
    world_size = dist.get_world_size()
    parts = list(gradient.contiguous().chunk(world_size))
    mine = torch.empty_like(parts[0])
    dist.reduce_scatter(mine, parts)  # a sum: gloo has no mean
    return mine / world_size
