"""What the hidden tests of attention share: attention with heads, step by step, and what holds of all classes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch

from shared import (
    along,
    as_list,
    attend,
    has_nan,
    is_own,
    join_heads,
    linear,
    linear_weights,
    nearly,
    on_right_parts,
    split_by_view,
    split_heads,
    true_gradients,
    weigh,
    when,
)

# ---------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Steps:
    """Attention with heads as a list of steps, which are right; a mistake replaces one: {"split": split_by_view}."""

    sources: str = "qkv"  # from which inputs q, k and v are made
    blocks: str = "qkv"  # with which projections
    rows: Callable = lambda p, heads: p  # where each projection lies in a joint one
    split: Callable = split_heads  # (B, T, H·d), H -> (B, H, T, d)
    share: Callable = lambda x, heads: x.repeat_interleave(heads // x.shape[1], dim=1)  # kv heads -> one a query head
    mask: Callable = lambda mask: mask  # None where all is seen
    scale: Callable = lambda d, D: d**0.5  # of a head's width and d_model
    weigh: Callable = weigh
    join: Callable = join_heads
    project: Callable = linear  # of the joined heads
    finish: Callable = lambda x, output, weights: (output, weights)


def project_and_attend(p, xq, xk, xv, heads, mask, /, **steps):
    """(output, weights) in float64. p has (weight, bias) of "q", "k", "v" and "o"; steps: those of Steps that differ."""
    do, inputs = Steps(**steps), {"q": xq, "k": xk, "v": xv}
    p = do.rows(p, heads)
    q, k, v = (linear(inputs[source], *p[block]) for source, block in zip(do.sources, do.blocks, strict=True))
    kv_heads = k.shape[-1] * heads // q.shape[-1]
    q, k, v = do.split(q, heads), do.share(do.split(k, kv_heads), heads), do.share(do.split(v, kv_heads), heads)
    output, weights = attend(q, k, v, do.mask(mask), scale=do.scale(q.shape[-1], xq.shape[-1]), weigh=do.weigh)
    return do.finish(xq.double(), do.project(do.join(output), *p["o"]), weights)


# ---------------------------------------------------------------------------------------------- the known mistakes

OF_NOTHING = "a query that may attend to nothing attends as if nothing were hidden: a number that is added to all scores hides none of them"


def shown_where_all_is_hidden(mask):
    """What a number that is added to hidden scores leaves of a mask (..., Tk): where all are hidden, it cancels."""
    return (mask != 0) | ~(mask != 0).any(dim=-1, keepdim=True)


COMMON_MISTAKES = {  # of all layers with heads: sentence -> the step that is wrong
    "the scores are not divided by the square root of a head's width": dict(scale=lambda d, D: 1.0),
    "the scores are divided by the square root of d_model, not of a head's width": dict(scale=lambda d, D: D**0.5),
    "the scores are divided by a head's width, not by its square root": dict(scale=lambda d, D: float(d)),
    "the scores are multiplied by the square root of a head's width, not divided": dict(scale=lambda d, D: d**-0.5),
    "the softmax runs over the queries, not over the keys": dict(weigh=partial(weigh, over=-2)),
    "the softmax runs over the heads, not over the keys": dict(weigh=partial(weigh, over=1)),
    "the heads are split by a view alone, which mixes positions; a transpose should follow": dict(split=split_by_view),
    "a head takes every H-th column, not a block of columns": dict(
        split=lambda x, heads: x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)
    ),
    "the heads are joined by a view alone, which mixes positions: move the positions before the heads first": dict(
        join=lambda x: x.reshape(x.shape[0], x.shape[2], -1)
    ),
    "the heads are joined column by column, not one after the other": dict(
        join=lambda x: x.permute(0, 2, 3, 1).flatten(2)
    ),
    "the projection that follows the heads is missing": dict(project=lambda joined, *_: joined),
    "keys and values are exchanged": dict(blocks="qvk"),
    "queries and keys are exchanged": dict(blocks="kqv"),
    "keys are projected as queries are": dict(blocks="qqv"),
    "values are projected as keys are": dict(blocks="qkk"),
    "the weights are averaged over the heads": dict(finish=lambda x, output, weights: (output, weights.mean(dim=1))),
    "the weights are returned before the output": dict(finish=lambda x, output, weights: (weights, output)),
    "the weights are not returned": dict(finish=lambda x, output, weights: output),
    "the input is added to the output": dict(finish=lambda x, output, weights: (output + x, weights)),
    "the mask is ignored": dict(mask=lambda mask: None),
    "the mask is turned around; true should mean that a query may attend": dict(mask=lambda mask: mask == 0),
    'a mask of 0 and 1 hides everything; compare it with 0, since ~ is not a logical "not" for numbers': dict(
        mask=torch.zeros_like
    ),
    "the mask is applied after the softmax": dict(
        weigh=lambda scores, hidden: scores.softmax(-1).masked_fill(hidden, 0)
    ),
    "the scores that the mask hides are zero; they should be minus infinity": dict(weigh=partial(weigh, low=0.0)),
    "a query that may attend to nothing gets NaN": dict(weigh=partial(weigh, empty=math.nan)),
}


class Layer(NamedTuple):
    """A class under test."""

    name: str
    arguments: dict  # of the constructor, but for the dropout
    linears: dict  # name -> (in, out, has a bias)
    formula: object  # (w, *inputs, **steps) -> what forward returns

    @property
    def sizes(self):
        return tuple(self.arguments.values())

    def weights(self, rng, dtype=torch.float32):
        return {name: linear_weights(rng, *linear, dtype=dtype) for name, linear in self.linears.items()}


def scaled_formula(w, q, k, v, mask=None, /, temperature=1.7, **steps):
    do = Steps(**steps)
    return do.finish(q.double(), *attend(q, k, v, do.mask(mask), scale=temperature, weigh=do.weigh))


SCALED = Layer("ScaledDotProductAttention", {"temperature": 1.7}, {}, scaled_formula)


# ---------------------------------------------------------------------------------------------- what all classes share


def forward(student, rng, layer, *inputs, mistakes=COMMON_MISTAKES):
    """For `check(**…)`: what forward returns in eval mode, for random weights, and the formula's value."""

    def probe(name, sizes, w, inputs, right):
        return inside.use_of(lambda: inside.attention_layer(name, sizes, w)(*inputs), "attention", name, right)

    w = layer.weights(rng)
    truth = layer.formula(w, *inputs)
    result = on_right_parts(
        student, probe, layer.name, layer.sizes, w, inputs, fine=lambda result: agrees(result, truth)
    )

    def value(steps):
        return lambda: layer.formula(w, *inputs, **steps)

    values = {sentence: value(steps) for sentence, steps in mistakes.items()}
    return {
        "value": result,
        "expected": truth,
        "dtype": torch.float32,
        "names": () if isinstance(truth, torch.Tensor) else ("output", "weights"),
        "mistakes": values | of_nothing(value, result, truth),
    }


