"""Data parallel training in which no number is held twice: ZeRO, the zero redundancy optimizer (Rajbhandari et al. 2020).

A model of Ψ parameters in float32, trained with Adam by W ranks. What one rank holds between two steps, in bytes:

                             parameters   gradients   moments of Adam   module
    plain data parallel      4Ψ           4Ψ          8Ψ                DistributedDataParallel of data_parallel.py
    optimizer sharded        4Ψ           4Ψ          8Ψ / W            ZeroRedundancyOptimizer, "ZeRO-1"
    everything sharded       4Ψ / W       4Ψ / W      8Ψ / W            FullyShardedModule, "ZeRO-3" or FSDP

W is the number of ranks, the world size.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable



class _Broadcast:
    """One tensor on its way from its owner to all, as bytes: of any dtype, with any strides."""

    def __init__(self, tensor: torch.Tensor, root: int) -> None:
        self.tensor = tensor.detach()
        self.block = self.tensor.contiguous()
        self.work = dist.broadcast(self.block.view(-1).view(torch.uint8), src=root, async_op=True)

    def wait(self) -> None:
        self.work.wait()
        if self.block.data_ptr() != self.tensor.data_ptr():
            self.tensor.copy_(self.block)


# ---------------------------------------------------------------------------------------------- the optimizer sharded


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
        self._inner: torch.optim.Optimizer | None = None
        self._owner: dict[torch.Tensor, int] = {}
        self._load = [0] * dist.get_world_size()  # elements of each rank
        super().__init__([dict(p) if isinstance(p, dict) else p for p in params], {})  # makes groups of whatever it gets
        self._share_out(self.param_groups)
        self._inner = optimizer_class([self._own_part(group) for group in self.param_groups], **kwargs)
        self.defaults = self._inner.defaults
        self.state = self._inner.state
        for group, part in zip(self.param_groups, self._inner.param_groups, strict=True):
            group.update(self._options(part))

    def _share_out(self, groups: list[dict]) -> None:
        """Whole parameters, the largest first, each to the rank that has least so far."""
        parameters = [parameter for group in groups for parameter in group["params"]]
        for parameter in sorted(parameters, key=torch.Tensor.numel, reverse=True):
            rank = min(range(len(self._load)), key=self._load.__getitem__)
            self._owner[parameter] = rank
            self._load[rank] += parameter.numel()

    def _own_part(self, group: dict) -> dict:
        rank = dist.get_rank()
        return {**self._options(group), "params": [p for p in group["params"] if self._owner[p] == rank]}

    @staticmethod
    def _options(group: dict) -> dict:
        return {name: value for name, value in group.items() if name not in ("params", "param_names")}

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        if self._inner is not None:  # not from within __init__
            group = self.param_groups[-1]
            self._share_out([group])
            self._inner.add_param_group(self._own_part(group))
            group.update(self._options(self._inner.param_groups[-1]))

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._inner.state = self.state

    @torch.no_grad()
    def step(self) -> None:
        """Updates all parameters once. All ranks call it, since they exchange what they have updated."""
        for group, part in zip(self.param_groups, self._inner.param_groups, strict=True):
            part.update(self._options(group))
        self._inner.step()
        exchange = [
            _Broadcast(parameter, self._owner[parameter])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None  # on all ranks alike; what has none has not changed
        ]
        for message in exchange:
            message.wait()


# ---------------------------------------------------------------------------------------------- everything sharded


class _GatherShards(torch.autograd.Function):
    """Shards of this rank -> the vectors that all ranks' shards make. Backward each gradient goes to where its shard is.

    One function for all of them, so that all ranks begin their collectives in the same order, forward and backward, and a rank
    that has no use for one of the vectors gives zeros to the others.
    """

    @staticmethod
    def forward(ctx, *shards: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_all_gather(shards))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        size = dist.get_world_size()
        parts: list[torch.Tensor | None] = []
        works = []
        for grad, needed in zip(grads, ctx.needs_input_grad, strict=True):
            if not needed:
                parts.append(None)
                continue
            part = grad.new_empty(grad.numel() // size)
            works.append(dist.reduce_scatter_tensor(part, grad.contiguous(), async_op=True))
            parts.append(part)
        for work in works:
            work.wait()
        return tuple(None if part is None else part.div_(size) for part in parts)


def _all_gather(shards: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    wholes, works = [], []
    for shard in shards:
        whole = shard.new_empty(shard.numel() * dist.get_world_size())
        works.append(dist.all_gather_into_tensor(whole, shard.detach().contiguous(), async_op=True))
        wholes.append(whole)
    for work in works:
        work.wait()
    return wholes


class _FlatGroup:
    """Parameters of one dtype (and device), all of which learn or none: where they belong, and how they lie in one vector."""

    def __init__(self, parameters: list[nn.Parameter], places: dict[nn.Parameter, list[tuple[nn.Module, str]]]) -> None:
        self.places = [places[parameter] for parameter in parameters]
        self.shapes = [parameter.shape for parameter in parameters]
        self.sizes = [parameter.numel() for parameter in parameters]

    @staticmethod
    @torch.no_grad()
    def shard_of(parameters: list[nn.Parameter]) -> nn.Parameter:
        """This rank's part of rank 0's numbers."""
        size = dist.get_world_size()
        numel = sum(parameter.numel() for parameter in parameters)
        length = max(1, -(-numel // size))
        flat = parameters[0].new_zeros(length * size)
        torch.cat([parameter.detach().reshape(-1) for parameter in parameters], out=flat[:numel])
        _Broadcast(flat, 0).wait()
        own = flat.view(size, length)[dist.get_rank()].clone()
        return nn.Parameter(own, requires_grad=parameters[0].requires_grad)

    def put(self, whole: torch.Tensor) -> None:
        pieces = whole[: sum(self.sizes)].split(self.sizes)
        for places, piece, shape in zip(self.places, pieces, self.shapes, strict=True):
            self._set(places, piece.view(shape))

    def take(self) -> None:
        for places in self.places:
            self._set(places, None)

    @staticmethod
    def _set(places: list[tuple[nn.Module, str]], value: torch.Tensor | None) -> None:
        for owner, name in places:
            owner._parameters[name] = value
            if isinstance(owner, nn.RNNBase):  # which keeps a second list of its weights
                owner._flat_weights[owner._flat_weights_names.index(name)] = value


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
        for message in [_Broadcast(buffer, 0) for buffer in module.buffers()]:
            message.wait()

        places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for owner in module.modules():
            for name, parameter in owner._parameters.items():
                if parameter is not None:
                    places.setdefault(parameter, []).append((owner, name))
        kinds: dict[tuple, list[nn.Parameter]] = {}
        for parameter in places:
            kinds.setdefault((parameter.requires_grad, parameter.dtype, parameter.device), []).append(parameter)

        self._groups = [_FlatGroup(parameters, places) for parameters in kinds.values()]
        self.shards = nn.ParameterList(_FlatGroup.shard_of(parameters) for parameters in kinds.values())
        for group in self._groups:
            group.take()

    def forward(self, *args, **kwargs):
        """What module(*args, **kwargs) gives, of any kind."""
        with self._whole_parameters():
            return self.module(*args, **kwargs)

    @contextmanager
    def _whole_parameters(self) -> Iterator[None]:
        learning = [shard for shard in self.shards if shard.requires_grad]
        frozen = [shard for shard in self.shards if not shard.requires_grad]
        gathered = iter(_GatherShards.apply(*learning) if learning else ())
        constant = iter(_all_gather(frozen))
        try:
            for group, shard in zip(self._groups, self.shards, strict=True):
                group.put(next(gathered if shard.requires_grad else constant))
            del gathered, constant
            yield
        finally:
            for group in self._groups:
                group.take()
