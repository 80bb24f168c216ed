"""Hidden tests of zero: FullyShardedModule.

How parameters are laid out in the shards is open. So a test asks all ranks for the shards as values and finds each weight
by its value (helpers' `found_in_shards`), or it trains and looks at outputs. The truth is plain torch in one process, in float64. Where
gradients as such are not what is tested, the optimizer is AdamW, for which their scale hardly counts.
"""

import pytest
import torch

from shared import randn
from zero_helpers import draw_each, found_in_shards, given_between, layers, mean_gradients, sharded_training

pytestmark = pytest.mark.question("FullyShardedModule")

SHAPES = ((8, 5), (8,), (4, 8), (4,))  # 84 elements: two and four ranks divide each parameter
ODD = ((5, 3), (5,), (3, 5), (3,))  # 38 elements: two ranks divide their sum, four do not
ADAMW = {"lr": 0.05, "weight_decay": 0.2}


def one_pass(weights, x, frozen, training=True, named=False):
    """A probe: (output, gradient of the input, shards) after one pass with rank r's rows x[r]. named: how x is given."""
    from zero import FullyShardedModule

    model = FullyShardedModule(inside.two_layers(weights, frozen)).train(training)
    mine = x[torch.distributed.get_rank()].requires_grad_()
    output = inside.a_tensor(model(input=mine) if named else model(mine))
    output.square().sum().backward()
    return output.detach(), mine.grad, inside.shards_of(model)


