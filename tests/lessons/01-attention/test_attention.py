"""Hidden tests of attention.py.

Every expected value is a formula in float64: `attend` is one attention, `project_and_attend` one with projections and
heads. Their keyword arguments turn them into the mistakes that are known, so that a test can name the one that was made.
"""

import math
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F


def randn(rng, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=rng, dtype=dtype)


def random_mask(rng, *shape):
    """A boolean mask in which every query sees the first key and does not see the second."""
    mask = torch.rand(shape, generator=rng) < 0.5
    mask[..., 0], mask[..., 1] = True, False
    return mask


def past(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


# ---------------------------------------------------------------------------------------------- the formulas


def attend(
    q, k, v, scale, mask=None, *,
    over=-1, mask_to=lambda mask: mask, hidden_score=-math.inf, late_mask=False, empty=0.0, detach=False,
):  # fmt: skip
    """softmax(q kᵀ / scale) v and the weights; each weight of a query that may attend to nothing is `empty`."""
    scores = q.double() @ k.double().mT / scale
    mask = None if mask is None else mask_to(mask)
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
    nothing = hidden.all(dim=-1, keepdim=True)
    if late_mask:
        weights = scores.softmax(over).masked_fill(hidden, 0)
    else:
        weights = scores.masked_fill(hidden & ~nothing, hidden_score).softmax(over).masked_fill(nothing, empty)
    weights = weights.detach() if detach else weights
    return weights @ v.double(), weights


def split_heads(x, heads):
    """(B, T, H·d) -> (B, H, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x):
    """(B, H, T, d) -> (B, T, H·d)."""
    return x.transpose(1, 2).flatten(2)


def split_by_view(x, heads):
    return x.reshape(x.shape[0], heads, x.shape[1], -1)


def split_by_column(x, heads):
    return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)


def join_by_view(x):
    return x.reshape(x.shape[0], x.shape[2], -1)


def join_by_column(x):
    return x.permute(0, 2, 3, 1).flatten(2)


def linear(x, weight, bias):
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def by_head(p, names, heads):
    """The projections that one joint Linear has if its rows go head by head: q, k, v of head 0, then of head 1, …"""
    joint = [
        torch.cat(kind).unflatten(0, (heads, len(names), -1)) for kind in zip(*(p[name] for name in names), strict=True)
    ]
    return p | {name: tuple(part[:, place].flatten(0, 1) for part in joint) for place, name in enumerate(names)}


def project_and_attend(
    p, xq, xk, xv, heads, mask=None, group=None, *,
    sources="qkv", blocks="qkv", rows_by_head="", split=split_heads, scale=lambda d, D: d**0.5,
    join=join_heads, project=True, finish=lambda x, *result: result, **wrong,
):  # fmt: skip
    """p has (weight, bias) of "q", "k", "v" and "o"; group is the kv head of each query head.

    Of the knobs, sources says from which inputs q, k and v are made, and blocks says with which projections.
    """
    inputs, p = {"q": xq, "k": xk, "v": xv}, by_head(p, rows_by_head, heads) if rows_by_head else p
    q, k, v = (linear(inputs[source], *p[block]) for source, block in zip(sources, blocks, strict=True))
    kv_heads = heads if group is None else k.shape[-1] * heads // q.shape[-1]
    q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
    if group is not None:
        k, v = k[:, group], v[:, group]
    output, weights = attend(q, k, v, scale(q.shape[-1], xq.shape[-1]), mask, **wrong)
    output = linear(join(output), *p["o"]) if project else join(output)
    return finish(xq.double(), output, weights)


COMMON_MISTAKES = {  # of all layers with heads: sentence -> knobs
    "the scores are not divided by the square root of a head's width": dict(scale=lambda d, D: 1.0),
    "the scores are divided by the square root of d_model, not of a head's width": dict(scale=lambda d, D: D**0.5),
    "the scores are divided by a head's width, not by its square root": dict(scale=lambda d, D: float(d)),
    "the scores are multiplied by the square root of a head's width, not divided": dict(scale=lambda d, D: d**-0.5),
    "the softmax runs over the queries, not over the keys": dict(over=-2),
    "the softmax runs over the heads, not over the keys": dict(over=1),
    "the heads are split by a view alone, which mixes positions: it takes a transpose too": dict(split=split_by_view),
    "a head takes every H-th column, not a block of columns": dict(split=split_by_column),
    "the heads are joined by a view alone: move the positions before the heads first": dict(join=join_by_view),
    "the heads are joined column by column, not one after the other": dict(join=join_by_column),
    "the projection that follows the heads is missing": dict(project=False),
    "keys and values are exchanged": dict(blocks="qvk"),
    "queries and keys are exchanged": dict(blocks="kqv"),
    "keys are projected as queries are": dict(blocks="qqv"),
    "values are projected as keys are": dict(blocks="qkk"),
    "the weights are averaged over the heads": dict(finish=lambda x, output, weights: (output, weights.mean(dim=1))),
    "the weights are returned before the output": dict(finish=lambda x, output, weights: (weights, output)),
    "the weights are not returned": dict(finish=lambda x, output, weights: output),
    "the input is added to the output": dict(finish=lambda x, output, weights: (output + x, weights)),
    "the mask is ignored": dict(mask_to=lambda mask: None),
    "the mask is turned around: true means may attend": dict(mask_to=lambda mask: mask == 0),
    'a mask of 0 and 1 hides everything: ~ is no "not" for numbers': dict(mask_to=torch.zeros_like),
    "the mask is applied after the softmax": dict(late_mask=True),
    "the scores that the mask hides are zero, where they should be minus infinity": dict(hidden_score=0.0),
    "a query that may attend to nothing gets NaN": dict(empty=math.nan),
}


class Layer(NamedTuple):
    """A class under test."""

    name: str
    arguments: dict  # of the constructor, but for the dropout
    linears: dict  # name -> (in, out, has a bias)
    formula: object  # (w, *inputs, **knobs) -> what forward returns

    @property
    def sizes(self):
        return tuple(self.arguments.values())

    def weights(self, rng, dtype=torch.float32):
        """Random weights, so large that every part of the formula shows."""
        w = {}
        for name, (width_in, width_out, bias) in self.linears.items():
            weight = randn(rng, width_out, width_in, dtype=dtype) * 1.5 / width_in**0.5
            w[name] = weight, randn(rng, width_out, dtype=dtype) if bias else None
        return w


def parts(joint, names):
    """The blocks of rows of a joint projection, by name."""
    blocks = zip(*(part.chunk(len(names)) for part in joint), strict=True)
    return dict(zip(names, blocks, strict=True))


def scaled_formula(w, q, k, v, mask=None, /, *, scale=1.7, finish=lambda x, *result: result, **knobs):
    return finish(q.double(), *attend(q, k, v, scale, mask, **knobs))


def multi_head_formula(w, q, k, v, mask=None, /, **knobs):
    p = {name: w[f"w_{name}"] for name in "qkvo"}
    knobs = {"mask": mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask, **knobs}
    return project_and_attend(p, q, k, v, 3, **knobs)


def causal_formula(w, x, heads=3, **knobs):
    p = {**parts(w["qkv"], "qkv"), "o": w["proj"]}
    knobs = {"mask": past(x.shape[1]), **knobs}
    return project_and_attend(p, x, x, x, heads, **knobs)


def cross_formula(w, x, context, mask=None, /, **knobs):
    p = {"q": w["q"], **parts(w["kv"], "kv"), "o": w["proj"]}
    knobs = {"mask": None if mask is None else mask[:, None, None, :], **knobs}
    return project_and_attend(p, x, context, context, 3, **knobs)


SCALED = Layer("ScaledDotProductAttention", {"temperature": 1.7}, {}, scaled_formula)
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


def grouped(heads, kv_heads):
    kv, group = 12 // heads * kv_heads, [head * kv_heads // heads for head in range(heads)]

    def formula(w, x, causal=True, with_weights=False, **knobs):
        p = {**w, "o": w["proj"]}
        knobs = {"mask": past(x.shape[1]) if causal else None, "group": group, **knobs}
        result = project_and_attend(p, x, x, x, heads, **knobs)
        return result if with_weights or isinstance(result, torch.Tensor) else result[0]

    linears = {"q": (12, 12, False), "k": (12, kv, False), "v": (12, kv, False), "proj": (12, 12, False)}
    arguments = {"d_model": 12, "num_heads": heads, "num_kv_heads": kv_heads}
    return Layer("GroupedQueryAttention", arguments, linears, formula)


# ---------------------------------------------------------------------------------------------- what all classes share


def check_layer(student, check, rng, layer, *inputs, mistakes=COMMON_MISTAKES):
    """What forward returns in eval mode, for random weights, is the formula's value."""

    def probe(name, sizes, w, inputs):
        return inside.attention_layer(name, sizes, w)(*inputs)

    w = layer.weights(rng)
    result = student.run(probe, layer.name, layer.sizes, w, inputs)

    def formula(knobs):
        return lambda: layer.formula(w, *inputs, **knobs)

    values = {sentence: formula(knobs) for sentence, knobs in mistakes.items()}
    check(result, layer.formula(w, *inputs), dtype=torch.float32, mistakes=values)


def check_gradients(student, check, rng, layer, *inputs):
    """The gradients at the inputs and the weights, in float64."""

    def probe(name, sizes, w, inputs):
        layer = inside.attention_layer(name, sizes, w)
        leaves = [item.requires_grad_() for item in inputs if item.is_floating_point()]
        outputs = inside.listed(layer(*inputs))
        return outputs, inside.gradients(outputs, [*leaves, *inside.parameters(layer, w)])

    w = layer.weights(rng, torch.float64)
    inputs = [item.double() if item.is_floating_point() else item for item in inputs]
    outputs, grads = student.run(probe, layer.name, layer.sizes, w, inputs)

    leaves = [item for item in inputs if item.is_floating_point()]
    leaves += [part for pair in w.values() for part in pair if part is not None]
    for leaf in leaves:
        leaf.requires_grad_()

    def formula(**knobs):
        result = layer.formula(w, *inputs, **knobs)
        return [result] if isinstance(result, torch.Tensor) else list(result)

    def gradients(**knobs):
        result = formula(**knobs)
        total = sum((torch.arange(item.numel()).double().cos().view_as(item) * item).sum() for item in result)
        return list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))

    def without_bias(x, output, weights):
        return output * (weights.sum((1, 3)) > 0).unsqueeze(-1), weights

    expected, expected_grads = formula(), gradients()
    mistakes = {
        "a query that may attend to nothing gets NaN": lambda: formula(empty=math.nan),
        "a query that may attend to nothing attends to every key alike": lambda: formula(empty=1 / inputs[1].shape[-2]),
        "a query that may attend to nothing loses the bias of proj": lambda: formula(finish=without_bias),
    }
    check(outputs, expected, mistakes=mistakes)
    mistakes = {
        "no gradient flows back: something detaches the output": [torch.zeros_like(leaf) for leaf in leaves],
        "no gradient flows through the attention weights": lambda: gradients(detach=True),
        "the gradients are NaN where a query may attend to nothing": lambda: only_if(has_nan(grads), grads),
        "an input or a weight gets no gradient: something detaches it": lambda: only_if(has_zeros(grads), grads),
    }
    check(grads, expected_grads, mistakes=mistakes)


