"""What probes of every lesson may use, as `inside.…`: it runs in the student's process, with torch and the standard library.

It is shipped before the lesson's own inside.py, which names what it uses of it in `from ..inside import …`.
"""

import contextlib
import importlib
import inspect
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
    inputs = [strided(item) if isinstance(item, torch.Tensor) else item for item in copies(inputs)]
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


# ---------------------------------------------------------------------------------------------- any Transformer, greedy and beam search


@contextlib.contextmanager
def noting_instances(kind):
    """The list of (instance, its arguments by name) of what is made of the class meanwhile, subclasses too."""
    made, start = [], kind.__init__

    def init(self, *args, **options):
        bound = inspect.signature(start).bind(self, *args, **options)
        bound.apply_defaults()
        made.append((self, dict(list(bound.arguments.items())[1:])))
        start(self, *args, **options)

    kind.__init__ = init
    try:
        yield made
    finally:
        kind.__init__ = start


def draw_weights(model, generator=None):
    """Large ones: what a token is said to be followed by depends on all that came before it."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(2 * torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)


def change_logits(model, scale, shift):
    """Makes a Transformer's logits logits * scale + shift; returns a list that gets, whenever it makes some, whether a
    module of it was in train mode then.

    The last Linear is changed where it is called as in the reference, whose parts a student may use. A student's own
    Transformer has parts of other names: there it is done at its methods.
    """
    asked, last = [], getattr(model, "output", None)

    def note(*_):
        asked.append(any(part.training for part in model.modules()))

    if isinstance(last, torch.nn.Linear) and last.bias is not None:
        with torch.no_grad():
            last.weight.mul_(scale[:, None])
            last.bias.mul_(scale).add_(shift)
        last.register_forward_pre_hook(note)
        return asked

    inside = []  # forward may call decode: only the outer one changes something

    def changed(method):
        def call(*args, **options):
            if inside:
                return method(*args, **options)
            note()
            inside.append(method)
            try:
                return method(*args, **options) * scale + shift
            finally:
                inside.clear()

        return call

    model.forward, model.decode = changed(model.forward), changed(model.decode)
    return asked


def search_results(searcher, search, seed, src, size, bos, eos, depth, spread, ends, calls):
    """What a searcher's model says with large random weights, and the results of search(rows of src, *call) then.

    searcher: has a Transformer `model`, whose targets have `size` tokens; search: its method. spread: of the logits. ends:
    what those of eos get besides. calls: (rows of src, maximum length, num_beams). What it says is (B, size ** depth,
    depth + 1, size): for each row of src, for all `depth` tokens after bos, the log-probabilities of what follows the
    first 0, 1, … and all of them.
    """
    model, tokens = searcher.double().eval().model, torch.arange(size)
    draw_weights(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        beginnings = torch.cartesian_prod(torch.tensor([bos]), *[tokens] * depth)
        said = torch.stack([model(row.expand(len(beginnings), -1), beginnings) for row in src])
        # Each token gets logits of the same mean and spread, so that all are chosen, eos as well.
        mean, scale = said.mean((0, 1, 2)), spread / said.std((0, 1, 2))
        shift = ends * (tokens == eos) - mean * scale
        change_logits(model, scale, shift)
    results = [a_tensor(search(src[rows], *call)) for rows, *call in calls]
    return (said * scale + shift).log_softmax(-1), results


def searched_with_padding(searcher, search, src, size, bos, eos, pad, length, never):
    """What search(src, length, num_beams) gives for 1 and 2 beams, with large random weights and hardly any eos.

    As three lists: of sources as they are, filled up with pad on the right, and with 4 more pads; of each row without its
    pads; and greedily where the padding is attended to, as they are and with 4 more pads.
    """
    model, tokens, start = searcher.double().eval().model, torch.arange(size), torch.tensor([bos])
    draw_weights(model)
    wide = torch.cat([src, torch.full((len(src), 4), pad)], dim=1)
    with torch.no_grad():
        beginnings = torch.cartesian_prod(start, tokens, tokens)
        said = torch.stack([model(row[row != pad].expand(len(beginnings), -1), beginnings) for row in src])
        mean, scale = said.mean((0, 1, 2)), 2 / said.std((0, 1, 2))
        change_logits(model, scale, never * (tokens == eos) - mean * scale)
        attended = [start.expand(len(src), 1) for _ in (src, wide)]
        for _ in range(length - 1):
            logits = [model.decode(ids, model.encode(x)) for ids, x in zip(attended, (src, wide), strict=True)]
            attended = [torch.cat([ids, x[:, -1:].argmax(-1)], 1) for ids, x in zip(attended, logits, strict=True)]
    padded = [a_tensor(search(ids, length, n)) for ids in (src, wide) for n in (1, 2)]
    alone = [[search(row[row != pad][None], length, n)[0].tolist() for row in src] for n in (1, 2)]
    return padded, [torch.tensor(rows) for rows in alone], attended


def search_within(searcher, search, src, size, eos, longest, lengths, words, never):
    """What search(src, length, num_beams) says to lengths out of bounds, and how wide its results are for others.

    longest: the model's max_len. Gives ("accepted", "named" or "not named" for each bad length, with 1 and 2 beams; does
    the model make logits, and is the searcher in train mode afterwards as before; the widths).
    """
    model, refused, shift = searcher.train().model, [], torch.zeros(size)
    shift[eos] = never
    made_logits = change_logits(model, torch.ones_like(shift), -shift)  # all rows end at once
    for length in [1, 0, -3, 10**9, longest + 1]:
        for beams in (1, 2):
            try:
                search(src, length, beams)
                refused.append("accepted")
            except ValueError as error:
                known = (*words, "length", "max_len", "long", "room", "limit", "position", str(length))
                refused.append("named" if any(word in str(error).lower() for word in known) else "not named")
    generated, training = len(made_logits) > 0, searcher.training
    change_logits(model, torch.ones_like(shift), 2 * shift)  # no row ends
    widths = [a_tensor(search(src, length)).shape[1] for length in lengths]

    def asked(*_):
        raise InterruptedError("the model is asked: the length was accepted")

    for module in model.modules():
        module.register_forward_pre_hook(asked)
    with contextlib.suppress(InterruptedError):
        search(src, longest)
    return refused, generated, training, widths


def conduct_of_search(searcher, search, src, size):
    """(was a module in train mode while searching, has each its mode back where all had the same, and where not,
    (src is the same, inside.manners) of each call, are there gradients or weights that no longer learn)."""
    model, kept, polite = searcher.double().train().model, [], []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ones = torch.ones(size, dtype=torch.float64)
    seen = change_logits(model, ones, 0 * ones)
    for mixed in (False, True):
        searcher.train(not mixed)
        if mixed:
            for module in [searcher, *list(model.modules())[1::2]]:
                module.training = True
        modes = {name: module.training for name, module in searcher.named_modules()}
        for beams in (1, 2):
            _, (after, *_), rude = manners(search, src, 5, beams)
            polite.append((torch.equal(after, src), rude))
            kept.append({name: module.training for name, module in searcher.named_modules()} == modes)
    with torch.no_grad():
        search(src, 5, 2)
        polite.append((True, "changes torch" if torch.is_grad_enabled() else ""))
    grads = any(weight.grad is not None or not weight.requires_grad for weight in model.parameters())
    return any(seen), all(kept[:2]), all(kept[2:]), polite, grads


# ---------------------------------------------------------------------------------------------- known weights of any model

SIGNS = (1, 1, 1, 1, 1, -1, 1, -1)
# Along the 2 or 3 times d_model rows of a joint projection, of k and v or of q, k and v, stand other numbers. Whether these
# lie one behind the other, head by head or number by number, and whether heads come before their numbers or after:
# q and k of a head, and v and what reads it (24 long, SIGNS), have the product 8, as SIGNS has with itself.
JOINT = {
    48: (
        -2, 1, 3, 2, 2, 0, 3, 1, 3, 3, 2, 1, 1, 2, 0, 0, 2, 3, 1, 2, -1, 0, 2, 1,
        2, 0, 2, 2, 3, 2, -1, -2, -1, 3, 1, 0, 3, 2, 3, -1, 1, 3, 1, 2, 3, 3, 1, 0,
    ),
    72: (
        3, 1, 3, 0, 3, 0, -1, -1, 2, 0, 2, 0, 0, 0, 2, 2, 2, 0, 3, 0, -1, -2, 0, -2,
        -1, -1, 2, 1, 2, 1, -1, 1, -1, -2, 1, 0, 0, 1, 1, 3, 1, -1, 2, 2, 2, 1, 1, -2,
        1, 0, 3, 2, 1, 0, 1, 0, 2, 2, 0, 2, 2, -2, 0, 2, 1, 0, 3, 2, -1, 1, 2, -2,
    ),
}  # fmt: skip
SIZE, SIZE_32, GAIN = 0.02, 0.03, 8.0
SMALLEST_MATRIX = 24 * 8  # numbers: a head's part of a projection, d_model wide and 8 long; biases have fewer


def with_known_weights(model, tables=()):
    """The model, float64 and in eval mode, with weights that are known, whatever they are called and however laid out.

    A matrix gets SIZE · s(i) · s(j) at [i, j], s running through SIGNS again and again: so it is its own transpose, and
    every head finds the same in its block of rows, be it 8 wide and d_model 24; with a dimension of 32, which is d_ff,
    it is SIZE_32. Along a joint projection JOINT stands for s. A weight in the shape of a table, or of its transpose, gets
    the table. Weights that start with ones, the gains of norms, become GAIN; biases become 0. These sizes make the
    scores spread, let the forms of GELU differ and keep each sub-layer about as large as what it is added to.
    """
    with torch.no_grad():
        for weight in weights_of(model):
            table = next((t for table in tables for t in (table, table.T) if t.shape == weight.squeeze().shape), None)
            if table is not None:
                weight.copy_(table.reshape(weight.shape))
            elif is_matrix(weight):
                weight.fill_(SIZE_32 if 32 in weight.shape else SIZE)
                for dim, length in enumerate(weight.shape):
                    row = JOINT.get(length) or [SIGNS[i % len(SIGNS)] for i in range(length)]
                    weight.mul_(torch.tensor(row).to(weight).view(-1, *[1] * (weight.dim() - 1 - dim)))
            else:
                weight.fill_(GAIN if (weight == 1).all() else 0.0)
    return model.double().eval()


def weights_of(model):
    """Its weights but those that are none: waves may be kept as a parameter that never learns."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def is_matrix(weight):
    return weight.dim() >= 2 and weight.numel() >= SMALLEST_MATRIX and not (weight == 1).all()