def output_after_training(weights, x, new, options, steps, frozen):
    """A probe: the output for `new` after some steps of AdamW, made before the first call, with rank r's rows x[r]."""
    from zero import FullyShardedModule

    model = FullyShardedModule(inside.two_layers(weights, frozen))
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    for _ in range(steps):
        inside.a_tensor(model(x[torch.distributed.get_rank()])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return inside.a_tensor(model(new)).detach()


# ---------------------------------------------------------------------------------------------- outputs


@pytest.mark.points(3)
@pytest.mark.parametrize(("ranks", "dtype"), [(2, torch.float64), (4, torch.float32)])
def test_outputs_are_those_of_the_module(student, check, rng, ranks, dtype):
    """Each rank gets the module's output for its own input."""
    weights, x = draw_each(rng, SHAPES, dtype), randn(rng, ranks, 3, 5, dtype=dtype)

    found = [output for output, _, _ in student.on(ranks=ranks).run(one_pass, weights, x, [])]

    truth = [layers(weights, rows) for rows in x]
    check(found, truth, dtype=dtype, relative=1e-9 if dtype is torch.float64 else 1e-4, mistakes={
        "every rank gets the output for the input of rank 0": [truth[0]] * ranks,
        "outputs are averaged over the ranks; each rank should get that of its own input": [sum(truth) / ranks] * ranks,
        "outputs are added up over the ranks; each rank should get that of its own input": [sum(truth)] * ranks,
    })  # fmt: skip


@pytest.mark.points(2)
def test_it_is_called_like_the_module(student, check, rng):
    """Arguments by position and by name, and results of any kind, are handed on."""

    def probe(single, double, number, x):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.Manifold(single, double, number))
        return model(x, 3, plus=2), model(x, times=1)

    single, double, number = (
        randn(rng, 2, 4).round(),
        randn(rng, 4, dtype=torch.float64),
        randn(rng, dtype=torch.float64),
    )
    x = randn(rng, 3, 2, dtype=torch.float64).round()

    ranks = student.on(ranks=2)
    ranks.accepts(probe, single, double, number, x)
    found = ranks.run(probe, single, double, number, x)

    y = x @ single.double() * double
    truth = [{"sum": y.sum() * 3 + 2, "pair": (y, number * 3)}, {"sum": y.sum(), "pair": (y, number)}]
    check(found, [truth] * 2, relative=1e-9, what="what the module returns", mistakes={
        "parameters in float64 become float32": [
            [{"sum": y32.sum() * 3 + 2, "pair": (y32, number.float().double() * 3)}, {"sum": y32.sum(), "pair": (y32, number.float().double())}]
            for y32 in [x @ single.double() * double.float().double()] * 2
        ],
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.parametrize("frozen", [[], [0]])
def test_all_ranks_start_with_the_weights_of_rank_0(student, check, rng, frozen):
    """Where the ranks' modules have different weights those of rank 0 count, also of what needs no gradient."""

    def probe(weights, x, frozen):
        from zero import FullyShardedModule

        factor = torch.distributed.get_rank() + 1
        same = FullyShardedModule(inside.two_layers(weights))
        other = FullyShardedModule(inside.two_layers([weight * factor for weight in weights], frozen))
        return inside.a_tensor(other(x)).detach(), inside.a_tensor(same(x)).detach()

    weights, x = draw_each(rng, SHAPES), randn(rng, 3, 5, dtype=torch.float64)

    for rank, (other, same) in enumerate(student.on(ranks=2).run(probe, weights, x, frozen)):
        check.that(bool(same.any()), "the outputs are zero")
        check(other, same, relative=1e-9, otherwise="the ranks do not start with the weights of rank 0", mistakes={
            "the weights of the last rank count; those of rank 0 should": check.when(rank == 0, layers([2 * w for w in weights], x)),
            "a rank starts with its own weights; those of rank 0 should count": layers([2 * w for w in weights], x),
        })  # fmt: skip


@pytest.mark.points(2)
def test_train_and_eval_reach_the_module_and_its_buffers(student, check, rng):
    """Buffers are whole and the module's own: a batch norm notes its means in train mode and uses them in eval mode."""

    def probe(x, new):
        from zero import FullyShardedModule

        model = FullyShardedModule(torch.nn.BatchNorm1d(5, dtype=x.dtype))
        first = inside.a_tensor(model(x)).detach()
        quiet = inside.a_tensor(model.eval()(new)).detach()
        loud = inside.a_tensor(model.train()(new)).detach()
        return first, quiet, loud, [buffer for buffer in model.buffers() if buffer.dim()]

    x, new = randn(rng, 6, 5, dtype=torch.float64) + 3, randn(rng, 4, 5, dtype=torch.float64)

    found = student.on(ranks=2).run(probe, x, new)

    norm = torch.nn.BatchNorm1d(5, dtype=torch.float64)
    first, means = norm(x).detach(), [norm.running_mean.clone(), norm.running_var.clone()]
    quiet, loud = norm.eval()(new).detach(), norm.train()(new).detach()
    after = [norm.running_mean.clone(), norm.running_var.clone()]
    unseen = torch.nn.BatchNorm1d(5, dtype=torch.float64).eval()(new).detach()
    for mine in found:
        check(mine[0], first, relative=1e-9, what="the output in train mode", mistakes={
            "the module is in eval mode although train mode is on": torch.nn.BatchNorm1d(5, dtype=x.dtype).eval()(x).detach(),
        })  # fmt: skip
        check(mine[1], quiet, relative=1e-9, what="the output in eval mode", mistakes={
            "eval() does not reach the module": loud,
            "what a call writes into the buffers is lost": unseen,
        })  # fmt: skip
        check(mine[2], loud, relative=1e-9, what="the output in train mode again", mistakes={
            "train() does not reach the module": lambda: torch.nn.functional.batch_norm(new, *means, eps=1e-5),
        })  # fmt: skip
        check.that(len(mine[3]) == 2, "`.buffers()` does not give the buffers of the module")
        check(mine[3], after, relative=1e-9, what="the buffers")


# ---------------------------------------------------------------------------------------------- what a rank holds


@pytest.mark.points(5)
@pytest.mark.parametrize(("ranks", "deep"), [(2, False), (4, True)])
def test_a_rank_has_its_part_of_the_parameters(student, check, rng, ranks, deep):
    """The parameters of each rank have about 1 / W of the elements (25 % more or less), however large and deep they are."""

    def probe(weights, x, deep):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.two_layers(weights, deep=deep))
        before = sum(parameter.numel() for parameter in model.parameters())
        output = inside.a_tensor(model(x))
        if output.requires_grad:  # else another test says so
            output.square().sum().backward()
        return bool(output.any()), before, sum(parameter.numel() for parameter in model.parameters())

    weights = draw_each(rng, ((24, 5), (24,), (4, 24), (4,)))

    found = student.on(ranks=ranks).run(probe, weights, randn(rng, 2, 5, dtype=torch.float64), deep)

    whole = sum(weight.numel() for weight in weights)
    part = whole / ranks
    computed, *held_when = zip(*found, strict=True)
    check.that(all(computed), "the module's output is zero")
    for when, held in zip(("before the first call", "after a pass"), held_when, strict=True):
        check.that(
            held != (whole,) * ranks, f"every rank holds all parameters {when}, as in plain data parallel training"
        )
        check.that(max(held) < whole, f"one rank holds all parameters {when}; each should hold its part")
        check.that(all(held), f"a rank has no parameters {when}")
        check.that(
            all(abs(elements / part - 1) <= 0.25 for elements in held),
            f"the parameters are not shared out evenly {when}: every rank should have about 1 / W of the elements",
        )


@pytest.mark.points(2)
@pytest.mark.parametrize("shapes", [SHAPES, ODD])
def test_the_shards_are_the_weights(student, check, rng, shapes):
    """The shards of all ranks together have each weight, once."""

    def probe(weights):
        from zero import FullyShardedModule

        return inside.shards_of(FullyShardedModule(inside.two_layers(weights)))

    weights = draw_each(rng, shapes)

    found = student.on(ranks=4).run(probe, weights)

    _, holders = found_in_shards(weights, found)
    check.that(any(bool((each >= 0).any()) for each in holders), "the shards have none of the module's weights")
    check.that(all(bool((each >= 0).all()) for each in holders), "some weights are in no shard of any rank")
    numbers = torch.cat([values.flatten() for shards in found for values, _ in shards])
    truth = torch.cat([weight.flatten() for weight in weights])
    often = int(torch.isin(numbers, truth).sum())
    check.that(often <= len(truth), "some weights are in the shards of several ranks")


@pytest.mark.points(3)
@pytest.mark.parametrize("frozen", [[], [0]])
def test_whole_parameters_are_not_kept(student, check, rng, frozen):
    """After a forward pass without gradients a rank holds its shards, also of what is frozen; after a training pass gradients, too."""

    def probe(weights, x, frozen):
        from zero import FullyShardedModule

        start = inside.held()
        model = FullyShardedModule(inside.two_layers(weights, frozen))
        made = inside.held() - start
        with torch.no_grad():
            learns = inside.a_tensor(model(x)).requires_grad
        quiet = inside.held() - start
        inside.a_tensor(model(x)).square().sum().backward()
        return made, quiet, inside.held() - start, learns

    weights = draw_each(rng, ((64, 40), (64,), (8, 64), (8,)))

    found = student.on(ranks=4).run(probe, weights, randn(rng, 1, 40, dtype=torch.float64), frozen)

    whole = 8 * sum(weight.numel() for weight in weights)  # bytes; a rank's part is a quarter of it
    for made, quiet, after, learns in found:
        check.that(min(made, after) > 0, "the module holds no tensors")
        check.that(not learns, "under torch.no_grad() the output requires a gradient")
        kept = "the constructor leaves the whole parameters in memory, beside the shards"
        if frozen:
            kept = "parameters that need no gradient stay whole in memory; each rank should hold its part of them"
        check.that(made < 0.6 * whole, kept)
        check.that(
            quiet < 0.6 * whole, "the whole parameters are still in memory after a forward pass without gradients"
        )
        check.that(after < 0.9 * whole, "whole parameters or their gradients are still in memory after backward")


@pytest.mark.points(4)
@pytest.mark.parametrize("training", [True, False])
def test_a_changed_shard_shows_on_all_ranks(student, check, rng, training):
    """Each forward pass gathers the shards: when every rank changes its own, all ranks' outputs change, in eval mode, too."""

    def probe(weights, x, training):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.two_layers(weights)).train(training)
        first, shards = inside.a_tensor(model(x)).detach(), inside.shards_of(model)
        with torch.no_grad():
            for shard in model.parameters():
                shard.mul_(torch.distributed.get_rank() + 2)
        inside.mark()
        second = inside.a_tensor(model(x)).detach()
        inside.mark()
        return first, shards, second

    weights, x = draw_each(rng, SHAPES), randn(rng, 3, 5, dtype=torch.float64)
    ranks = student.on(ranks=2)
    found = ranks.run(probe, weights, x, training)

    check.that(all(shards for _, shards, _ in found), "a rank has no parameters")
    _, holders = found_in_shards(weights, [shards for _, shards, _ in found])
    changed = [weight * (holder + 2) for weight, holder in zip(weights, holders, strict=True)]
    given = given_between(ranks.traffic, 2, 0, 1)
    for rank, (first, _, second) in enumerate(found):
        own = [
            torch.where(holder == rank, weight * (rank + 2), weight)
            for weight, holder in zip(weights, holders, strict=True)
        ]
        check.that(
            not torch.equal(first, second), "outputs do not change when the shards do: gathered weights are kept"
        )
        check(second, layers(changed, x), relative=1e-9, what="the output after the shards have changed", mistakes={
            "a change of a shard shows on the rank that holds it only": layers(own, x),
        })  # fmt: skip
    check.that(all(given), "in a forward pass some rank sends nothing, although it has a part of the weights")


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 1)])
def test_fewer_elements_than_ranks_are_legal(student, check, rng, shape):
    """Two or three elements are sharded over four ranks."""

    def made(weight):
        from zero import FullyShardedModule

        FullyShardedModule(inside.whole_linear(weight))

    def probe(weight, x):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.whole_linear(weight))
        return inside.a_tensor(model(x)).detach()

    weight, x = randn(rng, *shape, dtype=torch.float64), randn(rng, 1, shape[1], dtype=torch.float64)

    ranks = student.on(ranks=4)
    ranks.accepts(made, weight)
    found = ranks.run(probe, weight, x)

    check(found, [x @ weight.T] * 4, relative=1e-9)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.points(5)
