"""Hidden tests of data_parallel: DistributedDataParallel.

A model of `inside.LooseWeights` has weights of one shape, each of which has a part in the loss or not: what a rank skips is then added to
something that is not its own, where other shapes would only stop all ranks. `inside.tower` has layers one behind the other.
"""

import pytest
import torch
import torch.nn.functional as F

from data_parallel_helpers import (
    LARGE,
    TOO_MUCH_BESIDES,
    behind,
    by_phase,
    factor_of,
    fair,
    few_besides,
    mean_of,
    sizes_of,
    times,
)
from shared import MANNERS, randn

pytestmark = pytest.mark.question("DistributedDataParallel")
MB = 2**20


# ---------------------------------------------------------------------------------------------- the beginning


@pytest.mark.points(2)
def test_all_ranks_begin_with_the_parameters_of_rank_0(student, check, rng):
    """The module's own parameters get the values of rank 0's, which stay what they were."""
    weights = [[randn(rng, 2, 3, dtype=torch.float64), randn(rng, 4), randn(rng, 2)] for _ in range(4)]

    def probe(weights):
        from data_parallel import DistributedDataParallel

        module = torch.nn.Module()
        module.inner = torch.nn.Module()
        a, b, c = weights[torch.distributed.get_rank()]
        module.a, module.b, module.inner.c = map(torch.nn.Parameter, (inside.strided(a), b, c))
        own = list(module.parameters())  # an optimizer may have been made of them
        model = DistributedDataParallel(module)
        return own, list(model.parameters()), model.module is module

    results = student.on(ranks=4).run(probe, weights)

    first, mean = weights[0], [torch.stack(each).mean(0) for each in zip(*weights, strict=True)]
    check([after for _, after, _ in results], [first] * 4, mistakes={
        "each rank keeps its own parameters; all should begin with those of rank 0": weights,
        "all ranks begin with the mean of their parameters; it should be the parameters of rank 0": [mean] * 4,
        "all ranks begin with the parameters of the last rank": [weights[-1]] * 4,
        "all ranks begin with the sum of their parameters": [times(4, mean)] * 4,
        "parameters of the module itself are not broadcast, only those of its children": [
            [*own[:2], first[2]] for own in weights
        ],
        "parameters of the module's children are not broadcast": [[*first[:2], own[2]] for own in weights],
    })  # fmt: skip
    check.that(all(same for *_, same in results), "module is not the given module")
    check(
        [own for own, *_ in results],
        [first] * 4,
        otherwise="the module is given new parameters; its own should be changed",
    )


@pytest.mark.points(2)
def test_all_ranks_begin_with_the_buffers_of_rank_0(student, check, rng):
    """Of any dtype, saved in a state dict or not; and with its frozen parameters."""
    values = [
        [randn(rng, 3), torch.tensor(7 + rank), torch.arange(4) % 2 == rank % 2, randn(rng, 2, 2, dtype=torch.float64)]
        for rank in range(2)
    ]

    def probe(values):
        from data_parallel import DistributedDataParallel

        own = values[torch.distributed.get_rank()]
        module = torch.nn.Sequential(torch.nn.Linear(1, 1))
        for name, value in zip("abc", own, strict=False):
            part = module if name == "b" else module[0]
            part.register_buffer(name, value.clone(), persistent=name != "a")
        module[0].frozen = torch.nn.Parameter(inside.strided(own[3]), requires_grad=False)
        held = [module[0].a, module.b, module[0].c]
        DistributedDataParallel(module)
        return [module[0].a, module.b, module[0].c, module[0].frozen], held

    results = student.on(ranks=2).run(probe, values)

    (a, b, c, frozen), own = values[0], values[1]
    check([found for found, _ in results], [values[0]] * 2, mistakes={
        "buffers are not broadcast": [values[0], [*own[:3], frozen]],
        "buffers that a state dict does not hold are not broadcast": [values[0], [own[0], b, c, frozen]],
        "only buffers of floating point are broadcast": [values[0], [a, *own[1:3], frozen]],
        "frozen parameters are not broadcast": [values[0], [a, b, c, own[3]]],
        "buffers of the module itself are not broadcast, only those of its children": [values[0], [a, own[1], c, frozen]],
        "buffers of the module's children are not broadcast": [values[0], [own[0], b, own[2], frozen]],
    })  # fmt: skip
    check([held for _, held in results], [values[0][:3]] * 2, mistakes={
        "the module is given new buffers; its own should be changed": [mine[:3] for mine in values],
    }, what="the buffers that the module had")  # fmt: skip


