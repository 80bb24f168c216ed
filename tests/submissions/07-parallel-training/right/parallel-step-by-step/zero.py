"""Data parallel training in which no number is held twice: ZeRO, the zero redundancy optimizer (Rajbhandari et al. 2020).

A model of Ψ parameters in float32, trained with Adam by W ranks. What one rank holds between two steps, in bytes:

                             parameters   gradients   moments of Adam   module
    plain data parallel      4Ψ           4Ψ          8Ψ                DistributedDataParallel of data_parallel.py
    optimizer sharded        4Ψ           4Ψ          8Ψ / W            ZeroRedundancyOptimizer, "ZeRO-1"
    everything sharded       4Ψ / W       4Ψ / W      8Ψ / W            FullyShardedModule, "ZeRO-3" or FSDP

W is the number of ranks, the world size.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable

# ---------------------------------------------------------------------------------------------- the optimizer sharded


@torch.no_grad()
def broadcast_in_place(tensor: torch.Tensor, source: int) -> None:
    """Gives a tensor the numbers that rank source has, whatever its strides."""
    whole = tensor.detach()
    message = whole.contiguous()
    if message.is_complex():
        dist.broadcast(torch.view_as_real(message), source)
    else:
        dist.broadcast(message, source)
    if message.data_ptr() != whole.data_ptr():
        whole.copy_(message)


def list_groups(params: Iterable) -> list[dict]:
    """What an optimizer takes, as a list of dicts with lists of parameters: iterators are read here, once."""
    if isinstance(params, torch.Tensor):
        raise TypeError("params must be an iterable of parameters or of dicts, not a tensor")
    entries = list(params)
    if not entries:
        raise ValueError("optimizer got an empty parameter list")
    if not isinstance(entries[0], dict):
        entries = [{"params": entries}]
    groups = []
    for entry in entries:
        group = dict(entry)
        if isinstance(group["params"], torch.Tensor):
            group["params"] = [group["params"]]
        elif not isinstance(group["params"], set):  # a set has no order: torch refuses it
            group["params"] = list(group["params"])
        groups.append(group)
    return groups


def just_tensor(entry) -> torch.Tensor:
    """torch also takes pairs (name, parameter)."""
    return entry[1] if isinstance(entry, tuple) else entry


def share_out(parameters: list[torch.Tensor], loads: list[int]) -> list[int]:
    """The owner of each parameter: the largest first, each to the rank that has least so far. Adds to loads."""
    owners = [0] * len(parameters)
    order = sorted(range(len(parameters)), key=lambda number: -parameters[number].numel())
    for number in order:
        owner = loads.index(min(loads))
        owners[number] = owner
        loads[owner] += parameters[number].numel()
    return owners


class ZeroRedundancyOptimizer(torch.optim.Optimizer):
    """An optimizer of which each rank holds a part of the state, and makes a part of the update.

    Every parameter is whole on every rank. Before a step the gradients are equal on all ranks (an all-reduce has made them
    so). Each element is updated by one rank, which alone holds the moments of it, and is sent to the others, so that after a
    step the parameters are equal on all ranks, to the last bit, and what optimizer_class would have made of them in one
    process. This is for optimizers that treat each element alone: SGD, Adam, AdamW.

    A rank's part is 1 / W of all elements, give or take 40 %, whenever no parameter has more than 1 / (2W) of them. Whole
    parameters may be shared out, or slices of them. A rank without a part is legal: there may be fewer parameters than
    ranks. A parameter whose grad is None stays as it is, and has no state. A parameter may have any strides and any dtype.

    Args:
        params: as for optimizer_class: an iterable of parameters, of which an iterator can be read only once, or of dicts,
            each with "params" and what holds for them alone, such as "lr". The same on all ranks.
        optimizer_class: such as torch.optim.AdamW.
        kwargs: what else optimizer_class takes, by name.

    Attributes:
        param_groups: a list of dicts with all options of optimizer_class, defaults too, one for each group, as of torch
            optimizers. A changed option, such as group["lr"], counts from the next step on.
        state: a dict whose values are the dicts of optimizer_class ("exp_avg", …): only those of this rank's part.

    `zero_grad()` clears the gradients of all parameters, also of those that other ranks update.
    """

    def __init__(self, params: Iterable, optimizer_class: type[torch.optim.Optimizer], **kwargs) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        groups = list_groups(params)
        parameters = [just_tensor(entry) for group in groups for entry in group["params"]]
        self._loads = [0] * world_size
        owners = share_out(parameters, self._loads)
        self._owned = list(zip(parameters, owners))

        # the same groups with the same options, but only this rank's parameters in them
        own_groups = []
        number = 0
        for group in groups:
            own = dict(group)
            own["params"] = []
            for entry in group["params"]:
                if owners[number] == rank:
                    own["params"].append(just_tensor(entry))
                number += 1
            own_groups.append(own)
        self._inner = None
        inner = optimizer_class(own_groups, **kwargs)
        super().__init__(groups, inner.defaults)
        self._inner = inner
        self.state = inner.state

    def add_param_group(self, param_group: dict) -> None:
        """One more group, whose parameters are shared out as well."""
        if self._inner is None:  # called by torch while the optimizer is made
            super().add_param_group(param_group)
            return
        group = list_groups([param_group])[0]
        super().add_param_group(group)
        parameters = list(self.param_groups[-1]["params"])
        owners = share_out(parameters, self._loads)
        self._owned += list(zip(parameters, owners))
        own = {name: value for name, value in group.items() if name != "param_names"}
        own["params"] = [parameter for parameter, owner in zip(parameters, owners) if owner == dist.get_rank()]
        self._inner.add_param_group(own)

    @torch.no_grad()
    def step(self) -> None:
        """Updates all parameters once. All ranks call it, since they exchange what they have updated."""
        for group, own in zip(self.param_groups, self._inner.param_groups):
            for name, value in group.items():
                if name not in ("params", "param_names"):
                    own[name] = value
        self._inner.state = self.state  # another one after load_state_dict
        self._inner.step()
        for parameter, owner in self._owned:
            broadcast_in_place(parameter, owner)


# ---------------------------------------------------------------------------------------------- everything sharded


def gather(shard: torch.Tensor) -> torch.Tensor:
    """The shards of all ranks, one behind the other."""
    whole = shard.new_empty(shard.numel() * dist.get_world_size())
    dist.all_gather_into_tensor(whole, shard.detach().contiguous())
    return whole


class GatherShards(torch.autograd.Function):
    """Forward all-gathers each shard, backward reduce-scatters each gradient, in the same order on all ranks, and divides by W."""

    @staticmethod
    def forward(ctx, *shards):
        return tuple(gather(shard) for shard in shards)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        world_size = dist.get_world_size()
        results = []
        for gradient in gradients:
            own = gradient.new_empty(gradient.numel() // world_size)
            dist.reduce_scatter_tensor(own, gradient.contiguous())
            own /= world_size
            results.append(own)
        return tuple(results)


def put_weight(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    """Puts a tensor where a module has a parameter, or takes it out (None)."""
    module._parameters[name] = tensor
    names = getattr(module, "_flat_weights_names", [])  # LSTM and GRU have a list of their weights beside
    if name in names:
        module._flat_weights[names.index(name)] = tensor


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

    All ranks start with the weights of rank 0, also where theirs were others. A parameter that occurs at several places of
    the module (tied weights) is sharded once, stays one, and its gradient is the sum over the places. A parameter that
    needs no gradient (requires_grad is False) is sharded as well, and stays as it is, whatever the optimizer: its elements
    are in no shard that learns. A parameter that is used by no rank has a gradient of zero, or none.

    Args:
        module: any module, whose parameters may have different dtypes. It is taken over and not to be used afterwards.

    All ranks make it, call it, and run backward, equally often.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        rank, world_size = dist.get_rank(), dist.get_world_size()

        # where each parameter occurs: tied ones at several places
        parameters = []
        places = {}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in places:
                    parameters.append(parameter)
                    places[id(parameter)] = []
                places[id(parameter)].append((part, name))

        # one long vector for all that have dtype, device and requires_grad in common
        kinds = {}
        for parameter in parameters:
            kind = (parameter.dtype, parameter.device, parameter.requires_grad)
            kinds.setdefault(kind, []).append(parameter)

        self.shards = nn.ParameterList()
        self._layouts = []  # of each shard: (start, end, shape, places) of its parameters in the gathered vector
        for (_, _, learns), members in kinds.items():
            layout = []
            start = 0
            for parameter in members:
                end = start + parameter.numel()
                layout.append((start, end, parameter.shape, places[id(parameter)]))
                start = end
            size = (start + world_size - 1) // world_size
            with torch.no_grad():
                whole = torch.zeros(size * world_size, dtype=members[0].dtype, device=members[0].device)
                for parameter, (begin, end, _, _) in zip(members, layout):
                    whole[begin:end] = parameter.detach().reshape(-1)
                broadcast_in_place(whole, 0)
                shard = whole[rank * size : (rank + 1) * size].clone()
            self.shards.append(nn.Parameter(shard, requires_grad=learns))
            self._layouts.append(layout)
        for buffer in module.buffers():
            broadcast_in_place(buffer, 0)
        self._take_out()

    def _take_out(self) -> None:
        for layout in self._layouts:
            for _, _, _, places in layout:
                for part, name in places:
                    put_weight(part, name, None)

    def _put_in(self) -> None:
        shards = list(self.shards)
        learning = [shard for shard in shards if shard.requires_grad]
        gathered = list(GatherShards.apply(*learning)) if learning else []
        for shard, layout in zip(shards, self._layouts):
            whole = gathered.pop(0) if shard.requires_grad else gather(shard)
            for start, end, shape, places in layout:
                tensor = whole[start:end].view(shape)
                for part, name in places:
                    put_weight(part, name, tensor)

    def forward(self, *args, **kwargs):
        """What module(*args, **kwargs) gives, of any kind."""
        self._put_in()
        try:
            return self.module(*args, **kwargs)
        finally:
            self._take_out()