@pytest.mark.parametrize(
    ("ranks", "shapes", "dtype", "training"),
    [(4, ODD, torch.float64, True), (2, SHAPES, torch.float32, True), (2, SHAPES, torch.float64, False)],
)
def test_gradients_are_means_over_the_ranks(student, check, rng, ranks, shapes, dtype, training):
    """`.grad` of the shards is the mean over the ranks of the gradients of their losses, in train mode and in eval mode."""
    weights, x = draw_each(rng, shapes, dtype), randn(rng, ranks, 3, shapes[0][1], dtype=dtype)

    found = student.on(ranks=ranks).run(one_pass, weights, x, [], training)

    gradients, holders = found_in_shards(weights, [shards for _, _, shards in found])
    alike = all(_gradients_of(shards) == _gradients_of(found[0][2]) for _, _, shards in found)
    truth = mean_gradients(layers, weights, x)
    own = [mean_gradients(layers, weights, x[r : r + 1]) for r in range(ranks)]
    of_holder = [
        sum((holder == r) * own[r][n] for r in range(ranks)) for n, holder in enumerate(holders)
    ]  # of the loss of the rank that holds the element
    check(gradients, truth, dtype=dtype, relative=1e-9 if dtype is torch.float64 else 1e-4, what="the gradients of the shards", mistakes={
        "the shards get no gradient": [torch.zeros_like(each) for each in truth],
        "gradients are added up over the ranks; they should be averaged": [each * ranks for each in truth],
        "gradients are divided by the number of ranks twice": [each / ranks for each in truth],
        "gradients are twice too large": [each * 2 for each in truth],
        "a rank has the gradient of its own loss; it should have the mean over the ranks": of_holder,
        "a rank has the gradient of its own loss divided by the number of ranks": [each / ranks for each in of_holder],
        "the shards of all ranks have the same gradients; each should have those of its own elements": check.when(alike),
    })  # fmt: skip


