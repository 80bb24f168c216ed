"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import contextlib
import gc
import types

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..inside import RIGHT, a_tensor

# ---------------------------------------------------------------------------------------------- quantization: right parts


def right_absmax(x, bits=8, dim=None):
    greatest = 2 ** (bits - 1) - 1
    scale = (x.detach().abs().amax() if dim is None else x.detach().abs().amax(dim, keepdim=True)) / greatest
    return (x.detach() / scale.masked_fill(scale == 0, 1)).round().clamp(-greatest, greatest).to(torch.int8), scale


def right_dequantize(q, scale, zero_point=0):
    return (q.to(scale.dtype) - zero_point) * scale


def right_groupwise(w, bits=4, group_size=64):
    pairs = [right_absmax(group, bits, 1) for group in w.split(group_size, dim=1)]
    return torch.cat([q for q, _ in pairs], dim=1), torch.cat([scale for _, scale in pairs], dim=1)


def right_pack(q):
    q = q.flatten().long() + 8
    q = torch.cat([q, q.new_zeros(len(q) % 2)])
    return (q[::2] + 16 * q[1::2]).to(torch.uint8)


def right_unpack(packed, shape):
    both = torch.stack([packed % 16, packed // 16], dim=1).flatten()[: torch.Size(shape).numel()]
    return (both.to(torch.int8) - 8).view(tuple(shape))


def right_nf4(x, block_size=64):
    from quantization import NF4_LEVELS

    blocks, levels = x.detach().flatten().split(block_size), torch.tensor(NF4_LEVELS, dtype=x.dtype)
    absmax = torch.stack([block.abs().amax() for block in blocks])
    scaled = torch.cat([block / (most or 1) for block, most in zip(blocks, absmax, strict=True)])
    return (scaled[:, None] - levels).abs().argmin(1).to(torch.uint8).view(x.shape), absmax


def right_dequantize_nf4(codes, absmax, block_size=64):
    from quantization import NF4_LEVELS

    scale = absmax.repeat_interleave(block_size)[: codes.numel()].view(codes.shape)
    return torch.tensor(NF4_LEVELS, dtype=absmax.dtype)[codes.long()] * scale


RIGHT |= {
    "quantization": {
        "quantize_absmax": right_absmax,
        "dequantize": right_dequantize,
        "quantize_groupwise": right_groupwise,
        "pack_int4": right_pack,
        "unpack_int4": right_unpack,
        "quantize_nf4": right_nf4,
        "dequantize_nf4": right_dequantize_nf4,
    },
}

# ---------------------------------------------------------------------------------------------- quantization: what is held


def bytes_held(root):
    """Bytes of all tensors that can be reached from a module: parameters, buffers, attributes, containers, closures.

    A tensor that is a part of a larger one holds all of it.
    """
    seen, storages, todo = set(), {}, [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (type, types.ModuleType, str)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif type(item).__name__ == "ndarray":
            storages[id(item)] = item.nbytes
        if isinstance(item, types.FunctionType):  # not its globals, which are those of everybody
            todo += [item.__closure__, item.__defaults__, item.__dict__]
        else:
            todo += gc.get_referents(item)
    return sum(storages.values())


def linear_with(weight, bias=None):
    """An nn.Linear with these weights, in their dtype."""
    linear = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


class RightQuantizedLinear(nn.Module):
    @classmethod
    def from_linear(cls, linear, bits=8, group_size=None):
        self = cls().train(linear.training)
        self.out_features, self.in_features = linear.weight.shape
        self.size, self.bits = group_size or self.in_features, bits
        q, scales = right_groupwise(linear.weight, bits, self.size)
        self.register_buffer("codes", right_pack(q) if bits <= 4 else q)
        self.register_buffer("scales", scales)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        return self

    @property
    def weight(self):
        q = right_unpack(self.codes, (self.out_features, self.in_features)) if self.bits <= 4 else self.codes
        return q * self.scales.repeat_interleave(self.size, dim=1)[:, : self.in_features]

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.weight.to(x.dtype), bias)


RIGHT["quantization"]["QuantizedLinear"] = RightQuantizedLinear


# ---------------------------------------------------------------------------------------------- quantization: models


def quantized(model, *kind):
    from quantization import ModelQuantizer

    return a_module(ModelQuantizer().quantize_model(model, *kind))


def a_module(value, what="the new model"):
    """The value, if it is a module; as `a_tensor` does it for tensors."""
    if isinstance(value, nn.Module):
        return value
    raise TypeError(f"{what} is {'None' if value is None else type(value).__name__}; it should be a module")


def weight_of(layer):
    """The attribute weight of a layer, if it has one that is a tensor."""
    return a_tensor(getattr(layer, "weight", None), "the attribute weight of a layer")


def tells_apart(model, x):
    """Whether a model says something else of each row of x: one whose layers give zeros does not."""
    with torch.no_grad():
        y = a_tensor(model(x)).flatten(1)
    return len(y.unique(dim=0)) == len(y)


def linears_left(model):
    """The names of all Linears in floating point; a module with two names is there twice."""
    from quantization import QuantizedLinear

    return [
        name
        for name, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, nn.Linear) and not isinstance(part, QuantizedLinear)
    ]


class Parts(nn.Module):
    """A module that holds others by name; those that are Linears or embeddings are called one after the other."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


# ---------------------------------------------------------------------------------------------- model_parallel


class _Moves(TorchDispatchMode):
    """Notes the (count of numbers, shape) of floating-point tensors that go to another device; from meta come zeros.

    mixed: the names of operations on tensors of several devices, which torch lets pass if one of them is meta.
    """

    def __init__(self):
        super().__init__()
        self.found, self.mixed = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [item for item in tree_leaves((args, kwargs or {})) if isinstance(item, torch.Tensor)]
        name = func.overloadpacket.__name__
        if name == "_to_copy" and (kwargs or {}).get("device") is not None:
            return self._moved(func, given[0], torch.device(kwargs["device"]), args, kwargs)
        if name == "copy_" and len({item.device for item in given}) > 1:
            self._note(given[-1])
            return given[0].zero_() if given[-1].device.type == "meta" else func(*args, **(kwargs or {}))
        if len({item.device for item in given if item.dim()}) > 1:
            self.mixed.append(name)
        return func(*args, **(kwargs or {}))

    def _moved(self, func, tensor, device, args, kwargs):
        if tensor.device.type != device.type:
            self._note(tensor)
            if tensor.device.type == "meta":
                return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype, device=device)
        return func(*args, **kwargs)

    def _note(self, tensor):
        if tensor.is_floating_point():
            self.found.append((tensor.numel(), list(tensor.shape)))


def leads_back(output, weights):
    """Whether autograd's graph leads from the output to all weights, over whatever devices; nothing is worked out."""
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    found = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return all(id(weight) in found for weight in weights)


@contextlib.contextmanager
def noting_moves():
    """`found`: the moves of floating-point tensors between devices meanwhile, how many numbers, and the shape; and `mixed`."""
    with _Moves() as moves:
        yield moves
