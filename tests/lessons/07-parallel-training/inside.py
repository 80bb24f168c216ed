"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import contextlib
import ctypes
import gc
import sys

import torch
import torch.nn.functional as F
from torch import nn

from ..inside import RIGHT, a_tensor, manners, strided, total

# ---------------------------------------------------------------------------------------------- tensor_parallel


def mark():
    """A message of the probe's own, which parts what is sent before it from what is sent after it: helpers' `parted_by_marks`."""
    torch.distributed.all_reduce(torch.zeros(3, 1, 4, 1, 5, dtype=torch.uint8))


def own_slice(whole, dim=-1):
    """A copy of this rank's slice of a tensor."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return whole.chunk(size, dim)[rank].clone()


def whole_linear(weight, bias=None):
    """A Linear with these weights."""
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return linear


def parts_of(layer):
    """(weight, bias or None, names of the parameters that learn)."""
    weight, bias = a_tensor(layer.weight, "weight"), layer.bias
    names = sorted(name for name, parameter in layer.named_parameters() if parameter.requires_grad)
    return weight.detach(), None if bias is None else a_tensor(bias, "bias").detach(), names


def kept_by(make):
    """(what make() gives, bytes of the tensors that are there since)."""
    gc.freeze()  # what there is already is not looked at
    try:
        made = make()
        return made, held()
    finally:
        gc.unfreeze()


def made_politely(make):
    """(what make() gives, what it did besides, as manners says it, which sets a seed of its own)."""
    made = []
    with torch.random.fork_rng(devices=()):
        rude = manners(lambda: made.append(make()))[-1]
    return made[0], rude


def sent_by(layer, x, *options):
    """(the shape of the output, does x get a gradient?), with marks before, between and after forward and backward."""
    mark()
    y = a_tensor(layer(x, *options))
    mark()
    total(y).backward()
    mark()
    return list(y.shape), x.grad is not None


def output_after_a_step(make, linears, x):
    """(the output of make()'s layer after a step of SGD, are the linears as they were before it was made?)"""
    before = [_as_it_is(linear) for linear in linears]
    layer = make()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    total(layer(x)).backward()
    optimizer.step()
    return a_tensor(layer(x)).detach(), before == [_as_it_is(linear) for linear in linears]


def _as_it_is(linear):
    """Names, numbers and requires_grad of the parameters, to compare."""
    return [(name, weight.tolist(), weight.requires_grad) for name, weight in linear.named_parameters()]


def without_each_rank(make, x):
    """(outputs of make()'s layer where rank 0's parameters are zeros, and where rank 1's are; bytes that it keeps)."""
    found = []
    for rank in range(2):
        layer, kept = kept_by(make)
        with torch.no_grad():
            for parameter in layer.parameters() if torch.distributed.get_rank() == rank else ():
                parameter.zero_()
            found.append(a_tensor(layer(x)))
    return torch.stack(found), kept


def new_layer(kind, sizes, x):
    """(the output of kind(*sizes), how many numbers its parameters have, bytes that it keeps, what making one did besides).

    With marks as in `sent_by`.
    """
    layer, kept = kept_by(lambda: kind(*sizes))
    rude = made_politely(lambda: kind(*sizes))[1]
    given = x.clone().requires_grad_()
    mark()
    y = a_tensor(layer(given))
    mark()
    total(y).backward()
    mark()
    return y.detach(), sum(parameter.numel() for parameter in layer.parameters()), kept, rude


def gradients_beside(layer, x, cotangent, beside, *options):
    """The gradients of x where a layer's input, 2 · x, has another use as well, in which it counts `beside` times.

    First with the layer's parameters as they are, then where they are frozen. Another call lies between forward and backward.
    """
    found = []
    for learns in (True, False):
        for parameter in layer.parameters():
            parameter.requires_grad_(learns)
        given = x.clone().requires_grad_()
        inner = 2 * given
        y = a_tensor(layer(inner, *options))
        layer(torch.ones_like(x), *options)
        found += torch.autograd.grad((cotangent * y).sum() + (beside * inner).sum(), given)
    return found


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
    def __init__(self, in_features, out_features, bias=True, gather_output=True):
        super().__init__()
        self.gather_output = gather_output
        rows = out_features // torch.distributed.get_world_size()
        self.weight = nn.Parameter(torch.zeros(rows, in_features))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None

    @classmethod
    def from_linear(cls, linear, gather_output=True):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, gather_output)
        layer.weight = nn.Parameter(own_slice(linear.weight.detach(), 0))
        layer.bias = None if linear.bias is None else nn.Parameter(own_slice(linear.bias.detach(), 0))
        return layer

    def forward(self, x):
        y = F.linear(Summed.apply(x, False), self.weight, self.bias)
        if not self.gather_output:
            return y
        rank, size, width = torch.distributed.get_rank(), torch.distributed.get_world_size(), y.shape[-1]
        return Summed.apply(F.pad(y, (rank * width, (size - 1 - rank) * width)), True)


class RightRowParallelLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True, input_is_parallel=False):
        super().__init__()
        self.input_is_parallel = input_is_parallel
        self.weight = nn.Parameter(torch.zeros(out_features, in_features // torch.distributed.get_world_size()))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_linear(cls, linear, input_is_parallel=False):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, input_is_parallel)
        layer.weight = nn.Parameter(own_slice(linear.weight.detach(), 1))
        layer.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        return layer

    def forward(self, x):
        if not self.input_is_parallel:
            x = own_slice(Summed.apply(x, False))
        y = Summed.apply(F.linear(x, self.weight), True)
        return y if self.bias is None else y + self.bias


RIGHT["tensor_parallel"] = {
    "ColumnParallelLinear": RightColumnParallelLinear,
    "RowParallelLinear": RightRowParallelLinear,
}


# ---------------------------------------------------------------------------------------------- data_parallel


class LooseWeights(nn.Module):
    """Weights of one shape, of which a loss may leave some out."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterList([weight.clone() for weight in weights])

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


# ---------------------------------------------------------------------------------------------- zero


class CountingAdamW(torch.optim.AdamW):
    """AdamW that counts the elements that are updated by all optimizers of this class."""

    elements = 0

    def step(self, closure=None):
        own = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        CountingAdamW.elements += sum(weight.numel() for weight in own)
        return super().step(closure)


def optimized(weights, steps, name, options, groups=None):
    """(parameters, optimizer) after a step of ZeroRedundancyOptimizer for each list of gradients; None is no gradient.

    name: of a torch optimizer, or of one of this page. groups: dicts whose "params" are places in weights; by default all are one group.
    steps: lists of gradients, or (a list of gradients, options that change before this step for each group).
    """
    from zero import ZeroRedundancyOptimizer

    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    given = parameters
    if groups is not None:
        given = [{**group, "params": [parameters[n] for n in group["params"]]} for group in groups]
    kind = CountingAdamW if name == "CountingAdamW" else getattr(torch.optim, name)
    optimizer = ZeroRedundancyOptimizer(given, kind, **options)
    for gradients in steps:
        if isinstance(gradients, tuple):
            gradients, changes = gradients
            for group, change in zip(optimizer.param_groups, changes, strict=True):
                group.update(change)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    return parameters, optimizer


def given_as(form, parameters):
    """What a torch optimizer may be given of these parameters."""
    if form == "iterator":
        return iter(parameters)
    if form == "iterators in groups":
        return iter([{"params": iter(parameters[:2])}, {"params": iter(parameters[2:])}])
    return [{"params": parameter} for parameter in parameters]


def moments_in(state):
    """Copies of the tensors with a dimension in an optimizer's state, whatever it is keyed by."""
    return [tensor.clone() for tensor in _moments(state)]


def _moments(state):
    if isinstance(state, torch.Tensor):
        return [state.detach()] if state.dim() else []
    items = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for item in items for tensor in _moments(item)]


def last_step(made, gradients, multiplied):
    """(parameters, moments before it) of a step of what `optimized` gave, marked before and after.

    multiplied: each rank multiplies the moments that it has by its rank + 2 before the step.
    """
    parameters, optimizer = made
    moments = moments_in(optimizer.state)
    for moment in _moments(optimizer.state) if multiplied else ():
        moment.mul_(torch.distributed.get_rank() + 2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    mark()
    optimizer.step()
    mark()
    return [parameter.detach() for parameter in parameters], moments


def two_layers(weights, frozen=(), deep=False):
    """Linear, tanh, Linear with weights (w, b, w, b), of which those at some places need no gradient.

    deep: the first two are in a module of their own, and so is that.
    """
    first, tanh, second = whole_linear(*weights[:2]), nn.Tanh(), whole_linear(*weights[2:])
    model = (
        nn.Sequential(nn.Sequential(nn.Sequential(first, tanh)), second) if deep else nn.Sequential(first, tanh, second)
    )
    for place, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(place not in frozen)
    return model


class Forked(nn.Module):
    """Two Linears beside each other, with weights (w, b, w, b): gives a tuple, or a dict."""

    def __init__(self, weights, named):
        super().__init__()
        self.left, self.right, self.named = whole_linear(*weights[:2]), whole_linear(*weights[2:]), named

    def forward(self, x):
        both = self.left(x), self.right(x)
        return {"left": both[0], "right": both[1]} if self.named else both


class Mirrored(nn.Module):
    """tanh(x @ w) @ w: one parameter at two places, in two modules."""

    def __init__(self, weight):
        super().__init__()
        self.first, self.second = whole_linear(weight.T), whole_linear(weight.T)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


class Manifold(nn.Module):
    """Parameters of two dtypes, one strided, one without a dimension and one not used; takes and gives more than a tensor."""

    def __init__(self, single, double, number):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3, dtype=double.dtype))
        self.matrix, self.factors, self.number = (
            nn.Parameter(strided(single)),
            nn.Parameter(double),
            nn.Parameter(number),
        )

    def forward(self, x, times, *, plus=0):
        y = (x.float() @ self.matrix).double() * self.factors
        return {"sum": y.sum() * times + plus, "pair": (y, self.number * times)}


