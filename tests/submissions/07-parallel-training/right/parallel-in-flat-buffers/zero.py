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

# ---------------------------------------------------------------------------------------------- flat buffers


def _kind(tensor: torch.Tensor) -> tuple:
    """Tensors of one kind can be in one flat buffer."""
    return tensor.dtype, tensor.device, tensor.requires_grad


def _by_kind(items: Iterable, kind=_kind) -> list[list]:
    """Lists of items of one kind each, in the order of their first ones."""
    groups: dict = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return list(groups.values())


def _broadcast(flat: torch.Tensor) -> None:
    """Rank 0's numbers into a flat tensor, as bytes: of any dtype."""
    if flat.numel():
        dist.broadcast(flat.view(torch.uint8), 0)


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
        super().__init__(params, {})  # reads all forms of params
        parameters = [p for group in self.param_groups for p in group["params"]]
        # All elements stand in one row, of which rank r has those from r n / W to (r + 1) n / W: slices of parameters.
        world, total, at = dist.get_world_size(), sum(p.numel() for p in parameters), 0
        bounds = [rank * total // world for rank in range(world + 1)]
        self._pieces: list[list[tuple[nn.Parameter, int, int]]] = [[] for _ in range(world)]  # of each rank: parameter, from, to
        for p in parameters:
            for pieces, low, high in zip(self._pieces, bounds, bounds[1:], strict=False):
                low, high = max(low - at, 0), min(high - at, p.numel())
                if low < high:
                    pieces.append((p, low, high))
            at += p.numel()

        # The inner optimizer has a leaf for each slice of this rank, which `step` points to where the elements are.
        self._mine = [(nn.Parameter(p.detach().reshape(-1)[low:high]), p, low, high) for p, low, high in self._pieces[dist.get_rank()]]
        slices = {p: leaf for leaf, p, _, _ in self._mine}
        self._inner = optimizer_class(
            [
                {**_options(group), "params": [slices[p] for p in group["params"] if p in slices]}
                for group in self.param_groups
            ],
            **kwargs,
        )
        self.defaults, self.state = self._inner.defaults, self._inner.state
        for group, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            group.update(_options(inner))

    @torch.no_grad()
    def step(self) -> None:
        """Updates all parameters once. All ranks call it, since they exchange what they have updated."""
        for group, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update(_options(group))
        learning = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        flat = {p: p.detach().reshape(-1) for p in learning}  # a view, or a copy where strides allow none
        for leaf, p, low, high in self._mine:
            leaf.grad = None
            if p in flat:
                leaf.data = flat[p][low:high]
                leaf.grad = p.grad.detach().reshape(-1)[low:high]
        self._inner.step()
        for leaf, *_ in self._mine:
            leaf.grad = None

        for owner, pieces in enumerate(self._pieces):
            parts = [flat[p][low:high] for p, low, high in pieces if p in flat]
            for same in _by_kind(parts):
                message = torch.cat(same)
                dist.broadcast(message, owner)
                for part, new in zip(same, message.split([part.numel() for part in same]), strict=True):
                    part.copy_(new)
        for p, new in flat.items():
            if not p.is_contiguous():
                p.copy_(new.view(p.shape))


def _options(group: dict) -> dict:
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


# ---------------------------------------------------------------------------------------------- everything sharded


class _Gather(torch.autograd.Function):
    """The shards (n / W,) of this rank -> the flat buffers (n,) of all ranks. Backward: the mean of the gradients, this rank's part."""

    @staticmethod
    def forward(ctx, *shards):
        whole = [shard.new_empty(shard.numel() * dist.get_world_size()) for shard in shards]
        for flat, shard in zip(whole, shards, strict=True):
            dist.all_gather_into_tensor(flat, shard.detach())
        ctx.mark_non_differentiable(*(flat for flat, needed in zip(whole, ctx.needs_input_grad, strict=True) if not needed))
        return tuple(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        parts = []
        for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=True):
            parts.append(gradient.new_empty(gradient.numel() // dist.get_world_size()) if needed else None)
            if needed:
                dist.reduce_scatter_tensor(parts[-1], gradient.contiguous())
                parts[-1] /= dist.get_world_size()
        return tuple(parts)


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
        places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # tied weights have several
        for part in module.modules():
            for name, p in part._parameters.items():
                if p is not None:
                    places.setdefault(p, []).append((part, name))

        rank, world = dist.get_rank(), dist.get_world_size()
        self._layout = []  # of each flat buffer: for each parameter in it the shape, and where it stands in the module
        self.shards = nn.ParameterList()
        with torch.no_grad():
            for same in _by_kind(places):
                size = -(-max(sum(p.numel() for p in same), 1) // world)
                flat = torch.cat([p.detach().reshape(-1) for p in same])
                flat = torch.cat([flat, flat.new_zeros(size * world - flat.numel())])
                _broadcast(flat)
                self.shards.append(nn.Parameter(flat[rank * size :][:size].clone(), requires_grad=same[0].requires_grad))
                self._layout.append([(p.shape, places[p]) for p in same])
            for buffer in module.buffers():
                flat = buffer.contiguous().reshape(-1)
                _broadcast(flat)
                if not buffer.is_contiguous():
                    buffer.copy_(flat.view(buffer.shape))
        self.module = module
        self._put([])

    def _put(self, flats: Iterable[torch.Tensor]) -> None:
        """Views of the flat buffers become the module's parameters; with no buffers it has none."""
        flats = list(flats) or [None] * len(self._layout)
        for flat, layout in zip(flats, self._layout, strict=True):
            at = 0
            for shape, places in layout:
                weight = None if flat is None else flat[at : at + shape.numel()].view(shape)
                at += shape.numel()
                for part, name in places:
                    part._parameters[name] = weight
        for part in self.module.modules():
            if hasattr(part, "_flat_weights_names"):  # an nn.LSTM keeps its weights a second time
                part._flat_weights = [getattr(part, name, None) for name in part._flat_weights_names]

    def forward(self, *args, **kwargs):
        """What module(*args, **kwargs) gives, of any kind."""
        if self._layout:
            self._put(_Gather.apply(*self.shards))
        try:
            return self.module(*args, **kwargs)
        finally:
            self._put([])
