"""Hidden tests of model_parallel: the stages, and that ModelParallelTransformer is a GPT whatever its stages are.

Where the stages are, and what moves between them, is in test_model_parallel__devices.py.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import shared
from shared import MANNERS, dropout_facts, nearly, randn, tokens

PARTITION = pytest.mark.question("partition_layers")
MODEL = pytest.mark.question("ModelParallelTransformer")

D, H, V, LAYERS = 24, 3, 13, 6  # inside.with_known_weights needs heads that are 8 wide
SIZES = (V, D, LAYERS, H)


# ---------------------------------------------------------------------------------------------- partition_layers

GRID = [(layers, stages) for layers in range(13) for stages in range(1, 8)]
GRID += [(49, 49), (98, 49), (103, 103), (1000, 3), (1000, 7)]  # where 1 / stages is not exact


def stages_of(pairs):
    """A probe: for each (layers, stages) the stages as lists, and whether all of them are ranges of step 1 in a list."""
    from model_parallel import partition_layers

    found = [partition_layers(*pair) for pair in pairs]
    kinds = [isinstance(stages, list) and all(isinstance(each, range) for each in stages) for stages in found]
    steps = [all(each.step == 1 for each in stages if isinstance(each, range)) for stages in found]
    return [[list(each) for each in stages] for stages in found], all(kinds), all(steps)


def rounded_up(layers, stages):
    """Stages of ⌈layers / stages⌉, as long as there are some."""
    size = max(1, math.ceil(layers / stages))
    return [min(size, max(0, layers - size * k)) for k in range(stages)]


SIZES_OF_STAGES = {  # sentence -> the sizes
    "what is left over is all in one stage; sizes should differ by one at most": lambda n, s: [
        *[n // s] * (s - 1),
        n - n // s * (s - 1),
    ],
    "all stages but the last ones have the size that is rounded up; sizes should differ by one at most": rounded_up,
    "the layers that are left over are in no stage": lambda n, s: [n // s] * s,
}  # fmt: skip


@PARTITION
@pytest.mark.points(2)
def test_stages_are_as_equal_as_possible(student, check):
    """The sizes differ by at most one, whichever of them are the larger ones."""
    pairs = [(layers, stages) for layers, stages in GRID if layers >= stages]
    found, _, _ = student.run(stages_of, pairs)

    sizes = [sorted(map(len, stages)) for stages in found]
    right = [[(n + k) // s for k in range(s)] for n, s in pairs]
    check(sizes, right, mistakes={
        text: [sorted(wrong(n, s)) for n, s in pairs] for text, wrong in SIZES_OF_STAGES.items()
    })  # fmt: skip


@PARTITION
@pytest.mark.points(2)
def test_stages_are_of_neighbours_in_order(student, check):
    """One stage after the other has the layers 0, 1, …, num_layers - 1; they are ranges with step 1."""
    pairs = [(layers, stages) for layers, stages in GRID if layers % stages == 0 and layers]
    found, kinds, steps = student.run(stages_of, pairs)

    joined = [sum(stages, []) for stages in found]
    check(joined, [list(range(layers)) for layers, _ in pairs], mistakes={
        "layers are dealt out in turn; a stage should have neighbours": [
            [layer for first in range(stages) for layer in range(first, layers, stages)] for layers, stages in pairs
        ],
        "layers are counted from 1; it should be from 0": [list(range(1, layers + 1)) for layers, _ in pairs],
        "the last layer of each stage is missing": [
            [layer for layer in range(layers) if (layer + 1) % (layers // stages)] for layers, stages in pairs
        ],
        "the stages are in reverse order": [
            [layer for k in reversed(range(stages)) for layer in range(k * layers // stages, (k + 1) * layers // stages)]
            for layers, stages in pairs
        ],
    })  # fmt: skip
    check.that(kinds, "the stages are not ranges in a list")
    check.that(steps, "a range has the wrong step; it should be 1")


@PARTITION
@pytest.mark.points(1)
def test_there_may_be_more_stages_than_layers(student, check):
    """There are num_stages stages, of which some are then empty; with no layer all are."""
    pairs = [(layers, stages) for layers, stages in GRID if layers < stages]
    found, _, _ = student.run(stages_of, pairs)

    check([len(stages) for stages in found], [stages for _, stages in pairs], mistakes={
        "empty stages are left out; there should be num_stages": [max(layers, 0) for layers, _ in pairs],
        "empty stages are left out but for one": [max(layers, 1) for layers, _ in pairs],
        "there is one more stage": [stages + 1 for _, stages in pairs],
    })  # fmt: skip
    check([sum(stages, []) for stages in found], [list(range(layers)) for layers, _ in pairs], what="all stages joined")


@PARTITION
@pytest.mark.points(1)
@pytest.mark.parametrize(("layers", "stages"), [(4, 0), (4, -1), (0, 0)])
def test_no_stage_is_refused(student, layers, stages):
    """num_stages below 1 is a ValueError."""
    student.accepts("model_parallel.partition_layers", layers, 1)
    student.raises(ValueError, "model_parallel.partition_layers", layers, stages, says=("num_stages", stages))


# ---------------------------------------------------------------------------------------------- a GPT

GAIN = torch.full((D,), 8.0, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)


def known_matrix(rows, columns):
    """A weight as inside.with_known_weights leaves it."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(12)
    return 0.02 * signs[:rows, None] * signs[:columns], None