@pytest.mark.points(1)
def test_a_call_is_a_call_of_the_module(student, check, rng):
    """Any arguments are handed on, any output comes back, the module follows train and eval, and nothing else is changed."""

    def probe(x):
        from data_parallel import DistributedDataParallel

        class Scale(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(()))

            def forward(self, x, y, *, factor=1):
                return {"sum": factor * self.weight * (x + y), "rest": (x, self.training)}

        module = Scale().eval()
        model, _, rude = inside.manners(DistributedDataParallel, module)
        mode = module.training
        return model.train()(x, 2 * x, factor=5), model.eval()(x, y=x), mode, rude

    x = randn(rng, 3)
    for first, second, mode, rude in student.on(ranks=2).run(probe, x):
        check(first, {"sum": 15 * x, "rest": (x, True)}, mistakes={
            "a part of the module's output is returned; it should be all of it": 15 * x,
        }, what="the output")  # fmt: skip
        check(second, {"sum": 2 * x, "rest": (x, False)}, mistakes={
            "the module is in train mode in a call after eval()": {"sum": 2 * x, "rest": (x, True)},
        }, what="the output in eval mode")  # fmt: skip
        check.that(mode is False, "a module in eval mode is in train mode when it has been wrapped")
        check(rude, "", mistakes=MANNERS, what="what the constructor does besides")


# ---------------------------------------------------------------------------------------------- one step


def tower_gradients(weights, x):
    """The gradients, in float64, of the mean of the outputs' squares."""
    leaves = [weight.double().requires_grad_() for weight in weights]
    out = x.double()
    for weight in leaves:
        out = (out @ weight.T).tanh()
    return list(torch.autograd.grad(out.square().mean(), leaves))


