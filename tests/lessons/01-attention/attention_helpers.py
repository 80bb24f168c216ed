"""What the hidden tests of attention share: the formulas in float64, and what holds of all classes."""

import math
from typing import NamedTuple

import pytest
import torch


def randn(rng, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=rng, dtype=dtype)


def random_mask(rng, *shape):
    """In it every query sees the first key and does not see the second; what comes first and second differs in the last."""
    mask = torch.rand(shape, generator=rng) < 0.5
    mask[..., 0], mask[..., 1] = True, False
    if len(shape) > 1:
        mask[::2, ..., -1], mask[1::2, ..., -1] = True, False
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


def split_by_view(x, heads):
    return x.reshape(x.shape[0], heads, x.shape[1], -1)


def split_by_column(x, heads):
    return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)


def join_by_view(x):
    return x.reshape(x.shape[0], x.shape[2], -1)


def join_by_column(x):
    return x.permute(0, 2, 3, 1).flatten(2)


OF_NOTHING = "a query that may attend to nothing attends as if nothing were hidden; adding a number to all scores hides none of them"


def shown_where_all_is_hidden(mask):
    """What a number that is added to hidden scores leaves of a mask (..., Tk): where all are hidden, it cancels."""
    return (mask != 0) | ~(mask != 0).any(dim=-1, keepdim=True)


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


def scaled_formula(w, q, k, v, mask=None, /, *, scale=1.7, finish=lambda x, *result: result, **knobs):
    return finish(q.double(), *attend(q, k, v, scale, mask, **knobs))


SCALED = Layer("ScaledDotProductAttention", {"temperature": 1.7}, {}, scaled_formula)


# ---------------------------------------------------------------------------------------------- what all classes share


def check_layer(student, check, rng, layer, *inputs, mistakes=COMMON_MISTAKES):
    """What forward returns in eval mode, for random weights, is the formula's value."""

    def probe(name, sizes, w, inputs):
        return inside.attention_layer(name, sizes, w)(*inputs)

    w = layer.weights(rng)
    result = student.run(probe, layer.name, layer.sizes, w, inputs)

    def formula(knobs):
        return lambda: layer.formula(w, *inputs, **knobs)

    truth, values = layer.formula(w, *inputs), {sentence: formula(knobs) for sentence, knobs in mistakes.items()}
    names = () if isinstance(truth, torch.Tensor) else ("output", "weights")
    check(result, truth, dtype=torch.float32, names=names, mistakes=values | of_nothing(formula, result, truth))


def of_nothing(formula, result, truth):
    """The mistake to add a number to hidden scores, which costs digits too: so it has to agree roughly."""

    def wrong():
        unhidden = listed(formula({"mask_to": shown_where_all_is_hidden})())
        is_so = nearly(listed(result), unhidden, 0.02) and not nearly(listed(truth), unhidden, 0.02)
        return only_if(is_so, result)

    return {OF_NOTHING: wrong}


def listed(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


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
        return listed(layer.formula(w, *inputs, **knobs))

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
        **of_nothing(lambda knobs: lambda: formula(**knobs), outputs, expected),
        "a query that may attend to nothing loses the bias of proj": lambda: formula(finish=without_bias),
        "float64 is rounded to float32 on the way; it should stay float64": lambda: only_if(
            nearly(outputs, expected), outputs
        ),
    }
    check(outputs, expected, mistakes=mistakes)
    mistakes = {
        "no gradient flows back: something detaches the output": [torch.zeros_like(leaf) for leaf in leaves],
        "no gradient flows through the attention weights": lambda: gradients(detach=True),
        "the gradients are NaN where a query may attend to nothing": lambda: only_if(has_nan(grads), grads),
        "an input or a weight gets no gradient: something detaches it": lambda: only_if(has_zeros(grads), grads),
        "float64 is rounded to float32 on the way; it should stay float64": lambda: only_if(
            nearly(grads, expected_grads), grads
        ),
    }
    check(grads, expected_grads, mistakes=mistakes)


def only_if(it_is_so, value):
    """The value as that of a mistake, if it shows the mistake."""
    if not it_is_so:
        raise ValueError("another mistake")
    return value


def nearly(tensors, truth, within=1e-5):
    """Whether they are right but for the rounding of float32, or whatever else is `within`."""
    return all(
        x.shape == y.shape and x.double().allclose(y.double(), rtol=within, atol=within)
        for x, y in zip(tensors, truth, strict=True)
    )


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
    return runs


# ---------------------------------------------------------------------------------------------- masks

masks = pytest.mark.question("Masks")