def shards_of(model):
    """(values, gradient or None) of each of this rank's parameters."""
    return [(w.detach().clone(), None if w.grad is None else w.grad.clone()) for w in model.parameters()]


def held():
    """Bytes of all tensors of floating point that Python can reach, each block of memory once."""
    gc.collect()
    found = [each for each in gc.get_objects() if torch.Tensor in type(each).__mro__ and each.is_floating_point()]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}.values())


# ---------------------------------------------------------------------------------------------- ring_attention


KEPT = []  # what a probe leaves to the next one of the same test


def ring_inputs(*tensors):
    """This rank's slices of whole sequences (B, H, T, d), as leaves that require a gradient."""
    return [own_slice(whole, 2).requires_grad_() for whole in tensors]


@contextlib.contextmanager
def loose_messages():
    """A list that gets the shapes of what is sent, or received into, while it is entered, and is not contiguous."""
    group, found = torch.distributed.group.WORLD, []

    def noting(operation):
        def begin(tensors, *options):
            found.extend(list(tensor.shape) for tensor in tensors if not tensor.is_contiguous())
            return operation(tensors, *options)

        return begin

    for name in ("send", "recv"):
        setattr(group, name, noting(getattr(group, name)))
    try:
        yield found
    finally:
        del group.send, group.recv


def exact_memory():
    """Tensors of 64 KB and more get memory of their own from the kernel and give it back: a process has what its tensors hold."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD, which would grow by itself