def only_if(it_is_so, value):
    """The value as that of a mistake, if it shows the mistake."""
    if not it_is_so:
        raise ValueError("another mistake")
    return value


def has_zeros(tensors):
    return any(not tensor.any() for tensor in tensors)


def has_nan(tensors):
    return any(isinstance(tensor, torch.Tensor) and bool(tensor.isnan().any()) for tensor in tensors)


def check_dropout(student, check, rng, layer, *inputs, by_default=True):
    """Dropout differs between calls in train mode, a seed repeats it, it is off in eval mode; weights are those after it.

    With 126 weights or more and a rate of 0.1, two calls drop the same by chance in one grading of 10¹⁰.
    """

    def probe(name, sizes, w, inputs):
        runs = inside.dropout_runs(inside.attention_layer(name, sizes, w), *inputs)
        default, zero = (inside.attention_layer(name, sizes, w, dropout).train() for dropout in (None, 0.0))
        return [*runs, *(inside.listed(layer(*inputs)) for layer in (default, default, zero, zero))]

    runs = student.run(probe, layer.name, layer.sizes, layer.weights(rng), inputs)

    def same(one, other):
        return torch.allclose(runs[one][0], runs[other][0])

    mistakes = {
        "there is no dropout in train mode, or every call drops the same": [True, True, same(5, 7)],
        "dropout is off by default": [False, True, True],
        "dropout is on by default, where it should be off": [False, False, False],
    }
    check([same(0, 2), same(5, 6), same(5, 7)], [False, not by_default, not by_default], mistakes=mistakes)
    mistakes = {
        "dropout is not switched off in eval mode": [True, False, True, False],
        "the rate of the dropout is ignored: 0 should drop nothing": [True, True, False, False],
        "train mode does more than dropout: with a rate of 0 it is not like eval mode": [True, True, True, False],
        "the same seed does not give the same dropout: draw it from torch's generator": [False, True, True, True],
    }
    check([same(0, 1), same(3, 4), same(7, 8), same(4, 7)], [True, True, True, True], mistakes=mistakes)
    for weights, undropped in zip(runs[0][1:], runs[3][1:], strict=True):
        mistakes = {"in train mode the weights are returned as before the dropout": True}
        check(torch.allclose(weights, undropped), False, mistakes=mistakes)
    return runs[0]


