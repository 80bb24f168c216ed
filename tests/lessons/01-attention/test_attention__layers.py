"""Hidden tests of attention: the layers with several heads."""

from functools import partial

import pytest
import torch

from attention_helpers import (
    COMMON_MISTAKES,
    SCALED,
    Layer,
    agrees,
    backward,
    facts_of_dropout,
    forward,
    project_and_attend,
    runs_with_dropout,
)
from shared import (
    MANNERS,
    on_right_parts,
    past,
    randn,
    random_mask,
)

# ---------------------------------------------------------------------------------------------- the formulas


def by_head(names, p, heads):
    """The projections that one joint Linear has if its rows go head by head: q, k, v of head 0, then of head 1, …"""
    joint = [
        torch.cat(kind).unflatten(0, (heads, len(names), -1)) for kind in zip(*(p[name] for name in names), strict=True)
    ]
    return p | {name: tuple(part[:, place].flatten(0, 1) for part in joint) for place, name in enumerate(names)}


def parts(joint, names):
    """The blocks of rows of a joint projection, by name."""
    blocks = zip(*(part.chunk(len(names)) for part in joint), strict=True)
    return dict(zip(names, blocks, strict=True))


def multi_head_formula(w, q, k, v, mask=None, /, heads=3, **steps):
    p = {name: w[f"w_{name}"] for name in "qkvo"}
    mask = mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask
    return project_and_attend(p, q, k, v, heads, mask, **steps)


def causal_formula(w, x, heads=3, **steps):
    p = {**parts(w["qkv"], "qkv"), "o": w["proj"]}
    return project_and_attend(p, x, x, x, heads, past(x.shape[1]), **steps)


def cross_formula(w, x, context, mask=None, /, heads=3, **steps):
    p = {"q": w["q"], **parts(w["kv"], "kv"), "o": w["proj"]}
    mask = None if mask is None else mask[:, None, None, :]
    return project_and_attend(p, x, context, context, heads, mask, **steps)


MULTI_HEAD = Layer(
    "MultiHeadAttention",
    {"n_head": 3, "d_model": 7, "d_k": 4, "d_v": 5},
    {"w_q": (7, 12, False), "w_k": (7, 12, False), "w_v": (7, 15, False), "w_o": (15, 7, False)},
    multi_head_formula,
)
CAUSAL = Layer(
    "CausalAttention",
    {"d_model": 12, "num_heads": 3},
    {"qkv": (12, 36, True), "proj": (12, 12, True)},
    causal_formula,
)
CROSS = Layer(
    "CrossAttention",
    {"d_model": 12, "num_heads": 3},
    {"q": (12, 12, True), "kv": (12, 24, True), "proj": (12, 12, True)},
    cross_formula,
)


def with_one_head(layer, **arguments):
    """The layer with one head, as which all weights of three heads can be read; arguments: of the constructor."""
    return layer._replace(arguments={**layer.arguments, **arguments}, formula=partial(layer.formula, heads=1))


def grouped(heads, kv_heads):
    kv = 12 // heads * kv_heads

    def formula(w, x, causal=True, alone=True, **steps):
        p, mask = {**w, "o": w["proj"]}, past(x.shape[1]) if causal else None
        result = project_and_attend(p, x, x, x, heads, mask, **steps)
        return result[0] if alone and isinstance(result, tuple) else result

    linears = {"q": (12, 12, False), "k": (12, kv, False), "v": (12, kv, False), "proj": (12, 12, False)}
    arguments = {"d_model": 12, "num_heads": heads, "num_kv_heads": kv_heads}
    return Layer("GroupedQueryAttention", arguments, linears, formula)


# ---------------------------------------------------------------------------------------------- what all classes share


