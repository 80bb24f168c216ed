"""Hidden tests of training: schedules, clipping, first weights and loss.

Each truth is a float64 function of this file (or torch's own), of which the known mistakes replace a step.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from shared import MANNERS, randn, seed_facts, single, tokens

SCHEDULES = pytest.mark.question("Learning-rate schedules")
CLIP = pytest.mark.question("clip_grad_norm")
INIT = pytest.mark.question("init_weights")
SMOOTHING = pytest.mark.question("label_smoothed_cross_entropy")


def rand(rng, low, high):
    return low + (high - low) * torch.rand((), generator=rng).item()


def within(rng, low, high):
    return int(torch.randint(low, high, (), generator=rng))


# ---------------------------------------------------------------------------------------------- schedules


def half_cosine(p):
    return (1 + math.cos(math.pi * p)) / 2


def cosine(step, warmup, total, high, low, *, rise=lambda share, warmup, bottom: share, start=None, clamp=True, top=lambda total, warmup: total,
           floor=lambda low: low, height=lambda high, low: high - low, shape=half_cosine):  # fmt: skip
    """cosine_schedule; the keywords are what one can get wrong."""
    if step < warmup:
        return high * rise(step / warmup, warmup, low / high)
    start, low = warmup if start is None else start, floor(low)
    p = (step - start) / (top(total, warmup) - start)
    return low + height(high, low) * shape(min(1.0, p) if clamp else p)


COSINE_MISTAKES = {  # sentence -> the keywords of `cosine` that are wrong
    "the warmup begins at max_lr / warmup_steps; it should begin at 0": dict(rise=lambda share, warmup, _: share + 1 / warmup),
    "the warmup is (step + 1) / (warmup_steps + 1); it should be step / warmup_steps": dict(rise=lambda share, warmup, _: (share * warmup + 1) / (warmup + 1)),
    "there is no warmup": dict(rise=lambda *_: 1.0),
    "the warmup rises from min_lr; it should rise from 0": dict(rise=lambda share, _, bottom: bottom + (1 - bottom) * share),
    "the decay is counted from step 0; it should begin after the warmup": dict(start=0),
    "the decay takes total_steps; it should take total_steps - warmup_steps": dict(top=lambda total, warmup: total + warmup),
    "the decay ends a step early; it should take total_steps - warmup_steps": dict(top=lambda total, warmup: total - 1),
    "the rate rises again after total_steps; p should be at most 1": dict(clamp=False),
    "min_lr is ignored": dict(floor=lambda low: 0.0),
    "min_lr is added to a cosine of height max_lr; its height should be max_lr - min_lr": dict(height=lambda high, low: high),
    "the decay is a straight line; it should be half a cosine": dict(shape=lambda p: 1 - p),
    "the decay is a quarter of a cosine; it should be half of one": dict(shape=lambda p: math.cos(math.pi * p / 2)),
    "1 + cos is not halved": dict(shape=lambda p: 2 * half_cosine(p)),
    "the decay rises from min_lr; it should fall from max_lr": dict(shape=lambda p: 1 - half_cosine(p)),
    "π is missing in the cosine": dict(shape=lambda p: half_cosine(p / math.pi)),
}  # fmt: skip


@SCHEDULES
@pytest.mark.points(3)
@pytest.mark.parametrize("case", ["all", "no warmup", "default min_lr"])
def test_cosine_schedule_rises_and_falls(student, check, rng, case):
    """Linear warmup from 0 to max_lr, then half a cosine down to min_lr, which stays."""

    def probe(last, warmup, total, high, low):
        from training import cosine_schedule

        return [cosine_schedule(step, warmup, total, high, *low) for step in range(last)]

    warmup, total = 0 if case == "no warmup" else within(rng, 5, 9), within(rng, 20, 30)
    high, low = rand(rng, 0.5, 1.5), 0.0 if case == "default min_lr" else rand(rng, 0.1, 0.2)
    rates = student.run(probe, total + 6, warmup, total, high, [low] if low else [])

    def made(**wrong):
        return lambda: [cosine(step, warmup, total, high, low, **wrong) for step in range(total + 6)]

    mistakes = {sentence: made(**wrong) for sentence, wrong in COSINE_MISTAKES.items()}
    check(rates, made()(), dtype=torch.float32, terms=8, scale=high, mistakes=mistakes)


@SCHEDULES
@pytest.mark.points(2)
def test_the_scheduler_sets_the_rate_of_every_group(student, check, rng):
    """After step(step) each group has the cosine schedule of the lr that it had when the scheduler was made."""

    def probe(rates, steps, warmup, total, low):
        from training import CosineAnnealingWarmupScheduler

        groups = [{"params": [torch.ones(2, requires_grad=True)], "lr": lr} for lr in rates]
        optimizer = torch.optim.SGD(groups, lr=rates[0])
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(2)
            group["lr"] = group["lr"] / 2
        scheduler = CosineAnnealingWarmupScheduler(optimizer, warmup, total, *low)
        seen = []
        for step in steps:
            optimizer.param_groups[0]["lr"] = 99.0
            scheduler.step(step)
            seen.append([float(group["lr"]) for group in optimizer.param_groups])
        return seen, [group["params"][0] for group in optimizer.param_groups]

    low = rand(rng, 0.05, 0.1)
    rates, steps = [rand(rng, 2.0, 3.0), rand(rng, 0.5, 1.0)], [3, 0, 9, 8, 20, 24, 25, 40, 5, 12]
    seen, parameters = student.run(probe, rates, steps, 8, 25, [low])

    def made(steps=steps, rates=(rates[0] / 2, rates[1] / 2), **wrong):
        return lambda: [[cosine(step, 8, 25, high, low, **wrong) for high in rates] for step in steps]

    def compounded():
        rate, seen = rates[1] / 2, []
        for step in steps:
            rate = cosine(step, 8, 25, rate, low)
            seen.append([cosine(step, 8, 25, 99.0, low), rate])
        return seen

    check(seen, made()(), dtype=torch.float32, terms=8, scale=1.0, mistakes={
        "all groups get the rate of the first; each should have its own max_lr": made(rates=(rates[0] / 2, rates[0] / 2)),
        "max_lr is the lr that the optimizer was made with; it should be the group's lr when the scheduler is made": made(rates=rates[:1] * 2),
        "max_lr is the lr that the group was made with; it should be the group's lr when the scheduler is made": made(rates=rates),
        "max_lr is read in every step, when it has already changed; it should be stored when the scheduler is made": compounded,
        "the scheduler counts its own steps from 0; it should use the argument step": made(steps=range(10)),
        "the scheduler counts its own steps from 1; it should use the argument step": made(steps=range(1, 11)),
        "the rate is that of the next step": made(steps=[step + 1 for step in steps]),
        "only the first group's rate is set; every group's should be": lambda: [[first, rates[1] / 2] for first, _ in made()()],
    } | {sentence: made(**wrong) for sentence, wrong in COSINE_MISTAKES.items()})  # fmt: skip
    check(
        parameters,
        [torch.ones(2)] * 2,
        otherwise="the scheduler calls the optimizer's step; it should only set the rates",
    )


@SCHEDULES
@pytest.mark.points(2)
def test_noam_schedule_peaks_after_the_warmup(student, check, rng):
    """d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)."""

    def probe(steps, d_model, warmup):
        from training import noam_schedule

        return [noam_schedule(step, d_model, warmup) for step in steps]

    d_model, warmup = within(rng, 30, 600), within(rng, 10, 50)
    steps = [1, 2, warmup - 1, warmup, warmup + 1, 4 * warmup, 1000, 2 * warmup**3]
    rates = student.run(probe, steps, d_model, warmup)

    def made(choose=min, width=d_model**-0.5, late=-0.5, early=-1.5, offset=0):
        return [width * choose((step + offset) ** late, (step + offset) * warmup**early) for step in steps]

    check(rates, made(), dtype=torch.float32, terms=8, scale=0.0, mistakes={
        "the greater of the two terms is taken; it should be the smaller": made(max),
        "the factor d_model^-0.5 is missing": made(width=1.0),
        "the factor is d_model^0.5; it should be d_model^-0.5": made(width=d_model**0.5),
        "the factor is 1 / d_model; it should be d_model^-0.5": made(width=1 / d_model),
        "the exponent of warmup_steps is -0.5; it should be -1.5": made(early=-0.5),
        "the exponent of warmup_steps is -1; it should be -1.5": made(early=-1.0),
        "after the warmup the exponent of step is -1.5; it should be -0.5": made(late=-1.5),
        "after the warmup the rate rises with the root of the step; it should fall with it": made(late=0.5),
        "steps are counted from 0; the first should be 1": made(offset=1),
        "there is no warmup": made(lambda late, early: late),
        "the rate never falls": made(lambda late, early: early),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- clip_grad_norm


def run_clip(student, gradients, max_norm, way="list"):
    """(total norm as a number, the gradients afterwards)"""

    def probe(gradients, max_norm, way):
        from training import clip_grad_norm

        parameters = []
        for gradient in gradients:
            parameter = torch.ones(3, 2, dtype=torch.float64) if gradient is None else torch.ones_like(gradient)
            parameters.append(parameter.requires_grad_())
            parameters[-1].grad = gradient
        ways = {"list": parameters, "generator": (parameter for parameter in parameters), "alone": parameters[0]}
        total = clip_grad_norm(ways[way], max_norm)
        total = float(total) if isinstance(total, (torch.Tensor, int)) or hasattr(total, "dtype") else total
        return total, [parameter.grad for parameter in parameters]

    return student.run(probe, gradients, max_norm, way)


# sentence -> a function of (max_norm, the gradients, their norms, that of all): another norm that is returned and clipped to,
# another factor for all gradients, or a change of each
CLIP_MISTAKES = {
    "short gradients are made longer; they should stay as they are": lambda top, given, norms, total: dict(factor=top / total),
    "each gradient is clipped by itself; all of them should get the same factor": lambda top, *_: dict(each=lambda g: g * min(1.0, top / float(g.norm()))),
    "the norm is the sum of squares; it should be its square root": lambda top, given, norms, total: dict(norm=total**2),
    "the norms of the gradients are added; it should be the root of the sum of their squares": lambda top, given, norms, total: dict(norm=sum(norms)),
    "the norm is the mean of the gradients' norms; it should be the root of the sum of squares": lambda top, given, norms, total: dict(norm=sum(norms) / len(norms)),
    "the norm is the sum of the absolute values; it should be the root of the sum of squares": lambda top, given, *_: dict(norm=sum(float(g.abs().sum()) for g in given)),
    "the norm is the greatest absolute value; it should be the root of the sum of squares": lambda top, given, *_: dict(norm=max(float(g.abs().max()) for g in given)),
    "the norm is that of the last gradient; it should be that of all of them": lambda top, given, norms, total: dict(norm=norms[-1]),
    "every value is clipped to max_norm; the length of all gradients together should be": lambda top, *_: dict(each=lambda g: g.clamp(-top, top)),
    "the norm after clipping is returned; it should be the one before": lambda top, given, norms, total: dict(returned=min(top, total)),
    "the gradients are divided by their norm, but not multiplied by max_norm": lambda top, given, norms, total: dict(factor=1 / total),
    "the clipping factor is returned; it should be the norm": lambda top, given, norms, total: dict(returned=min(1.0, top / total)),
    "no gradient was found": lambda *_: dict(returned=0.0, factor=1.0),
    "the gradients are not clipped": lambda *_: dict(factor=1.0),
}  # fmt: skip


def clip_mistakes(gradients, max_norm):
    given = [gradient for gradient in gradients if gradient is not None]
    norms = [float(gradient.norm()) for gradient in given]
    total = math.hypot(*norms)

    def made(norm=total, factor=None, each=None, returned=None):
        factor = min(1.0, max_norm / norm) if factor is None else factor
        each = each or (lambda g: g * factor)
        return norm if returned is None else returned, single([g if g is None else each(g) for g in gradients])

    return {sentence: made(**wrong(max_norm, given, norms, total)) for sentence, wrong in CLIP_MISTAKES.items()}


@CLIP
@pytest.mark.points(3)
@pytest.mark.parametrize("way", ["list", "generator", "alone"])
def test_long_gradients_are_scaled_together(student, check, rng, way):
    """All gradients get one factor, and the norm before is returned, for a list, a generator or one tensor."""
    gradients = [
        randn(rng, 3, 4, dtype=torch.float64) * 2,
        None,
        randn(rng, 5, dtype=torch.float64) * 3,
        randn(rng, 2, 2, 2, dtype=torch.float64),
    ][: 1 if way == "alone" else None]
    max_norm = rand(rng, 0.3, 0.8)
    total, clipped = run_clip(student, gradients, max_norm, way)

    parameters = [torch.zeros(1) if g is None else torch.ones_like(g) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    mistakes = clip_mistakes(gradients, max_norm)
    if way == "generator":
        unscaled = mistakes.pop("the gradients are not clipped")
        mistakes["the gradients are not clipped: a generator is used up once the norm is computed"] = unscaled
    truth = norm, single([parameter.grad for parameter in parameters])
    check((total, single(clipped)), truth, dtype=torch.float32, mistakes=mistakes)
    check.that(bool(all(g is None or g.dtype == torch.float64 for g in clipped)), "the gradients are no longer float64")


@CLIP
@pytest.mark.points(2)
def test_short_gradients_stay(student, check, rng):
    """Gradients that are no longer than max_norm stay as they are; zeros stay zeros, and no gradients have norm 0."""
    gradients = [randn(rng, 3, 4, dtype=torch.float64) * 0.2, None, randn(rng, 5, dtype=torch.float64) * 0.3]
    max_norm = rand(rng, 4.0, 8.0)
    total, after = run_clip(student, gradients, max_norm)
    zero, zeros = run_clip(student, [torch.zeros(3), torch.zeros(2, 2)], 1.0)
    nothing, none = run_clip(student, [None, None], 1.0)

    truth = math.hypot(gradients[0].norm(), gradients[2].norm())
    mistakes = clip_mistakes(gradients, max_norm)
    check((total, single(after)), (truth, single(gradients)), dtype=torch.float32, mistakes=mistakes)
    check(zeros, [torch.zeros(3), torch.zeros(2, 2)])
    check((zero, nothing, none), (0.0, 0.0, [None, None]))


# ---------------------------------------------------------------------------------------------- init_weights


@INIT
@pytest.mark.points(3)
def test_each_layer_gets_its_first_weights(student, check):
    """Xavier uniform and zero bias for Linear, N(0, 0.02) for Embedding, ones and zeros for LayerNorm, however deep.

    False alarms below 1e-9: each standard deviation has 8 of its own, and 12288 uniform numbers all stay below 0.99 of
    their bound with a probability of 1e-53.
    """

    def probe():
        from training import init_weights

        class Own(torch.nn.Linear):
            pass

        wide, norm, half = torch.nn.Linear(64, 192), torch.nn.LayerNorm(6), torch.nn.LayerNorm(5, bias=False)
        bare = torch.nn.LayerNorm(3, elementwise_affine=False)  # has neither weight nor bias
        deep = torch.nn.ModuleList([norm, torch.nn.Linear(9, 4), half, bare, Own(3, 4)])
        inner = torch.nn.Sequential(torch.nn.Embedding(300, 40), wide, deep)
        model = torch.nn.ModuleDict({"a": inner, "b": torch.nn.Linear(5, 3, bias=False)})
        for parameter in model.parameters():
            parameter.data.fill_(7.0)
        init_weights(model)
        alone = torch.nn.Linear(64, 192)
        before = alone.weight.detach().clone()
        init_weights(alone)
        constant = [wide.bias, deep[1].bias, norm.weight, norm.bias, alone.bias, half.weight]
        drawn = [wide.weight, inner[0].weight, alone.weight, model["b"].weight, deep[4].weight]
        trained = [parameter.requires_grad for parameter in model.parameters()]
        return constant, drawn, trained, bool((alone.weight == before).all())

    constant, (wide, embedding, alone, without_bias, own), trained, untouched = student.run(probe)

    truth = [torch.zeros(192), torch.zeros(4), torch.ones(6), torch.zeros(6), torch.zeros(192), torch.ones(5)]
    reached = not (wide == 7).all() and not (without_bias == 7).all()
    check.that(bool(reached), "Linear weights deep inside the module are not reached: go through modules()")
    check.that(bool(not (own == 7).any()), "a subclass of Linear is left as it is: use isinstance")
    check.that(bool(not (embedding == 7).all()), "Embedding weights are not set")
    check.that(bool((constant[0] == 0).all() and (constant[1] == 0).all()), "the bias of a Linear is not zero")
    check.that(bool(not untouched), "a module that is itself a Linear is left as it is: modules() gives it too")
    check.that(bool(not (constant[2] == 7).all()), "the weights of a LayerNorm are not set")
    check.that(bool((constant[3] == 0).all()), "the bias of a LayerNorm is not zero")
    check.that(bool((constant[2] == 1).all() and (constant[5] == 1).all()), "the weight of a LayerNorm is not one")
    check(constant, truth)
    bound = math.sqrt(6 / (64 + 192))
    for weight in (wide, alone):
        check(weight.std().item(), bound / 3**0.5, within=0.003, mistakes={
            "Linear weights are as large as torch makes them; they should be Xavier uniform": (3 * 64) ** -0.5,
            "the bound of Linear weights is sqrt(6 / in), as Kaiming's; it should be sqrt(6 / (in + out))": (2 / 64) ** 0.5,
            "Linear weights have a standard deviation of 0.02, as in GPT-2; they should be Xavier uniform": 0.02,
        })  # fmt: skip
        largest = weight.abs().max().item() / bound
        check.that(
            bool(0.99 < largest <= 1.0001),
            "Linear weights are not uniform between -sqrt(6 / (in + out)) and sqrt(6 / (in + out))",
        )
    spread = embedding.std().item()
    check(spread, 0.02, within=0.0012, mistakes={
        "0.02 is the variance of Embedding weights; it should be their standard deviation": spread if 0.13 < spread < 0.155 else None,
        "Embedding weights are Xavier uniform; they should be N(0, 0.02²)": spread if 0.07 < spread < 0.085 else None,
        "Embedding weights have the standard deviation 1; it should be 0.02": spread if spread > 0.9 else None,
    })  # fmt: skip
    check.that(bool(abs(embedding.mean().item()) < 0.0016), "the mean of the Embedding weights is not 0")
    check.that(
        bool(embedding.abs().max() > 0.06), "Embedding weights are not normal: none of them is far from the mean"
    )
    check.that(bool(all(trained)), "parameters no longer require gradients")


@INIT
@pytest.mark.points(1)
def test_first_weights_follow_the_seed(student, check):
    """The weights come from torch's generator: they follow its seed, and two layers have different ones."""

    def probe():
        from training import init_weights

        layers = torch.nn.ModuleList([torch.nn.Linear(6, 4), torch.nn.Linear(6, 4), torch.nn.Embedding(6, 4)])

        def draw():
            init_weights(layers)
            return [layer.weight for layer in layers]

        return inside.seeds(draw), draw()

    found, (first, second, _) = student.run(probe)

    for fact in seed_facts(found, "weights"):
        check.that(*fact)
    check.that(not torch.equal(first, second), "two layers get the same weights")


