"""Hidden tests of zero: ZeroRedundancyOptimizer.

The truth is the same optimizer of torch in one process, in float64. How elements are shared out is open: a rank's state is
asked for as values, and those of all ranks together are compared with the state of one process; messages are counted by
the grader.
"""

import pytest
import torch

from shared import nearly, randn
from zero_helpers import (
    ELEVEN,
    SMALL_BETWEEN,
    UNEVEN,
    draw_each,
    each_on_one_rank,
    given_between,
    in_one_process,
    multiplied_facts,
    updated,
)

pytestmark = pytest.mark.question("ZeroRedundancyOptimizer")

SHAPES = ((3, 4), (5,), (2, 2, 2), (7,))  # 32 elements
ADAMW = {"lr": 0.1, "weight_decay": 0.2}
MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def zero_made(weights, name, options, groups):
    """A probe: makes the optimizer."""
    inside.optimized(weights, [], name, options, groups)


def parameters_after(weights, steps, name, options, groups):
    """A probe: the parameters after the steps, on this rank."""
    parameters, _ = inside.optimized(weights, steps, name, options, groups)
    return [parameter.detach() for parameter in parameters]


@pytest.mark.points(5)
@pytest.mark.parametrize(
    ("ranks", "name", "options", "dtype"),
    [
        (2, "SGD", MOMENTUM, torch.float64),
        (2, "AdamW", ADAMW, torch.float32),
        (4, "Adam", {"lr": 0.1}, torch.float64),
    ],
)
def test_steps_are_those_of_one_process(student, check, rng, ranks, name, options, dtype):
    """After three steps each rank has the parameters that the optimizer makes in one process."""
    weights, steps = draw_each(rng, SHAPES, dtype), [draw_each(rng, SHAPES, dtype) for _ in range(3)]

    found = student.on(ranks=ranks).run(parameters_after, weights, steps, name, options, None)

    truth = updated(weights, steps, name, options)
    divided = updated(weights, [[g / ranks for g in step] for step in steps], name, options)
    summed = updated(weights, [[g * ranks for g in step] for step in steps], name, options)
    early = updated(weights, steps[:-1], name, options)
    # Without its memory, an optimizer begins anew at each step.
    restarted = weights
    for step in steps:
        restarted = updated(restarted, [step], name, options)
    for parameters in found:
        check(parameters, truth, dtype=dtype, relative=1e-9 if dtype is torch.float64 else 1e-4, mistakes={
            "the parameters do not change": [weight.double() for weight in weights],
            "the gradients are added up over the ranks; step() should take them as they are": summed,
            "the gradients are divided by the number of ranks; step() should take them as they are": divided,
            "the optimizer's state is forgotten between two steps": restarted,
            "the options that were given by name are not used": lambda: updated(weights, steps, name, {}),
            "each step updates the parameters twice": lambda: updated(weights, [s for s in steps for _ in "ab"], name, options),
            "the ranks' parameters are averaged, of which one has been updated; each rank should send what it has updated": (
                lambda: each_on_one_rank(weights, steps, name, options, ranks)
            ),
            "what a rank has updated reaches the other ranks one step late": check.when(
                all(nearly(mine, old, 1e-4) or nearly(mine, new, 1e-4) for mine, old, new in zip(parameters, early, truth, strict=True))
            ),
            "some parameters are as before: what a rank has updated does not reach the other ranks": check.when(
                any(torch.equal(*pair) for pair in zip(parameters, weights, strict=True))
            ),
        })  # fmt: skip


@pytest.mark.points(2)
def test_ranks_are_equal_to_the_last_bit(student, check, rng):
    """After the steps the parameters of all ranks are the same numbers."""
    weights, steps = draw_each(rng, SHAPES), [draw_each(rng, SHAPES) for _ in range(2)]
    large = {**ADAMW, "lr": 1.0}  # steps as large as the weights: their difference has to be rounded

    first, *others = student.on(ranks=4).run(parameters_after, weights, steps, "AdamW", large, None)

    moved = [not torch.equal(*pair) for pair in zip(first, weights, strict=True)]
    check.that(any(moved), "the parameters do not change")
    for other in others:
        same = [torch.equal(*pair) for pair in zip(first, other, strict=True)]
        check.that(all(same), "after step() the ranks have different parameters")


