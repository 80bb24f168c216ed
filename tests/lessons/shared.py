"""What hidden suites of every lesson may use, as `from shared import …`: it runs in the grader's process.

Nothing here takes `check`: a function gives values, facts or sentences, and the test says what is checked. Facts are pairs
(what should be true, the sentence if it is not): `for fact in dropout_facts(runs): check.that(*fact)`.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from autograder.check import Check

when = Check.when  # a mistake under a condition: where there is no check

# ---------------------------------------------------------------------------------------------- random inputs


def randn(rng, *shape, dtype=torch.float32):
    """Numbers of the normal distribution, in a tensor of this shape."""
    return torch.randn(shape, generator=rng, dtype=dtype)


def tokens(rng, vocab_size, *shape):
    """Ids from 0 to vocab_size - 1: int64."""
    return torch.randint(0, vocab_size, shape, generator=rng)


def shuffled(rng, items):
    """The items of a list in random order."""
    return [items[place] for place in torch.randperm(len(items), generator=rng)]


def random_mask(rng, *shape):
    """(…, Tk) bool: every query sees the first key and not the second; what comes first and second differs in the last."""
    mask = torch.rand(shape, generator=rng) < 0.5
    mask[..., 0], mask[..., 1] = True, False
    if len(shape) > 1:
        mask[::2, ..., -1], mask[1::2, ..., -1] = True, False
    return mask


def past(length):
    """(T, T) bool: true where a position may attend in causal attention."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def linear_weights(rng, width_in, width_out, bias=True, dtype=torch.float32):
    """Weight (out, in) and bias (out,) or None of a Linear, so large that every part of a formula shows."""
    weight = randn(rng, width_out, width_in, dtype=dtype) * 1.5 / width_in**0.5
    return weight, randn(rng, width_out, dtype=dtype) if bias else None


# ---------------------------------------------------------------------------------------------- attention in float64


def weigh(scores, hidden, *, over=-1, low=-math.inf, empty=0.0):
    """Scores (…, Tq, Tk) -> weights of the keys that are not hidden; those of a query that sees none are `empty`."""
    nothing = hidden.all(dim=-1, keepdim=True)
    return scores.masked_fill(hidden & ~nothing, low).softmax(over).masked_fill(nothing, empty)


def attend(q, k, v, mask=None, *, scale=None, weigh=weigh):
    """softmax(q kᵀ / scale) v and the weights, in float64. mask is 0 or False where a key is hidden; scale is √Dh."""
    scores = q.double() @ k.double().mT / (q.shape[-1] ** 0.5 if scale is None else scale)
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
    weights = weigh(scores, hidden)
    return weights @ v.double(), weights


def linear(x, weight, bias=None):
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, H·d) -> (B, H, T, d)


def split_by_view(x, heads):
    """As it is often done, which mixes positions."""
    return x.reshape(x.shape[0], heads, x.shape[1], -1)


def join_heads(x):
    return x.transpose(1, 2).flatten(2)  # (B, H, T, d) -> (B, T, H·d)


# ---------------------------------------------------------------------------------------------- values


def as_list(result):
    """One value or several, in a tuple or list, as a list."""
    return list(result) if isinstance(result, (tuple, list)) else [result]


def dtype_of(value):
    """The dtype of a reply, or None where it is no tensor: `check(dtype_of(value), torch.float64, mistakes=…)`."""
    return value.dtype if isinstance(value, torch.Tensor) else None