def normed(x):
    return F.layer_norm(x, x.shape[-1:], *GAIN)


@dataclass(frozen=True)
class GPT:
    """The steps of a GPT with known weights. All are right, and a mistake replaces one."""

    size: float = 1.0  # by which the token embedding is multiplied
    position: object = lambda table, length: table[:length]
    heads: int = H
    scale: object = math.sqrt  # of a head's width
    visible: object = shared.past
    act: object = partial(F.gelu, approximate="tanh")
    width: int = 4 * D
    joined: object = lambda x, attend, feed: (lambda h: h + feed(normed(h)))(x + attend(normed(x)))
    layers: int = LAYERS
    last: object = normed

    def __call__(self, tables, ids):
        token, position = tables
        x = token[ids] * self.size + self.position(position, ids.shape[1])
        for _ in range(self.layers):
            x = self.joined(x, self.attend, self.feed)
        return self.last(x) @ token.T

    def attend(self, x):
        y = shared.split_heads(shared.linear(x, *known_matrix(D, D)), self.heads)
        z, _ = shared.attend(y, y, y, self.visible(x.shape[1]), scale=self.scale(y.shape[-1]))
        return shared.linear(shared.join_heads(z), *known_matrix(D, D))

    def feed(self, x):
        return shared.linear(self.act(shared.linear(x, *known_matrix(self.width, D))), *known_matrix(D, self.width))


def post_norm(x, attend, feed):
    x = normed(x + attend(x))
    return normed(x + feed(x))