def agrees(result, truth):
    """Whether a result has the form of the truth and nearly its values."""
    alike = isinstance(result, torch.Tensor) or isinstance(result, (list, tuple)) and len(result) == len(truth)
    return alike and isinstance(result, torch.Tensor) == isinstance(truth, torch.Tensor) and nearly(result, truth, 1e-4)


def leaves_of(inputs):
    return [item for item in inputs if item.is_floating_point()]  # all but a mask


def is_wrong(outputs, truth):
    """Whether a layer makes something of its inputs, but not what is right: other tests say so."""
    truth = as_list(truth)
    return not (len(outputs) == len(truth) and agrees(outputs, truth)) and is_own(outputs[0], truth[0])


def of_nothing(value, result, truth):
    """The mistake to add a number to hidden scores, which costs digits too: so it has to agree roughly."""

    def made():
        unhidden = value({"mask": shown_where_all_is_hidden})()
        return when(nearly(result, unhidden, 0.02) and not nearly(truth, unhidden, 0.02))

    return {OF_NOTHING: made}


def backward(student, rng, layer, *inputs):
    """For `check(**…)`, twice: outputs and then the gradients at the inputs and the weights, in float64.

    Where a layer's outputs are wrong even without a mask, once: the gradients of what it makes, whatever that is.
    """

    def probe(name, sizes, w, inputs, right):
        def use():
            layer = inside.attention_layer(name, sizes, w)
            copies = [item.clone() for item in inputs]
            leaves = [item.requires_grad_() for item in copies if item.is_floating_point()]
            outputs, tensors = inside.listed(layer(*copies)), [*leaves, *inside.parameters(layer, w)]
            grads, plain = inside.gradients(outputs, tensors), inside.listed(layer(*leaves))
            slopes = inside.slopes_of(lambda: inside.total(layer(*leaves)), tensors)
            return outputs, grads, plain, inside.gradients(plain, tensors), slopes

        return inside.use_of(use, "attention", name, right)

    w = layer.weights(rng, torch.float64)
    inputs = [item.double() if item.is_floating_point() else item for item in inputs]

    def truth(**steps):
        weights = [part for pair in w.values() for part in pair if part is not None]
        return true_gradients(lambda *inputs: layer.formula(w, *inputs, **steps), *inputs, weights=weights)

    def value(steps):
        return lambda: truth(**steps)[0]

    def without_bias(x, output, weights):
        return output * (weights.sum((1, 3)) > 0).unsqueeze(-1), weights

    expected, expected_grads = truth()
    outputs, grads, *own = on_right_parts(
        student,
        probe,
        layer.name,
        layer.sizes,
        w,
        inputs,
        fine=lambda found: (
            len(found[0]) == len(expected) and agrees(found[0], expected) and agrees(found[1], expected_grads)
        ),
    )
    if not has_nan([*outputs, *grads]) and is_wrong(own[0], layer.formula(w, *leaves_of(inputs))):
        return [{"value": along(own[1]), "expected": own[2], "relative": 1e-4}]  # the gradients of what it makes
    rounded = "float64 is rounded to float32 on the way; it should stay float64"
    of_outputs = {
        "a query that may attend to nothing gets NaN": value({"weigh": partial(weigh, empty=math.nan)}),
        "a query that may attend to nothing attends to every key alike": value(
            {"weigh": partial(weigh, empty=1 / inputs[1].shape[-2])} if len(inputs) > 1 else {}
        ),
        **of_nothing(value, outputs, expected),
        "a query that may attend to nothing loses the bias of proj": value({"finish": without_bias}),
        rounded: lambda: when(nearly(outputs, expected)),
    }
    of_grads = {
        "no gradient flows back: something detaches the output": [torch.zeros_like(grad) for grad in expected_grads],
        "no gradient flows through the attention weights": lambda: truth(
            weigh=lambda scores, hidden: weigh(scores, hidden).detach()
        )[1],
        "the gradients are NaN where a query may attend to nothing": lambda: when(has_nan(grads)),
        "an input or a weight gets no gradient: something detaches it": lambda: when(
            not all(bool(grad.any()) for grad in grads)
        ),
        rounded: lambda: when(nearly(grads, expected_grads)),
    }
    return [
        {"value": outputs, "expected": expected, "mistakes": of_outputs},
        {"value": grads, "expected": expected_grads, "mistakes": of_grads},
    ]


