import torch
import torch.distributed as dist
from torch.func import functional_call


def _mine(tensor):
    """This rank's slice of a tensor, as a vector."""
    return tensor.detach().reshape(-1).tensor_split(dist.get_world_size())[dist.get_rank()].clone()


def _join(mine, shape):
    """The whole tensor from the slices of all ranks: each writes its own into zeros, and they are added up."""
    whole = torch.zeros(shape, dtype=mine.dtype, device=mine.device)
    whole.view(-1).tensor_split(dist.get_world_size())[dist.get_rank()].copy_(mine)
    dist.all_reduce(whole)
    return whole


class ZeroRedundancyOptimizer:
    def __init__(self, params, optimizer_class, **kwargs):
        params = list(params)
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        groups = [
            {**group, "params": [group["params"]] if torch.is_tensor(group["params"]) else list(group["params"])}
            for group in groups
        ]
        self.whole = [group["params"] for group in groups]
        self.slices = [[torch.nn.Parameter(_mine(p)) for p in some] for some in self.whole]
        self.inner = optimizer_class(
            [{**group, "params": some} for group, some in zip(groups, self.slices)], **kwargs
        )
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    def step(self):
        pairs = [pair for some, slices in zip(self.whole, self.slices) for pair in zip(some, slices)]
        for parameter, mine in pairs:
            mine.data.copy_(_mine(parameter))
            mine.grad = None if parameter.grad is None else _mine(parameter.grad)
        self.inner.step()
        for parameter, mine in pairs:
            parameter.data.copy_(_join(mine.data, parameter.shape))
            mine.grad = None

    def zero_grad(self, set_to_none=True):
        for parameter in (p for some in self.whole for p in some):
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mine, shape):
        return _join(mine, shape)

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return _mine(total) / dist.get_world_size(), None


class FullyShardedModule(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.wrapped = module
        self.names, self.shapes, slices = [], [], []
        for name, parameter in module.named_parameters():
            dist.broadcast(values := parameter.detach().contiguous(), 0)
            self.names.append(name)
            self.shapes.append(parameter.shape)
            slices.append(torch.nn.Parameter(_mine(values), parameter.requires_grad))
        for parameter in module.parameters():
            parameter.requires_grad_(False)
            parameter.data = parameter.data.new_empty(0)  # nothing is left but its name
        self.slices = torch.nn.ParameterList(slices)

    def forward(self, *args, **kwargs):
        whole = [_Whole.apply(mine, shape) for mine, shape in zip(self.slices, self.shapes)]
        return functional_call(self.wrapped, dict(zip(self.names, whole)), args, kwargs)