def check_construction(student, check, layer, *bad_sizes, says=("d_model", "num_heads"), **inputs):
    """Arguments have the listed names, the Linear layers the listed sizes; sizes that do not fit are refused."""

    def probe(name, arguments, linears):
        return inside.linear_shapes(inside.attention_layer(name, {**arguments, "dropout": 0.0}), linears)

    def call_by_name(name, arguments, inputs):
        return inside.listed(inside.attention_layer(name, arguments)(**inputs))[0].shape[-1]

    def use(name, sizes, inputs):
        inside.attention_layer(name, sizes)(*inputs)

    found = student.run(probe, layer.name, layer.arguments, list(layer.linears))

    for name, size in zip(layer.linears, found, strict=True):
        in_out, bias = layer.linears[name][:2], layer.linears[name][2]
        check(size[:2], in_out, mistakes={f"{name} is not a Linear of the sizes that the contract lists": size[:2]})
        check(size[2], bias, mistakes={f"{name} should {'have a' if bias else 'not have a'} bias": not bias})
    check(student.run(call_by_name, layer.name, layer.arguments, inputs), layer.arguments["d_model"])
    for sizes in bad_sizes:
        x = torch.ones(1, 2, sizes[0])
        student.raises(ValueError, use, layer.name, sizes, [x, x] if layer is CROSS else [x], says=says)


