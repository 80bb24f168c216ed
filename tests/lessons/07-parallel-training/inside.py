"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import torch
import torch.nn.functional as F
from torch import nn

from ..inside import RIGHT

# ---------------------------------------------------------------------------------------------- tensor_parallel


def mark():
    """A message of the probe's own, which parts what is sent before it from what is sent after it: helpers' `phases`."""
    torch.distributed.all_reduce(torch.zeros(3, 1, 4, 1, 5, dtype=torch.uint8))


def own_slice(whole, dim=-1):
    """This rank's slice of a tensor, as a leaf."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return whole.chunk(size, dim)[rank].clone()


def whole_linear(weight, bias=None):
    """A Linear with these weights."""
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return linear


class Summed(torch.autograd.Function):
    """Sums over the ranks: forward, or backward."""

    @staticmethod
    def forward(ctx, x, forward):
        ctx.forward = forward
        return Summed.total(x) if forward else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return (grad if ctx.forward else Summed.total(grad)), None

    @staticmethod
    def total(x):
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x)
        return x


class RightColumnParallelLinear(nn.Module):
    """Its output is parallel: what an MLP and an attention need."""

    def __init__(self, in_features, out_features, bias=True, gather_output=True):
        super().__init__()
        rows = out_features // torch.distributed.get_world_size()
        self.weight = nn.Parameter(torch.zeros(rows, in_features))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None

    @classmethod
    def from_linear(cls, linear, gather_output=True):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        layer.weight = nn.Parameter(own_slice(linear.weight.detach(), 0))
        layer.bias = None if linear.bias is None else nn.Parameter(own_slice(linear.bias.detach(), 0))
        return layer

    def forward(self, x):
        return F.linear(Summed.apply(x, False), self.weight, self.bias)


class RightRowParallelLinear(nn.Module):
    """Its input is parallel."""

    def __init__(self, in_features, out_features, bias=True, input_is_parallel=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, in_features // torch.distributed.get_world_size()))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_linear(cls, linear, input_is_parallel=False):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        layer.weight = nn.Parameter(own_slice(linear.weight.detach(), 1))
        layer.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        return layer

    def forward(self, x):
        y = Summed.apply(F.linear(x, self.weight), True)
        return y if self.bias is None else y + self.bias


RIGHT["tensor_parallel"] = {
    "ColumnParallelLinear": RightColumnParallelLinear,
    "RowParallelLinear": RightRowParallelLinear,
}


# ---------------------------------------------------------------------------------------------- data_parallel


class Parts(nn.Module):
    """Weights of one shape, of which a loss may leave some out."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterList(weights.clone().unbind())

    def forward(self, x, used):
        return sum((x @ self.weights[place]).square().sum() for place in used)


class Marked(torch.autograd.Function):
    """The identity; backward calls `mark` when it gets here."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        mark()
        return grad


def tower(weights, marked=False):
    """Layers without bias and tanh; where it is marked, backward calls `mark` before it reaches the first one."""
    layers = []
    for weight in weights:
        layers += [whole_linear(weight), nn.Tanh()]
    if marked:
        hook = nn.Identity()
        hook.forward = Marked.apply
        layers.insert(1, hook)
    return nn.Sequential(*layers)


def grads_of(module):
    """Copies of the gradients of a module's parameters; None where there is none."""
    return [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()]

# ---------------------------------------------------------------------------------------------- pipeline_parallel


class PipelinePart(nn.Module):
    """A stage of pipeline_parallel_helpers: {"steps": …, "weights": …, "frozen": whether the weights need no gradient}."""

    def __init__(self, stage):
        super().__init__()
        self.steps, learns = stage["steps"], not stage.get("frozen", False)
        self.weights = nn.ParameterList([nn.Parameter(weight, requires_grad=learns) for weight in stage["weights"]])
        self.calls = 0

    def forward(self, x):
        weights = iter(self.weights)
        self.calls += 1
        for name, *given in self.steps:
            if name == "linear":
                x = F.linear(x, next(weights), next(weights))
            elif name == "embedding":
                x = F.embedding(x, next(weights))
            elif name == "times its calls":
                x = x * self.calls
            else:
                x = getattr(x, name)(*given)
        return x
