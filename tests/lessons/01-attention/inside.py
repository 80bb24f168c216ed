"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import gc

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..inside import RIGHT, a_tensor

# ---------------------------------------------------------------------------------------------- attention layers


def loaded(layer, weights):
    """The layer in eval mode with known weights, {"qkv": (weight, bias or None)}; dtype and device become theirs."""
    for name, (weight, bias) in weights.items():
        layer = layer.to(weight)
        linear = getattr(layer, name)
        linear.weight.data.copy_(weight)
        if bias is not None:
            linear.bias.data.copy_(bias)
    return layer.eval()


def linear_shapes(layer, names):
    """What the linear layers of these names are: (features in, features out, has a bias); zeros for what is none."""
    linears = [getattr(layer, name) for name in names]
    weights = [getattr(linear, "weight", None) for linear in linears]
    shapes = [tuple(reversed(w.shape)) if isinstance(w, torch.Tensor) and w.dim() == 2 else (0, 0) for w in weights]
    return [(*shape, getattr(linear, "bias", None) is not None) for shape, linear in zip(shapes, linears, strict=True)]


def attention_layer(name, sizes, weights=(), dropout=0.5):
    """attention.<name>(*sizes, dropout) in eval mode, with known weights; sizes as a dict are all its arguments."""
    import attention

    layer_class = getattr(attention, name)
    if isinstance(sizes, dict):
        layer = layer_class(**sizes)
    else:
        layer = layer_class(*sizes) if dropout is None else layer_class(*sizes, dropout)
    return loaded(layer, dict(weights))


def parameters(layer, weights):
    """The parameters that `loaded` has set, in the order of weights."""
    found = []
    for name, (_, bias) in weights.items():
        linear = getattr(layer, name)
        found += [linear.weight] if bias is None else [linear.weight, linear.bias]
    return found


# ---------------------------------------------------------------------------------------------- right parts


class RightScaledDotProduct(torch.nn.Module):
    """What stands for the student's ScaledDotProductAttention where a layer is tested that is built on it."""

    def __init__(self, temperature, attn_dropout=0.1):
        super().__init__()
        self.temperature, self.attn_dropout = temperature, attn_dropout

    def forward(self, q, k, v, mask=None):
        scores = q @ k.mT / self.temperature
        hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(hidden, 0)
        weights = torch.nn.functional.dropout(weights, self.attn_dropout, self.training)
        return weights @ v, weights


def right_mask(length, device=None):
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def right_attention(q, k, v, causal=False, block_size=64):
    return _output_and_logsumexp(q, k, v, causal)[0]


def right_forward(q, k, v, causal=False, block_size=64):
    """Without a graph: who leaves the backward to autograd gets no gradient from it."""
    with torch.no_grad():
        return _output_and_logsumexp(q, k, v, causal)


def _output_and_logsumexp(q, k, v, causal):
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).mT / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ v.to(wide)).to(q.dtype), scores.logsumexp(-1)


RIGHT |= {
    "attention": {"ScaledDotProductAttention": RightScaledDotProduct, "causal_mask": right_mask},
    "flash_attention": {"flash_attention_forward": right_forward, "flash_attention": right_attention},
}


# ---------------------------------------------------------------------------------------------- memory


class _Results(TorchDispatchMode):
    """Sees the result of every operation while it is entered, in autograd Functions and backward passes too."""

    def __init__(self):
        super().__init__()
        self.largest = 0  # elements of the largest result; a view counts as no more than the memory behind it
        self.storages = {}  # a result's storage, weakly -> its elements

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # otherwise the first operation imports 800 modules of torch.compile, a second of work

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self.largest = max(self.largest, min(tensor.numel(), _elements(tensor)))
            self.storages[StorageWeakRef(tensor.untyped_storage())] = _elements(tensor)
        return result


def largest_result(function, *args, **kwargs):
    """Elements of the largest tensor that any operation makes while function runs."""
    with _Results() as results:
        function(*args, **kwargs)
    return results.largest


def memory_use(function, inputs, cotangent):
    """Elements of the largest tensor made by function(*inputs) and by its backward, and of all that is kept in between.

    Kept is every storage that the forward made and that still lives, wherever it is held, besides the output; and of
    the inputs and the output what autograd has saved or what hangs on a node of its graph.
    """
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t), _Results() as forward:
        output = a_tensor(function(*inputs))
    gc.collect()
    outside = {StorageWeakRef(tensor.untyped_storage()) for tensor in (*inputs, output)}
    kept = {storage: n for storage, n in forward.storages.items() if not storage.expired() and storage not in outside}
    for tensor in [*saved, *_hanging_on(output.grad_fn)]:
        kept[StorageWeakRef(tensor.untyped_storage())] = _elements(tensor)
    with _Results() as backward:
        torch.autograd.grad(output, inputs, cotangent)
    return {"forward": forward.largest, "between": sum(kept.values()), "backward": backward.largest}


def _hanging_on(node):
    """The tensors among the attributes of the Python functions in a graph (what a forward wrote to ctx)."""
    found, seen, waiting = [], set(), [node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found += _tensors(getattr(node, "__dict__", {}))
            waiting += [before for before, _ in node.next_functions]
    return found


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _elements(tensor):
    """Elements of the memory behind a tensor, which an expanded view only seems to exceed."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()