def single(tree):
    """A tree whose floating-point tensors are float32: how exactly they are compared, whatever they were worked out in."""
    if isinstance(tree, dict):
        return {key: single(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [single(item) for item in tree]
    return tree.float() if isinstance(tree, torch.Tensor) and tree.is_floating_point() else tree


def nearly(values, truth, within=1e-5):
    """Whether tensors (one or several) have the shapes of the truth, and its values but for `within`, whatever their dtype."""
    pairs = zip(as_list(values), as_list(truth), strict=True)
    return all(
        isinstance(x, torch.Tensor) and x.shape == y.shape and x.double().allclose(y.double(), rtol=within, atol=within)
        for x, y in pairs
    )


def has_nan(values):
    """Whether there is a NaN in a tensor, or in one of several."""
    return any(isinstance(tensor, torch.Tensor) and bool(tensor.isnan().any()) for tensor in as_list(values))


def on_inputs(mistakes, *inputs):
    """A table of mistakes, sentence -> a function of the inputs, as `check` takes them."""
    return {sentence: partial(wrong, *inputs) for sentence, wrong in mistakes.items()}


def each(mistakes, change):
    """The same mistakes, each of whose values, or functions of one, is `change`d when it is asked for."""
    return {
        sentence: (lambda wrong=wrong: change(wrong() if callable(wrong) else wrong))
        for sentence, wrong in mistakes.items()
    }


# ---------------------------------------------------------------------------------------------- the student's own results
#
# A mistake costs the points of its own tests. So where a test is about a dtype, a layout in memory or another property, and
# the student's own result of the plainer thing is wrong already, it is this result that must come again; and where what is
# tested is built on another part of the module that is wrong, it may be right on a right one.


def on_right_parts(student, probe, *inputs, fine):
    """What probe(*inputs, right) gives with the student's own parts: right is False; with right ones if only so it is fine.

    The probe is to call `inside.use_of`. What comes with the student's own parts speaks for itself where neither is fine.
    """
    own = student.run(probe, *inputs, False)
    if fine(own):
        return own
    other = student.run(probe, *inputs, True)
    return other if other is not None and fine(other) else own


def like_own(own, truth, within=1e-3):
    """What to compare a result with that should be `own`, in another dtype, layout or mode: the truth where own is right.

    So it is where own has another shape, or is the same number everywhere, as what does nothing gives: then nothing passes
    that would not pass without it.
    """
    return truth if not is_own(own, truth) or nearly(own, truth, within) else own.double()


def each_like_own(own, truth):
    """like_own of several results, of which some may be zeros: that one is missing is for its own test to say, if not all are."""
    some = any(is_own(one, right) for one, right in zip(own, truth, strict=True))
    return [
        torch.zeros_like(right) if some and is_right(one, torch.zeros_like(right)) else like_own(one, right)
        for one, right in zip(own, truth, strict=True)
    ]


def is_right(value, truth):
    """Whether a reply of any kind is nearly a tensor."""
    return isinstance(value, torch.Tensor) and nearly(value, truth, 1e-4)


def is_own(own, truth):
    """Whether a result is wrong or right work, not none: a tensor of the truth's shape, of several numbers."""
    fits = isinstance(own, torch.Tensor) and own.shape == truth.shape and own.is_floating_point()
    return fits and own[own.isfinite()].unique().numel() > max(1, own.numel() // 8)


def along(grads):
    """What `inside.slopes_of` should be for these gradients."""
    return [float((torch.arange(g.numel()).double().cos().view_as(g) * g.double()).sum()) for g in grads]


# ---------------------------------------------------------------------------------------------- gradients


def true_gradients(function, *inputs, weights=()):
    """(outputs, gradients) of function(*inputs), in float64, as lists; the truth for `inside.gradients`.

    inputs: those of floating point get a gradient, in their order, and after them the weights, which function uses.
    Number n of each output counts cos(n) times.
    """
    inputs = [item.double() if item.is_floating_point() else item for item in inputs]
    leaves = [*(item for item in inputs if item.is_floating_point()), *weights]
    for leaf in leaves:
        leaf.requires_grad_()
    outputs = as_list(function(*inputs))
    total = sum((torch.arange(item.numel()).double().cos().view_as(item) * item).sum() for item in outputs)
    grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return [item.detach() for item in outputs], list(grads)


# ---------------------------------------------------------------------------------------------- conduct

MANNERS = {  # sentence -> what inside.manners says: check(rude, "", mistakes=MANNERS)
    "the seed, the default dtype or another setting of torch is changed": "changes torch",
    "something is printed": "prints",
    "a setting of torch is changed, and something is printed": "changes torch, prints",
}


def dropout_facts(runs):
    """Facts about inside.dropout_runs: off in eval mode, repeated by a seed, different without one in train mode.

    Inputs should have so many numbers that two calls hardly ever drop the same by chance: n numbers at a rate p do with
    a probability of (1 - 2p + 2p²)^n, which is 10⁻¹⁹ for 100 numbers at p = 0.5, and 10⁻¹⁰ for 116 at p = 0.1.
    """
    first, same_seed, other_seed, quiet, quiet_again = (run[0] for run in runs)
    return [
        (torch.equal(quiet, quiet_again), "dropout is active in eval mode too"),
        (torch.equal(first, same_seed), "dropout does not follow torch's seed"),
        (not torch.equal(first, other_seed), "there is no dropout in train mode"),
    ]


def seed_facts(found, what="tokens"):
    """Facts about inside.seeds: torch's own generator draws, which goes on from call to call; what: is drawn."""
    return [
        (found["torch's seed"], f"the {what} do not come from torch's generator: its seed should give them again"),
        (not found["other seed of torch"], f"another seed of torch gives the same {what}: do not set a seed"),
        (not found["next"], "every call draws the same: do not set a seed"),
    ]


def randomness_facts(found, what="tokens"):
    """Facts about inside.randomness: all is drawn from generator where it is given, from torch's own where it is not."""
    return [
        (not found["torch used"], "torch's own generator is used although generator is given"),
        (not found["others used"], "Python's random or numpy's is used although generator is given"),
        (found["seed"], f"one seed of generator gives different {what}: everything should be drawn from it"),
        (not found["other seed"], "generator has no influence on what is drawn"),
        (not found["goes on"], "generator is seeded anew in each call; it should go on from its state"),
        *seed_facts(found, what),
    ]


# ---------------------------------------------------------------------------------------------- draws

FALSE_ALARM = 1e-9  # of one call of wrong_law: see there what it comes to in a class
PLAUSIBLE = 1e-5  # a mistake is named where its own law passes at this level


def law(*weights):
    """The weights as probabilities."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return weights / weights.sum()


def chance(counts, probs):
    """The probability that draws lie as far from their law as these counts do, or farther: a chi-square test.

    counts, probs: (V,), or (R, V) for R laws, each of whose rows sums to 1. Of one law with two cells it is exact. Of others
    the statistic is 2 Σ counts · ln(counts / expected), whose tail is right up to a factor of three down to 1e-9 where ten draws
    are expected; that of Pearson's (counts - expected)² / expected is 200 times too heavy there. Cells in which less than
    ten are expected are one cell of their row, with the next larger one if that is still too small.
    """
    if counts.shape == (2,):
        return chance_of_share(int(counts[0]), int(counts.sum()), float(probs[0]))
    statistic, freedom = 0.0, 0
    rows = counts.shape[-1]
    for drawn, weights in zip(counts.double().view(-1, rows), probs.double().view(-1, rows), strict=True):
        if drawn[weights == 0].sum() > 0 or not weights.isfinite().all():
            return 0.0
        if not drawn.any():
            continue
        drawn, expected = _large_cells(drawn, drawn.sum() * weights)
        statistic += 2 * torch.xlogy(drawn, drawn / expected).sum().clamp(min=0)
        freedom += len(drawn) - 1
    if freedom == 0:
        return 1.0
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic / 2))


def _large_cells(drawn, expected):
    expected, order = expected.sort()
    small = int((expected < 10).sum())
    small += 0 < small < len(expected) and bool(expected[:small].sum() < 10)
    return [
        torch.cat([cells[:small].sum()[None], cells[small:]]) if small else cells for cells in (drawn[order], expected)
    ]


def chance_of_share(count, trials, p):
    """The probability of a count that is as unlikely as this one, or less likely: the exact binomial test, two-sided."""
    k = torch.arange(trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    logs = ways + torch.xlogy(k, p) + torch.xlogy(trials - k, 1 - p)
    return min(1.0, float(logs[logs <= logs[count] + 1e-7].exp().sum()))


def wrong_law(cases, otherwise, false_alarm=FALSE_ALARM):
    """ "" if the draws of all cases fit their laws; else the sentence of the law that fits them best, or `otherwise`.

    cases: (counts, probs, mistakes), where mistakes are sentence -> probs, or a function of them; the same sentences in
    all cases. In one case two mistakes may come near each other; in all of them they do not: the first sentence counts
    that is about as likely as the likeliest. One that fits no case that is wrong is none.
    false_alarm: how often draws that follow the laws are called wrong, by one call with all its cases. It is paid by each
    student, test and parametrized case: 300 students with 30 such cases at 1e-9 fail right work once in 100,000 classes.
    Use: `wrong = wrong_law(…)`, `check.that(not wrong, wrong)`.
    """
    wrong = [chance(counts, probs) <= false_alarm / len(cases) for counts, probs, _ in cases]
    if not any(wrong):
        return ""
    fits = {sentence: _fit(cases, wrong, sentence) for sentence in cases[0][2]}
    best = max(fits.values(), default=-math.inf)
    near = best - math.log(100)
    return next(sentence for sentence in fits if fits[sentence] >= near) if best > -math.inf else otherwise


def wrong_share(count, trials, p, otherwise, mistakes=None, false_alarm=FALSE_ALARM):
    """wrong_law of what is so or not: `count` of `trials` are, each with probability p; mistakes are sentence -> its p."""
    laws = {sentence: law(wrong, 1 - wrong) for sentence, wrong in (mistakes or {}).items()}
    return wrong_law([(torch.tensor([count, trials - count]), law(p, 1 - p), laws)], otherwise, false_alarm)


def _fit(cases, wrong, sentence):
    """The logarithm of the chance of all draws, of which no single case decides alone."""
    laws = [(counts, mistakes[sentence]) for counts, _, mistakes in cases]
    chances = [chance(counts, probs() if callable(probs) else probs) for counts, probs in laws]
    if not any(fits > PLAUSIBLE for fits, is_wrong in zip(chances, wrong, strict=True) if is_wrong):
        return -math.inf
    return sum(math.log(max(fits, 1e-6)) for fits in chances)