def _gradients_of(shards):
    return [grad.flatten().tolist() for _, grad in shards if isinstance(grad, torch.Tensor)]


@pytest.mark.points(1)
@pytest.mark.parametrize(("named", "place"), [(False, 0), (False, 1), (True, 1)])
def test_a_loss_may_come_from_any_output(student, check, rng, named, place):
    """Of a module that gives two tensors, in a tuple or a dict, one is enough for a loss."""

    def probe(weights, x, named, place):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.Forked(weights, named))
        given = model(x[torch.distributed.get_rank()])
        given = list(given.values()) if isinstance(given, dict) else given
        inside.listed(given)[place].square().sum().backward()
        return inside.shards_of(model)

    weights, x = draw_each(rng, ((8, 5), (8,), (4, 5), (4,))), randn(rng, 2, 3, 5, dtype=torch.float64)

    found = student.on(ranks=2).run(probe, weights, x, named, place)

    def one(pair, x):
        return torch.nn.functional.linear(x, *pair)

    truth = [torch.zeros_like(weight) for weight in weights]
    truth[2 * place : 2 * place + 2] = mean_gradients(one, weights[2 * place : 2 * place + 2], x)
    gradients, _ = found_in_shards(weights, found)
    check(gradients, truth, relative=1e-9, what="the gradients of the shards", mistakes={
        "the shards get no gradient": [torch.zeros_like(each) for each in truth],
    })  # fmt: skip