GPTS = {  # sentence -> what is made
    "the norms stand behind the sub-layers; they should stand before them": GPT(joined=post_norm),
    "the norms stand behind the sub-layers, and there is none at the end": GPT(joined=post_norm, last=lambda x: x),
    "there is no norm before the output layer": GPT(last=lambda x: x),
    "the layers have no norms": GPT(joined=lambda x, a, f: (lambda h: h + f(h))(x + a(x))),
    "the input of the attention or of the feed-forward is not added to its output": GPT(joined=lambda x, a, f: (lambda h: h + f(normed(h)))(a(normed(x)))),
    "the norm's output is added; it should be its input": GPT(
        joined=lambda x, a, f: (lambda h: normed(h) + f(normed(h)))(normed(x) + a(normed(x)))
    ),
    "the feed-forward reads the attention's input; it should read its output": GPT(
        joined=lambda x, a, f: x + a(normed(x)) + f(normed(x))
    ),
    "the feed-forward comes before the attention": GPT(joined=lambda x, a, f: (lambda h: h + a(normed(h)))(x + f(normed(x)))),
    "the layers have no feed-forward": GPT(joined=lambda x, a, f: x + a(normed(x))),
    "the layers have no attention": GPT(joined=lambda x, a, f: x + f(normed(x))),
    "the feed-forward has a ReLU; it should have a GELU": GPT(act=torch.relu),
    "the feed-forward is linear: there is no GELU": GPT(act=lambda x: x),
    "there are no positions": GPT(position=lambda table, length: 0.0),
    "positions count from 1; they should count from 0": GPT(position=lambda table, length: table[1 : length + 1]),
    "the token embedding is multiplied by the root of d_model, which GPT does not do": GPT(size=math.sqrt(D)),
    "the scores are not divided by the root of a head's width": GPT(scale=lambda width: 1.0),
    "the scores are divided by the root of d_model; it should be that of a head's width": GPT(scale=lambda w: math.sqrt(D)),
    "there is one head; there should be num_heads": GPT(heads=1),
    "attention is not causal": GPT(visible=lambda length: torch.ones(length, length, dtype=torch.bool)),
    "no token sees itself": GPT(visible=lambda length: shared.past(length).tril(-1)),
    "each token sees the next one": GPT(visible=lambda length: torch.ones(length, length, dtype=torch.bool).tril(1)),
    "one layer is left out": GPT(layers=LAYERS - 1),
    "the last layer of each stage is left out": GPT(layers=LAYERS - 2),
    "only the layers of one stage are used": GPT(layers=LAYERS // 2),
    "the layers are used once more for each stage": GPT(layers=2 * LAYERS),
}  # fmt: skip


def logits_on_stages(sizes, stages, tables, ids):
    """A probe: the logits of a model with known weights, on so many stages."""
    from model_parallel import ModelParallelTransformer

    model = ModelParallelTransformer(*sizes, devices=["cpu"] * stages)
    return inside.a_tensor(inside.with_known_weights(model, tables)(ids)).detach()


@MODEL
@pytest.mark.points(4)
def test_the_logits_are_those_of_a_gpt(student, check, rng):
    """Embeddings, pre-norm layers with causal attention and a GELU, a last norm and the output, on two stages."""
    tables, ids = (
        [randn(rng, V, D, dtype=torch.float64), randn(rng, 1024, D, dtype=torch.float64)],
        tokens(rng, V, 2, 7),
    )
    logits = student.run(logits_on_stages, SIZES, 2, tables, ids)

    right = GPT()(tables, ids)
    exact = replace(GPT(), act=F.gelu)(tables, ids)  # lesson 2 has the tanh form, which is not what this is about
    expected = exact if shared.is_right(logits, exact) else right
    check(logits, expected, relative=1e-4, mistakes=shared.on_inputs(GPTS, tables, ids))


@MODEL
@pytest.mark.points(2)
def test_each_token_sees_all_before_it_and_none_after(student, check, rng):
    """The logits at a place change with each token before it, and with none that follows; a text alone gives them again."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(*sizes, num_gpus=2).double().eval()
        inside.draw_weights(model)
        model(ids[:, :2])  # a short one first: what is kept of it must not bother a longer one
        one = model(ids[:, :1])
        plain, changes = inside.a_tensor(model(ids)), []
        for place in range(ids.shape[1]):
            other = ids.clone()
            other[:, place] = (other[:, place] + 1) % sizes[0]
            changes.append((model(other) - plain).abs().amax((0, 2)).tolist())
        alone = torch.cat([model(row[None]) for row in ids])
        return changes, plain.detach(), alone.detach(), torch.cat([one, plain[:, 1:]], 1).detach()

    changes, plain, alone, first = student.run(probe, SIZES, tokens(rng, V, 3, 6))

    after = [change for place, row in enumerate(changes) for change in row[:place]]
    before = [change for place, row in enumerate(changes) for change in row[place:]]
    check.that(max(after) < 1e-9, "a token sees what follows it")
    check.that(min(before) > 1e-9, "a token does not see itself or one before it")
    check(alone, plain, terms=4096, otherwise="a row has different logits in a batch and alone")
    check(
        first,
        plain,
        terms=4096,
        otherwise="a text of one token has different logits from those of the same token at the start",
    )


@MODEL
@pytest.mark.points(3)
def test_weights_are_those_of_a_gpt(student, check):
    """4·D² numbers for attention and 8·D² for the feed-forward in each layer, 1024 positions, an output weight of its own."""

    def probe(calls):
        from model_parallel import ModelParallelTransformer

        found = []
        for sizes in calls:
            model = ModelParallelTransformer(*sizes, devices=["cpu", "cpu"])
            weights = list(model.parameters())
            large = [weight for weight in weights if weight.dim() > 1]  # whether the output has a bias is open
            tables = [list(weight.shape) for weight in large if {sizes[0], 1024} & set(weight.shape)]
            matrices = [weight.numel() for weight in weights if weight.dim() > 1]
            found.append((sorted(map(sorted, tables)), sum(matrices), all(weight.requires_grad for weight in weights)))
        return found, inside.tells_apart(model.eval(), torch.arange(4)[:, None])

    small, one_more = (V, D, 2, H), (V, D, 3, H)
    ((tables, before, learn), (_, after, _)), used = student.run(probe, [small, one_more])

    check(sorted(tables), sorted([[V, D], [V, D], [D, 1024]]), mistakes={
        "the output layer shares the token embedding's weight; it should have its own": sorted([[V, D], [D, 1024]]),
        "there is no table of 1024 positions": sorted([[V, D], [V, D]]),
    }, what="the tables of tokens, positions and output")  # fmt: skip
    check(after - before, 12 * D * D, mistakes={
        "the feed-forward is d_model wide; it should be 4 · d_model": 6 * D * D,
        "the feed-forward is 2 · d_model wide; it should be 4 · d_model": 8 * D * D,
        "layers share their weights, or are not registered as modules": 0,
        "each layer is there twice": 24 * D * D,
    }, what="the numbers in the matrices of a layer")  # fmt: skip
    check.that(learn, "there are weights that do not learn")
    check.that(used, "the logits are the same for all tokens")


@MODEL
@pytest.mark.points(3)
def test_gradients_reach_every_stage(student, check, rng):
    """Every matrix gets a gradient, through all borders, and they are right."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(*sizes, devices=["cpu"] * 4).double().eval()
        inside.draw_weights(model)
        weights = [weight for weight in model.parameters() if weight.dim() > 1]

        def total():
            return inside.total(model(ids))

        output = total()
        if not output.requires_grad:
            return [False] * len(weights), [], [], True
        unused = [grad is None for grad in torch.autograd.grad(output, list(model.parameters()), allow_unused=True)]
        output = total()
        grads = torch.autograd.grad(output, weights, allow_unused=True, materialize_grads=True)
        along = [(grad * torch.arange(grad.numel()).cos().view_as(grad)).sum().item() for grad in grads]
        return [bool(grad.any()) for grad in grads], along, inside.slopes_of(total, weights), any(unused)

    reached, grads, slopes, unused = student.run(probe, SIZES, tokens(rng, V, 2, 5))

    check.that(any(reached), "no gradient comes back to the weights")
    check.that(all(reached), "no gradient comes back to the weights of some stages")
    check.that(not unused, "a weight, of a norm perhaps, has no part in the logits")
    scale = max(map(abs, slopes)) if slopes else 1.0
    check.that(nearly([torch.tensor(grads) / scale], [torch.tensor(slopes) / scale], 1e-4), "gradients are wrong")


@MODEL
@pytest.mark.points(2)
def test_eval_mode_drops_nothing(student, check, rng):
    """In eval mode two calls give the same. Whether there is dropout is open; if there is, torch's seed says what goes."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(*sizes, devices=["cpu", "cpu"])
        inside.draw_weights(model)
        return [[run.detach() for run in runs] for runs in inside.dropout_runs(model, ids)]

    runs = student.run(probe, SIZES, tokens(rng, V, 4, 9))
    quiet, repeated, _ = dropout_facts(runs)
    for fact in (quiet, repeated, (bool(runs[-1][0].any()), "all logits are zero")):
        check.that(*fact)


@MODEL
@pytest.mark.points(2)
def test_a_text_may_have_1024_tokens(student, check, rng):
    """max_len is 1024: a text of 1024 tokens has its logits, the last one as well, and 1025 are a ValueError."""

    def probe(ids):
        from model_parallel import ModelParallelTransformer

        model = ModelParallelTransformer(5, 4, 1, 1, devices=["cpu", "cpu"]).eval()
        inside.draw_weights(model)
        logits = inside.a_tensor(model(ids[:, :1024]))
        inside.a_tensor(model(ids.T))  # as many texts of one token
        return list(logits.shape), model.max_len, (logits[0, -1] - logits[0, -2]).abs().max().item()

    def too_long(ids):
        from model_parallel import ModelParallelTransformer

        return ModelParallelTransformer(5, 4, 1, 1, devices=["cpu", "cpu"]).eval()(ids)

    ids = torch.full((1, 1025), 3)
    shape, max_len, difference = student.run(probe, ids)

    check(shape, [1, 1024, 5])
    check(max_len, 1024)
    check.that(difference > 1e-9, "the last two positions are the same")
    student.raises(ValueError, too_long, ids, says=("input_ids", "max_len", "length", 1024, 1025))


@MODEL
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("d_model", {"num_heads": 5}),
        ("num_gpus", {"num_gpus": 0}),
        ("num_gpus", {"num_gpus": -1}),
        ("devices", {"devices": []}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(student, name, options):
    """D not divisible by H, num_gpus below 1 and no devices are a ValueError."""

    def probe(options):
        from model_parallel import ModelParallelTransformer

        ModelParallelTransformer(**options)

    sizes = {"vocab_size": V, "d_model": 16, "num_layers": 2, "num_heads": 2}
    student.accepts(probe, sizes | {"d_model": {"num_heads": 4}, "num_gpus": {"num_gpus": 1}, "devices": {"devices": ["cpu"]}}[name])  # fmt: skip
    words = {"d_model": ("d_model", "num_heads", 5), "num_gpus": ("num_gpus",), "devices": ("devices",)}[name]
    student.raises(ValueError, probe, sizes | options, says=words)


@MODEL
@pytest.mark.points(1)
def test_nothing_else_happens(student, check, rng):
    """input_ids stay as they are, torch's seed too; ids of 32 bits do, and so do float64 weights."""

    def probe(sizes, ids):
        from model_parallel import ModelParallelTransformer

        torch.manual_seed(5)
        first, second = (ModelParallelTransformer(*sizes, devices=["cpu", "cpu"]).eval() for _ in range(2))
        seeded = torch.equal(first(ids), second(ids))
        logits, (after, *_), rude = inside.manners(first, ids)
        short, double = first(ids.int()), first.double()(ids)
        return seeded, torch.equal(after, ids), rude, logits.detach(), short.detach(), double.dtype

    seeded, same, rude, logits, short, dtype = student.run(probe, SIZES, tokens(rng, V, 3, 4))

    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check.that(same, "input_ids are changed")
    check(rude, "", mistakes=MANNERS)
    check(short, logits, terms=4096, otherwise="the logits depend on whether ids have 32 or 64 bits")
    check(dtype, torch.float64)