# ---------------------------------------------------------------------------------------------- label smoothing


def smoothed(logits, targets, smoothing=0.1, ignore=-100, *, share=lambda s: s, kept=lambda s: 1 - s, others=0, everywhere=False, mean="real", over="mean", change=lambda loss, s, V: loss):  # fmt: skip
    """The loss by its formula, in float64; the keywords are what one can get wrong."""
    logits, targets = logits.double().reshape(-1, logits.shape[-1]), targets.reshape(-1)
    real, V, s = targets != ignore, logits.shape[-1], share(smoothing)
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(-1, targets.where(real, torch.zeros_like(targets))[:, None])[:, 0]
    spread = -log_p.mean(-1) if over == "mean" else -log_p.sum(-1)
    spread = (-log_p.sum(-1) - nll) / (V - others) if others else spread
    loss = kept(s) * nll * real + s * spread * (1 if everywhere else real)
    return change(loss.sum() / {"real": real.sum(), "all": real.numel(), "sum": 1}[mean], s, V)


SMOOTHING_MISTAKES = {  # sentence -> the keywords of `smoothed` that are wrong
    "there is no smoothing": dict(share=lambda s: 0.0),
    "smoothing is always 0.1; that should only be its default": dict(share=lambda s: 0.1),
    "the smoothing is divided among the other tokens only; the right token should get its share too": dict(others=1),
    "the smoothing is divided among V - 2 tokens; it should be divided among all V": dict(others=2),
    "the entropy of the smoothed targets is subtracted, as KLDivLoss does; it should stay in the loss": dict(
        change=lambda loss, s, V: loss - torch.special.entr(torch.tensor([1 - s + s / V, *[s / V] * (V - 1)], dtype=torch.float64)).sum()
    ),
    "the smoothing is summed over the vocabulary; it should be averaged": dict(over="sum"),
    "smoothing and 1 - smoothing are swapped": dict(share=lambda s: 1 - s),
    "ignored places count in the mean; they should not": dict(mean="all"),
    "the losses are added; it should be their mean over the places that are not ignored": dict(mean="sum"),
    "the smoothing is counted at ignored places too; these should not count": dict(everywhere=True),
    "only -100 is ignored; it should be ignore_index": dict(ignore=-100),
    "token 0 is always ignored": dict(ignore=0),
    "the sign is wrong": dict(change=lambda loss, s, V: -loss),
    "the right token's part is not multiplied by 1 - smoothing; it should be": dict(kept=lambda s: 1.0),
}  # fmt: skip


