"""What the hidden tests of training_techniques share: the loss and the gradients of inside.Tagger, worked out beside it."""

import math

import torch
import torch.nn.functional as F

from shared import randn, single, tokens

V, D = 7, 5  # vocabulary and width of inside.Tagger


def tagger_weights(rng, dtype=torch.float64, sure=1.0):
    """sure: how large the last layer's weights are, and with them the gradients."""
    shapes = {"table": (V, D), "weight": (V, D), "bias": (V,)}
    weights = {name: randn(rng, *shape, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return weights | {"weight": weights["weight"] * sure}


def labelled(rng, counts, T):
    """(inputs (B, T), targets (B, T)): in row b counts[b] targets count, at random places; the others are -100."""
    inputs, targets = tokens(rng, V, len(counts), T), tokens(rng, V, len(counts), T)
    for row, count in zip(targets, counts, strict=True):
        row[torch.randperm(T, generator=rng)[count:]] = -100
    return inputs, targets


def items(rng, counts, T=4):
    """(inputs (N, T), targets (N, T)) in which counts[n] targets count in row n; the first three inputs tell the item."""
    inputs, targets = labelled(rng, counts, T)
    number = torch.randperm(V**3, generator=rng)[: len(counts)]
    inputs[:, 0], inputs[:, 1], inputs[:, 2] = number // V**2, number // V % V, number % V
    return inputs, targets


def full(rng, number, T=4):
    return items(rng, (T,) * number, T)


def tagged(w, batches, counts="targets", *, real=lambda targets: targets != -100, shift=0, smoothing=0.0, longest=math.inf, factor=1.0, mixed=False, coarse=False):  # fmt: skip
    """The loss of inside.Tagger over all batches together and its gradients, by definition: (float, {name: tensor}).

    counts: the sum of the losses is divided by the number of "targets" that count, of "all" places or of "rows", or it is the
    "sum" itself; or the mean of the means of "batches" or of "sequences" is taken. Gradients are clipped to `longest`, then
    multiplied by factor. mixed: the last layer computes in bfloat16, and the loss too if it is coarse.
    """
    dtype = torch.float32 if mixed else torch.float64
    w = {name: weight.to(dtype, copy=True).requires_grad_() for name, weight in w.items()}
    top = bottom = 0.0
    for inputs, targets in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = F.linear(torch.tanh(w["table"][inputs]), w["weight"], w["bias"])  # (…, V)
        logits = logits.bfloat16() if coarse else logits.to(dtype)
        if shift:
            logits, targets = logits[:, :-shift], targets[:, shift:]
        is_real = real(targets)
        loss = F.cross_entropy(
            logits.reshape(-1, V), (targets.clamp(min=0)).reshape(-1), reduction="none", label_smoothing=smoothing
        )
        loss = (loss * is_real.reshape(-1)).view(targets.shape)
        if counts == "batches":
            top, bottom = top + loss.sum() / is_real.sum(), bottom + 1
        elif counts == "sequences":
            top, bottom = top + (loss.sum(-1) / is_real.sum(-1)).nansum(), bottom + len(targets)
        else:
            divisors = {"targets": is_real.sum(), "all": targets.numel(), "rows": len(targets), "sum": 0}
            top, bottom = top + loss.sum(), bottom + divisors[counts]
    loss = top / (bottom or 1)
    gradients = torch.autograd.grad(loss, list(w.values()))
    factor *= min(1.0, longest / float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
    return loss.item(), {name: (gradient * factor).float() for name, gradient in zip(w, gradients, strict=True)}


def plus(some, others):
    """Gradients by name, added."""
    return {name: some[name] + others[name] for name in some}


def gradients_found(update):
    """What the optimizer found, in float32, without the names of weights that had none."""
    return {name: single(grad) for name, grad in update["grads"].items() if isinstance(grad, torch.Tensor)}