@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("ranks", "dtype", "options"),
    [(4, torch.float32, {"bucket_size_mb": 100 / MB}), (2, torch.float64, {})],
)
def test_gradients_are_those_of_the_whole_batch(student, check, rng, ranks, dtype, options):
    """After one backward: the mean of the ranks' gradients, which is what one process gets for all rows together."""
    weights = [randn(rng, *shape, dtype=dtype) for shape in [(5, 3), (4, 5), (2, 4)]]
    x = randn(rng, ranks, 6, 3, dtype=dtype)

    def probe(weights, x, options):
        from data_parallel import DistributedDataParallel

        model = DistributedDataParallel(inside.tower(weights), **options)
        inside.a_tensor(model(x[torch.distributed.get_rank()])).square().mean().backward()
        model.finish_gradient_synchronization()
        return inside.grads_of(model)

    results = student.on(ranks=ranks).run(probe, weights, x, options)

    own = [tower_gradients(weights, rows) for rows in x]
    whole = tower_gradients(weights, x.flatten(0, 1))
    check(results, [whole] * ranks, dtype=dtype, relative=1e-9 if dtype == torch.float64 else 1e-4, mistakes={
        "gradients are added up over the ranks, but not divided by their number": [times(ranks, whole)] * ranks,
        "the sum is divided by the number of ranks twice": [times(1 / ranks, whole)] * ranks,
        "each rank keeps its own gradients": own,
        "all ranks get the gradients of rank 0": [own[0]] * ranks,
        "the first weight is not averaged: the last bucket is not sent": [[mine[0], *whole[1:]] for mine in own],
        "only the last weight is averaged": [[*mine[:-1], whole[-1]] for mine in own],
        "only rank 0 gets the mean": [whole, *own[1:]],
        "the all_reduce is not waited for, so that each rank divides its own gradients": [times(1 / ranks, mine) for mine in own],
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.parametrize("clear", ["none", "zero"])
def test_ranks_train_as_one_process_does(student, check, rng, clear):
    """Three steps of gradient descent with momentum end at the weights of one process with the whole batches."""
    weights = [randn(rng, *shape, dtype=torch.float64) for shape in [(4, 3), (2, 4)]]
    x = randn(rng, 3, 2, 4, 3, dtype=torch.float64)  # (steps, ranks, rows, features)

    def probe(weights, x, set_to_none):
        from data_parallel import DistributedDataParallel

        model = DistributedDataParallel(inside.tower(weights), bucket_size_mb=80 / 2**20)
        optimizer, found = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), []
        for batch in x:
            inside.a_tensor(model(batch[torch.distributed.get_rank()])).square().mean().backward()
            model.finish_gradient_synchronization()
            found.append(inside.grads_of(model))
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
        return found, list(model.parameters())

    results = student.on(ranks=2).run(probe, weights, x, clear == "none")

    own_first = [tower_gradients(weights, rows) for rows in x[0]]
    factor = factor_of(results[0][0][0], mean_of(own_first), 2)
    ends = {later: descend(weights, x, factor, later) for later in ("averaged", "own", "first")}
    check([list(end) for _, end in results], ends["averaged"], relative=1e-9, mistakes={
        "only the first step's gradients are averaged: what was noted of it is not cleared": ends["own"],
        "each step takes the mean of the first one": ends["first"],
    }, what="the weights after three steps")  # fmt: skip


def descend(weights, x, factor, later):
    """The weights of each of two ranks after SGD with momentum; gradients of later steps are averaged, "own", or the "first"."""
    ranks = [[weight.clone() for weight in weights] for _ in range(2)]
    momenta = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
    first = None
    for step, batch in enumerate(x):
        own = [tower_gradients(mine, rows) for mine, rows in zip(ranks, batch, strict=True)]
        mean = times(factor, mean_of(own))
        first = first or mean
        for rank in range(2):
            used = {"own": own[rank] if step else mean, "first": first}.get(later, mean)
            momenta[rank] = [0.9 * old + grad for old, grad in zip(momenta[rank], used, strict=True)]
            ranks[rank] = [w - 0.5 * m for w, m in zip(ranks[rank], momenta[rank], strict=True)]
    return ranks


# ---------------------------------------------------------------------------------------------- several backwards, parts left out


def parts_run(student, rng, plan, options, strided=False):
    """What DistributedDataParallel makes of the gradients of inside.LooseWeights with four weights (3, 2), on each rank.

    plan: steps, each of which has for each rank its backwards, each of which has the numbers of the weights in the loss. No
    gradient is cleared between steps. strided: the weights' numbers are not in order in memory. A plain step of a model of its own, with all weights, shows first by what factor
    the student's means are too large.
    Gives the gradients after each step on each rank, the factor, and the ranks' own gradients of each (step, rank, backward).
    """
    ranks = len(plan[0])
    weights = randn(rng, 4, 3, 2, dtype=torch.float64)
    x = randn(rng, len(plan) + 1, ranks, 3, 5, 3, dtype=torch.float64)

    def probe(weights, x, plan, options, strided):
        from data_parallel import DistributedDataParallel

        def run(x, plan, strided):
            own = list(map(inside.strided, weights)) if strided else weights
            model, found = DistributedDataParallel(inside.LooseWeights(own), **options), []
            for rows, step in zip(x, plan, strict=True):
                rank = torch.distributed.get_rank()
                for used, mine in zip(step[rank], rows[rank], strict=False):
                    inside.a_tensor(model(mine, used)).backward()
                model.finish_gradient_synchronization()
                found.append(inside.grads_of(model))
            return found

        return run(x[:1], [[[[0, 1, 2, 3]]] * len(plan[0])], False)[0], run(x[1:], plan, strided)

    results = student.on(ranks=ranks).run(probe, weights, x, plan, options, strided)

    def own(rows, used):
        grads = [2 * rows.T @ rows @ weight for weight in weights]
        return [grad if place in used else torch.zeros_like(grad) for place, grad in enumerate(grads)]

    plain = mean_of([own(x[0, rank, 0], range(4)) for rank in range(ranks)])
    grads = [
        [[own(x[s + 1, rank, b], used) for b, used in enumerate(step[rank])] for rank in range(ranks)]
        for s, step in enumerate(plan)
    ]
    return [found for _, found in results], factor_of(results[0][0], plain, ranks), grads


def added_up(*several):
    """The sum of lists of tensors, item by item."""
    return [sum(each) for each in zip(*several, strict=True)]


ALL = [0, 1, 2, 3]
SMALL = {"bucket_size_mb": 100 / MB}  # two weights of 48 bytes


@pytest.mark.points(3)
@pytest.mark.parametrize(("ranks", "options", "backwards"), [(2, SMALL, 2), (2, {}, 3), (4, SMALL, 3)])
def test_several_backwards_give_the_mean_of_their_sums(student, check, rng, ranks, options, backwards):
    """Gradients are added up over the backwards before finish_gradient_synchronization, and averaged over the ranks."""
    found, factor, grads = parts_run(student, rng, [[[ALL] * backwards] * ranks], options)

    by_backward = [mean_of([rank[b] for rank in grads[0]]) for b in range(backwards)]
    mean, later = times(factor, added_up(*by_backward)), added_up(*by_backward[1:])
    own_sums = [added_up(*rank) for rank in grads[0]]
    check([steps[0] for steps in found], [mean] * ranks, mistakes={
        "only the first backward counts: its means replace what came later": [times(factor, by_backward[0])] * ranks,
        "only the last backward counts": [times(factor, by_backward[-1])] * ranks,
        "the mean is divided by the number of backwards; it should be the mean over the ranks of their sums": [
            times(1 / backwards, mean)
        ] * ranks,
        "the first backward is averaged, and each rank adds its own gradients of the later ones": [
            added_up(times(factor, by_backward[0]), *rank[1:]) for rank in grads[0]
        ],
        "the sum of the first backward is not divided before the second is added": [
            added_up(times(ranks, by_backward[0]), later)
        ] * ranks,
        "after several backwards each rank keeps its own gradients": own_sums,
        "gradients of the first backward count twice": [added_up(mean, times(factor, by_backward[0]))] * ranks,
    })  # fmt: skip


@pytest.mark.points(3)
@pytest.mark.parametrize("options", [{}, SMALL, {"bucket_size_mb": 50 / MB}])
def test_a_parameter_without_a_part_in_the_loss_counts_as_zero(student, check, rng, options):
    """On one rank, or on all: there it is None or zero afterwards; one that a rank has is averaged with zero."""
    used = [[0, 2], [2, 3]]
    found, factor, grads = parts_run(student, rng, [[[used[0]], [used[1]]]], options)

    (first,), (second,) = grads[0]
    mean = times(factor, mean_of([first, second]))
    results = [steps[0] for steps in found]
    check.that(
        all(grads[1] is None or not bool(grads[1].any()) for grads in results),
        "the gradient of a parameter that no rank uses is neither None nor zero",
    )
    expected = [mean[0], *mean[2:]]
    check([[grads[0], *grads[2:]] for grads in results], [expected] * 2, mistakes={
        "the sum is divided by the number of ranks that use a parameter; it should be by the number of all": [
            [2 * expected[0], expected[1], 2 * expected[2]]
        ] * 2,
        "a parameter that only some ranks use is not averaged": [
            [first[0], expected[1], None],
            [None, expected[1], second[3]],
        ],
        "a parameter that a rank does not use has no gradient there; it should have the mean": [
            [expected[0], expected[1], None],
            [None, expected[1], expected[2]],
        ],
        "a rank skips what it does not use, so that gradients of different parameters are added": [
            [(first[0] + second[2]) / 2, (first[2] + second[3]) / 2, None],
            [None, (first[0] + second[2]) / 2, (first[2] + second[3]) / 2],
        ],
        "a bucket with a parameter that is not used is never sent": [
            [first[0], first[2], None],
            [None, second[2], second[3]],
        ],
    })  # fmt: skip


@pytest.mark.points(2)
def test_ranks_may_use_different_parameters_in_several_backwards(student, check, rng):
    """Which buckets are full when differs between the ranks; one of them has no backward at all; the last one uses less."""
    plan = [[[ALL, [0, 1]], [[0, 1], ALL]], [[ALL, [3]], []], [[ALL, [0, 1]]] * 2]
    found, factor, grads = parts_run(student, rng, plan, SMALL)

    sums = [[added_up(*rank) if rank else times(0, grads[0][0][0]) for rank in step] for step in grads]
    first = times(factor, mean_of(sums[0]))
    second = added_up(times(factor, mean_of(sums[1])), times(factor, first))  # kept: equal on both ranks already
    check([steps[0] for steps in found], [first] * 2, mistakes={
        "only the first full bucket counts, not what came later": [
            times(factor, mean_of([grads[0][0][0], grads[0][1][1]]))
        ] * 2,
        "after several backwards each rank keeps its own gradients": sums[0],
    }, what="the gradients after the first step")  # fmt: skip
    check([steps[1] for steps in found], [second] * 2, what="the gradients where a rank has had no backward")
    third = added_up(times(factor, mean_of(sums[2])), times(factor, second))
    own = [third[:2] + added_up(second, rank)[2:] for rank in sums[2]]
    check([steps[2] for steps in found], [third] * 2, what="the gradients where the last backward uses less", mistakes={
        "what no rank uses in its last backward is not averaged, although an earlier one has used it": own,
    })  # fmt: skip


@pytest.mark.points(1)
def test_gradients_that_are_kept_are_added_to(student, check, rng):
    """Without zero_grad the second step adds its mean to that of the first."""
    found, factor, grads = parts_run(student, rng, [[[ALL], [ALL]], [[ALL], [ALL]]], SMALL)

    first, second = (times(factor, mean_of([rank[0] for rank in step])) for step in grads)
    check([steps[1] for steps in found], [added_up(times(factor, first), second)] * 2, mistakes={
        "the first step's gradients are forgotten, although zero_grad was not called": [second] * 2,
        "the first step's means are added again for each rank": [added_up(times(2, first), second)] * 2,
        "the second step's gradients are not averaged": [added_up(first, rank[0]) for rank in grads[1]],
        "the second step does not count": [first] * 2,
    }, what="the gradients after the second step")  # fmt: skip


@pytest.mark.points(1)
def test_weights_of_any_layout(student, check, rng):
    """The numbers of a weight, and so of its gradient, need not be in order in memory."""
    found, factor, grads = parts_run(student, rng, [[[ALL], [ALL]]], SMALL, strided=True)

    mean = times(factor, mean_of([rank[0] for rank in grads[0]]))
    check([steps[0] for steps in found], [mean] * 2, mistakes={
        "the numbers of a gradient change their places, as they are sent in the order in which they are in memory": [
            [grad.T.reshape(grad.shape) for grad in mean]
        ] * 2,
        "gradients whose numbers are not in order in memory are not averaged": [rank[0] for rank in grads[0]],
    })  # fmt: skip


@pytest.mark.points(1)
def test_a_tied_weight_is_one_parameter(student, check, rng):
    """A weight of two layers gets the mean of the ranks' gradients through both, and is sent once."""
    weight, x = randn(rng, 6, 6, dtype=torch.float64), randn(rng, 2, 4, 6, dtype=torch.float64)

    def probe(weight, x):
        from data_parallel import DistributedDataParallel

        module = inside.tower([weight] * 3)
        module[2].weight = module[0].weight
        model = DistributedDataParallel(module, bucket_size_mb=1 / 2**20)
        inside.mark()
        inside.a_tensor(model(x[torch.distributed.get_rank()])).square().mean().backward()
        model.finish_gradient_synchronization()
        inside.mark()
        return inside.grads_of(model)

    two = student.on(ranks=2)
    results = two.run(probe, weight, x)

    tied, last = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    gradients = [
        torch.autograd.grad((((rows @ tied.T).tanh() @ tied.T).tanh() @ last.T).tanh().square().mean(), (tied, last))
        for rows in x
    ]
    truth = mean_of([list(grads) for grads in gradients])
    factor = factor_of([results[0][1]], truth[1:], 2)
    check(results, [times(factor, truth)] * 2, mistakes={
        "a tied weight is averaged twice": [[truth[0] * factor**2, truth[1] * factor]] * 2,
        "a tied weight is not averaged": [[grads[0], factor * truth[1]] for grads in gradients],
    })  # fmt: skip
    sizes = [size for _, size in by_phase(two.traffic, 2, 2)[0][1]]
    check.that(sum(size for size in sizes if size >= LARGE) <= 2 * 288, "a tied weight is sent more than once")
    check.that(few_besides(sizes, 2), TOO_MUCH_BESIDES)


@pytest.mark.points(1)
def test_each_dtype_has_its_own_buckets(student, check, rng):
    """Weights of float32 and of float64 are each averaged in their own dtype."""

    def probe(weights, x):
        from data_parallel import DistributedDataParallel

        class Mixed(torch.nn.Sequential):
            def forward(self, x):
                return self[0](x).square().mean() + self[1](x.float()).mean() + self[2](x).square().mean()

        module = Mixed(*map(inside.whole_linear, [weights[0], weights[1].float(), weights[2]]))
        model, rank = DistributedDataParallel(module), torch.distributed.get_rank()
        inside.mark()
        inside.a_tensor(model(x[rank])).backward()
        model.finish_gradient_synchronization()
        return inside.grads_of(model)

    weights, x = randn(rng, 3, 6, 6, dtype=torch.float64), randn(rng, 2, 5, 6, dtype=torch.float64)
    two = student.on(ranks=2)
    results = two.run(probe, weights, x)

    def squares(rows, weight):
        return 2 * (rows @ weight.T).T @ rows / (5 * 6)

    own = [[squares(r, weights[0]), r.sum(0).expand(6, 6) / 30, squares(r, weights[2])] for r in x]
    truth = mean_of(own)
    factor = factor_of(results[0], truth, 2)
    first, second, third = times(factor, truth)
    coarse = [factor * torch.stack([grads[n] for grads in own]).float().mean(0) for n in (0, 2)]
    check([[found.dtype for found in grads] for grads in results], [[torch.float64, torch.float32, torch.float64]] * 2)
    check([[grads[0], grads[2]] for grads in results], [[first, third]] * 2, mistakes={
        "gradients of float64 are averaged in float32": [[item.double() for item in coarse]] * 2,
    }, what="the gradients of float64")  # fmt: skip
    check([grads[1] for grads in results], [second] * 2, dtype=torch.float32, what="the gradients of float32")
    sizes = sizes_of(behind(two.traffic, 0, 1))
    check.that(
        sum(size for size in sizes if size >= LARGE) <= 288 + 144 + 288,
        "more is sent than the gradients have in their own dtypes: a bucket should have one dtype, and be sent once",
    )
    check.that(few_besides(sizes, 3), TOO_MUCH_BESIDES)


# ---------------------------------------------------------------------------------------------- what is sent, and when

NOT_SENT = (
    "no gradients are sent, or the gradients afterwards are not those that were sent, or besides them more is sent than "
    "a few bytes for each parameter"
)


def step_messages(student, weights, options, ranks=2, backwards=(1,), frozen=(), clear="none"):
    """(what the ranks send, for each rank and weight whether it has a gradient that is not zero).

    Calls of inside.mark part what is sent in the constructor; then, for each step, in forward, in backward until it reaches the first
    layer, and from there to the end of finish_gradient_synchronization. Nothing is said to be sent if the gradients are wrong.
    backwards: of each step. clear: what zero_grad makes of gradients between steps.
    """

    def probe(weights, x, options, backwards, frozen, set_to_none):
        from data_parallel import DistributedDataParallel

        module = inside.tower(weights, marked=True)
        for place in frozen:
            [layer for layer in module if hasattr(layer, "weight")][place].requires_grad_(False)
        model = DistributedDataParallel(module, **options)
        inside.mark()
        for step, count in enumerate(backwards):
            model.zero_grad(set_to_none=set_to_none)
            for _ in range(count):
                out = inside.a_tensor(model(x * (1 + torch.distributed.get_rank()) / (len(backwards) - step)))
                inside.mark()
                out.square().sum().backward()
            model.finish_gradient_synchronization()
            inside.mark()
        return inside.grads_of(model)

    team = student.on(ranks=ranks)
    x = torch.arange(1, 1 + weights[0].shape[1], dtype=weights[0].dtype)[None] / weights[0].shape[1]
    grads = team.run(probe, weights, x, options, list(backwards), frozen, clear == "none")
    has = [[None if grad is None else bool(grad.any()) for grad in own] for own in grads]
    return (team.traffic if means_of_a_step(grads, weights, x, ranks) else []), has


def means_of_a_step(grads, weights, x, ranks):
    """Whether each rank's gradients are, but for a factor, the means of what the ranks have for x, 2x, …: else whatever was sent
    were not the gradients, and counts for nothing. Those of frozen weights are not looked at."""
    W = [weight.double().requires_grad_() for weight in weights]
    total = 0.0
    for rank in range(ranks):
        out = x.double() * (rank + 1)
        for weight in W:
            out = torch.tanh(out @ weight.T)
        total = total + out.square().sum()
    truth = torch.autograd.grad(total, W)
    pairs = [(mine, right) for own in grads for mine, right in zip(own, truth, strict=True) if torch.is_tensor(mine)]
    return all(
        mine.shape == right.shape and float(F.cosine_similarity(mine.double().flatten(), right.flatten(), 0)) > 1 - 1e-6
        for mine, right in pairs
    )


def eights(rng, layers=6):
    """Weights of 8 · 8 · 8 = 512 bytes each."""
    return list(randn(rng, layers, 8, 8, dtype=torch.float64) / 3)


def gradients_sent(traffic, ranks, parts):
    """Of each rank, for each part of what it sent: the bytes of its messages that are large enough for a gradient.

    None where a mark is missing, or where gradients of six parameters could be in smaller messages, after the constructor.
    """
    found = by_phase(traffic, ranks, parts)
    few = [each is not None and all(few_besides([size for _, size in part], 6) for part in each[1:]) for each in found]
    return [
        [[size for _, size in part if size >= LARGE] for part in each] if is_few else None
        for each, is_few in zip(found, few, strict=True)
    ]


@pytest.mark.points(3)
@pytest.mark.parametrize(("size", "clear"), [(1100, "none"), (600, "zero")])
def test_a_bucket_leaves_before_backward_is_done(student, check, rng, size, clear):
    """With several buckets one is on its way before backward has reached the first layer, in each step."""
    traffic, _ = step_messages(student, eights(rng), {"bucket_size_mb": size / MB}, backwards=(1, 1), clear=clear)

    for sent in gradients_sent(traffic, 2, 7):
        check.that(sent is not None and bool(sent[2] or sent[3]) and bool(sent[5] or sent[6]), NOT_SENT)
        check.that(bool(sent[2]), "all gradients leave after backward; a bucket should leave as soon as it is full")
        check.that(
            bool(sent[5]), "in the second step all gradients leave after backward; a bucket should leave during it"
        )


@pytest.mark.points(2)
def test_a_bucket_is_not_larger_than_its_limit(student, check, rng):
    """A message has at most bucket_size_mb · 2^20 bytes, or is one parameter."""
    for size in (1100, 300, 2000):
        traffic, _ = step_messages(student, eights(rng), {"bucket_size_mb": size / MB})

        for sent in gradients_sent(traffic, 2, 4):
            check.that(sent is not None and bool(sent[2] + sent[3]), NOT_SENT)
            largest = max(sent[2] + sent[3])
            check.that(largest <= max(size, 512), "a bucket is larger than bucket_size_mb · 2^20 bytes")

    weights = [randn(rng, *shape, dtype=torch.float64) / 3 for shape in [(8, 8), (24, 8), (8, 24), (8, 8)]]
    traffic, _ = step_messages(student, weights, {"bucket_size_mb": 700 / MB})
    for sent in gradients_sent(traffic, 2, 4):
        check.that(sent is not None and bool(sent[2] + sent[3]), NOT_SENT)
        check.that(
            max(sent[2] + sent[3]) <= 24 * 8 * 8, "a parameter that is larger than a bucket shares one with others"
        )


@pytest.mark.points(2)
def test_small_parameters_share_a_bucket(student, check, rng):
    """What fits into one bucket is one message, with the default size too; half of it fits into two."""
    cases = [
        ({}, 1, torch.float64),
        ({"bucket_size_mb": 1600 / MB}, 2, torch.float64),
        ({"bucket_size_mb": 1030 / MB}, 3, torch.float64),  # 1030 / 2^20 million bytes would be 982
        ({"bucket_size_mb": 1024 / MB}, 3, torch.float64),  # two fill a bucket to the last byte
        ({"bucket_size_mb": 600 / MB}, 3, torch.float32),
    ]
    for options, most, dtype in cases:
        traffic, _ = step_messages(student, [weight.to(dtype) for weight in eights(rng)], options)

        for sent in gradients_sent(traffic, 2, 4):
            count = 0 if sent is None else len(sent[2] + sent[3])
            check.that(count > 0, NOT_SENT)
            once = sum(sent[2] + sent[3]) <= 1.25 * 6 * 64 * dtype.itemsize
            check.that(once, "more is sent than the gradients: each should be sent once")
            to_the_last_byte = options.get("bucket_size_mb") == 1024 / MB
            check.that(
                count < 6 or not to_the_last_byte,
                "a parameter that fills a bucket to its limit begins a new one; a bucket may have as many bytes as the limit",
            )
            check.that(count < 6, "each parameter is sent alone; parameters that fit into a bucket should share one")
            check.that(count <= most + 1, "buckets are not filled up: a parameter that still fits begins a new one")

    def default():
        import inspect

        from data_parallel import DistributedDataParallel

        return inspect.signature(DistributedDataParallel).parameters["bucket_size_mb"].default == 25

    check.that(student.run(default), "the default of bucket_size_mb is another number; it should be 25")


@pytest.mark.points(2)
def test_no_rank_averages_for_the_others(student, check, rng):
    """Each bucket is one all_reduce, in which each rank gives its gradients once a step; in forward nothing is sent."""
    weights = eights(rng)
    traffic, _ = step_messages(student, weights, {"bucket_size_mb": 1100 / MB}, ranks=4, backwards=(1, 1), clear="zero")

    sent = by_phase(traffic, 4, 7)
    check.that(None not in sent, NOT_SENT)
    check.that(all(part[1] == part[4] == [] for part in sent), "something is sent in forward; nothing should be")
    first = [sum(size for _, size in part[0]) for part in sent]
    after_forward = [message for rank in range(4) for message in behind(traffic, rank, 2)]
    for fact in fair(after_forward, 4, 2 * 6 * 512, 2 * 6 * 512, 2 * 6):
        check.that(*fact)
    check.that(max(first[1:]) <= max(first[0], 64), "in the constructor ranks other than 0 send their parameters")


@pytest.mark.points(1)
def test_nothing_is_sent_for_frozen_parameters(student, check, rng):
    """They get no gradient, and are in no bucket."""
    traffic, grads = step_messages(student, eights(rng), {}, frozen=[1, 3, 4])

    for sent, found in zip(gradients_sent(traffic, 2, 4), grads, strict=True):
        check(found, [True, None, True, None, None, True], what="which parameters have a gradient", mistakes={
            "a frozen parameter gets a gradient; it should have none": check.when(any(found[n] is not None for n in (1, 3, 4))),
        })  # fmt: skip
        check.that(sent is not None and sum(sent[2] + sent[3]) >= 3 * 512, "not all gradients are sent")
        check.that(
            sum(sent[2] + sent[3]) <= 4 * 512, "more is sent than the gradients of the parameters that are not frozen"
        )


@pytest.mark.points(1)
def test_two_backwards_send_at_most_twice(student, check, rng):
    """Each gradient is sent at most once for each backward; and once in a later step, which has one backward."""
    traffic, _ = step_messages(student, eights(rng), {"bucket_size_mb": 1100 / MB}, backwards=(2, 1))

    def given(rank, marks):
        return sum(m.bytes for m in behind(traffic, rank, marks) if m.bytes >= LARGE)

    for rank in range(2):
        both, later = given(rank, 2), given(rank, 6)  # 6: that of the constructor, and five of the first step
        check.that(both - later >= 6 * 512 and later >= 6 * 512, "not all gradients are sent")
        check.that(both - later <= 2.5 * 6 * 512, "each gradient is sent more than once for each backward")
        check.that(
            later <= 1.25 * 6 * 512, "after a step with two backwards gradients are sent twice in a step with one"
        )
        check.that(few_besides(sizes_of(behind(traffic, rank, 2)), 3 * 6), TOO_MUCH_BESIDES)
