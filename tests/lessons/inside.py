"""What probes of every lesson may use, as `inside.…`: it runs in the student's process, with torch and the standard library.

It is shipped before the lesson's own inside.py, which names what it uses of it in `from ..inside import …`.
"""

import contextlib
import importlib
import io

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
        copies = [item.clone() if isinstance(item, torch.Tensor) else item for item in inputs]
        runs.append(listed(layer.train(training)(*copies)))
    return runs


def randomness(draw):
    """Facts about draw(generator or None) -> tensor, by name; `shared.randomness_facts` judges them.

    "seed": is the result the same for one seed of the generator and two of torch? "other seed": for two seeds of the
    generator? "torch used": has torch's own generator moved? Without a generator, "torch's seed": is the result the
    same for one seed of torch? "next": and without a new seed?
    """
    results = []
    for seed, seed_of_torch in ((1, 10), (1, 20), (2, 20)):
        torch.manual_seed(seed_of_torch)
        before = torch.get_rng_state()
        results.append(a_tensor(draw(torch.Generator().manual_seed(seed))))
        used = not torch.equal(before, torch.get_rng_state())
    plain = []
    for seed in (3, 3, None):
        if seed is not None:
            torch.manual_seed(seed)
        plain.append(a_tensor(draw(None)))
    equal = [torch.equal(*pair) for pair in (results[:2], results[1:], plain[:2], plain[1:])]
    return {"seed": equal[0], "other seed": equal[1], "torch used": used, "torch's seed": equal[2], "next": equal[3]}


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