# ---------------------------------------------------------------------------------------------- masks

masks = pytest.mark.question("Masks")


def like(value, expected):
    """`expected` in the dtype and shape of value: for mistakes that are of form only."""
    return expected.to(value.dtype).reshape(value.shape) if isinstance(value, torch.Tensor) else expected


@masks
@pytest.mark.points(1)
@pytest.mark.parametrize("length", [7, 2, 1])
def test_causal_mask_shows_a_position_itself_and_the_past_only(student, check, length):
    """The causal mask lets a position attend to itself and to the past only."""
    mask = student.call("attention.causal_mask", length)

    expected = past(length)
    mistakes = {
        "a position cannot see itself: the diagonal must stay": expected.tril(-1),
        "the mask is transposed: it shows the future": expected.T,
        "the mask is true where a position may not attend": ~expected,
        "a position can see the next one": torch.ones_like(expected).tril(1),
        "the mask holds 0 and -inf, where it should be boolean": torch.full((length, length), -math.inf).triu(1),
        "the mask is not boolean, or has not the shape (T, T)": lambda: like(mask, expected),
    }
    check(mask, expected, mistakes=mistakes)


@masks
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", ["list", torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("max_length", [None, 6, 9])
def test_padding_mask_shows_the_real_positions(student, check, kind, max_length):
    """The padding mask shows the real positions of each sequence, for heads and queries to share."""
    lengths = [4, 1, 6, 3]
    given = lengths if kind == "list" else torch.tensor(lengths, dtype=kind)
    mask = student.call("attention.padding_mask", given, *([] if max_length is None else [max_length]))

    places = torch.arange(max_length or 6)
    real, late, early = ((places < torch.tensor(lengths)[:, None] + shift)[:, None, None, :] for shift in (0, 1, -1))
    mistakes = {
        "a position too many can be seen: position number `length` is padding already": late,
        "the last real position is hidden": early,
        "the mask is true at the padding": ~real,
        "the mask is over queries, where it should be over keys: the positions come last": real.mT,
        "max_length is ignored": real[..., :6],
        "the mask is not boolean, or has not the shape (B, 1, 1, T)": lambda: like(mask, real),
    }
    check(mask, real, mistakes=mistakes)


@masks
@pytest.mark.points(1)
def test_padding_mask_refuses_a_length_over_the_maximum(student, check):
    """A length over max_length is a ValueError, and a length that equals it is none."""
    student.raises(ValueError, "attention.padding_mask", [3, 5, 2], 4, says=("max_length", "lengths"))
    student.raises(ValueError, "attention.padding_mask", torch.tensor([7]), 6, says=("max_length", "lengths"))
    # 0 is false, and yet a maximum.
    student.raises(ValueError, "attention.padding_mask", [2, 1], 0, says=("max_length", "lengths"))
    mask = student.call("attention.padding_mask", lengths=[1], max_length=1)

    check(mask, torch.ones(1, 1, 1, 1, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- scaled dot product

scaled = pytest.mark.question("ScaledDotProductAttention")


def qkv(rng, *leading, queries=4, keys=6):
    return randn(rng, *leading, queries, 5), randn(rng, *leading, keys, 5), randn(rng, *leading, keys, 3)


@scaled
@pytest.mark.points(3)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 1, 3), (1, 1)], ids=str)
def test_scaled_dot_product_is_a_weighted_mean_of_the_values(student, check, rng, leading):
    """The output is softmax(q kᵀ / temperature) v, with any number of leading dimensions."""
    mistakes = {
        "the scores are not divided by the temperature": dict(scale=1.0),
        "the scores are divided by sqrt(d_k), not by the temperature": dict(scale=5**0.5),
        "the scores are divided by sqrt(d_k) and by the temperature": dict(scale=5**0.5 * 1.7),
        "the scores are divided by the square root of the temperature": dict(scale=1.7**0.5),
        "the scores are multiplied by the temperature, not divided": dict(scale=1 / 1.7),
        "the softmax runs over the queries, not over the keys": dict(over=-2),
        "the softmax runs over a dimension counted from the front": dict(over=1),
        **COMMON_MISTAKES,
    }
    check_layer(student, check, rng, SCALED, *qkv(rng, *leading), mistakes=mistakes)