@pytest.mark.points(2)
def test_parameters_may_change_between_steps(student, check, rng):
    """A step begins at what the parameters are then: clamped or loaded meanwhile, on all ranks alike."""

    def probe(weights, first, second, options):
        parameters, optimizer = inside.optimized(weights, [first], "SGD", options)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, second, strict=True):
                parameter.clamp_(-0.5, 0.5)
                parameter.grad = gradient
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    weights, first, second = (draw_each(rng, SHAPES) for _ in range(3))

    found = student.on(ranks=2).run(probe, weights, first, second, MOMENTUM)

    def after(changes):
        parameters, optimizer = in_one_process(weights, [first], "SGD", MOMENTUM)
        for parameter, gradient in zip(parameters, second, strict=True):
            parameter.data = parameter.data.clamp(-0.5, 0.5) if changes else parameter.data
            parameter.grad = gradient
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    check(found, [after(True)] * 2, relative=1e-9, mistakes={
        "a step begins at the parameters that the last one made; it should begin at what they are now": [after(False)] * 2,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- who holds what


def steps_with_changed_moments(weights, steps, name, options):
    """A probe: the tensors in this rank's state before the last step, and the parameters after it, where these have been
    multiplied by each rank's own number, and where they have not."""
    after, moments = inside.last_step(inside.optimized(weights, steps[:-1], name, options), steps[-1], multiplied=True)
    plain, _ = inside.last_step(inside.optimized(weights, steps[:-1], name, options), steps[-1], multiplied=False)
    return moments, after, plain


PAIRS = [{"params": [n, n + 1], "lr": 0.1 + n} for n in range(0, len(UNEVEN), 2)]


@pytest.mark.points(5)
@pytest.mark.parametrize(
    ("ranks", "sizes", "groups"),
    [(2, UNEVEN, None), (4, UNEVEN, None), (4, UNEVEN, PAIRS), (4, SMALL_BETWEEN, None), (4, ELEVEN, None)],
)
def test_a_rank_has_its_part_of_the_state(student, check, rng, ranks, sizes, groups):
    """Each rank holds the state of 1 / W of the elements, give or take 40 %, and updates as many, in few groups and in many."""

    def probe(weights, steps, options, groups):
        inside.CountingAdamW.elements = 0
        made = inside.optimized(weights, steps[:1], "CountingAdamW", options, groups)
        elements = inside.CountingAdamW.elements
        after, moments = inside.last_step(made, steps[1], multiplied=True)
        made = inside.optimized(weights, steps[:1], "CountingAdamW", options, groups)
        return moments, elements, (after, inside.last_step(made, steps[1], multiplied=False)[0])

    shapes = [(size,) for size in sizes]
    weights, steps = draw_each(rng, shapes), [draw_each(rng, shapes) for _ in range(2)]

    found = student.on(ranks=ranks).run(probe, weights, steps, ADAMW, groups)

    held = [sum(moment.numel() for moment in moments) for moments, _, _ in found]
    whole = 2 * sum(sizes)
    check.that(any(held), "after a step `state` has no tensors; it should have this rank's part")
    check.that(held != [whole] * ranks, "every rank holds the whole state, as with a plain optimizer")
    check.that(max(held) < whole, "one rank holds all the state; the ranks should share it out")
    uneven = "the state is not shared out evenly: a rank should have 1 / W of the elements, give or take 40 %"
    check.that(all(abs(elements * ranks / whole - 1) <= 0.4 for elements in held), uneven)
    made = [elements for _, elements, _ in found]
    check.that(
        made != [sum(sizes)] * ranks,
        "every rank updates all parameters, whatever `state` shows; a rank should update its part and get the others",
    )
    check.that(
        all(abs(elements * ranks / sum(sizes) - 1) <= 0.4 for elements in made),
        "a rank updates more than its part of the elements, or less: each should be updated by one rank",
    )
    case = weights, steps, "AdamW", ADAMW, groups
    for fact in multiplied_facts([after for *_, after in found], case, [moments for moments, _, _ in found]):
        check.that(*fact)


@pytest.mark.points(2)
def test_the_parts_make_up_the_state_of_one_process(student, check, rng):
    """The moments of all ranks together are those of one process, each number once."""
    weights, steps = draw_each(rng, SHAPES), [draw_each(rng, SHAPES) for _ in range(4)]

    found = student.on(ranks=2).run(steps_with_changed_moments, weights, steps, "AdamW", ADAMW)

    _, optimizer = in_one_process(weights, steps[:-1], "AdamW", ADAMW)
    truth = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    numbers = torch.cat([moment.flatten() for moments, *_ in found for moment in moments] or [torch.zeros(0)])
    numbers = numbers[numbers != 0]  # what fills up a slice
    truth = torch.cat([moment.flatten() for moment in truth])
    check.that(len(numbers) <= len(truth), "some of the state is held by more than one rank")
    check.that(len(numbers) == len(truth), "some of the state is held by no rank")
    check(numbers.sort().values, truth.sort().values, relative=1e-9, what="the moments of all ranks, sorted")
    case = weights, steps, "AdamW", ADAMW, None
    for fact in multiplied_facts([after for _, *after in found], case, [moments for moments, *_ in found]):
        check.that(*fact)


@pytest.mark.points(3)
def test_each_rank_sends_what_it_has_updated(student, check, rng):
    """In a step every rank gives at least half of its part to messages: none of them does all the work."""

    shapes = [(6,)] * 9
    weights, steps = draw_each(rng, shapes), [draw_each(rng, shapes) for _ in range(2)]
    ranks = student.on(ranks=4)
    found = ranks.run(steps_with_changed_moments, weights, steps, "AdamW", ADAMW)

    given = given_between(ranks.traffic, 4, 0, 1)
    check.that(any(given), "step() sends nothing: the ranks do not share the work")
    part = 8 * 6 * 9 / 4  # bytes
    check.that(all(sent >= part / 2 for sent in given), "in step() some rank sends nothing that it could have updated")
    case = weights, steps, "AdamW", ADAMW, None
    for fact in multiplied_facts([after for _, *after in found], case, [moments for moments, *_ in found]):
        check.that(*fact)


@pytest.mark.points(3)
@pytest.mark.parametrize("shapes", [((5,),), ((3, 2), (1,)), ((), (2,))])
def test_fewer_parameters_than_ranks_are_legal(student, check, rng, shapes):
    """One or two parameters are updated on four ranks, also one that is a single number."""
    weights, steps = draw_each(rng, shapes), [draw_each(rng, shapes) for _ in range(2)]

    ranks = student.on(ranks=4)
    ranks.accepts(zero_made, weights, "SGD", MOMENTUM, None)
    found = ranks.run(parameters_after, weights, steps, "SGD", MOMENTUM, None)

    stay = any(torch.equal(*pair) for mine in found for pair in zip(mine, weights, strict=True))
    check(found, [updated(weights, steps, "SGD", MOMENTUM)] * 4, relative=1e-9, mistakes={
        "where there are fewer parameters than ranks some parameter is as before on some rank": check.when(stay),
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- groups

GROUPS = ({"params": [0, 2], "lr": 0.3}, {"params": [1, 3], "weight_decay": 0.7})


@pytest.mark.points(3)
def test_groups_have_their_own_options(student, check, rng):
    """Parameters may come in groups, each with options of its own."""
    weights, steps = draw_each(rng, SHAPES), [draw_each(rng, SHAPES) for _ in range(2)]

    ranks = student.on(ranks=2)
    ranks.accepts(zero_made, weights, "AdamW", ADAMW, list(GROUPS))
    found = ranks.run(parameters_after, weights, steps, "AdamW", ADAMW, list(GROUPS))

    stay = any(torch.equal(*pair) for mine in found for pair in zip(mine, weights, strict=True))
    case = weights, steps, "AdamW"
    in_one = [{**GROUPS[0], "params": [0, 1, 2, 3]}]
    first_plain = [{"params": GROUPS[0]["params"]}, GROUPS[1]]
    check(found, [updated(*case, ADAMW, groups=GROUPS)] * 2, relative=1e-9, mistakes={
        "the options of the groups are not used": [updated(*case, ADAMW)] * 2,
        "all parameters have the options of the first group": [updated(*case, ADAMW, groups=in_one)] * 2,
        "the options of the first group are not used": [updated(*case, ADAMW, groups=first_plain)] * 2,
        "the parameters of some group are as before on some rank": check.when(stay),
    })  # fmt: skip


@pytest.mark.points(3)
@pytest.mark.parametrize(("ranks", "groups"), [(2, None), (4, list(GROUPS))])
def test_a_changed_learning_rate_counts_at_the_next_step(student, check, rng, ranks, groups):
    """What is changed in `param_groups`, lr or another option, counts from the next step on, in each group that changes."""
    weights, steps = draw_each(rng, SHAPES), [draw_each(rng, SHAPES) for _ in range(3)]
    changes = [{"lr": 0.02}] if groups is None else [{"lr": 0.02}, {"lr": 0.5, "weight_decay": 0.1}]
    changing = [steps[0], (steps[1], changes), steps[2]]
    if groups is not None:  # then the second one alone
        changing[2] = steps[2], [{}, {"lr": 0.2}]

    found = student.on(ranks=ranks).run(parameters_after, weights, changing, "SGD", MOMENTUM, groups)

    def after(steps):
        return [updated(weights, steps, "SGD", MOMENTUM, groups=groups)] * ranks

    only_lr = [{"lr": change["lr"]} for change in changes]
    first_only = [changes[0], *[{} for _ in changes[1:]]]
    last = changing[2]
    check(found, after(changing), relative=1e-9, mistakes={
        "a changed lr in param_groups has no effect": after(steps),
        "a changed option has an effect in the first group only": lambda: after([steps[0], (steps[1], first_only), steps[2]]),
        "a change of the second group alone has no effect": lambda: after([steps[0], (steps[1], changes), steps[2]]),
        "of the options in param_groups only lr may be changed": lambda: after([steps[0], (steps[1], only_lr), last]),
        "a changed lr counts one step too late": lambda: after([*steps[:2], (steps[2], changes)]),
    })  # fmt: skip


@pytest.mark.points(2)
def test_param_groups_have_all_options(student, check, rng):
    """Each group of `param_groups` has the options of the optimizer, also those that are defaults of its class."""

    def probe(weights, groups, options):
        _, optimizer = inside.optimized(weights, [], "AdamW", options, groups)
        names = ("lr", "weight_decay", "eps", "betas")
        return [tuple(group.get(name) for name in names) for group in optimizer.param_groups]

    weights = draw_each(rng, SHAPES)
    for options in (ADAMW, {}):
        found = student.on(ranks=4).run(probe, weights, list(GROUPS), options)  # a rank may have no part of a group
        _, optimizer = in_one_process(weights, [], "AdamW", options, GROUPS)
        truth = [(g["lr"], g["weight_decay"], g["eps"], g["betas"]) for g in optimizer.param_groups]
        for groups in found:
            check.that(len(groups) == 2, "`param_groups` should have a dict for each group that was given")
            there = all(option is not None for group in groups for option in group)
            check.that(there, "`param_groups` has only the options that were given; it should have the defaults, too")
            check(groups, truth, what="lr, weight_decay, eps and betas in `param_groups`")


@pytest.mark.points(2)
@pytest.mark.parametrize("form", ["iterator", "iterators in groups", "one in each group"])
def test_an_iterator_is_read_once(student, check, rng, form):
    """params may be an iterator, as model.parameters() is, and so may the "params" of a group, which may also be one parameter."""

    def made_of_iterators(weights, form):
        from zero import ZeroRedundancyOptimizer

        parameters = [torch.nn.Parameter(weight) for weight in weights]
        ZeroRedundancyOptimizer(inside.given_as(form, parameters), torch.optim.SGD, lr=0.5)

    def probe(weights, gradients, form):
        from zero import ZeroRedundancyOptimizer

        parameters = [torch.nn.Parameter(weight) for weight in weights]
        optimizer = ZeroRedundancyOptimizer(inside.given_as(form, parameters), torch.optim.SGD, lr=0.5)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    weights, gradients = draw_each(rng, SHAPES), draw_each(rng, SHAPES)

    ranks = student.on(ranks=2)
    ranks.accepts(made_of_iterators, weights, form)
    found = ranks.run(probe, weights, gradients, form)

    truth = [[weight - 0.5 * gradient for weight, gradient in zip(weights, gradients, strict=True)]] * 2
    check(
        found,
        truth,
        relative=1e-9,
        mistakes={"an iterator is read more than once: no parameter is left": [weights] * 2},
    )


# ---------------------------------------------------------------------------------------------- gradients, layouts


@pytest.mark.points(2)
def test_zero_grad_clears_all_gradients(student, check, rng):
    """step() leaves the gradients as they are; after zero_grad() no parameter has one, on any rank, whoever updates it."""

    def probe(weights, gradients):
        parameters, optimizer = inside.optimized(weights, [gradients], "SGD", {"lr": 0.1})
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        kept = inside.grads_of(torch.nn.ParameterList(parameters))
        optimizer.zero_grad()
        after = [parameter.detach() for parameter in parameters]
        return after, kept, [parameter.grad is None or not parameter.grad.any() for parameter in parameters]

    weights, gradients = draw_each(rng, SHAPES), draw_each(rng, SHAPES)

    for after, kept, cleared in student.on(ranks=2).run(probe, weights, gradients):
        check.that(
            not all(torch.equal(*pair) for pair in zip(after, weights, strict=True)), "step() changes no parameter"
        )
        check.that(all(grad is not None for grad in kept), "step() clears gradients; only zero_grad() should")
        check(kept, gradients, relative=1e-9, what="the gradients after step()", mistakes={
            "step() clears gradients; only zero_grad() should": check.when(any(not grad.any() for grad in kept)),
            "step() divides the gradients by the number of ranks; it should leave them as they are": [each / 2 for each in gradients],
            "step() adds up the gradients of the ranks; it should leave them as they are": [each * 2 for each in gradients],
        })  # fmt: skip
        check.that(any(cleared), "zero_grad() clears no gradient")
        check.that(all(cleared), "zero_grad() clears only some of the gradients; it should clear all of them")


@pytest.mark.points(2)
def test_parameters_without_a_gradient_stay(student, check, rng):
    """A parameter whose grad is None is not updated: no weight decay, and no momentum from before."""
    weights, steps = draw_each(rng, SHAPES), [draw_each(rng, SHAPES) for _ in range(2)]
    without = [[None, *steps[0][1:]], [*steps[1][:3], None]]

    found = student.on(ranks=2).run(parameters_after, weights, without, "AdamW", ADAMW, None)

    never = [[None, *without[1][1:]] if n else without[0] for n in range(2)]
    zeros = [[torch.zeros_like(w) if g is None else g for w, g in zip(weights, step, strict=True)] for step in without]
    check(found, [updated(weights, without, "AdamW", ADAMW)] * 2, relative=1e-9, mistakes={
        "a parameter whose grad is None is updated as if it were zero": [updated(weights, zeros, "AdamW", ADAMW)] * 2,
        "a parameter that has no gradient in the first step is never updated": [updated(weights, never, "AdamW", ADAMW)] * 2,
    })  # fmt: skip


@pytest.mark.points(2)
def test_parameters_have_any_layout_and_dtype(student, check, rng):
    """Parameters that are not contiguous, and of different dtypes, are updated."""

    def probe(weights, gradients):
        from zero import ZeroRedundancyOptimizer

        parameters = [torch.nn.Parameter(inside.strided(weight)) for weight in weights]
        optimizer = ZeroRedundancyOptimizer(parameters, torch.optim.SGD, lr=0.5)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = inside.strided(gradient)
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    weights, gradients = ([*draw_each(rng, [(3, 4), (2, 5)]), randn(rng, 4, 3)] for _ in range(2))

    found = student.on(ranks=2).run(probe, weights, gradients)

    truth = [weight.double() - 0.5 * gradient.double() for weight, gradient in zip(weights, gradients, strict=True)]
    for parameters in found:
        check([p.dtype for p in parameters], [w.dtype for w in weights], what="the dtypes")
        check(parameters[:2], truth[:2], relative=1e-9, what="the parameters in float64", mistakes={
            "parameters in float64 are sent in float32": [each.float().double() for each in truth[:2]],
        })  # fmt: skip
        check(parameters[2], truth[2], dtype=torch.float32, relative=1e-4, what="the parameter in float32")
