"""Hidden tests of training: AdamW.

The truth is torch's own, or `adamw`: float64, step by step, of which the known mistakes replace one. Where another property
is tested, what agrees with the student's own update is right too: other tests say what is wrong with that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from shared import nearly, randn, single

ADAMW = pytest.mark.question("AdamW")

# ---------------------------------------------------------------------------------------------- the truth

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


@dataclass(frozen=True)
class Update:
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
    """The parameters after each step; run_adamw says what is in a task. steps: those of Update that differ."""
    do, p, history = Update(**steps), [start.double() for start in task["starts"]], []
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
    """(the parameters after each step, the gradients after the last, the former if each parameter had an optimizer of its own).

    task: "starts", the parameters; "steps", a list of gradients (or None) for each step; "groups", a list of (indices of
    parameters, settings), the last of which may be added later: "added" is the step before which; "settings" for all
    groups; "lrs", step -> the lr of each group from then on; "reload", the step before which state_dict is loaded into a
    new optimizer of new parameters, made with the settings `reload_into`. An optimizer of one parameter takes only the
    steps for which it has a gradient; changes of lr are left out, and where it fails there is None.
    """

    def probe(task, reload_into):
        import contextlib
        import copy

        from training import AdamW

        def with_settings(groups, parameters):
            return [{"params": [parameters[i] for i in places], **settings} for places, settings in groups]

        def optimize(task):
            parameters = [
                inside.strided(start).clone().requires_grad_() for start in task["starts"]
            ]  # clone keeps the layout
            groups, added = task["groups"], task.get("added")
            first = groups if added is None else groups[:-1]
            optimizer = AdamW(with_settings(first, parameters), **task["settings"])
            history = []
            for k, grads in enumerate(task["steps"]):
                if k == added:
                    optimizer.add_param_group(with_settings(groups[-1:], parameters)[0])
                if k == task.get("reload"):
                    state = copy.deepcopy(optimizer.state_dict())
                    parameters = [parameter.detach().clone().requires_grad_() for parameter in parameters]
                    optimizer = AdamW(
                        with_settings([(places, {}) for places, _ in groups], parameters), **(reload_into or {})
                    )
                    optimizer.load_state_dict(state)
                for group, lr in zip(optimizer.param_groups, task.get("lrs", {}).get(k, ()), strict=False):
                    group["lr"] = lr
                for parameter, gradient in zip(parameters, grads, strict=True):
                    parameter.grad = None if gradient is None else gradient.clone()
                optimizer.step()
                history.append([parameter.detach().clone() for parameter in parameters])
            return history, [parameter.grad for parameter in parameters]

        def each_by_itself():
            columns = [None] * len(task["starts"])
            with contextlib.suppress(Exception):  # other tests say what fails
                for i, settings in ((i, settings) for places, settings in task["groups"] for i in places):
                    steps = [[grads[i]] for grads in task["steps"] if grads[i] is not None]
                    own = {
                        "starts": [task["starts"][i]],
                        "steps": steps,
                        "groups": [([0], task["settings"] | settings)],
                    }
                    rows = [task["starts"][i], *(row for (row,) in optimize(own | {"settings": {}})[0])]
                    taken = [
                        sum(grads[i] is not None for grads in task["steps"][: k + 1]) for k in range(len(task["steps"]))
                    ]
                    columns[i] = [rows[number] for number in taken]
                return [list(row) for row in zip(*columns, strict=True)]

        return *optimize(task), each_by_itself()

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


# ---------------------------------------------------------------------------------------------- tasks and mistakes

OWN = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.05, "weight_decay": 0.3}
STEADY = OWN | {"eps": 1e-12}  # so small that it does not matter where it is added


def task(rng, settings, **more):
    """Two parameters and five steps; run_adamw says what is in a task. Some gradients are as small as eps,
    but not where that is to play no part."""
    shapes, size = [(3, 4), (5,)], 1 if settings else 10
    smaller = [torch.ones(3, 4), torch.tensor([1, 1, 1e-8, 1e-8, 1e-3]) if settings is not STEADY else torch.ones(5)]
    steps = [
        [randn(rng, *shape, dtype=torch.float64) * small for shape, small in zip(shapes, smaller, strict=True)]
        for _ in range(5)
    ]
    starts = [randn(rng, *shape, dtype=torch.float64) * size for shape in shapes]
    return {"starts": starts, "steps": steps, "groups": [([0, 1], {})], "settings": settings, **more}


LAST = dict(update=lambda p, move, shrink: (p - move) * shrink)
EARLY = dict(bottom=lambda v, s, correction: v**0.5 + s["eps"] / correction**0.5)
AS_IT_IS = dict(mean=lambda m, correction: m), dict(square=lambda v, correction: v)
ADAMW_MISTAKES = {  # sentence -> the step that is wrong
    "weight decay is added to the gradient, as in plain Adam; it should shrink the weights directly": dict(
        regular=lambda g, p, s: g + s["weight_decay"] * p, shrink=lambda s: 1
    ),
    "there is no weight decay": dict(shrink=lambda s: 1),
    "weight decay is not multiplied by lr; it should be": dict(shrink=lambda s: 1 - s["weight_decay"]),
    "weight decay comes after the update; it should come before": LAST,
    "the moments are not corrected for their start at zero": AS_IT_IS[0] | AS_IT_IS[1],
    "the first moment is not corrected for its start at zero": AS_IT_IS[0],
    "the second moment is not corrected for its start at zero": AS_IT_IS[1],
    "eps is added under the square root; it should be added to the root": dict(
        bottom=lambda v, s, correction: (v + s["eps"]) ** 0.5
    ),
    "eps is added to the root before its correction; it should be added to the corrected root": EARLY,
    "eps is added before the correction, and weight decay comes last; both should be as in the formula": EARLY | LAST,
    "the correction of the moments is a step behind; it should use t, counted from 1": dict(
        clock=lambda t, ticks: max(t - 1, 1)
    ),
    "eps is not added": dict(bottom=lambda v, s, correction: v**0.5),
    "the square root of the second moment is missing": dict(bottom=lambda v, s, correction: v + s["eps"]),
    "the two betas are swapped": dict(
        settings=lambda of_all, own: (made := DEFAULTS | of_all | own) | {"betas": made["betas"][::-1]}
    ),
    "the gradient is added to the first moment as it is; it should be multiplied by 1 - beta1": dict(
        first=lambda m, g, beta: beta * m + g
    ),
    "the parameters move with the gradient; they should move against it": dict(
        update=lambda p, move, shrink: p * shrink + move
    ),
    "all groups share the same settings; each group should have its own": dict(
        settings=lambda of_all, own: DEFAULTS | of_all
    ),
    "lr is read once; it should be read in every step, since it may change": dict(rates=lambda task, k: ()),
    "steps are counted for all parameters together; they should be counted for each parameter": dict(
        clock=lambda t, ticks: ticks
    ),
    "a missing gradient is taken as zero; its parameter should be left as it is": dict(
        given=lambda g, p: torch.zeros_like(p) if g is None else g
    ),
    "a parameter without a gradient is decayed; it should be left as it is": dict(
        waits=lambda p, s: p * (1 - s["lr"] * s["weight_decay"])
    ),
    "a gradient of zeros is taken for a missing one; moments and weight decay should still move the parameter": dict(
        given=lambda g, p: g if g is not None and bool(g.any()) else None
    ),
    "none of the state survives load_state_dict: keep it in self.state": dict(
        resumed=lambda t, m, v: ([0 * item for item in t], [0 * item for item in m], [0 * item for item in v])
    ),
    "the number of steps does not survive load_state_dict: keep it in self.state": dict(
        resumed=lambda t, m, v: ([0 * item for item in t], m, v)
    ),
}


# ---------------------------------------------------------------------------------------------- the tests


@ADAMW
@pytest.mark.points(4)
@pytest.mark.parametrize("settings", [OWN, {}], ids=["own", "defaults"])  # with small settings some mistakes look alike
def test_updates_equal_those_of_torch(student, check, rng, settings):
    """Every update is that of torch.optim.AdamW, with the default settings and with others."""
    work = task(rng, settings)
    history, gradients, _ = run_adamw(student, work)

    parameters = [start.clone().requires_grad_() for start in work["starts"]]
    optimizer, truth = torch.optim.AdamW(parameters, **settings), []
    for step in work["steps"]:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        truth.append([parameter.detach().clone() for parameter in parameters])
    check(**updates(work, history, truth, ADAMW_MISTAKES))
    check(gradients, work["steps"][-1], otherwise="the gradients are changed; they should stay as they were")


@ADAMW
@pytest.mark.points(2)
@pytest.mark.parametrize("added", [None, 2])
def test_each_group_has_its_own_settings(student, check, rng, added):
    """Parameter groups have their own lr, betas, eps and weight_decay, also one that is added later."""
    other = {"lr": 0.02, "betas": (0.5, 0.7), "eps": 0.3, "weight_decay": 0.0}
    work = task(rng, OWN, groups=[([0], {}), ([1], other)], added=added)
    for step in work["steps"][: added or 0]:
        step[1] = None
    history, _, alone = run_adamw(student, work)

    check(**updates(work, history, adamw(work), ADAMW_MISTAKES, alone))


@ADAMW
@pytest.mark.points(1)
def test_a_gradient_of_zeros_counts(student, check, rng):
    """A gradient of zeros is a gradient: its moments fade, and its steps count on."""
    work = task(rng, STEADY)
    work["steps"][3][0] = torch.zeros(3, 4, dtype=torch.float64)
    history, *_ = run_adamw(student, work)

    check(**updates(work, history, adamw(work), ADAMW_MISTAKES))


@ADAMW
@pytest.mark.points(1)
def test_a_parameter_without_gradient_waits(student, check, rng):
    """A parameter whose gradient is None stays as it is, and its steps do not count on. In float32."""
    work = task(rng, STEADY)
    work |= {"starts": single(work["starts"]), "steps": single(work["steps"])}
    work["steps"][0][1] = work["steps"][2][0] = work["steps"][2][1] = work["steps"][3][1] = None
    history, _, alone = run_adamw(student, work)

    check(**updates(work, history, adamw(work), ADAMW_MISTAKES, alone))


@ADAMW
@pytest.mark.points(1)
def test_lr_may_change_between_steps(student, check, rng):
    """The lr of each group is read in every step."""
    work = task(rng, STEADY, groups=[([0], {}), ([1], {"lr": 0.05})], lrs={1: (0.3, 0.01), 3: (0.0, 0.2)})
    history, *_ = run_adamw(student, work)

    check(**updates(work, history, adamw(work), ADAMW_MISTAKES))


@ADAMW
@pytest.mark.points(2)
def test_training_goes_on_after_load_state_dict(student, check, rng):
    """state_dict and load_state_dict carry settings, moments and numbers of steps into a new optimizer."""
    work = task(rng, STEADY, groups=[([1], {}), ([0], {"lr": 0.02})], reload=3)
    history, _, alone = run_adamw(student, work, {"lr": 0.5, "weight_decay": 0.0})

    check(**updates(work, history, adamw(work), ADAMW_MISTAKES, alone))


@ADAMW
@pytest.mark.points(1)
def test_it_is_an_optimizer_written_by_hand(student, check):
    """AdamW is a torch.optim.Optimizer, none of torch's own does its work, and step returns what its closure returns."""

    def probe(start):
        from training import AdamW

        def refuse(*_, **__):
            raise RuntimeError("torch's own optimizer does the work")

        torchs_own = [getattr(torch.optim, name) for name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")]
        steps = [kind.step for kind in torchs_own]
        for kind in torchs_own:
            kind.step = refuse
        parameter = start.clone().requires_grad_()
        optimizer = AdamW([parameter], lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            loss.backward()
            return loss

        try:
            returned = optimizer.step(closure)
        finally:  # in an author's process other tests come after this one
            for kind, step in zip(torchs_own, steps, strict=True):
                kind.step = step
        is_leaf = parameter.is_leaf and parameter.requires_grad
        return isinstance(optimizer, torch.optim.Optimizer), returned, is_leaf, parameter

    start = torch.tensor([1.0, -2.0])
    is_optimizer, returned, is_leaf, parameter = student.run(probe, start)

    check.that(bool(is_optimizer), "AdamW is not a torch.optim.Optimizer")
    check(returned, torch.tensor(5.0), mistakes={"step does not return the loss of its closure": None})
    check.that(
        bool(is_leaf),
        "after step() a parameter is no longer a trainable leaf: update it in place under torch.no_grad()",
    )
    moved = isinstance(parameter, torch.Tensor) and bool((parameter != start).all())
    check.that(moved, "the gradients of the closure do not move the parameters")