@pytest.mark.points(2)
def test_gradients_add_up(student, check, rng):
    """A second backward adds to what is in `.grad`."""

    def probe(weights, x):
        from zero import FullyShardedModule

        model, found = FullyShardedModule(inside.two_layers(weights)), []
        for batch in x:
            model.zero_grad()
            inside.a_tensor(model(batch)).square().sum().backward()
            found.append([shard.grad.clone() for shard in model.parameters() if shard.grad is not None])
        inside.a_tensor(model(x[0])).square().sum().backward()
        both = [shard.grad.clone() for shard in model.parameters() if shard.grad is not None]
        return (*found, both)

    weights, x = draw_each(rng, SHAPES), randn(rng, 2, 3, 5, dtype=torch.float64)

    for first, second, both in student.on(ranks=2).run(probe, weights, x):
        check.that(any(bool(gradient.any()) for gradient in first), "the shards get no gradient")
        check(both, [a + b for a, b in zip(first, second, strict=True)], relative=1e-9, what="`.grad` after two backwards", mistakes={
            "a second backward overwrites what is in .grad; it should add to it": first,
            "a second backward divides what was in .grad once more; it should leave that as it is": [a + b / 2 for a, b in zip(first, second, strict=True)],
        })  # fmt: skip


@pytest.mark.points(1)
def test_two_calls_have_one_backward(student, check, rng):
    """Two calls, then the backward of both: their gradients add up."""

    def probe(weights, first, second):
        from zero import FullyShardedModule

        model, found = FullyShardedModule(inside.two_layers(weights)), []
        for joined in (True, False):
            model.zero_grad()
            outputs = inside.listed([model(torch.cat([first, second]))] if joined else [model(first), model(second)])
            outputs = outputs[0].chunk(2) if joined else outputs
            (outputs[0] * outputs[1]).sum().backward()
            found.append([shard.grad.clone() for shard in model.parameters() if shard.grad is not None])
        return found

    weights, (first, second) = draw_each(rng, SHAPES), randn(rng, 2, 3, 5, dtype=torch.float64)

    for one, two in student.on(ranks=2).run(probe, weights, first, second):
        check.that(any(bool(gradient.any()) for gradient in one), "the shards get no gradient")
        check(two, one, relative=1e-9, otherwise="where two calls have one backward the gradients are wrong")


