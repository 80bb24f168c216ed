"""What probes of every lesson may use, as `inside.…`: it runs in the student's process, with torch and the standard library.

It is shipped before the lesson's own inside.py, which names what it uses of it in `from ..inside import …`.
"""

import contextlib
import importlib
import io
import random
import sys

import torch

# ---------------------------------------------------------------------------------------------- results, inputs


def a_tensor(value, what="the result"):
    """The value, if it is a tensor; else whoever returned it is told what it is, not what a helper could not do with it."""
    if isinstance(value, torch.Tensor):
        return value
    name = type(value).__name__
    kind = "None" if value is None else f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
    raise TypeError(f"{what} is {kind}; it should be a tensor")


def listed(result):
    """One tensor or several, in a tuple or list, as a list of tensors."""
    if isinstance(result, (tuple, list)):
        return [a_tensor(item, f"item {n} of the result") for n, item in enumerate(result)]
    return [a_tensor(result)]


def copies(inputs):
    """The inputs, of which those that are tensors are copies."""
    return [item.clone() if isinstance(item, torch.Tensor) else item for item in inputs]


def strided(tensor):
    """The same numbers, laid out in memory the other way round: nothing can be viewed in another shape."""
    backwards = tuple(reversed(range(tensor.dim())))
    return tensor.permute(backwards).contiguous().permute(backwards)


# ---------------------------------------------------------------------------------------------- state left alone


def torch_state():
    """All that a call might change for others: what two of these differ by was changed. What was drawn does not count."""
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    return torch.initial_seed(), torch.get_default_dtype(), torch.get_num_threads(), *modes