@SMOOTHING
@pytest.mark.points(3)
@pytest.mark.parametrize(("shape", "smoothing", "ignore"), [
    ((2, 5, 7), None, None), ((6, 4), 0.3, None), ((3, 4, 6), 0.2, 0), ((2, 3, 2, 5), 0.0, 2), ((1, 9), 0.6, 8),
])  # fmt: skip
def test_smoothed_loss_equals_that_of_torch(student, check, rng, shape, smoothing, ignore):
    """The loss is that of cross_entropy with label_smoothing on the flattened tensors."""

    def probe(logits, targets, options):
        from training import label_smoothed_cross_entropy

        return inside.manners(label_smoothed_cross_entropy, logits, targets, **options)

    logits = randn(rng, *shape, dtype=torch.float64).float() * 2
    targets = tokens(rng, shape[-1], *shape[:-1])
    given = {key: value for key, value in (("smoothing", smoothing), ("ignore_index", ignore)) if value is not None}
    smoothing, ignore = 0.1 if smoothing is None else smoothing, -100 if ignore is None else ignore
    targets.view(-1)[0], targets.view(-1)[-1] = (ignore, 1) if targets.numel() > 1 else (1, 1)
    loss, after, rude = student.run(probe, logits, targets, given)

    flat = logits.double().flatten(0, -2), targets.flatten()
    truth = F.cross_entropy(*flat, label_smoothing=smoothing, ignore_index=ignore)
    mistakes = {
        sentence: partial(smoothed, logits, targets, **{"smoothing": smoothing, "ignore": ignore} | wrong)
        for sentence, wrong in SMOOTHING_MISTAKES.items()
    }
    check(loss, truth, dtype=torch.float32, terms=16, mistakes=mistakes)
    check(after, [logits, targets], otherwise="logits or targets are changed in place")
    check(rude, "", mistakes=MANNERS)