@pytest.mark.points(2)
@pytest.mark.parametrize(("frozen", "named"), [([], False), ([0, 1, 2, 3], False), ([], True)])
def test_inputs_get_the_gradient_of_their_own_loss(student, check, rng, frozen, named):
    """The gradient of a rank's input, given by place or by name, is that of its own loss, also where no parameter learns."""
    weights, x = draw_each(rng, SHAPES), randn(rng, 2, 3, 5, dtype=torch.float64)

    found = [gradient for _, gradient, _ in student.on(ranks=2).run(one_pass, weights, x, frozen, True, named)]

    leaf = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(layers(weights, leaf).square().sum(), leaf)
    check.that(all(gradient is not None for gradient in found), "the input gets no gradient")
    check(found, list(truth), relative=1e-9, mistakes={
        "the gradient of the input is divided by the number of ranks": list(truth / 2),
        "the gradients of the inputs are averaged over the ranks": [truth.mean(0)] * 2,
        "the gradients of the inputs are added up over the ranks": [truth.sum(0)] * 2,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.points(4)
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_optimizer_trains_the_shards(student, check, rng, ranks):
    """AdamW of the shards, made before the first call, trains the module as in one process with the mean of all losses."""
    weights, x = draw_each(rng, SHAPES), randn(rng, ranks, 3, 5, dtype=torch.float64)
    new = randn(rng, 2, 5, dtype=torch.float64)

    found = student.on(ranks=ranks).run(output_after_training, weights, x, new, ADAMW, 3, [])

    def after(xs, steps=3):
        return layers(sharded_training(layers, weights, xs, ADAMW, steps), new)

    check(found, [after(x)] * ranks, relative=1e-5, what="the outputs after three steps", mistakes={
        "the optimizer has no effect on the outputs": [layers(weights, new)] * ranks,
        "only the first step of the optimizer has an effect": lambda: [after(x, steps=1)] * ranks,
        "every rank trains by its own loss; the gradients should be averaged": lambda: [after(x[r : r + 1]) for r in range(ranks)],
    })  # fmt: skip


@pytest.mark.points(3)
@pytest.mark.parametrize("width", [6, 5])
def test_tied_weights_stay_tied(student, check, rng, width):
    """A parameter at two places of the module is sharded once, gets the gradients of both, and stays one."""

    def probe(weight, x, options):
        from zero import FullyShardedModule

        model = FullyShardedModule(inside.Mirrored(weight))
        optimizer = torch.optim.AdamW(model.parameters(), **options)
        learned = False
        for _ in range(3):
            inside.a_tensor(model(x)).square().sum().backward()
            learned = learned or any(bool(grad.any()) for _, grad in inside.shards_of(model) if grad is not None)
            optimizer.step()
            optimizer.zero_grad()
        return sum(shard.numel() for shard in model.parameters()), inside.a_tensor(model(x)).detach(), learned

    weight, x = randn(rng, width, width, dtype=torch.float64), randn(rng, 4, width, dtype=torch.float64)

    found = student.on(ranks=2).run(probe, weight, x, ADAMW)

    def apart(weights, x):
        return (x @ weights[0]).tanh() @ weights[-1]

    def output(count):
        return apart(sharded_training(apart, [weight] * count, [x], ADAMW), x)

    def one_place(weights, x):
        return (x @ weights[0]).tanh() @ weights[0].detach()

    def other_place(weights, x):
        return (x @ weights[0].detach()).tanh() @ weights[0]

    check([mine for _, mine, _ in found], [output(1)] * 2, relative=1e-5, what="the output after three steps", mistakes={
        "tied weights become two parameters, which training drives apart": [output(2)] * 2,
        "of the gradient of tied weights only one place's part counts": [
            apart(sharded_training(one_place, [weight], [x], ADAMW), x)
        ] * 2,
        "of the gradient of tied weights only the other place's part counts": [
            apart(sharded_training(other_place, [weight], [x], ADAMW), x)
        ] * 2,
        "the tied weights of some rank get no gradient, or zeros": check.when([learned for *_, learned in found] != [True] * 2),
    })  # fmt: skip
    for elements, *_ in found:
        check.that(
            elements < 1.5 * weight.numel() / 2,
            "tied weights are sharded twice, or a rank has far more than its part of them",
        )


@pytest.mark.points(2)
@pytest.mark.parametrize("frozen", [[0], [1, 2], [3]])
def test_frozen_parameters_stay(student, check, rng, frozen):
    """A parameter that needs no gradient stays as it is; the others are trained."""
    weights, x = draw_each(rng, SHAPES), randn(rng, 2, 3, 5, dtype=torch.float64)
    new = randn(rng, 2, 5, dtype=torch.float64)

    found = student.on(ranks=2).run(output_after_training, weights, x, new, ADAMW, 2, frozen)

    check(found, [layers(sharded_training(layers, weights, x, ADAMW, 2, frozen), new)] * 2, relative=1e-5, mistakes={
        "parameters that need no gradient are trained as well": [layers(sharded_training(layers, weights, x, ADAMW, 2), new)] * 2,
        "weight decay shrinks parameters that need no gradient": [
            layers(sharded_training(layers, weights, x, ADAMW, 2, frozen, decayed=True), new)
        ] * 2,
    })  # fmt: skip
