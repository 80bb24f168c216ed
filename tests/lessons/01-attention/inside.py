"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import contextlib
import gc
import io

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# ---------------------------------------------------------------------------------------------- any result


def a_tensor(value, what="the result"):
    """The value, if it is a tensor; else whoever returned it is told what it is, not what a helper could not do with it."""
    if isinstance(value, torch.Tensor):
        return value
    name = type(value).__name__
    kind = "None" if value is None else f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
    raise TypeError(f"{what} is {kind}, it should be a tensor")


def listed(result):
    """What a layer returned, one tensor or several, as a list."""
    if isinstance(result, (tuple, list)):
        return [a_tensor(item, f"item {n} of the result") for n, item in enumerate(result)]
    return [a_tensor(result)]


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


def gradients(outputs, tensors):
    """The gradients of Σ cos(n) · (n-th number of an output), over all outputs; zeros where nothing flows back."""
    total = sum((torch.arange(item.numel(), dtype=torch.float64).cos().view_as(item) * item).sum() for item in outputs)
    if not total.requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    return list(torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True))


def dropout_runs(layer, *inputs):
    """What the layer returns, as lists: twice in train mode with one seed, once with another, twice in eval mode."""
    layer.train()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(listed(layer(*inputs)))
    layer.eval()
    return [*runs, listed(layer(*inputs)), listed(layer(*inputs))]


# ---------------------------------------------------------------------------------------------- any function


def strided(tensor):
    """The same numbers, laid out in memory the other way round: nothing can be viewed in another shape."""
    backwards = tuple(reversed(range(tensor.dim())))
    return tensor.permute(backwards).contiguous().permute(backwards)


def manners(function, *inputs):
    """What a call does besides returning: (result for strided inputs, the inputs after it, has torch changed, prints)."""
    inputs = [strided(item) if isinstance(item, torch.Tensor) else item for item in inputs]
    before = _torch_state()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = function(*inputs)
    return result, inputs, _torch_state() != before, printed.getvalue() != ""


def _torch_state():
    return torch.initial_seed(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()


def on_meta(function, *inputs):
    """What is wrong with a call on the meta device, where tensors have no values; "" if nothing is."""
    try:
        result = function(*(item.to("meta") if isinstance(item, torch.Tensor) else item for item in inputs))
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        return "mixes devices"
    return "" if all(item.device.type == "meta" for item in listed(result)) else "leaves the device"


# --------------------------------------------------------------------------- positions, flash attention


def pulled_back(output, cotangent, tensors):
    """The gradients of Σ cotangent · output at the tensors; zeros where nothing flows back."""
    if not a_tensor(output).requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    return list(torch.autograd.grad(output, tensors, cotangent, allow_unused=True, materialize_grads=True))


def seeded_runs(layer, x):
    """What a layer makes of copies of x: in train mode with one seed, the same, another; then twice in eval mode."""
    runs = []
    for seed, training in ((1, True), (1, True), (2, True), (3, False), (4, False)):
        torch.manual_seed(seed)
        runs.append(a_tensor(layer.train(training)(x.clone())))
    return runs


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
