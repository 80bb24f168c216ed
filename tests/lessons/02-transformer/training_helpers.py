"""What the hidden tests of training share: AdamW in float64, step by step, and the toy's loss and gradients.

Where another property is tested, what agrees with the student's own update or loss is right too: their own tests say what
is wrong with them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shared import nearly, randn, single, tokens

# ---------------------------------------------------------------------------------------------- AdamW

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


@dataclass(frozen=True)
class Steps:
    """AdamW as a list of steps, which are right; a mistake replaces one. s: the settings of a group."""

    settings: Callable = lambda of_all, own: DEFAULTS | of_all | own
    rates: Callable = lambda task, k: task.get("lrs", {}).get(k, ())  # of the groups, from step k on
    resumed: Callable = lambda t, m, v: (t, m, v)  # what is left of the state after load_state_dict
    given: Callable = lambda g, p: g  # None where the parameter takes no step
    waits: Callable = lambda p, s: p  # a parameter that takes none
    regular: Callable = lambda g, p, s: g
    clock: Callable = lambda t, ticks: t  # t: the parameter's own steps; ticks: those of the optimizer
    first: Callable = lambda m, g, beta: beta * m + (1 - beta) * g
    mean: Callable = lambda m, correction: m / correction
    square: Callable = lambda v, correction: v / correction
    bottom: Callable = lambda v, s, correction: v**0.5 + s["eps"]
    shrink: Callable = lambda s: 1 - s["lr"] * s["weight_decay"]
    update: Callable = lambda p, move, shrink: p * shrink - move


def adamw(task, **steps):
    """The parameters after each step; inside.optimize says what is in a task. steps: those of Steps that differ."""
    do, p, history = Steps(**steps), [start.double() for start in task["starts"]], []
    m, v, t = ([0 * item for item in p], [0 * item for item in p], [0] * len(p))
    group_of = {i: g for g, (places, _) in enumerate(task["groups"]) for i in places}
    settings = [do.settings(task["settings"], own) for _, own in task["groups"]]
    for k, gradients in enumerate(task["steps"]):
        for s, rate in zip(settings, do.rates(task, k), strict=False):
            s["lr"] = rate
        if k == task.get("reload"):
            t, m, v = do.resumed(t, m, v)
        for i, gradient in enumerate(gradients):
            s, g = settings[group_of[i]], do.given(gradient, p[i])
            if g is None:
                p[i] = do.waits(p[i], s)
                continue
            (beta1, beta2), g = s["betas"], do.regular(g.double(), p[i], s)
            t[i] += 1
            m[i], v[i] = do.first(m[i], g, beta1), beta2 * v[i] + (1 - beta2) * g**2
            c1, c2 = (1 - beta ** do.clock(t[i], k + 1) for beta in s["betas"])
            move = s["lr"] * do.mean(m[i], c1) / do.bottom(do.square(v[i], c2), s, c2)
            p[i] = do.update(p[i], move, do.shrink(s))
        history.append(list(p))
    return history


def moves(task, history):
    """How far each parameter moved in each step: compared instead of the parameters, which are much larger."""
    rows = [task["starts"], *history]
    return [torch.stack([row[i].double() for row in rows]).diff(dim=0).float() for i in range(len(task["starts"]))]


def run_adamw(student, task, reload_into=None):
    """The parameters after each step and the gradients after the last; and the former with an optimizer for each parameter."""

    def probe(task, reload_into):
        from training import AdamW

        found = inside.optimize(AdamW, task, reload_into or {})
        return *found, inside.each_alone(AdamW, task)

    return student.run(probe, task, reload_into)


def updates(task, history, truth, mistakes, alone=None):
    """For `check(**…)`: how far the parameters moved. alone: how far each would have moved by the student's own updates if it
    had an optimizer of its own; if these updates are wrong, that is right."""
    value, expected = moves(task, history), moves(task, truth)
    if alone is not None:
        own = moves(task, alone)
        moved = all(bool((item != 0).any()) for item in own)
        expected = own if moved and nearly(value, own, 1e-4) and not nearly(value, expected, 1e-4) else expected
    made = {sentence: lambda steps=steps: moves(task, adamw(task, **steps)) for sentence, steps in mistakes.items()}
    return {"value": value, "expected": expected, "terms": 128, "mistakes": made}


# ---------------------------------------------------------------------------------------------- the toy

SRC, TGT, WIDTH = 7, 9, 5  # vocabularies of source and target, width of the toy


def toy_weights(rng, dtype=torch.float64, sure=1.0):
    shapes = {"src": (SRC, WIDTH), "tgt": (TGT, WIDTH), "weight": (TGT, WIDTH), "bias": (TGT,)}
    weights = {name: randn(rng, *shape, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return weights | {"weight": weights["weight"] * sure}


def batch(rng, lengths, Ts=4, pad=0):
    """(src, tgt): tgt has a row of each length (with the token in front), padded to the greatest."""
    tgt = torch.full((len(lengths), max(lengths)), pad)
    for row, length in zip(tgt, lengths, strict=True):
        row[:length] = 3 + tokens(rng, TGT - 3, length)
        row[0] = 1
    if pad:
        tgt[0, 1] = 0  # a token like others
    return 1 + tokens(rng, SRC - 1, len(lengths), Ts), tgt


def even_batch(rng, rows, length, Ts=4):
    """(src, tgt) whose rows repeat one token: a loss of padding or of the wrong tokens is right for these."""
    return 1 + tokens(rng, SRC - 1, rows, Ts), (3 + tokens(rng, TGT - 3, rows, 1)).repeat(1, length)


def toy_step(w, batches, pad=0, *, smoothing=0.0, counts="real", predict=slice(1, None), longest=math.inf, factor=1.0, mixed=False):  # fmt: skip
    """The loss of inside.Toy over all batches together and its gradients: (float, {name: tensor}).

    counts: "real" tokens, "all" places with the padding, "each" place but its loss is 0 at padding, "sum" without a mean, or
    divided by the number of "sentences",
    the mean of the means of "batches" or "rows", or of batches weighted by "sequences". Gradients are clipped to longest
    and multiplied by factor. mixed: the last layer computes in bfloat16.
    """
    dtype = torch.float32 if mixed else torch.float64
    w = {name: weight.to(dtype, copy=True).requires_grad_() for name, weight in w.items()}
    top = bottom = 0.0
    for src, tgt in batches:
        hidden = torch.tanh(w["tgt"][tgt[:, :-1]] + w["src"][src].mean(1, keepdim=True))  # (B, Tt - 1, D)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = F.linear(hidden, w["weight"], w["bias"]).to(dtype)
        labels, ignored = tgt[:, predict], -1 if counts == "all" else pad
        loss = F.cross_entropy(
            logits.mT, labels, ignore_index=ignored, reduction="none", label_smoothing=smoothing
        )  # (B, Tt)
        real = (labels != ignored).sum(1)
        share = {"batches": 1, "sequences": len(src)}.get(counts)
        if share is not None:
            top, bottom = top + share * loss.sum() / real.sum(), bottom + share
        elif counts == "rows":
            top, bottom = top + (loss.sum(1) / real).sum(), bottom + len(src)
        else:
            places = {"each": loss.numel(), "sum": 0, "sentences": len(src)}
            top, bottom = top + loss.sum(), bottom + places.get(counts, real.sum())
    loss = top / (bottom or 1)
    gradients = torch.autograd.grad(loss, list(w.values()))
    factor *= min(1.0, longest / float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
    return loss.item(), {name: (gradient * factor).float() for name, gradient in zip(w, gradients, strict=True)}


def watched(student, weights, batches, pad=0, lr=None, optimized=None):
    """What inside.watch saw of a TransformerTrainer or, with its settings `optimized`, an OptimizedTransformerTrainer."""

    def probe(weights, batches, sizes, settings, optimized):
        import training

        trainer = training.OptimizedTransformerTrainer if optimized else training.TransformerTrainer
        return inside.watch(lambda model: trainer(model, *sizes, **settings), weights, batches)

    settings = {"pad_id": pad} | ({} if lr is None else {"lr": lr}) | (optimized or {})
    return student.run(probe, weights, batches, (SRC, TGT), settings, optimized is not None)


def together(gradients):
    """All gradients in one row: what cancels in one tensor is compared with the size of the others."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def found(row):
    """(loss, gradients) of a call that took one step of the optimizer."""
    return row["loss"], single(row["grads"][0]) if len(row["grads"]) == 1 else None


def own_or(truth, own, value):
    """(loss, gradients) of the student's own where a value agrees with it and not with the truth."""
    agrees = [
        type(value[0]) is type(other[0]) is float
        and isinstance(value[1], dict)
        and isinstance(other[1], dict)
        and all(isinstance(item, torch.Tensor) for pair in (value[1], other[1]) for item in pair.values())
        and math.isclose(value[0], other[0], rel_tol=1e-4)
        and nearly(together(value[1]), together(other[1]), 1e-4)
        for other in (own, truth)
    ]
    return own if agrees == [True, False] and bool(together(own[1]).any()) else truth