def construction(student, layer, *bad_sizes, says=("d_model", "num_heads"), **inputs):
    """For `check(**…)`, each: arguments have the listed names, the Linear layers the listed sizes. Bad sizes are refused."""

    def probe(name, arguments, linears):
        return inside.linear_shapes(inside.attention_layer(name, {**arguments, "dropout": 0.0}), linears)

    def call_by_name(name, arguments, inputs):
        def use():
            return inside.listed(inside.attention_layer(name, arguments)(**inputs))[0].shape[-1]

        return inside.use_of(use, "attention", name, False)

    def use(name, sizes, inputs):
        inside.attention_layer(name, sizes)(*inputs)

    found = student.run(probe, layer.name, layer.arguments, list(layer.linears))

    for (name, (*in_out, bias)), size in zip(layer.linears.items(), found, strict=True):
        wrong = f"{name} is not a Linear of the sizes that the contract lists"
        yield {"value": size[:2], "expected": in_out, "otherwise": wrong}
        wrong = f"{name} should {'have a' if bias else 'not have a'} bias"
        yield {"value": size[2], "expected": bias, "mistakes": {wrong: not bias}}
    yield {
        "value": student.run(call_by_name, layer.name, layer.arguments, inputs),
        "expected": layer.arguments["d_model"],
    }
    for sizes in bad_sizes:
        x = torch.ones(1, 2, sizes[0])
        student.raises(ValueError, use, layer.name, sizes, [x, x] if layer is CROSS else [x], says=(*says, *sizes))


# ---------------------------------------------------------------------------------------------- multi-head

multi_head = pytest.mark.question("MultiHeadAttention")


NO_HEADS = {
    "with one head, the weights have no dimension of the heads": dict(
        finish=lambda x, output, weights: (output, weights.squeeze(1))
    )
}


def sequences(rng, batch, *lengths, width=12):
    return [randn(rng, batch, length, width) for length in lengths]


@multi_head
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads"), [(2, 4, 6, 3), (1, 5, 5, 3), (3, 1, 2, 3), (2, 4, 3, 1)]
)
def test_multi_head_attention_joins_the_heads(student, check, rng, batch, queries, keys, heads):
    """Every head attends with its own block of the projections, and w_o mixes the joined heads."""
    mistakes = {
        "the values are made from k": dict(sources="qkk"),
        "the keys are made from v": dict(sources="qvv"),
        "keys and values are made from q": dict(sources="qqq"),
        "the scores are divided by sqrt(d_v), not by sqrt(d_k)": dict(scale=lambda d, D: 5**0.5),
        **COMMON_MISTAKES,
    }
    layer = MULTI_HEAD
    if heads == 1:
        layer, mistakes = with_one_head(MULTI_HEAD, n_head=1, d_k=12, d_v=15), NO_HEADS | mistakes
    inputs = sequences(rng, batch, queries, keys, keys, width=7)
    check(**forward(student, rng, layer, *inputs, mistakes=mistakes))


@multi_head
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 6), torch.int64),
        ((3, 4, 6), torch.bool),
        ((1, 4, 6), torch.float64),
        ((3, 3, 4, 6), torch.bool),
        ((3, 1, 1, 6), torch.uint8),
    ],
    ids=str,
)
def test_multi_head_attention_hides_what_the_mask_hides(student, check, rng, shape, dtype):
    """A mask may be (Tq, Tk), (B or 1, Tq, Tk) with the batch first, or broadcast to (B, H, Tq, Tk)."""
    # As many sequences as heads: a mask whose first dimension is taken for the heads fits, and is wrong.
    inputs = [*sequences(rng, 3, 4, 6, 6, width=7), random_mask(rng, *shape).to(dtype)]
    mistakes = {
        **COMMON_MISTAKES,
        "a mask (B, Tq, Tk) is used as one mask per head; its first dimension should be the batch": dict(
            mask=lambda mask: inputs[-1]
        ),
        "a mask (B, H, Tq, Tk) has its heads taken for the batch": dict(mask=lambda mask: mask.transpose(0, 1)),
        "a mask (B, H, Tq, Tk) is not used head by head": dict(mask=lambda mask: mask[:, :1]),
    }
    check(**forward(student, rng, MULTI_HEAD, *inputs, mistakes=mistakes))


@multi_head
@pytest.mark.points(2)
def test_multi_head_attention_has_the_right_gradients_beside_a_query_that_sees_nothing(student, check, rng):
    """Gradients are right in float64; a query that may attend to nothing gets zeros, and no NaN flows back."""
    mask = random_mask(rng, 2, 4, 6)
    mask[0, 2] = False
    for case in backward(student, rng, MULTI_HEAD, *sequences(rng, 2, 4, 6, 6, width=7), mask):
        check(**case)