@scaled
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 6), torch.bool),
        ((6,), torch.int64),
        ((3, 4, 6), torch.float32),
        ((3, 1, 1, 6), torch.uint8),
        ((3, 3, 4, 6), torch.float64),
    ],
    ids=str,
)
def test_scaled_dot_product_hides_what_the_mask_hides(student, check, rng, shape, dtype):
    """A mask of any shape that broadcasts, and of any dtype that holds 0 and 1, hides keys."""
    mistakes = {
        **COMMON_MISTAKES,
        "a mask (H, Tq, Tk) is taken for one mask a sequence": dict(mask_to=lambda mask: mask.unsqueeze(1)),
    }
    check_layer(student, check, rng, SCALED, *qkv(rng, 3, 3), random_mask(rng, *shape).to(dtype), mistakes=mistakes)


@scaled
@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
def test_scaled_dot_product_gives_zeros_to_a_query_that_sees_nothing(student, check, rng, dtype):
    """A query that may attend to nothing gets zero weights and a zero output; the others get what is theirs."""
    mask = random_mask(rng, 2, 1, 4, 6)
    mask[0, :, 2], mask[1, :, 0] = False, False
    mistakes = {
        "a query that may attend to nothing gets NaN": dict(empty=math.nan),
        "a query that may attend to nothing attends to every key alike": dict(empty=1 / 6),
    }
    check_layer(student, check, rng, SCALED, *qkv(rng, 2, 3), mask.to(dtype), mistakes=mistakes)


@scaled
@pytest.mark.points(2)
@pytest.mark.parametrize("masked", [False, True])
def test_scaled_dot_product_has_the_right_gradients(student, check, rng, masked):
    """Gradients reach q, k and v, in float64, and are not NaN where a query may attend to nothing."""
    mask = random_mask(rng, 2, 1, 4, 6)
    mask[0, :, 1] = False
    check_gradients(student, check, rng, SCALED, *qkv(rng, 2, 3), *([mask] if masked else []))


@scaled
@pytest.mark.points(1)
def test_scaled_dot_product_is_stable_for_large_scores(student, check):
    """Large scores give the right weights: nothing overflows, and a hidden key stays hidden."""

    def probe(q, k, v, mask):
        attention = inside.attention_layer("ScaledDotProductAttention", {"temperature": 1.0, "attn_dropout": 0.0})
        return [*attention(q=q, k=k, v=v), *attention(q, k, v, mask=mask)]

    # The scores are ±10⁶ plus the second column of k: whole numbers, which float32 holds without rounding. The hidden
    # one is so much greater that beside it the others vanish.
    q = torch.tensor([[1000.0, 1.0], [-1000.0, 1.0]])
    k = torch.tensor([[1000.0, 2.0], [1000.0, 3.0], [1000.0, 400.0], [1000.0, 0.0]])
    v = torch.tensor([[1.0, 2.0, -1.0], [3.0, -1.0, 0.5], [-2.0, 5.0, 4.0], [0.0, 1.0, 2.0]])
    mask = torch.tensor([True, True, False, True])
    result = student.run(probe, q, k, v, mask)

    plain, low = attend(q, k, v, 1.0), attend(q, k, v, 1.0, mask, hidden_score=-1e4)
    zero = low[1].masked_fill(~mask, 0)
    lost = bool((result[3].sum(-1) < 0.9).any())
    beside = has_nan(result[2:]) and not has_nan(result[:2])
    mistakes = {
        "what may be seen vanishes beside a greater hidden score: hide it first": lambda: only_if(beside, result),
        "large scores overflow: subtract the greatest before the exponential": lambda: only_if(has_nan(result), result),
        "what takes the place of a hidden score is not low enough: real scores can be lower": [*plain, *low],
        "what hides a score is not low enough: real scores can be lower": [*plain, zero @ v.double(), zero],
        "the weights do not sum to 1: a hidden key takes its share": lambda: only_if(lost, result),
    }
    check(result, [*plain, *attend(q, k, v, 1.0, mask)], dtype=torch.float32, mistakes=mistakes)