@SMOOTHING
@pytest.mark.points(2)
def test_smoothed_loss_has_gradients_and_large_logits(student, check, rng):
    """float64 stays float64, gradients are exact, ignored places have none, and large logits do not overflow."""

    def probe(logits, targets):
        from training import label_smoothed_cross_entropy

        leaf = logits.clone().requires_grad_()
        loss = label_smoothed_cross_entropy(leaf, targets, 0.2)
        (slope,) = inside.gradients(loss, [leaf], [torch.ones(())])
        return loss, slope, label_smoothed_cross_entropy(logits * 1000, targets, 0.2)

    logits, targets = randn(rng, 3, 4, 6, dtype=torch.float64), tokens(rng, 6, 3, 4)
    targets[0, 2:] = targets[1, 0] = -100
    loss, slope, large = student.run(probe, logits, targets)

    leaf = logits.clone().requires_grad_()
    truth = F.cross_entropy(leaf.flatten(0, 1), targets.flatten(), label_smoothing=0.2)
    mistakes = {s: partial(smoothed, logits, targets, 0.2, **wrong) for s, wrong in SMOOTHING_MISTAKES.items()}
    check(loss, truth.detach(), mistakes=mistakes)
    check(slope, torch.autograd.grad(truth, leaf)[0], mistakes={"no gradient reaches logits": torch.zeros_like(logits)})
    check(large, F.cross_entropy(logits.flatten(0, 1) * 1000, targets.flatten(), label_smoothing=0.2), mistakes={
        "large logits overflow: use log_softmax": math.nan * truth.detach(),
        "the log of a probability of 0 is taken: use log_softmax": math.inf * truth.detach(),
    })  # fmt: skip