@multi_head
@pytest.mark.points(1)
def test_multi_head_attention_has_the_listed_weights(student, check):
    """w_q, w_k, w_v and w_o are Linear layers of the listed sizes, without bias."""
    x = torch.ones(1, 2, 7)
    for case in construction(student, MULTI_HEAD, q=x, k=x, v=x, mask=None):
        check(**case)


@multi_head
@pytest.mark.points(1)
def test_multi_head_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    runs = runs_with_dropout(student, rng, MULTI_HEAD, *sequences(rng, 2, 5, 6, 6, width=7))

    for fact in facts_of_dropout(runs):
        check.that(*fact)


# ---------------------------------------------------------------------------------------------- causal

causal = pytest.mark.question("CausalAttention")


@causal
@pytest.mark.points(3)
@pytest.mark.parametrize(("batch", "length", "heads"), [(2, 5, 3), (1, 7, 3), (3, 1, 3), (2, 4, 1)])
def test_causal_attention_attends_to_the_past(student, check, rng, batch, length, heads):
    """Every position attends to itself and to the past only, in every head."""
    mistakes = {
        "the future can be seen": dict(mask=lambda mask: None),
        "the mask is transposed, so that it hides the past": dict(mask=lambda mask: mask.mT),
        "a position cannot see itself": dict(mask=lambda mask: mask.tril(-1)),
        "a position can see the next one": dict(mask=lambda mask: torch.ones_like(mask).tril(1)),
        "the rows of qkv are taken head by head; all rows of q should come first, then all of k, then all of v": dict(
            rows=partial(by_head, "qkv")
        ),
        "the rows of qkv are taken in the order v, k, q": dict(blocks="vkq"),
        "the rows of qkv are taken in the order k, v, q": dict(blocks="vqk"),
        "the rows of qkv are taken in the order v, q, k": dict(blocks="kvq"),
        **COMMON_MISTAKES,
    }
    layer = CAUSAL
    if heads == 1:
        layer, mistakes = with_one_head(CAUSAL, num_heads=1), NO_HEADS | mistakes
    check(**forward(student, rng, layer, *sequences(rng, batch, length), mistakes=mistakes))


@causal
@pytest.mark.points(1)
def test_causal_attention_takes_every_length_anew(student, check, rng):
    """The same layer can be given a short sequence, then a longer one, then a shorter one; none is too long."""

    def probe(w, xs, right):
        def use():
            layer = inside.attention_layer("CausalAttention", (12, 3), w)
            return [[item[..., -2:, :] for item in layer(x)] for x in xs]

        return inside.use_of(use, "attention", "CausalAttention", right)

    w, xs = CAUSAL.weights(rng), [*sequences(rng, 1, 3, 6, 2, 1025)]
    expected = [[item[..., -2:, :] for item in CAUSAL.formula(w, x)] for x in xs]
    last_rows = on_right_parts(student, probe, w, xs, fine=lambda found: all(map(agrees, found, expected)))

    check(last_rows, expected, dtype=torch.float32, terms=1025)


@causal
@pytest.mark.points(2)
def test_causal_attention_has_the_right_gradients(student, check, rng):
    """Gradients reach x and the weights, in float64."""
    for case in backward(student, rng, CAUSAL, *sequences(rng, 2, 5)):
        check(**case)


@causal
@pytest.mark.points(1)
def test_causal_attention_has_the_listed_weights_and_refuses_a_width_that_the_heads_do_not_divide(student, check):
    """qkv and proj are Linear layers of the listed sizes; d_model that num_heads does not divide is a ValueError."""
    for case in construction(student, CAUSAL, (10, 4), (4, 8), x=torch.ones(1, 2, 12)):
        check(**case)


@causal
@pytest.mark.points(1)
def test_causal_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    runs = runs_with_dropout(student, rng, CAUSAL, *sequences(rng, 2, 6))

    for fact in facts_of_dropout(runs):
        check.that(*fact)