def manners(function, *inputs, **options):
    """Calls function(*inputs, **options), its tensors strided: (result, the inputs after it, what it did besides).

    The last is "" or "changes torch", "prints", "changes torch, prints": `shared.MANNERS` has a sentence for each.
    """
    inputs = [strided(item) if isinstance(item, torch.Tensor) else item for item in inputs]
    torch.manual_seed(20)  # not one that a function would set
    before, printed = torch_state(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = function(*inputs, **options)
    rude = [("changes torch", torch_state() != before), ("prints", printed.getvalue() != "")]
    return result, inputs, ", ".join(name for name, is_so in rude if is_so)


# ---------------------------------------------------------------------------------------------- right parts

RIGHT = {}  # module -> name -> what may stand for the student's own; a lesson's inside.py fills it


@contextlib.contextmanager
def right_parts(module, but):
    """While it is entered, what the student's module builds on is right; all but the part of this name, which is tested."""
    module, right = importlib.import_module(module), RIGHT[module]
    own = {name: getattr(module, name) for name in right if name != but and hasattr(module, name)}
    for name in own:
        setattr(module, name, right[name])
    try:
        yield
    finally:
        for name, part in own.items():
            setattr(module, name, part)


def use_of(use, module, but, right):
    """use(), on the student's own parts; where right is true or these fail, on right ones. None where right ones fail."""
    if right:
        with contextlib.suppress(Exception), right_parts(module, but):
            return use()
        return None
    try:
        return use()
    except Exception:
        with contextlib.suppress(Exception), right_parts(module, but):
            return use()
        raise


def total(outputs):
    """What `gradients` takes the gradient of: number n of each output counts cos(n) times."""
    return sum(
        (torch.arange(item.numel(), dtype=item.dtype).cos().view_as(item) * item).sum() for item in listed(outputs)
    )


def slopes_of(total, tensors, step=1e-6):
    """How total(), a number that depends on float64 tensors, grows along cos(n) for each: by definition, without autograd."""
    found = []
    with torch.no_grad():
        for tensor in tensors:
            along = torch.arange(tensor.numel(), dtype=torch.float64).cos().view_as(tensor) * step
            tensor.data.add_(along)
            up = float(total())
            tensor.data.sub_(2 * along)
            down = float(total())
            tensor.data.add_(along)
            found.append((up - down) / (2 * step))
    return found


# ---------------------------------------------------------------------------------------------- gradients, dropout, devices


def gradients(outputs, tensors, cotangents=None):
    """The gradients of Σ cotangent · output at the tensors, as a list; zeros where nothing flows back.

    outputs: a tensor or several; cotangents: as many, of the same shapes; by default number n of each output counts
    cos(n) times, as in `shared.true_gradients`.
    """
    outputs = listed(outputs)
    if cotangents is None:
        cotangents = [torch.arange(item.numel(), dtype=torch.float64).cos().view_as(item) for item in outputs]
    total = sum((cotangent * item).sum() for cotangent, item in zip(cotangents, outputs, strict=True))
    if not total.requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    return list(torch.autograd.grad(total, tensors, allow_unused=True, materialize_grads=True))


def dropout_runs(layer, *inputs):
    """What a layer makes of copies of the inputs, as five lists of tensors, which `shared.dropout_facts` judges.

    In train mode with one seed, with the same, with another; then twice in eval mode, in which the layer stays.
    """
    runs = []
    for seed, training in ((1, True), (1, True), (2, True), (3, False), (4, False)):
        torch.manual_seed(seed)
        runs.append(listed(layer.train(training)(*copies(inputs))))
    return runs


def seeds(draw):
    """Facts about draw() -> a tensor or several, all of them drawn, by name; `shared.seed_facts` judges them.

    "torch's seed": is the result the same for one seed of torch? "other seed of torch": and for another? "next": and
    without a new seed? Draw so much that no two results are equal by chance: 40 numbers, or tokens of a law that is not narrow.
    """
    runs = []
    for seed in (3, 3, 4, None):
        if seed is not None:
            torch.manual_seed(seed)
        runs.append(_drawn(draw))
    first, again, other, after = runs
    return {
        "torch's seed": all(_equal(first, again)),
        "other seed of torch": any(_equal(first, other)),
        "next": any(_equal(other, after)),
    }


def randomness(draw):
    """Facts about draw(generator or None) -> a tensor or several, by name; `shared.randomness_facts` judges them.

    "seed": is the result the same for one seed of the generator and two of torch? "other seed": for two seeds of the
    generator? "goes on": for two calls with one generator? "torch used", "others used": has torch's own generator moved, or
    those of random and numpy? Without a generator, those of `seeds`.
    """
    going_on, results, moved = torch.Generator().manual_seed(1), [], []
    for generator, seed in ((going_on, 10), (_seeded(1), 20), (_seeded(2), 20), (going_on, 20)):
        torch.manual_seed(seed)
        before = _random_states()
        results.append(_drawn(draw, generator))
        moved.append([one not in (None, other) for one, other in zip(before, _random_states(), strict=True)])
    first, again, other, after = results
    torch_used, *others_used = [any(calls) for calls in zip(*moved, strict=True)]
    return {
        "seed": all(_equal(first, again)),
        "other seed": any(_equal(again, other)),
        "goes on": any(_equal(first, after)),
        "torch used": torch_used,
        "others used": any(others_used),
        **seeds(lambda: draw(None)),
    }


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _drawn(draw, *given):
    return [item.detach().clone() for item in listed(draw(*given))]


def _equal(some, others):
    return [torch.equal(*pair) for pair in zip(some, others, strict=True)]


def _random_states():
    """Of torch's own generator, of Python's and of numpy's, which is None as long as nobody has imported numpy."""
    of_numpy = None
    if "numpy" in sys.modules:
        _, key, *rest = sys.modules["numpy"].random.get_state()
        of_numpy = key.tobytes(), rest
    return torch.get_rng_state().tolist(), random.getstate(), of_numpy


def on_meta(function, *inputs):
    """What is wrong with function(*inputs) on the meta device, where tensors have no values.

    "": nothing; "mixes devices"; "leaves the device". Another error is raised as it is. It takes a call of 30 s or more:
    torch imports much for its first operation there.
    """
    try:
        result = function(*(item.to("meta") if isinstance(item, torch.Tensor) else item for item in inputs))
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        return "mixes devices"
    return "" if all(item.device.type == "meta" for item in listed(result)) else "leaves the device"
