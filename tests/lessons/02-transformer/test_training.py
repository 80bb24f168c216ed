"""Hidden tests of training.

Each truth is a float64 function of this file (or torch's own), whose keywords are the mistakes that are known. The
trainers drive `inside.Toy`, a model so small that `toy_step` works out its loss and gradients beside it.
"""

import math

import pytest
import torch
import torch.nn.functional as F

ADAMW = pytest.mark.question("AdamW")
SCHEDULES = pytest.mark.question("Learning-rate schedules")
CLIP = pytest.mark.question("clip_grad_norm")
INIT = pytest.mark.question("init_weights")
SMOOTHING = pytest.mark.question("label_smoothed_cross_entropy")
TRAINER = pytest.mark.question("TransformerTrainer")
OPTIMIZED = pytest.mark.question("OptimizedTransformerTrainer")


def randn(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def rand(rng, low, high):
    return low + (high - low) * torch.rand((), generator=rng).item()


def within(rng, low, high):
    return int(torch.randint(low, high, (), generator=rng))


def single(tree):
    """The floating-point tensors of a tree in float32: how exactly they are compared, whatever they were worked out in."""
    if isinstance(tree, dict):
        return {key: single(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [single(item) for item in tree]
    return tree.float() if isinstance(tree, torch.Tensor) and tree.is_floating_point() else tree


def judge(check, fact, wrong):
    """Something that is so or not, and what it means if it is not."""
    check(bool(fact), True, mistakes={wrong: False})


# ---------------------------------------------------------------------------------------------- AdamW

OWN = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.05, "weight_decay": 0.3}
DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def task(rng, settings, **more):
    """Two parameters and five steps; inside.optimize and `adamw` say what is in a task. Some gradients are as small as eps."""
    shapes, size = [(3, 4), (5,)], 1 if settings else 10
    smaller = [torch.ones(3, 4), torch.tensor([1, 1, 1e-8, 1e-8, 1e-3])]
    steps = [[randn(rng, *shape) * small for shape, small in zip(shapes, smaller, strict=True)] for _ in range(5)]
    starts = [randn(rng, *shape) * size for shape in shapes]
    return {"starts": starts, "steps": steps, "groups": [([0, 1], {})], "settings": settings, **more}


def adamw(task, *, root=0.5, eps="outside", decay="first", corrected=(True, True), missing="waits", clock="own", own=True,
          lr="now", resumed="all", swapped=False, fresh=True, sign=1):  # fmt: skip
    """The parameters after each step, in float64; the keywords are what one can get wrong."""
    parameters = [start.double().clone() for start in task["starts"]]
    count, history = len(parameters), []
    m, v, t, ticks = [0.0] * count, [0.0] * count, [0] * count, 0
    group_of = {i: g for g, (places, _) in enumerate(task["groups"]) for i in places}
    settings = [DEFAULTS | task["settings"] | (settings if own else {}) for _, settings in task["groups"]]
    for k, gradients in enumerate(task["steps"]):
        for group, rate in zip(settings, task.get("lrs", {}).get(k, ()) if lr == "now" else (), strict=False):
            group["lr"] = rate
        if k == task.get("reload") and resumed != "all":
            t, ticks = [0] * count, 0
            if resumed == "nothing":
                m, v = [0.0] * count, [0.0] * count
        ticks += 1
        for i, g in enumerate(gradients):
            s, p = settings[group_of[i]], parameters[i]
            rate, (beta1, beta2) = s["lr"], s["betas"][::-1] if swapped else s["betas"]
            shrink = {"none": 1, "without lr": 1 - s["weight_decay"]}.get(decay, 1 - rate * s["weight_decay"])
            if g is None and missing != "zero":
                parameters[i] = p * shrink if missing == "decays" else p
                continue
            g = torch.zeros_like(p) if g is None else g.double()
            g = g + s["weight_decay"] * p if decay == "coupled" else g
            t[i] += 1
            step = t[i] if clock == "own" else ticks
            m[i] = beta1 * m[i] + (1 - beta1 if fresh else 1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat = m[i] / (1 - beta1**step) if corrected[0] else m[i]
            v_hat = v[i] / (1 - beta2**step) if corrected[1] else v[i]
            early = s["eps"] / (1 - beta2**step) ** 0.5  # added to √v before the correction
            bottom = {
                "inside": (v_hat + s["eps"]) ** root, "before": v_hat**root + early, "none": v_hat**root,
            }.get(eps, v_hat**root + s["eps"])  # fmt: skip
            move = sign * rate * m_hat / bottom
            parameters[i] = {"coupled": p - move, "last": (p - move) * shrink}.get(decay, p * shrink - move)
        history.append(list(parameters))
    return history


def adamw_mistakes(task):
    def made(**wrong):
        return lambda: moves(task, adamw(task, **wrong))

    return {
        "weight decay is added to the gradient, as in plain Adam: it shrinks the weights directly": made(
            decay="coupled"
        ),
        "there is no weight decay": made(decay="none"),
        "weight decay is not multiplied by lr": made(decay="without lr"),
        "weight decay comes after the update: it comes before": made(decay="last"),
        "the moments are not corrected for their start at zero": made(corrected=(False, False)),
        "the first moment is not corrected for its start at zero": made(corrected=(False, True)),
        "the second moment is not corrected for its start at zero": made(corrected=(True, False)),
        "eps is added under the square root: it is added to the root": made(eps="inside"),
        "eps is added to the root before its correction: it is added to the corrected root": made(eps="before"),
        "eps is not added": made(eps="none"),
        "the square root of the second moment is missing": made(root=1.0),
        "the two betas are swapped": made(swapped=True),
        "the gradient enters the first moment whole: it enters with the factor 1 - beta1": made(fresh=False),
        "the parameters move with the gradient: they move against it": made(sign=-1),
        "all groups share their settings: each group has its own": made(own=False),
        "lr is read once: it may change between steps": made(lr="first"),
        "steps are counted for all parameters together: each counts its own": made(clock="shared"),
        "a missing gradient is taken as zero: its parameter is to be left alone": made(missing="zero"),
        "a parameter without gradient is decayed: it is to be left alone": made(missing="decays"),
        "nothing of the state survives load_state_dict: keep it in self.state": made(resumed="nothing"),
        "the number of steps does not survive load_state_dict: keep it in self.state": made(resumed="moments"),
    }


def moves(task, history):
    """How far each parameter moved in each step: compared instead of the parameters, which are much larger."""
    rows = [task["starts"], *history]
    return [torch.stack([row[i].double() for row in rows]).diff(dim=0).float() for i in range(len(task["starts"]))]


def run_adamw(student, task, reload_into=None):
    """The parameters after each step and the gradients after the last."""

    def probe(task, reload_into):
        from training import AdamW

        return inside.optimize(AdamW, task, reload_into or {})

    return student.run(probe, task, reload_into)


def check_adamw(check, task, history, truth):
    check(moves(task, history), moves(task, truth), terms=128, mistakes=adamw_mistakes(task))


@ADAMW
@pytest.mark.points(4)
@pytest.mark.parametrize("settings", [{}, OWN], ids=["defaults", "own"])
def test_updates_equal_those_of_torch(student, check, rng, settings):
    """Every update is that of torch.optim.AdamW, with the default settings and with others."""
    work = task(rng, settings)
    history, gradients = run_adamw(student, work)

    parameters = [start.clone().requires_grad_() for start in work["starts"]]
    optimizer, truth = torch.optim.AdamW(parameters, **settings), []
    for step in work["steps"]:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        truth.append([parameter.detach().clone() for parameter in parameters])
    check_adamw(check, work, history, truth)
    check(gradients, work["steps"][-1], mistakes={"the gradients are changed": gradients})


@ADAMW
@pytest.mark.points(2)
@pytest.mark.parametrize("added", [None, 2])
def test_each_group_has_its_own_settings(student, check, rng, added):
    """Parameter groups have their own lr, betas, eps and weight_decay, also one that is added later."""
    other = {"lr": 0.02, "betas": (0.5, 0.7), "eps": 0.3, "weight_decay": 0.0}
    work = task(rng, OWN, groups=[([0], {}), ([1], other)], added=added)
    for step in work["steps"][: added or 0]:
        step[1] = None
    history, _ = run_adamw(student, work)

    check_adamw(check, work, history, adamw(work))


@ADAMW
@pytest.mark.points(2)
def test_a_parameter_without_gradient_waits(student, check, rng):
    """A parameter whose gradient is None stays as it is, and its steps do not count on; here in float32."""
    work = task(rng, OWN)
    work |= {"starts": single(work["starts"]), "steps": single(work["steps"])}
    work["steps"][0][1] = work["steps"][2][0] = work["steps"][2][1] = work["steps"][3][1] = None
    history, _ = run_adamw(student, work)

    check_adamw(check, work, history, adamw(work))


@ADAMW
@pytest.mark.points(1)
def test_lr_may_change_between_steps(student, check, rng):
    """The lr of each group is read in every step."""
    work = task(rng, OWN, groups=[([0], {}), ([1], {"lr": 0.05})], lrs={1: (0.3, 0.01), 3: (0.0, 0.2)})
    history, _ = run_adamw(student, work)

    check_adamw(check, work, history, adamw(work))


@ADAMW
@pytest.mark.points(2)
def test_training_goes_on_after_load_state_dict(student, check, rng):
    """state_dict and load_state_dict carry settings, moments and numbers of steps into a new optimizer."""
    work = task(rng, OWN, groups=[([1], {}), ([0], {"lr": 0.02})], reload=3)
    work["steps"][1][0] = None
    history, _ = run_adamw(student, work, {"lr": 0.5, "weight_decay": 0.0})

    check_adamw(check, work, history, adamw(work))


@ADAMW
@pytest.mark.points(1)
def test_it_is_an_optimizer_written_by_hand(student, check):
    """AdamW is a torch.optim.Optimizer, none of torch's own does its work, and step returns what its closure returns."""

    def probe(start):
        from training import AdamW

        def refuse(*_, **__):
            raise RuntimeError("torch's own optimizer does the work")

        for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax"):
            getattr(torch.optim, name).step = refuse
        parameter = start.clone().requires_grad_()
        optimizer = AdamW([parameter], lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        returned = optimizer.step(closure)
        is_leaf = parameter.is_leaf and parameter.requires_grad
        return isinstance(optimizer, torch.optim.Optimizer), returned, is_leaf, parameter

    start = torch.tensor([1.0, -2.0])
    is_optimizer, returned, is_leaf, parameter = student.run(probe, start)

    judge(check, is_optimizer, "AdamW is no torch.optim.Optimizer")
    check(returned, torch.tensor(5.0), mistakes={"step does not return the loss of its closure": None})
    judge(check, is_leaf, "a parameter is no trainable leaf any more after the step: change it in place under no_grad")
    check(parameter, start * (1 - 0.1 * 0.01) - 0.1 * start.sign(), mistakes={"step does not call its closure": start})


# ---------------------------------------------------------------------------------------------- schedules


def half_cosine(p):
    return (1 + math.cos(math.pi * p)) / 2


def cosine(step, warmup, total, high, low, *, rise=lambda share: share, start=None, clamp=True, top=None, shape=half_cosine):  # fmt: skip
    if step < warmup:
        return high * rise(step / warmup)
    start = warmup if start is None else start
    p = (step - start) / ((top or total) - start)
    return low + (high - low) * shape(min(1.0, p) if clamp else p)


def cosine_mistakes(made, warmup, total, high, low):
    """made(**wrong) -> what the tested thing gives with this mistake of `cosine`."""
    return {
        "the warmup begins at 1 / warmup_steps: it begins at 0": made(rise=lambda share: share + 1 / warmup),
        "there is no warmup": made(rise=lambda share: 1.0),
        "the warmup rises from min_lr: it rises from 0": made(rise=lambda share: low / high + (1 - low / high) * share),
        "the decay is counted from step 0: it begins after the warmup": made(start=0),
        "the decay takes total_steps: it takes total_steps - warmup_steps": made(top=total + warmup),
        "the rate rises again after total_steps: p is at most 1": made(clamp=False),
        "min_lr is ignored": made(low=0.0),
        "min_lr is added to the whole cosine: its height is max_lr - min_lr": made(shape=lambda p: half_cosine(p) * high / (high - low)),
        "the decay is a straight line: it is half a cosine": made(shape=lambda p: 1 - p),
        "the decay is a quarter of a cosine: it is half of one": made(shape=lambda p: math.cos(math.pi * p / 2)),
        "1 + cos is not halved": made(shape=lambda p: 2 * half_cosine(p)),
        "the cosine is turned around: it begins at max_lr": made(shape=lambda p: 1 - half_cosine(p)),
        "π is missing in the cosine": made(shape=lambda p: half_cosine(p / math.pi)),
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

    def made(low=low, **wrong):
        return lambda: [cosine(step, warmup, total, high, low, **wrong) for step in range(total + 6)]

    mistakes = cosine_mistakes(made, warmup, total, high, low)
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

    def made(steps=steps, rates=(rates[0] / 2, rates[1] / 2), low=low, **wrong):
        return lambda: [[cosine(step, 8, 25, high, low, **wrong) for high in rates] for step in steps]

    def compounded():
        rate, seen = rates[1] / 2, []
        for step in steps:
            rate = cosine(step, 8, 25, rate, low)
            seen.append([cosine(step, 8, 25, 99.0, low), rate])
        return seen

    check(seen, made()(), dtype=torch.float32, terms=8, scale=1.0, mistakes={
        "all groups get the rate of the first: each has its own max_lr": made(rates=(rates[0] / 2, rates[0] / 2)),
        "max_lr is the lr that the optimizer was made with: it is the group's lr when the scheduler is made": made(rates=rates[:1] * 2),
        "max_lr is the group's first lr: it is the group's lr when the scheduler is made": made(rates=rates),
        "max_lr is read in every step, when it is another: remember it when the scheduler is made": compounded,
        "the scheduler counts by itself from 0: step says which step it is": made(steps=range(10)),
        "the scheduler counts by itself from 1: step says which step it is": made(steps=range(1, 11)),
        "the rate is that of the step after": made(steps=[step + 1 for step in steps]),
        "only the first group's rate is set": lambda: [[first, rates[1] / 2] for first, _ in made()()],
    } | cosine_mistakes(made, 8, 25, rates[0] / 2, low))  # fmt: skip
    stepped = {"the scheduler lets the optimizer take a step": parameters}
    check(parameters, [torch.ones(2)] * 2, mistakes=stepped)


@SCHEDULES
@pytest.mark.points(2)
def test_noam_schedule_peaks_after_the_warmup(student, check, rng):
    """d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)."""

    def probe(steps, d_model, warmup):
        from training import noam_schedule

        return [noam_schedule(step, d_model, warmup) for step in steps]

    d_model, warmup = within(rng, 30, 600), within(rng, 10, 50)
    steps = [1, 2, warmup - 1, warmup, warmup + 1, 4 * warmup, 1000]
    rates = student.run(probe, steps, d_model, warmup)

    def made(choose=min, width=d_model**-0.5, late=-0.5, early=-1.5, offset=0):
        return [width * choose((step + offset) ** late, (step + offset) * warmup**early) for step in steps]

    check(rates, made(), dtype=torch.float32, terms=8, scale=0.0, mistakes={
        "the greater of the two terms is taken: it is the smaller": made(max),
        "the factor d_model^-0.5 is missing": made(width=1.0),
        "the factor is d_model^0.5: it is d_model^-0.5": made(width=d_model**0.5),
        "the factor is 1 / d_model: it is d_model^-0.5": made(width=1 / d_model),
        "warmup_steps has the power -0.5: it is -1.5": made(early=-0.5),
        "warmup_steps has the power -1: it is -1.5": made(early=-1.0),
        "step has the power -1.5 after the warmup: it is -0.5": made(late=-1.5),
        "the rate rises with the root of the step after the warmup: it falls": made(late=0.5),
        "steps are counted from 0: the first is 1": made(offset=1),
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
        return float(total), [parameter.grad for parameter in parameters]

    return student.run(probe, gradients, max_norm, way)


def clip_mistakes(gradients, max_norm):
    given = [gradient for gradient in gradients if gradient is not None]
    norms = [float(gradient.norm()) for gradient in given]
    total = math.hypot(*norms)

    def made(norm=total, factor=None, each=None, returned=None):
        """Another norm that is returned and clipped to, another factor for all gradients, or a change of each."""
        factor = min(1.0, max_norm / norm) if factor is None else factor
        each = each or (lambda g: g * factor)
        return norm if returned is None else returned, single([g if g is None else each(g) for g in gradients])

    return {
        "short gradients are made longer: they are left as they are": made(factor=max_norm / total),
        "each gradient is clipped by itself: one factor is for all of them": made(each=lambda g: g * min(1.0, max_norm / float(g.norm()))),
        "the norm is not the root of the sum of squares: the root is missing": made(total**2),
        "the norms of the gradients are added: their squares are": made(sum(norms)),
        "the norm is the sum of the absolute values: it is the root of the sum of squares": made(sum(float(g.abs().sum()) for g in given)),
        "the norm is the greatest absolute value: it is the root of the sum of squares": made(max(float(g.abs().max()) for g in given)),
        "the norm is that of the last gradient: it is that of all of them": made(norms[-1]),
        "every value is clipped to max_norm: the length of all gradients together is": made(each=lambda g: g.clamp(-max_norm, max_norm)),
        "the norm after clipping is returned: it is the one before": made(returned=min(max_norm, total)),
        "the gradients are divided by their norm, but not multiplied by max_norm": made(factor=1 / total),
        "the clipping factor is returned: it is the norm": made(returned=min(1.0, max_norm / total)),
        "no gradient was found": made(returned=0.0, factor=1.0),
        "the gradients are not clipped": made(factor=1.0),
    }  # fmt: skip


@CLIP
@pytest.mark.points(3)
@pytest.mark.parametrize("way", ["list", "generator", "alone"])
def test_long_gradients_are_scaled_together(student, check, rng, way):
    """All gradients get one factor, and the norm before is returned, for a list, a generator or one tensor."""
    gradients = [randn(rng, 3, 4) * 2, None, randn(rng, 5) * 3, randn(rng, 2, 2, 2)][: 1 if way == "alone" else None]
    max_norm = rand(rng, 0.3, 0.8)
    total, clipped = run_clip(student, gradients, max_norm, way)

    parameters = [torch.zeros(1) if g is None else torch.ones_like(g) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    mistakes = clip_mistakes(gradients, max_norm)
    if way == "generator":
        unscaled = mistakes.pop("the gradients are not clipped")
        mistakes["the gradients are not clipped: a generator is used up after the norm"] = unscaled
    truth = norm, single([parameter.grad for parameter in parameters])
    check((total, single(clipped)), truth, dtype=torch.float32, mistakes=mistakes)
    judge(check, all(g is None or g.dtype == torch.float64 for g in clipped), "the gradients are float64 no more")


@CLIP
@pytest.mark.points(2)
def test_short_gradients_stay(student, check, rng):
    """Gradients that are no longer than max_norm stay as they are; zeros stay zeros, and no gradients have norm 0."""
    gradients = [randn(rng, 3, 4) * 0.2, None, randn(rng, 5) * 0.3]
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
    judge(check, reached, "Linear weights deep inside the module are not reached: go through modules()")
    judge(check, not (own == 7).any(), "a subclass of Linear is not taken for one: ask isinstance")
    judge(check, not (embedding == 7).all(), "Embedding weights are not set")
    judge(check, (constant[0] == 0).all() and (constant[1] == 0).all(), "the bias of a Linear is not zero")
    judge(check, not untouched, "a module that is itself a Linear is not set: modules() names it too")
    check(constant, truth, mistakes={
        "the weights of a LayerNorm are not set": [*truth[:2], *(torch.full((n,), 7.0) for n in (6, 6)), truth[4], torch.full((5,), 7.0)],
        "the bias of a LayerNorm is not zero": lambda: [*truth[:3], constant[3], *truth[4:]],
        "the weight of a LayerNorm is not one": lambda: [*truth[:2], constant[2], *truth[3:5], constant[5]],
    })  # fmt: skip
    bound = math.sqrt(6 / (64 + 192))
    for weight in (wide, alone):
        check(weight.std().item(), bound / 3**0.5, within=0.003, mistakes={
            "Linear weights are as large as torch makes them: it is Xavier uniform": (3 * 64) ** -0.5,
            "the bound of Linear weights is sqrt(6 / in), as Kaiming's: it is sqrt(6 / (in + out))": (2 / 64) ** 0.5,
            "Linear weights have a standard deviation of 0.02, as in GPT-2: it is Xavier uniform": 0.02,
        })  # fmt: skip
        largest = weight.abs().max().item() / bound
        judge(check, 0.99 < largest <= 1.0001, "Linear weights are not uniform between -sqrt(6 / (in + out)) and that")
    spread = embedding.std().item()
    check(spread, 0.02, within=0.0012, mistakes={
        "0.02 is taken as the variance of Embedding weights: it is their standard deviation": spread if 0.13 < spread < 0.155 else None,
        "Embedding weights are Xavier uniform: they are N(0, 0.02)": spread if 0.07 < spread < 0.085 else None,
        "Embedding weights have the standard deviation 1: it is 0.02": spread if spread > 0.9 else None,
    })  # fmt: skip
    judge(check, abs(embedding.mean().item()) < 0.0016, "the mean of the Embedding weights is not 0")
    judge(check, embedding.abs().max() > 0.06, "Embedding weights are not normal: none is far from the mean")
    judge(check, all(trained), "parameters are not trained any more")


@INIT
@pytest.mark.points(1)
def test_first_weights_follow_the_seed(student, check):
    """The weights come from torch's generator: they follow its seed, and two layers have different ones."""

    def probe():
        from training import init_weights

        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            layers = torch.nn.ModuleList([torch.nn.Linear(6, 4), torch.nn.Linear(6, 4), torch.nn.Embedding(6, 4)])
            torch.manual_seed(seed)
            init_weights(layers)
            runs.append([layers[0].weight, layers[1].weight, layers[2].weight])
        return runs

    first, again, other = student.run(probe)

    judge(check, all((a == b).all() for a, b in zip(first, again, strict=True)), "the same seed gives other weights")
    judge(
        check, not any((a == b).all() for a, b in zip(first, other, strict=True)), "another seed gives the same weights"
    )
    judge(check, not (first[0] == first[1]).all(), "two layers get the same weights")


# ---------------------------------------------------------------------------------------------- label smoothing


def smoothed(logits, targets, smoothing=0.1, ignore=-100, *, others=False, everywhere=False, mean="real", over="mean"):
    """The loss by its formula; the keywords are what one can get wrong."""
    logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    real, V = targets != ignore, logits.shape[-1]
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(-1, targets.where(real, torch.zeros_like(targets))[:, None])[:, 0]
    spread = -log_p.mean(-1) if over == "mean" else -log_p.sum(-1)
    spread = (-log_p.sum(-1) - nll) / (V - 1) if others else spread
    loss = (1 - smoothing) * nll * real + smoothing * spread * (1 if everywhere else real)
    return loss.sum() / {"real": real.sum(), "all": real.numel(), "sum": 1}[mean]


def smoothing_mistakes(logits, targets, smoothing=0.1, ignore=-100):
    def made(smoothing=smoothing, ignore=ignore, change=lambda loss: loss, **wrong):
        return lambda: change(smoothed(logits.double(), targets, smoothing, ignore, **wrong))

    return {
        "there is no smoothing": made(0.0),
        "smoothing is always 0.1: that is only its default": made(0.1),
        "the smoothing goes to the other tokens only: the right one has its share of it too": made(others=True),
        "the smoothing sums over the vocabulary: it is the mean": made(over="sum"),
        "smoothing and 1 - smoothing are swapped": made(1 - smoothing),
        "ignored places count in the mean": made(mean="all"),
        "the losses are added: it is their mean over the places that are not ignored": made(mean="sum"),
        "the smoothing is counted at ignored places too": made(everywhere=True),
        "places of ignore_index count: only -100 is ignored": made(ignore=-100),
        "token 0 is always ignored": made(ignore=0),
        "the sign is wrong": made(change=lambda loss: -loss),
        "the right token's part has no factor 1 - smoothing": lambda: made()() + smoothing * made(0.0)(),
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

    logits = randn(rng, *shape).float() * 2
    targets = torch.randint(0, shape[-1], shape[:-1], generator=rng)
    given = {key: value for key, value in (("smoothing", smoothing), ("ignore_index", ignore)) if value is not None}
    smoothing, ignore = 0.1 if smoothing is None else smoothing, -100 if ignore is None else ignore
    targets.view(-1)[0], targets.view(-1)[-1] = (ignore, 1) if targets.numel() > 1 else (1, 1)
    loss, after, changed, printed = student.run(probe, logits, targets, given)

    flat = logits.double().flatten(0, -2), targets.flatten()
    truth = F.cross_entropy(*flat, label_smoothing=smoothing, ignore_index=ignore)
    mistakes = smoothing_mistakes(logits, targets, smoothing, ignore)
    check(loss, truth, dtype=torch.float32, terms=16, mistakes=mistakes)
    check(after, [logits, targets], mistakes={"logits or targets are changed in place": after})
    judge(check, not changed and not printed, "the function prints, or changes the global state of torch")


@SMOOTHING
@pytest.mark.points(2)
def test_smoothed_loss_has_gradients_and_large_logits(student, check, rng):
    """float64 stays float64, gradients are exact, ignored places have none, and large logits do not overflow."""

    def probe(logits, targets):
        from training import label_smoothed_cross_entropy

        leaf = logits.clone().requires_grad_()
        loss = label_smoothed_cross_entropy(leaf, targets, 0.2)
        (slope,) = inside.gradients([loss], [torch.ones_like(loss)], [leaf])
        return loss, slope, label_smoothed_cross_entropy(logits * 1000, targets, 0.2)

    logits, targets = randn(rng, 3, 4, 6), torch.randint(0, 6, (3, 4), generator=rng)
    targets[0, 2:] = targets[1, 0] = -100
    loss, slope, large = student.run(probe, logits, targets)

    leaf = logits.clone().requires_grad_()
    truth = F.cross_entropy(leaf.flatten(0, 1), targets.flatten(), label_smoothing=0.2)
    check(loss, truth.detach(), mistakes=smoothing_mistakes(logits, targets, 0.2))
    check(slope, torch.autograd.grad(truth, leaf)[0], mistakes={"no gradient reaches logits": torch.zeros_like(logits)})
    check(large, F.cross_entropy(logits.flatten(0, 1) * 1000, targets.flatten(), label_smoothing=0.2), mistakes={
        "large logits overflow: take log_softmax": math.nan * truth.detach(),
        "the log of a probability of 0 is taken: take log_softmax": math.inf * truth.detach(),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- the trainers: the truth

SRC, TGT, WIDTH = 7, 9, 5  # vocabularies of source and target, width of the toy


def toy_weights(rng, dtype=torch.float64, sure=1.0):
    shapes = {"src": (SRC, WIDTH), "tgt": (TGT, WIDTH), "weight": (TGT, WIDTH), "bias": (TGT,)}
    weights = {name: randn(rng, *shape).to(dtype) for name, shape in shapes.items()}
    return weights | {"weight": weights["weight"] * sure}


def batch(rng, lengths, Ts=4, pad=0):
    """(src, tgt): tgt has a row of each length (with the token in front), padded to the greatest."""
    tgt = torch.full((len(lengths), max(lengths)), pad)
    for row, length in zip(tgt, lengths, strict=True):
        row[:length] = torch.randint(3, TGT, (length,), generator=rng)
        row[0] = 1
    if pad:
        tgt[0, 1] = 0  # a token like others
    return torch.randint(1, SRC, (len(lengths), Ts), generator=rng), tgt


def toy_step(w, batches, pad=0, *, smoothing=0.0, counts="real", predict=slice(1, None), longest=math.inf, factor=1.0, mixed=False):  # fmt: skip
    """The loss of inside.Toy over all batches together and its gradients: (float, {name: tensor}).

    counts: "real" tokens, "all" places with the padding, "each" place but its loss is 0 at padding, "sum" without a mean,
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
        if counts in ("batches", "sequences"):
            share = 1 if counts == "batches" else len(src)
            top, bottom = top + share * loss.sum() / real.sum(), bottom + share
        elif counts == "rows":
            top, bottom = top + (loss.sum(1) / real).sum(), bottom + len(src)
        else:
            top, bottom = top + loss.sum(), bottom + {"each": loss.numel(), "sum": 0}.get(counts, real.sum())
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


def logits_of(row):
    """What the model gave for the micro-batch itself, should it have been called for earlier ones too."""
    return next((call["logits"] for call in row["calls"] if call["tgt"].equal(row["tgt"][:, :-1])), torch.empty(0))


def check_shape_of_step(check, row):
    """One step of the optimizer, and a loss that is a float."""
    wrong = {"the optimizer takes no step: call optimizer.step()": 0, "the optimizer takes two steps in one call": 2}
    check(len(row["grads"]), 1, mistakes=wrong)
    judge(check, type(row["loss"]) is float, "the loss is no float: return loss.item()")


LATE = "the loss after the update is returned: it is the one before"


# ---------------------------------------------------------------------------------------------- TransformerTrainer


@TRAINER
@pytest.mark.points(4)
@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("lengths", [(5, 3, 6, 2), (2,), (3, 4)], ids=str)
def test_a_step_learns_to_predict_the_next_token(student, check, rng, pad, lengths):
    """tgt[:, :-1] is fed, tgt[:, 1:] predicted: the mean loss of the tokens that are no padding, and its gradients."""
    weights, (src, tgt) = toy_weights(rng, sure=4.0), batch(rng, lengths, pad=pad)  # gradients longer than 1
    row = watched(student, weights, [(src, tgt)], pad)["rows"][0]

    judge(check, row["calls"], "the model is not called")
    check_shape_of_step(check, row)
    seen = row["calls"][0]
    check(seen["src"], src)
    check(seen["tgt"], tgt[:, :-1], mistakes={
        "the model is fed all of tgt: the last token is only predicted": tgt,
        "the model is fed tgt[:, 1:], the tokens that it is to predict: it is tgt[:, :-1]": tgt[:, 1:],
    })  # fmt: skip

    def made(pad=pad, **wrong):
        return lambda: toy_step(weights, [(src, tgt)], pad, **wrong)

    loss, gradients = made()()
    check(found(row), (loss, gradients), dtype=torch.float32, mistakes={
        "the fed tokens themselves are predicted: it is the next ones, tgt[:, 1:]": made(predict=slice(None, -1)),
        "padding is predicted too: targets of pad_id do not count": made(counts="all"),
        "pad_id is always 0: that is only its default": made(pad=0),
        "padding counts in the number of tokens": made(counts="each"),
        "the losses are added: it is their mean": made(counts="sum"),
        "the mean is taken of each sequence first: all tokens have the same weight": made(counts="rows"),
        "labels are smoothed": made(smoothing=0.1),
        "gradients are clipped to 1": made(longest=1.0),
        "gradients are clipped to 0.5": made(longest=0.5),
        LATE: lambda: (toy_step(row["after"], [(src, tgt)], pad)[0], gradients),
    })  # fmt: skip


@TRAINER
@pytest.mark.points(2)
def test_each_step_has_its_own_gradients(student, check, rng):
    """The gradients of a step are those of its batch alone, whatever came before; batches may have other sizes."""
    weights = toy_weights(rng)
    batches = [batch(rng, (3, 6, 4)), batch(rng, (5, 2), Ts=2), batch(rng, (4, 4, 2, 7), Ts=6)]
    rows = watched(student, weights, batches, lr=0.05)["rows"]

    sums = {name: 0 for name in weights}
    for row, pair in zip(rows, batches, strict=True):
        check_shape_of_step(check, row)
        loss, gradients = toy_step(row["before"], [pair])
        sums = {name: sums[name] + gradients[name] for name in sums}
        check(found(row), (loss, gradients), dtype=torch.float32, mistakes={
            "gradients of earlier steps are still there: zero_grad comes before backward": (loss, sums),
            LATE: (toy_step(row["after"], [pair])[0], gradients),
        })  # fmt: skip


@TRAINER
@pytest.mark.points(2)
@pytest.mark.parametrize("lr", [None, 0.003])
def test_the_optimizer_is_like_adam(student, check, rng, lr):
    """The attribute optimizer has the lr that was given, 1e-4 by default, and moves every weight by about lr, as Adam does."""
    weights, pair = toy_weights(rng), batch(rng, (6, 6, 5))
    seen = watched(student, weights, [pair], lr=lr)

    row, rates, lr = seen["rows"][0], seen["lrs"], lr or 1e-4
    check(rates, [lr] * len(rates), dtype=torch.float32, mistakes={
        "lr is ignored": [1e-4] * len(rates), "the optimizer has its own default lr, 0.001": [1e-3] * len(rates),
    })  # fmt: skip
    check_shape_of_step(check, row)
    gradients = toy_step(weights, [pair])[1]
    # An Adam that adds a decay of up to 0.01 to the gradient is like Adam too: it turns none of these around.
    steep = {name: gradient.abs() > 1e-3 + 0.02 * weights[name].abs() for name, gradient in gradients.items()}
    down = {name: (weights[name] - row["after"][name]) / lr * gradients[name].sign() for name in weights}
    down = torch.cat([down[name][steep[name]] for name in weights])  # in units of lr, against the gradient
    judge(check, down.abs().min() > 0, "some weights are not trained: the optimizer has all parameters of the model")
    judge(check, down.min() > 0, "weights move with their gradient, not against it")
    judge(check, down.min() > 0.5 and down.max() < 2, "weights do not move by about lr: the optimizer is not like Adam")


@TRAINER
@pytest.mark.points(1)
def test_train_step_sets_train_mode_and_nothing_else(student, check, rng):
    """The model is in train mode while it is trained; src, tgt and torch's state stay as they are."""
    batches = [batch(rng, (3, 5)), batch(rng, (4, 2))]
    seen = watched(student, toy_weights(rng), batches)

    modes = [call["training"] for row in seen["rows"] for call in row["calls"]]
    judge(check, modes and all(modes), "the model is not in train mode during train_step")
    after = [(row["src"], row["tgt"]) for row in seen["rows"]]
    check(after, batches, mistakes={"src or tgt is changed in place": after})
    judge(check, not seen["torch_changed"], "the global state of torch is changed")


# ---------------------------------------------------------------------------------------------- OptimizedTransformerTrainer

UNEQUAL = [
    (7, 3, 5),
    (2, 2),
    (4,),
    (6, 6, 6, 2),
    (3, 2),
    (8, 2),
    (5, 5, 5),
]  # lengths: batches with very different tokens


@OPTIMIZED
@pytest.mark.points(4)
@pytest.mark.parametrize(("N", "calls"), [(2, 4), (3, 7), (None, 4)])
def test_n_micro_batches_make_one_update(student, check, rng, N, calls):
    """The N-th call updates with the gradient of all N micro-batches as one batch, every token weighing the same."""
    weights = toy_weights(rng, sure=4.0)  # gradients longer than 1
    batches = [batch(rng, lengths, Ts=2 + i % 3) for i, lengths in enumerate(UNEQUAL[:calls])]
    settings = {"use_gradient_accumulation": True} | ({} if N is None else {"accumulation_steps": N})
    rows = watched(student, weights, batches, lr=0.05, optimized=settings)["rows"]

    N = N or 4
    check([len(row["grads"]) for row in rows], [int(k % N == N - 1) for k in range(calls)], mistakes={
        "every call updates the weights: it is every N-th": [1] * calls,
        "no call updates the weights": [0] * calls,
        "the update comes with the first call of N: it comes with the last": [int(k % N == 0) for k in range(calls)],
        "the update comes a call late: the N-th call makes it": [int(k % (N + 1) == N) for k in range(calls)],
        "accumulation_steps is always 4: that is only its default": [int(k % 4 == 3) for k in range(calls)],
        "only the first N calls end in an update": [int(k == N - 1) for k in range(calls)],
    })  # fmt: skip
    before = {name: 0 for name in weights}
    for k in range(N - 1, calls, N):
        window, start = batches[k - N + 1 : k + 1], rows[k]["before"]

        def made(window=window, start=start, **wrong):
            return lambda: toy_step(start, window, **wrong)[1]

        truth = made()()
        tokens = [int((tgt[:, 1:] != 0).sum()) for _, tgt in batches[: k + 1]]
        check(found(rows[k])[1], truth, dtype=torch.float32, mistakes={
            "the micro-batches' means are averaged: they must be weighted by tokens": made(counts="batches"),
            "the gradients of the means are added: they must be weighted by tokens": made(counts="batches", factor=N),
            "only the last micro-batch counts: the gradients of all N are added": made(window[-1:]),
            "only the last micro-batch counts, divided by N": made(window[-1:], factor=1 / N),
            "only the last micro-batch counts, weighted by its tokens": made(window[-1:], factor=tokens[-1] / sum(tokens[-N:])),
            "micro-batches are weighted by their sequences: it is by their tokens": made(counts="sequences"),
            "padding counts in the number of tokens": made(counts="each"),
            "the gradients are sums over the tokens: they are divided by the number of tokens": made(counts="sum"),
            "the sum is divided by N, not by the number of tokens": made(counts="sum", factor=1 / N),
            "gradients from before the last update are still there: zero_grad comes after it": {
                name: before[name] + truth[name] for name in truth
            },
            "the number of tokens is not set back after an update": made(factor=sum(tokens[-N:]) / sum(tokens)),
            "gradients are clipped to 1": made(longest=1.0),
        })  # fmt: skip
        before = {name: before[name] + truth[name] for name in truth}


@OPTIMIZED
@pytest.mark.points(2)
def test_each_micro_batch_returns_its_own_loss(student, check, rng):
    """Every call returns the mean loss of its own tokens, as a float; the weights stay put until the update."""
    weights, batches = toy_weights(rng), [batch(rng, lengths) for lengths in UNEQUAL[:5]]
    settings = {"use_gradient_accumulation": True, "accumulation_steps": 3}
    rows = watched(student, weights, batches, lr=0.05, optimized=settings)["rows"]

    for row in (rows[0], rows[1], rows[3], rows[4]):
        check(row["after"], row["before"], mistakes={"weights change before the update": row["after"]})
    judge(
        check, all(type(row["loss"]) is float for row in rows), "the loss is no float: return loss.item() in every call"
    )

    own = [toy_step(row["before"], [pair])[0] for row, pair in zip(rows, batches, strict=True)]
    so_far = [sum(own[k - k % 3 : k + 1]) for k in range(5)]
    check([row["loss"] for row in rows], own, dtype=torch.float32, mistakes={
        "the loss is divided by N: it is the micro-batch's own": [loss / 3 for loss in own],
        "the mean of the losses so far is returned: it is the micro-batch's own": [loss / (k % 3 + 1) for k, loss in enumerate(so_far)],
        "the sum of the losses so far is returned: it is the micro-batch's own": so_far,
        "the sum over the tokens is returned: it is their mean": lambda: [
            toy_step(row["before"], [pair], counts="sum")[0] for row, pair in zip(rows, batches, strict=True)
        ],
        "only the N-th call returns a loss": [loss * (k % 3 == 2) for k, loss in enumerate(own)],
        "padding counts in the number of tokens": lambda: [
            toy_step(row["before"], [pair], counts="each")[0] for row, pair in zip(rows, batches, strict=True)
        ],
    })  # fmt: skip
    modes = [call["training"] for row in rows for call in row["calls"]]
    judge(check, modes and all(modes), "the model is not in train mode during train_step")


@OPTIMIZED
@pytest.mark.points(2)
@pytest.mark.parametrize("settings", [
    {"use_mixed_precision": False}, {"accumulation_steps": 2}, {"use_gradient_accumulation": True, "accumulation_steps": 1},
], ids=["nothing", "steps only", "one step"])  # fmt: skip
def test_without_accumulation_every_call_updates(student, check, rng, settings):
    """Without use_gradient_accumulation, or with one step, every call is a batch of its own, as in TransformerTrainer."""
    weights, batches = toy_weights(rng, sure=4.0), [batch(rng, lengths, pad=2) for lengths in UNEQUAL[:4]]
    seen = watched(student, weights, batches, 2, lr=0.003, optimized=settings)

    N = settings.get("accumulation_steps", 4)
    check([len(row["grads"]) for row in seen["rows"]], [1] * 4, mistakes={
        "gradients are accumulated though use_gradient_accumulation is False": [int(k % N == N - 1) for k in range(4)],
        "no call updates the weights": [0] * 4,
    })  # fmt: skip
    for row, pair in zip(seen["rows"], batches, strict=True):
        loss, gradients = toy_step(row["before"], [pair], 2)
        check(found(row), (loss, gradients), dtype=torch.float32, mistakes={
            "pad_id is always 0: that is only its default": toy_step(row["before"], [pair], 0),
            "labels are smoothed": toy_step(row["before"], [pair], 2, smoothing=0.1),
            "gradients are clipped to 1": toy_step(row["before"], [pair], 2, longest=1.0),
            "gradients are divided by accumulation_steps without use_gradient_accumulation": toy_step(
                row["before"], [pair], 2, factor=1 / N
            ),
            LATE: (toy_step(row["after"], [pair], 2)[0], gradients),
        })  # fmt: skip
    check(seen["lrs"], [0.003] * len(seen["lrs"]), dtype=torch.float32, mistakes={
        "lr is ignored": [1e-4] * len(seen["lrs"]), "the optimizer has its own default lr, 0.001": [1e-3] * len(seen["lrs"]),
    })  # fmt: skip


@OPTIMIZED
@pytest.mark.points(3)
@pytest.mark.parametrize("accumulate", [False, True])
def test_mixed_precision_computes_in_bfloat16(student, check, rng, accumulate):
    """The model's Linear gives bfloat16; weights, gradients and loss are float32, and the update is right."""
    weights, batches = toy_weights(rng, torch.float32, sure=4.0), [batch(rng, lengths) for lengths in UNEQUAL[:4]]
    settings = {"use_mixed_precision": True, "use_gradient_accumulation": accumulate, "accumulation_steps": 2}
    rows = watched(student, weights, batches, lr=1e-3, optimized=settings)["rows"]

    logits = [logits_of(row) for row in rows]
    check([item.dtype for item in logits], [torch.bfloat16] * 4, mistakes={
        "mixed precision does not reach the model: its Linear gives float32": [torch.float32] * 4,
        "the model computes in float16: on the CPU it is bfloat16": [torch.float16] * 4,
    })  # fmt: skip
    in_float32 = all(call["weight_dtype"] == torch.float32 for row in rows for call in row["calls"])
    judge(check, in_float32, "the weights are turned into bfloat16")

    losses = [row["loss"] for row in rows]
    truth = [
        F.cross_entropy(item.double().mT, tgt[:, 1:], ignore_index=0).item()
        for item, (_, tgt) in zip(logits, batches, strict=True)
    ]
    rounded = all(torch.tensor(loss).bfloat16().item() == loss for loss in losses)
    judge(check, not rounded, "the loss is worked out in bfloat16: it stays float32")
    check(losses, truth, dtype=torch.float32, terms=16, scale=1.0)  # a sure prediction's loss is a small difference

    check([len(row["grads"]) for row in rows], [0, 1, 0, 1] if accumulate else [1] * 4)
    for k, row in enumerate(rows):
        for gradients in row["grads"]:
            judge(check, all(g.dtype == torch.float32 for g in gradients.values()), "the gradients are not float32")
            window = batches[k - 1 if accumulate else k : k + 1]
            truth, means, clipped = (
                together(toy_step(row["before"], window, mixed=True, **wrong)[1])
                for wrong in ({}, {"counts": "batches"}, {"longest": 1.0})
            )
            seen = together(gradients).bfloat16()
            check(seen, truth, dtype=torch.bfloat16, terms=2, mistakes={
                "the micro-batches' means are averaged: they must be weighted by tokens": means,
                "gradients are clipped to 1": clipped,
                "the gradients are still multiplied by a scaler's factor": seen if seen.norm() > 30 * truth.norm() else None,
            })  # fmt: skip
        moved = max((row["after"][name] - row["before"][name]).abs().max() for name in weights)
        judge(check, moved < 2e-3, "the weights are rounded to 16 bits: they stay float32")


@OPTIMIZED
@pytest.mark.points(2)
@pytest.mark.parametrize("mixed", [True, False])
def test_mixed_precision_ends_with_the_step(student, check, rng, mixed):
    """Outside of train_step the model and torch are as before; without use_mixed_precision they are inside too."""
    weights, batches = toy_weights(rng, torch.float32), [batch(rng, (4, 3)), batch(rng, (2, 5))]
    seen = watched(student, weights, batches, optimized={"use_mixed_precision": mixed})

    check([logits_of(row).dtype for row in seen["rows"]], [torch.bfloat16 if mixed else torch.float32] * 2, mistakes={
        "the model computes in bfloat16 though use_mixed_precision is False": [torch.bfloat16] * 2,
        "mixed precision does not reach the model: its Linear gives float32": [torch.float32] * 2,
    })  # fmt: skip
    check(
        seen["outside"], torch.float32, mistakes={"the model gives bfloat16 outside of train_step too": torch.bfloat16}
    )
    in_float32 = all(weight.dtype == torch.float32 for weight in seen["rows"][-1]["after"].values())
    judge(check, in_float32, "the weights are not float32 any more")
    judge(check, not seen["torch_changed"], "autocast, or something else of torch, stays switched on after train_step")


@OPTIMIZED
@pytest.mark.gpu
@pytest.mark.points(1)
def test_mixed_precision_on_a_gpu_is_float16_with_a_scaler(student, check, rng):
    """On a GPU the model's Linear gives float16, and gradients too small for it are not lost."""

    def probe(weights, src, tgt):
        from training import OptimizedTransformerTrainer

        model = inside.Toy(weights)
        trainer = OptimizedTransformerTrainer(
            model, len(weights["src"]), len(weights["tgt"]), 0.0, use_mixed_precision=True
        )
        steps = []
        trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(model.out.bias.grad.clone()))
        for _ in range(12):  # a scaler may begin too large and pass over steps
            trainer.train_step(src, tgt)
        return str(model.calls[0]["logits"].dtype), len(steps), bool((steps[-1] != 0).all()) if steps else False

    weights, (src, tgt) = toy_weights(rng, torch.float32, sure=0.01), batch(rng, (5, 5))
    tgt[:, 1:] = 4
    weights["bias"] = torch.zeros(TGT)
    weights["bias"][4] = 17.5  # so sure that gradients are some 1e-8: zero in float16 unless they are scaled
    dtype, steps, kept = student.run(probe, weights, src, tgt)

    check(dtype, "torch.float16", mistakes={"on a GPU it is float16 with a scaler, not bfloat16": "torch.bfloat16"})
    judge(check, steps, "the scaler never lets a step through")
    judge(check, kept, "small gradients become zero in float16: scale the loss with a GradScaler")


# ---------------------------------------------------------------------------------------------- defaults


@pytest.mark.question("Defaults")
@pytest.mark.points(1)
def test_arguments_have_their_defaults(student, check):
    """Arguments that are left out are those of the handout, wherever a signature names them."""
    expected = {
        "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        "cosine_schedule": {"min_lr": 0.0},
        "CosineAnnealingWarmupScheduler": {"min_lr": 0.0},
        "label_smoothed_cross_entropy": {"smoothing": 0.1, "ignore_index": -100},
        "TransformerTrainer": {"lr": 1e-4, "pad_id": 0},
        "OptimizedTransformerTrainer": {
            "lr": 1e-4, "pad_id": 0, "use_mixed_precision": False, "use_gradient_accumulation": False, "accumulation_steps": 4,
        },
    }  # fmt: skip

    def probe(names):
        import inspect

        import training

        training.cosine_schedule(1, 1, 2, 1.0)  # a signature alone is worth nothing
        training.label_smoothed_cross_entropy(torch.zeros(1, 3), torch.tensor([1]))
        found = {}
        for name, keys in names.items():
            parameters = inspect.signature(getattr(training, name)).parameters
            found[name] = {key: parameters[key].default for key in keys if key in parameters}
        return found

    found = student.run(probe, {name: list(defaults) for name, defaults in expected.items()})
    for name, defaults in expected.items():
        for key, value in found[name].items():
            known = isinstance(value, (bool, int, float, tuple)) and value == defaults[key]
            judge(check, known, f"{key} of {name} has another default than in the handout")
    judge(check, all(found[name] for name in expected), "the arguments have other names than in the handout")