# ---------------------------------------------------------------------------------------------- cross

cross = pytest.mark.question("CrossAttention")


@cross
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads"), [(2, 4, 6, 3), (1, 7, 2, 3), (3, 1, 3, 3), (2, 5, 5, 3), (2, 3, 4, 1)]
)
def test_cross_attention_asks_the_context(student, check, rng, batch, queries, keys, heads):
    """Queries come from x, keys and values from the context, whose length may differ."""
    mistakes = {
        "keys and values come from x; they should come from the context": dict(sources="qqq"),
        "queries come from the context; they should come from x": dict(sources="kkk"),
        "queries come from the context, keys and values from x": dict(sources="kqq"),
        "the rows of kv are taken in the order v, k": dict(blocks="qvk"),
        "the rows of kv are taken head by head; all rows of k should come first, then all of v": dict(
            rows=partial(by_head, "kv")
        ),
        "a part of the context is hidden as if it were the future": dict(
            mask=lambda mask: torch.ones(queries, keys).tril()
        ),
        **COMMON_MISTAKES,
    }
    layer = CROSS
    if heads == 1:
        layer, mistakes = with_one_head(CROSS, num_heads=1), NO_HEADS | mistakes
    check(**forward(student, rng, layer, *sequences(rng, batch, queries, keys), mistakes=mistakes))


@cross
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("batch", "dtype"), [(3, torch.bool), (2, torch.int64), (2, torch.float32), (1, torch.uint8)], ids=str
)
def test_cross_attention_hides_the_padding_of_the_context(student, check, rng, batch, dtype):
    """context_mask (B, Tk) says which positions of each context every query and head may see."""
    mask = random_mask(rng, batch, 6)
    mask[0, 2:4], mask[-1, 2:4] = torch.tensor([True, False]), torch.tensor([False, True])  # no two sequences alike
    inputs = [*sequences(rng, batch, 4, 6), mask.to(dtype)]
    mistakes = {
        "context_mask is used as one mask per head; it should be one per sequence": dict(
            mask=lambda mask: mask.transpose(0, 1)
        ),
        **COMMON_MISTAKES,
    }
    check(**forward(student, rng, CROSS, *inputs, mistakes=mistakes))


@cross
@pytest.mark.points(2)
def test_cross_attention_has_the_right_gradients_beside_a_context_that_is_all_padding(student, check, rng):
    """Gradients are right in float64; a context of nothing but padding gives the bias of proj, and no NaN flows back."""
    mask = random_mask(rng, 2, 6)
    mask[1] = False
    for case in backward(student, rng, CROSS, *sequences(rng, 2, 4, 6), mask):
        check(**case)


@cross
@pytest.mark.points(1)
def test_cross_attention_has_the_listed_weights_and_refuses_a_width_that_the_heads_do_not_divide(student, check):
    """q, kv and proj are Linear layers of the listed sizes; d_model that num_heads does not divide is a ValueError."""
    x = torch.ones(1, 2, 12)
    for case in construction(student, CROSS, (10, 4), (4, 8), x=x, context=x, context_mask=None):
        check(**case)


@cross
@pytest.mark.points(1)
def test_cross_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    runs = runs_with_dropout(student, rng, CROSS, *sequences(rng, 2, 4, 6))

    for fact in facts_of_dropout(runs):
        check.that(*fact)


# ---------------------------------------------------------------------------------------------- grouped queries

grouped_query = pytest.mark.question("GroupedQueryAttention")