def runs_with_dropout(student, rng, layer, *inputs, by_default=True):
    """Lists of outputs and weights: inside.dropout_runs at a rate of 0.5, then two in train mode at the default rate and
    two at a rate of 0."""

    def probe(name, sizes, w, inputs, right):
        def use():
            runs = inside.dropout_runs(inside.attention_layer(name, sizes, w), *inputs)
            default, zero = (inside.attention_layer(name, sizes, w, dropout).train() for dropout in (None, 0.0))
            return [*runs, *(inside.listed(layer(*inputs)) for layer in (default, default, zero, zero))]

        return inside.use_of(use, "attention", name, right)

    def fine(runs):
        return all(fact is True for fact, _ in facts_of_dropout(runs, by_default))

    return on_right_parts(student, probe, layer.name, layer.sizes, layer.weights(rng), inputs, fine=fine)


def facts_of_dropout(runs, by_default=True):
    """Facts about runs_with_dropout: dropout is there in train mode only, with its rate; the weights are those after it.

    With 126 weights or more and a rate of 0.1, two calls drop the same by chance in one grading of 10¹⁰.
    """

    def same(one, other):
        return torch.allclose(runs[one][0], runs[other][0], atol=1e-6)

    none = "there is no dropout in train mode, or every call drops the same"
    if by_default:
        default = [(not same(5, 7), "dropout is off by default"), (not same(5, 6), none)]
    else:
        default = [(same(5, 6) and same(5, 7), "dropout is on by default; it should be off")]
    undropped = zip(runs[0][1:], runs[3][1:], strict=True)
    return [
        (not same(0, 2), none),
        *default,
        (same(3, 4), "dropout is not switched off in eval mode"),
        (same(7, 8), "the rate of the dropout is ignored: 0 should drop nothing"),
        (same(4, 7), "train mode does more than dropout: with a rate of 0 it is not like eval mode"),
        (same(0, 1), "the same seed does not give the same dropout: draw it from torch's generator"),
        *(
            (not torch.allclose(*pair), "in train mode the weights are returned as before the dropout")
            for pair in undropped
        ),
    ]


# ---------------------------------------------------------------------------------------------- masks

masks = pytest.mark.question("Masks")