@scaled
@pytest.mark.points(2)
def test_scaled_dot_product_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only; the weights that it leaves multiply v and are returned."""
    q, k, v = qkv(rng, 2, 3)
    output, weights = check_dropout(student, check, rng, SCALED, q, k, v)

    mistakes = {"in train mode the weights that are returned are not those that multiplied v": output}
    check(output, weights.double() @ v.double(), dtype=torch.float32, mistakes=mistakes)


@scaled
@pytest.mark.points(1)
@pytest.mark.parametrize("temperature", [0, 0.0, -1.5])
def test_scaled_dot_product_refuses_a_temperature_that_is_not_positive(student, temperature):
    """A temperature of zero or less is a ValueError."""

    def probe(temperature):
        inside.attention_layer("ScaledDotProductAttention", (temperature,))(*torch.ones(3, 1, 2))

    student.raises(ValueError, probe, temperature, says="temperature")


# ---------------------------------------------------------------------------------------------- multi-head

multi_head = pytest.mark.question("MultiHeadAttention")


def sequences(rng, batch, *lengths, width=12):
    return [randn(rng, batch, length, width) for length in lengths]


@multi_head
@pytest.mark.points(3)
@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 4, 6), (1, 5, 5), (3, 1, 2)])
def test_multi_head_attention_joins_the_heads(student, check, rng, batch, queries, keys):
    """Every head attends with its own block of the projections, and w_o mixes the joined heads."""
    mistakes = {
        "the values are made from k": dict(sources="qkk"),
        "the keys are made from v": dict(sources="qvv"),
        "keys and values are made from q": dict(sources="qqq"),
        "the scores are divided by sqrt(d_v), not by sqrt(d_k)": dict(scale=lambda d, D: 5**0.5),
        **COMMON_MISTAKES,
    }
    inputs = sequences(rng, batch, queries, keys, keys, width=7)
    check_layer(student, check, rng, MULTI_HEAD, *inputs, mistakes=mistakes)


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
        "a mask (B, Tq, Tk) is taken for one mask a head: its first dimension is the batch": dict(mask=inputs[-1]),
        "a mask (B, H, Tq, Tk) has its heads taken for the batch": dict(mask_to=lambda mask: mask.transpose(0, 1)),
        "a mask (B, H, Tq, Tk) is not used head by head": dict(mask_to=lambda mask: mask[:, :1]),
    }
    check_layer(student, check, rng, MULTI_HEAD, *inputs, mistakes=mistakes)


@multi_head
@pytest.mark.points(2)
def test_multi_head_attention_has_the_right_gradients_beside_a_query_that_sees_nothing(student, check, rng):
    """Gradients are right in float64; a query that may attend to nothing gets zeros, and no NaN flows back."""
    mask = random_mask(rng, 2, 4, 6)
    mask[0, 2] = False
    check_gradients(student, check, rng, MULTI_HEAD, *sequences(rng, 2, 4, 6, 6, width=7), mask)


@multi_head
@pytest.mark.points(1)
def test_multi_head_attention_has_the_listed_weights(student, check):
    """w_q, w_k, w_v and w_o are Linear layers of the listed sizes, without bias."""
    x = torch.ones(1, 2, 7)
    check_construction(student, check, MULTI_HEAD, q=x, k=x, v=x, mask=None)


@multi_head
@pytest.mark.points(1)
def test_multi_head_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    check_dropout(student, check, rng, MULTI_HEAD, *sequences(rng, 2, 5, 6, 6, width=7))


# ---------------------------------------------------------------------------------------------- causal

causal = pytest.mark.question("CausalAttention")


@causal
@pytest.mark.points(3)
@pytest.mark.parametrize(("batch", "length", "heads"), [(2, 5, 3), (1, 7, 3), (3, 1, 3), (2, 4, 1)])
def test_causal_attention_attends_to_the_past(student, check, rng, batch, length, heads):
    """Every position attends to itself and to the past only, in every head."""
    mistakes = {
        "the future can be seen": dict(mask=None),
        "the mask is transposed: it hides the past": dict(mask_to=lambda mask: mask.mT),
        "a position cannot see itself": dict(mask_to=lambda mask: mask.tril(-1)),
        "a position can see the next one": dict(mask_to=lambda mask: torch.ones_like(mask).tril(1)),
        "the rows of qkv are taken head by head: all of q come first, then all of k": dict(rows_by_head="qkv"),
        "the rows of qkv are taken in the order v, k, q": dict(blocks="vkq"),
        "the rows of qkv are taken in the order k, v, q": dict(blocks="vqk"),
        "the rows of qkv are taken in the order v, q, k": dict(blocks="kvq"),
        **COMMON_MISTAKES,
    }
    layer = CAUSAL
    if heads == 1:
        layer = CAUSAL._replace(arguments={"d_model": 12, "num_heads": 1}, formula=partial(causal_formula, heads=1))
        no_heads = "with one head, the weights have no dimension of the heads"
        mistakes = {no_heads: dict(finish=lambda x, output, weights: (output, weights.squeeze(1))), **mistakes}
    check_layer(student, check, rng, layer, *sequences(rng, batch, length), mistakes=mistakes)


@causal
@pytest.mark.points(1)
def test_causal_attention_takes_every_length_anew(student, check, rng):
    """The same layer can be given a short sequence, then a longer one, then a shorter one; none is too long."""

    def probe(w, xs):
        layer = inside.attention_layer("CausalAttention", (12, 3), w)
        return [[item[..., -2:, :] for item in layer(x)] for x in xs]

    w, xs = CAUSAL.weights(rng), [*sequences(rng, 1, 3, 6, 2, 1100)]
    last_rows = student.run(probe, w, xs)

    expected = [[item[..., -2:, :] for item in CAUSAL.formula(w, x)] for x in xs]
    check(last_rows, expected, dtype=torch.float32, terms=1100)


@causal
@pytest.mark.points(2)
def test_causal_attention_has_the_right_gradients(student, check, rng):
    """Gradients reach x and the weights, in float64."""
    check_gradients(student, check, rng, CAUSAL, *sequences(rng, 2, 5))


@causal
@pytest.mark.points(1)
def test_causal_attention_has_the_listed_weights_and_refuses_a_width_that_the_heads_do_not_divide(student, check):
    """qkv and proj are Linear layers of the listed sizes; d_model that num_heads does not divide is a ValueError."""
    check_construction(student, check, CAUSAL, (10, 4), (4, 8), x=torch.ones(1, 2, 12))


@causal
@pytest.mark.points(1)
def test_causal_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    check_dropout(student, check, rng, CAUSAL, *sequences(rng, 2, 6))


# ---------------------------------------------------------------------------------------------- cross

cross = pytest.mark.question("CrossAttention")


@cross
@pytest.mark.points(3)
@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 4, 6), (1, 7, 2), (3, 1, 3), (2, 5, 5)])
def test_cross_attention_asks_the_context(student, check, rng, batch, queries, keys):
    """Queries come from x, keys and values from the context, whose length may be another."""
    mistakes = {
        "keys and values come from x: the context is not used": dict(sources="qqq"),
        "queries come from the context: they come from x": dict(sources="kkk"),
        "queries come from the context, keys and values from x": dict(sources="kqq"),
        "the rows of kv are taken in the order v, k": dict(blocks="qvk"),
        "the rows of kv are taken head by head: first come all of k, then all of v": dict(rows_by_head="kv"),
        "a part of the context is hidden as if it were the future": dict(mask=torch.ones(queries, keys).tril()),
        **COMMON_MISTAKES,
    }
    check_layer(student, check, rng, CROSS, *sequences(rng, batch, queries, keys), mistakes=mistakes)


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
        "context_mask is taken for one mask a head: it is one a sequence": dict(
            mask_to=lambda mask: mask.transpose(0, 1)
        ),
        **COMMON_MISTAKES,
    }
    check_layer(student, check, rng, CROSS, *inputs, mistakes=mistakes)


@cross
@pytest.mark.points(2)
def test_cross_attention_has_the_right_gradients_beside_a_context_that_is_all_padding(student, check, rng):
    """Gradients are right in float64; a context of nothing but padding gives the bias of proj, and no NaN flows back."""
    mask = random_mask(rng, 2, 6)
    mask[1] = False
    check_gradients(student, check, rng, CROSS, *sequences(rng, 2, 4, 6), mask)


@cross
@pytest.mark.points(1)
def test_cross_attention_has_the_listed_weights_and_refuses_a_width_that_the_heads_do_not_divide(student, check):
    """q, kv and proj are Linear layers of the listed sizes; d_model that num_heads does not divide is a ValueError."""
    x = torch.ones(1, 2, 12)
    check_construction(student, check, CROSS, (10, 4), (4, 8), x=x, context=x, context_mask=None)


@cross
@pytest.mark.points(1)
def test_cross_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and the weights are returned after it."""
    check_dropout(student, check, rng, CROSS, *sequences(rng, 2, 4, 6))


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
        "query head h uses kv head h % KV: the heads of a group are neighbours": dict(group=tiled),
        "the kv heads are used in reversed order": dict(group=sorted(tiled, reverse=True)),
        "every query head uses the first kv head": dict(group=[0] * heads),
        "the output comes with the weights: it should come alone": dict(with_weights=True),
        "the scores are divided by the width of all kv heads": dict(scale=lambda d, D: (d * kv_heads) ** 0.5),
        **COMMON_MISTAKES,
    }
    check_layer(student, check, rng, grouped(heads, kv_heads), *sequences(rng, batch, length), mistakes=mistakes)