@grouped_query
@pytest.mark.points(3)
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 3), (6, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize(("batch", "length"), [(2, 5), (1, 1)])
def test_grouped_query_attention_shares_kv_heads_within_a_group(student, check, rng, heads, kv_heads, batch, length):
    """Query head h uses kv head h // (H / KV)."""
    tiled = [head % kv_heads for head in range(heads)]
    mistakes = {
        "query head h uses kv head h % KV; the heads of a group should be neighbours": dict(
            share=lambda x, heads: x[:, tiled]
        ),
        "the kv heads are used in reversed order": dict(share=lambda x, heads: x[:, sorted(tiled, reverse=True)]),
        "every query head uses the first kv head": dict(share=lambda x, heads: x[:, [0] * heads]),
        "the weights are returned too; only the output should be returned": dict(alone=False),
        "the scores are divided by the width of all kv heads": dict(scale=lambda d, D: (d * kv_heads) ** 0.5),
        **COMMON_MISTAKES,
    }
    check(**forward(student, rng, grouped(heads, kv_heads), *sequences(rng, batch, length), mistakes=mistakes))


@grouped_query
@pytest.mark.points(2)
def test_grouped_query_attention_is_causal_unless_told_otherwise(student, check, rng):
    """A position sees itself and the past by default and with causal=True, and everything with causal=False."""

    def probe(w, x, w_of_one_head, long, right):
        def use():
            layer = inside.attention_layer("GroupedQueryAttention", (12, 6, 3), w)
            results = [layer(x), layer(x, causal=True), layer(x, causal=False), layer(x, True)]
            return results, inside.attention_layer("GroupedQueryAttention", (12, 1, 1), w_of_one_head)(long)[:, -2:]

        return inside.use_of(use, "attention", "GroupedQueryAttention", right)

    layer, x = grouped(6, 3), randn(rng, 2, 5, 12)
    w, one_head, long = layer.weights(rng), grouped(1, 1), randn(rng, 1, 1025, 12)
    w_of_one_head = one_head.weights(rng)
    yes, no = layer.formula(w, x), layer.formula(w, x, causal=False)
    of_long = one_head.formula(w_of_one_head, long)[:, -2:]
    results, end_of_long = on_right_parts(
        student,
        probe,
        w,
        x,
        w_of_one_head,
        long,
        fine=lambda found: agrees(found[0], [yes, yes, no, yes]) and agrees(found[1], of_long),
    )
    strict = layer.formula(w, x, mask=lambda mask: mask.tril(-1))
    mistakes = {
        "causal is ignored, so that the future can always be seen": [no] * 4,
        "causal is ignored, so that the future can never be seen": [yes] * 4,
        "causal is turned around": [no, no, yes, no],
        "causal is False by default": [no, yes, no, yes],
        "a position cannot see itself": [strict, strict, no, strict],
    }
    check(results, [yes, yes, no, yes], dtype=torch.float32, mistakes=mistakes)
    check(end_of_long, of_long, dtype=torch.float32, terms=1025)


@grouped_query
@pytest.mark.points(2)
def test_grouped_query_attention_has_the_right_gradients(student, check, rng):
    """Gradients reach x and the weights, in float64: those of a kv head are summed over its group."""
    for case in backward(student, rng, grouped(6, 2), *sequences(rng, 2, 5)):
        check(**case)


@grouped_query
@pytest.mark.points(1)
def test_grouped_query_attention_has_the_listed_weights_and_refuses_sizes_that_do_not_divide(student, check):
    """q, k, v and proj are Linear layers of the listed sizes; sizes that do not divide are a ValueError."""
    bad, names = [(10, 4, 2), (12, 4, 3), (12, 2, 4)], ("d_model", "num_heads", "num_kv_heads")
    for case in construction(student, grouped(6, 2), *bad, says=names, x=torch.ones(1, 2, 12), causal=True):
        check(**case)


@grouped_query
@pytest.mark.points(1)
def test_grouped_query_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and not at all by default."""
    runs = runs_with_dropout(student, rng, grouped(6, 2), *sequences(rng, 2, 6), by_default=False)

    for fact in facts_of_dropout(runs, by_default=False):
        check.that(*fact)


# ---------------------------------------------------------------------------------------------- all layers

everything = pytest.mark.question("All layers")
ALL_LAYERS = [SCALED, MULTI_HEAD, CAUSAL, CROSS, grouped(6, 2)]


def inputs_of(layer, rng):
    """Inputs of the layer's forward, with a float mask where it takes one."""
    q, k, v = sequences(rng, 2, 4, 6, 6, width=layer.linears.get("w_q", [12])[0])
    if layer.name in ("ScaledDotProductAttention", "MultiHeadAttention"):
        return [q, k, v, random_mask(rng, 2, 4, 6).float()]
    return [q, k, random_mask(rng, 2, 6).float()] if layer is CROSS else [q]


@everything
@pytest.mark.points(2)
@pytest.mark.parametrize("layer", ALL_LAYERS, ids=lambda layer: layer.name)
def test_layers_leave_everything_else_alone(student, check, rng, layer):
    """A layer takes inputs of any memory layout, changes neither them nor torch's settings, prints and keeps nothing."""

    def probe(name, sizes, w, before, inputs, after, contiguous, right):
        def use(*inputs):
            layer, fresh, plain = (inside.attention_layer(name, sizes, w) for _ in range(3))
            layer(*before)
            results = layer(*inputs), layer(*after), fresh(*after), plain(*contiguous)
            return [inside.listed(result) for result in results]

        return inside.use_of(lambda: inside.manners(use, *inputs), "attention", name, right)

    w, inputs = layer.weights(rng), inputs_of(layer, rng)
    tensors = [item for item in inputs if item.shape[-1] == inputs[0].shape[-1]]  # all but the mask
    before, after = [item[:, :2] for item in tensors], [item.flip(1) for item in tensors]
    results, inputs_after, rude = student.run(probe, layer.name, layer.sizes, w, before, inputs, after, inputs, False)

    check(inputs_after, inputs, otherwise="an argument is changed in place")
    # Its own results are what they are compared with: whether these are right is for other tests to say.
    of_strided, of_later, fresh, plain = results
    check.that(not torch.equal(of_strided[0], of_later[0]), "the output is the same whatever the inputs are")
    check(of_strided, plain, otherwise="inputs with a different layout in memory give a different result")
    check(of_later, fresh, otherwise="a call uses what the layer kept of an earlier one")
    check(rude, "", mistakes=MANNERS)


@everything
@pytest.mark.points(1)
def test_layers_and_causal_mask_stay_on_one_device(student, check, rng):
    """causal_mask and all layers work on the device of their inputs (here torch's meta device)."""

    def probe(layers):
        from attention import causal_mask

        found = {"causal_mask": inside.on_meta(lambda: causal_mask(length=3, device="meta"))}
        of_cpu = causal_mask(length=3, device="cpu")
        for name, sizes, inputs in layers:

            def use(name=name, sizes=sizes, inputs=inputs):
                return inside.on_meta(inside.attention_layer(name, sizes).to("meta"), *inputs)

            found[name] = inside.use_of(use, "attention", name, False)
        return found, of_cpu

    layers = [(layer.name, layer.sizes, inputs_of(layer, rng)) for layer in ALL_LAYERS]
    found, of_cpu = student.on(timeout=30).run(
        probe, layers
    )  # its first operation on meta makes torch import 800 modules

    for name, problem in found.items():
        mistakes = {
            f"{name} makes a tensor that is not on the device of its input": "mixes devices",
            f"{name} returns a tensor that is not on the device asked for": "leaves the device",
        }
        check(problem, "", mistakes=mistakes)
    check(of_cpu, past(3))
    check(sorted(found), sorted(["causal_mask", *(layer.name for layer in ALL_LAYERS)]))


@everything
@pytest.mark.points(1)
@pytest.mark.gpu
@pytest.mark.parametrize("layer", ALL_LAYERS, ids=lambda layer: layer.name)
def test_layers_and_masks_work_on_a_gpu_in_bfloat16(student, check, rng, layer):
    """Masks and layers work on a GPU, in bfloat16."""

    def probe(name, sizes, w, inputs, lengths):
        from attention import causal_mask, padding_mask

        masks = [causal_mask(2, device=lengths.device), padding_mask(lengths)]
        return inside.attention_layer(name, sizes, w)(*inputs), masks

    w, inputs = layer.weights(rng, torch.bfloat16), [item.bfloat16() for item in inputs_of(layer, rng)]
    result, masks = student.run(probe, layer.name, layer.sizes, w, inputs, torch.tensor([2, 1]))

    check(masks, [past(2), torch.tensor([[[[True, True]]], [[[True, False]]]])])
    check(result, layer.formula(w, *inputs), dtype=torch.bfloat16, terms=2)