@grouped_query
@pytest.mark.points(2)
def test_grouped_query_attention_is_causal_unless_told_otherwise(student, check, rng):
    """A position sees itself and the past by default and with causal=True, and everything with causal=False."""

    def probe(w, x):
        layer = inside.attention_layer("GroupedQueryAttention", (12, 6, 3), w)
        return [layer(x), layer(x, causal=True), layer(x, causal=False), layer(x, True)]

    layer, x = grouped(6, 3), randn(rng, 2, 5, 12)
    w = layer.weights(rng)
    results = student.run(probe, w, x)

    yes, no = layer.formula(w, x), layer.formula(w, x, causal=False)
    strict = layer.formula(w, x, mask_to=lambda mask: mask.tril(-1))
    mistakes = {
        "causal is ignored: the future can always be seen": [no] * 4,
        "causal is ignored: the future can never be seen": [yes] * 4,
        "causal is turned around": [no, no, yes, no],
        "causal is False by default": [no, yes, no, yes],
        "a position cannot see itself": [strict, strict, no, strict],
    }
    check(results, [yes, yes, no, yes], dtype=torch.float32, mistakes=mistakes)


@grouped_query
@pytest.mark.points(2)
def test_grouped_query_attention_has_the_right_gradients(student, check, rng):
    """Gradients reach x and the weights, in float64: those of a kv head are summed over its group."""
    check_gradients(student, check, rng, grouped(6, 2), *sequences(rng, 2, 5))


@grouped_query
@pytest.mark.points(1)
def test_grouped_query_attention_has_the_listed_weights_and_refuses_sizes_that_do_not_divide(student, check):
    """q, k, v and proj are Linear layers of the listed sizes; sizes that do not divide are a ValueError."""
    bad, names = [(10, 4, 2), (12, 4, 3), (12, 2, 4)], ("d_model", "num_heads", "num_kv_heads")
    check_construction(student, check, grouped(6, 2), *bad, says=names, x=torch.ones(1, 2, 12), causal=True)


@grouped_query
@pytest.mark.points(1)
def test_grouped_query_attention_drops_weights_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode only, and not at all by default."""
    check_dropout(student, check, rng, grouped(6, 2), *sequences(rng, 2, 6), by_default=False)


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
    """A layer takes inputs of any memory layout, changes neither them nor torch's settings, and prints nothing."""

    def probe(name, sizes, w, inputs):
        return inside.manners(lambda *inputs: inside.attention_layer(name, sizes, w)(*inputs), *inputs)

    w, inputs = layer.weights(rng), inputs_of(layer, rng)
    result, inputs_after, torch_changed, printed = student.run(probe, layer.name, layer.sizes, w, inputs)

    check(inputs_after, inputs, mistakes={"an argument is changed in place": inputs_after})
    check(result, layer.formula(w, *inputs), dtype=torch.float32)
    mistakes = {
        "the seed, the default dtype or another setting of torch is changed": [True, False],
        "something is printed": [False, True],
    }
    check([torch_changed, printed], [False, False], mistakes=mistakes)


@everything
@pytest.mark.points(1)
def test_layers_and_causal_mask_stay_on_one_device(student, check, rng):
    """causal_mask and all layers work on the device of their inputs (here torch's meta device)."""

    def probe(layers):
        from attention import causal_mask

        found = {"causal_mask": inside.on_meta(lambda: causal_mask(length=3, device="meta"))}
        for name, sizes, inputs in layers:
            found[name] = inside.on_meta(inside.attention_layer(name, sizes).to("meta"), *inputs)
        return found

    layers = [(layer.name, layer.sizes, inputs_of(layer, rng)) for layer in ALL_LAYERS]
    found = student.on(timeout=30).run(probe, layers)  # its first operation on meta makes torch import 800 modules

    for name, problem in found.items():
        mistakes = {
            f"{name} makes a tensor that is not on the device of its input": "mixes devices",
            f"{name} returns a tensor that is not on the device asked for": "leaves the device",
        }
        check(problem, "", mistakes=mistakes)
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
