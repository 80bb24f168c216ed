"""Hidden tests of tensor_parallel: ColumnParallelLinear and RowParallelLinear, against one Linear.

Values are compared in float64, to 1e-9 of their size. Results are lists with one item a rank.
"""

import pytest
import torch

from shared import linear, linear_weights, nearly, randn
from tensor_parallel_helpers import (
    FROM_ELSEWHERE,
    KEEPS_MORE,
    SENDS_EARLY,
    facts_when_made,
    is_made_silently,
    keeps_its_part,
    round_robin,
    sent_in,
    slices,
)

of_columns = pytest.mark.question("ColumnParallelLinear")
of_rows = pytest.mark.question("RowParallelLinear")
F64 = {"dtype": torch.float64}


# ---------------------------------------------------------------------------------------------- ColumnParallelLinear


@of_columns
@pytest.mark.points(2)
@pytest.mark.parametrize(("ranks", "bias"), [(2, True), (4, True), (2, False)])
def test_a_column_parallel_layer_holds_rows(student, check, rng, ranks, bias):
    """from_linear gives rank r the r-th of N slices of the weight's rows and of the bias, as parameters, and keeps no more."""

    def probe(*weights):
        from tensor_parallel import ColumnParallelLinear

        layer, kept = inside.kept_by(lambda: ColumnParallelLinear.from_linear(inside.whole_linear(*weights)))
        return *inside.parts_of(layer), kept

    W, b = linear_weights(rng, 16, 32, bias=bias, **F64)
    team = student.on(ranks=ranks)
    weights, biases, names, kept = zip(*team.run(probe, W, b), strict=True)

    check(list(weights), slices(W, ranks), what="the weights", mistakes={
        "rank r holds columns of the weight; it should hold rows": slices(W, ranks, 1),
        "rank r holds the rows r, r + N, …; they should be a slice": round_robin(W, ranks),
        "each rank holds the whole weight": [W] * ranks,
        "the slices are in the reverse order": slices(W, ranks)[::-1],
        "all ranks hold the first slice": slices(W, ranks)[:1] * ranks,
        "the weight is transposed": [part.T.contiguous() for part in slices(W, ranks)],
    })  # fmt: skip
    check(list(biases), slices(b, ranks) if bias else [None] * ranks, what="the biases", mistakes={
        "each rank holds the whole bias; it should hold the rows of its weight": [b] * ranks,
        "all ranks hold the first slice of the bias": lambda: slices(b, ranks)[:1] * ranks,
        "the slices of the bias are in the reverse order": lambda: slices(b, ranks)[::-1],
        "the bias is missing": [None] * ranks,
    })  # fmt: skip
    check(list(names), [["bias", "weight"] if bias else ["weight"]] * ranks, what="the names of the parameters")
    check.that(keeps_its_part(kept, W), KEEPS_MORE)
    check.that(not team.traffic, SENDS_EARLY)


@of_columns
@pytest.mark.points(2)
@pytest.mark.parametrize(("ranks", "bias", "shape"), [(2, True, (2, 3)), (4, False, (5,)), (2, False, ())])
def test_the_gathered_output_is_that_of_the_whole_layer(student, check, rng, ranks, bias, shape):
    """By default each rank returns all of x Wᵀ + b, whatever the shape of x and its layout in memory."""

    def probe(x, *weights):
        from tensor_parallel import ColumnParallelLinear

        with torch.no_grad():
            return ColumnParallelLinear.from_linear(inside.whole_linear(*weights))(inside.strided(x))

    W, b = linear_weights(rng, 3, 8, bias=bias, **F64)
    x = randn(rng, *shape, 3, **F64)
    outputs = student.on(ranks=ranks).run(probe, x, W, b)

    truth = linear(x, W, b)
    parts = slices(truth, ranks, -1)
    check(outputs, [truth] * ranks, relative=1e-9, mistakes={
        "each rank returns its own slice; by default it should be gathered": parts,
        "the slices are put together in the wrong order": [torch.cat(parts[::-1], -1)] * ranks,
        "the slices are put together along the first dimension; it should be the last one": [torch.cat(parts, 0)] * ranks,
        "the slices are summed; they should be put side by side": [sum(parts)] * ranks,
        "the slices are stacked; they should be put side by side": [torch.stack(parts)] * ranks,
        "each rank repeats its own slice": [torch.cat([part] * ranks, -1) for part in parts],
        "the numbers of the slices take turns": [torch.stack(parts, -1).flatten(-2)] * ranks,
        "the bias is not added": [linear(x, W)] * ranks,
    })  # fmt: skip


@of_columns
@pytest.mark.points(1)
def test_what_is_not_gathered_stays_where_it_is(student, check, rng):
    """With gather_output=False rank r returns the r-th slice of the output."""

    def probe(x, *weights):
        from tensor_parallel import ColumnParallelLinear

        layer = ColumnParallelLinear.from_linear(inside.whole_linear(*weights), gather_output=False)
        with torch.no_grad():
            return inside.a_tensor(layer(x))

    W, b = linear_weights(rng, 3, 8, **F64)
    x = randn(rng, 2, 3, **F64)
    outputs = student.on(ranks=2).run(probe, x, W, b)

    truth = linear(x, W, b)
    check(outputs, slices(truth, 2, -1), relative=1e-9, mistakes={
        "the output is gathered although gather_output is False": [truth] * 2,
        "the bias is not added": slices(linear(x, W), 2, -1),
    })  # fmt: skip


@of_columns
@pytest.mark.points(2)
def test_without_gathering_nothing_is_sent_forward(student, check, rng):
    """With gather_output=False nothing is sent forward, and one all-reduce of as many numbers as x has backward."""

    def probe(x):
        from tensor_parallel import ColumnParallelLinear

        layer, x = ColumnParallelLinear(3, 8, gather_output=False).double(), x.requires_grad_()
        return inside.sent_by(layer, x)

    team = student.on(ranks=2)
    found = team.run(probe, randn(rng, 2, 3, **F64))

    check(found, [([2, 4], True)] * 2, what="the shape of y, and whether x gets a gradient")
    sent = sent_in(team.traffic, 2)
    check(sent, [[[], [("all_reduce", 48)]]] * 2, what="what is sent forward and backward", mistakes={
        "nothing is sent backward, though the gradients of x should be summed": [[[], []]] * 2,
        "something is sent forward although the output is not gathered": check.when(
            any(parts is None or parts[0] != [] for parts in sent)
        ),
    })  # fmt: skip


@of_columns
@pytest.mark.points(2)
def test_a_gathered_output_costs_activations_alone(student, check, rng):
    """By default no more is sent than the numbers of y forward, and those of x and y backward, twice at the most: no weight."""

    def probe(x, *weights):
        from tensor_parallel import ColumnParallelLinear

        layer, given = ColumnParallelLinear.from_linear(inside.whole_linear(*weights)), x.clone().requires_grad_()
        return inside.sent_by(layer, given)

    W, b = linear_weights(rng, 32, 16, **F64)
    team = student.on(ranks=2)
    found = team.run(probe, randn(rng, 1, 32, **F64), W, b)

    check(found, [([1, 16], True)] * 2, what="the shape of y, and whether x gets a gradient")
    for fact in facts_of_activations(sent_in(team.traffic, 2), forward=2 * 16 * 8, backward=2 * (16 + 32) * 8):
        check.that(*fact)


def facts_of_activations(sent, forward, backward):
    """Facts about what each rank sent: at most so many bytes, and something both ways."""
    sizes = [[sum(size for _, size in part) for part in parts or ([], [])] for parts in sent]
    few = all(there <= forward and back <= backward for there, back in sizes)
    few_operations = all(len(part) <= 16 for parts in sent for part in parts or ())
    return [
        (few, "more numbers are sent than x and y have, as where weights are sent"),
        (all(all(parts) for parts in sizes), "nothing is sent forward, or backward"),
        (few_operations, "far more operations are begun than x and y take"),
    ]


@of_columns
@pytest.mark.points(2)
@pytest.mark.parametrize(("gather", "ranks"), [(True, 2), (False, 2), (True, 4)])
def test_the_gradients_of_a_column_parallel_input_are_summed(student, check, rng, gather, ranks):
    """On each rank x gets the gradient that it has in the whole layer, the sum of what the slices give, also from frozen weights."""

    def probe(x, cotangent, beside, gather, *weights):
        from tensor_parallel import ColumnParallelLinear

        layer = ColumnParallelLinear.from_linear(inside.whole_linear(*weights), gather_output=gather)
        return inside.gradients_beside(layer, x, cotangent if gather else inside.own_slice(cotangent), beside)

    W, b = linear_weights(rng, 3, 4, **F64)
    x, cotangent, beside = randn(rng, 2, 5, 3, **F64), randn(rng, 2, 5, 4, **F64), randn(rng, 2, 5, 3, **F64)
    found = student.on(ranks=ranks).run(probe, x, cotangent, beside, gather, W, b)

    parts = [2 * part @ rows for part, rows in zip(slices(cotangent, ranks, -1), slices(W, ranks), strict=True)]
    other, whole = 2 * beside, 2 * cotangent @ W
    mistakes = {
        "the gradient of x is only what this rank's slice gives; it should be summed over the ranks": [
            part + other for part in parts
        ],
        "what this rank's slice gives for x is counted N times, and that of the others is missing": [
            ranks * part + other for part in parts
        ],
        FROM_ELSEWHERE: [whole + ranks * other] * ranks,
        "the gradient of x is N times too large": [ranks * whole + other] * ranks,
        "the gradient of x is N² times too large": [ranks * ranks * whole + other] * ranks,
        "the gradient of x is averaged over the ranks; it should be summed": [whole / ranks + other] * ranks,
        "x gets no gradient": [other] * ranks,
    }
    for place, what in enumerate(("the gradients of x", "the gradients of x where the weights are frozen")):
        check([each[place] for each in found], [whole + other] * ranks, relative=1e-9, what=what, mistakes=mistakes)


@of_columns
@pytest.mark.points(2)
@pytest.mark.parametrize("gather", [True, False])
def test_column_parallel_weights_get_their_slices_of_the_gradients(student, check, rng, gather):
    """weight and bias get the r-th slices of the whole layer's gradients, also where x requires none."""

    def probe(x, cotangent, gather, *weights):
        from tensor_parallel import ColumnParallelLinear

        layer = ColumnParallelLinear.from_linear(inside.whole_linear(*weights), gather_output=gather)
        cotangents = [cotangent if gather else inside.own_slice(cotangent)]
        y = layer(x)
        layer(torch.ones_like(x))  # another call lies between forward and backward
        return inside.gradients(y, [layer.weight, layer.bias], cotangents)

    W, b = linear_weights(rng, 3, 4, **F64)
    x, cotangent = randn(rng, 2, 5, 3, **F64), randn(rng, 2, 5, 4, **F64)
    found = student.on(ranks=2).run(probe, x, cotangent, gather, W, b)

    rows, of_rows = x.flatten(0, 1), cotangent.flatten(0, 1)
    truth = [[*pair] for pair in zip(slices(of_rows.T @ rows, 2), slices(of_rows.sum(0), 2), strict=True)]
    check(found, truth, relative=1e-9, what="the gradients of weight and bias", mistakes={
        "the gradients of weight and bias are N times too large: that of the output should not be summed": [
            [2 * grad for grad in grads] for grads in truth
        ],
        "the gradients of weight and bias are divided by N": [[grad / 2 for grad in grads] for grads in truth],
        "weight and bias get no gradients, since nothing flows back through what is sent": [
            [0 * grad for grad in grads] for grads in truth
        ],
        "each rank takes the first slice of the output's gradient; it should take its own": truth[:1] * 2,
    })  # fmt: skip


@of_columns
@pytest.mark.points(1)
def test_a_new_column_parallel_layer(student, check):
    """A new layer has a weight like a slice of nn.Linear's, other ones on each rank, and a bias unless there should be none."""

    def probe():
        from tensor_parallel import ColumnParallelLinear

        layer, kept = inside.kept_by(lambda: ColumnParallelLinear(16, 24))
        again, rude = inside.made_politely(lambda: ColumnParallelLinear(16, 24))
        plain = ColumnParallelLinear(16, 24, bias=False, gather_output=False)
        inside.mark()
        with torch.no_grad():
            outputs = inside.listed([layer(torch.ones(2, 16)), plain(torch.ones(2, 16))])
        weight, bias, names = inside.parts_of(layer)
        more = rude, inside.parts_of(again)[0], len(names) == 2
        return list(bias.shape), plain.bias is None, [list(y.shape) for y in outputs], weight, outputs[0], kept, *more

    team = student.on(ranks=2)
    biases, absent, outputs, weights, whole, kept, rude, again, learn = zip(*team.run(probe), strict=True)

    check(list(biases), [[12]] * 2, what="the shapes of the biases", mistakes={
        "each rank holds the whole bias; it should hold the rows of its weight": [[24]] * 2
    })  # fmt: skip
    check.that(absent == (True, True), "there is a bias although bias is False")
    check(list(outputs), [[[2, 24], [2, 12]]] * 2, what="the shapes of the outputs with gather_output and without")
    for fact in [*facts_of_new_weights(weights, (12, 16), 1 / 4), *facts_when_made(rude, weights, again, learn)]:
        check.that(*fact)
    check(whole[1], whole[0], otherwise="the outputs of a new layer differ from rank to rank")
    check.that(bool(whole[0].any()), "the output of a new layer is all zeros")
    check.that(keeps_its_part(kept, torch.zeros(24, 16)), KEEPS_MORE)
    check.that(is_made_silently(team.traffic, 2), SENDS_EARLY)


def facts_of_new_weights(weights, shape, bound):
    """Facts about the new weights of two ranks: their shapes, their law roughly, and that they are not the same."""
    largest = [float(weight.abs().max()) for weight in weights]
    return [
        (all(weight.shape == shape for weight in weights), "the shape of a new weight is wrong"),
        (max(largest) <= 1.0001 * bound, "a new weight is too large: its bound should be 1 / √in_features of the whole layer"),
        (min(largest) > 0.8 * bound, "a new weight is too small: its bound should be 1 / √in_features of the whole layer"),
        (not nearly(weights[0], weights[1]), "all ranks start with the same slice of the weight"),
    ]  # fmt: skip


@of_columns
@pytest.mark.points(1)
def test_a_column_parallel_layer_copies_its_weights(student, check, rng):
    """Where the layer's parameters are changed in place, the Linear that it is made from stays as it is."""

    def probe(*weights):
        from tensor_parallel import ColumnParallelLinear

        linear = inside.whole_linear(*weights)
        layer = ColumnParallelLinear.from_linear(linear)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(1.0)
            y = inside.a_tensor(layer(torch.ones(3, dtype=torch.float64)))
        return linear.weight.detach(), linear.bias.detach(), linear.weight.requires_grad, y

    W, b = linear_weights(rng, 3, 4, **F64)
    found = student.on(ranks=2).run(probe, W, b)

    for weight, bias, learns, _ in found:
        check(weight, W, otherwise="the given linear's weight changes with the layer's: from_linear should copy it")
        check(bias, b, otherwise="the given linear's bias changes with the layer's: from_linear should copy it")
        check.that(learns, "the given linear is frozen by from_linear")
    moved = (W + 1).sum(1) + b + 1
    check([each[3] for each in found], [moved] * 2, what="the output after the change", mistakes={
        "the parameters of the layer are not what its output is made of": [W.sum(1) + b] * 2,
    })  # fmt: skip


@of_columns
@pytest.mark.points(1)
def test_rows_that_the_ranks_cannot_share_are_refused(student):
    """An out_features that N does not divide is a ValueError on each rank; in_features may be any."""

    def made_of(width_in, width_out):
        from tensor_parallel import ColumnParallelLinear

        return ColumnParallelLinear.from_linear(torch.nn.Linear(width_in, width_out)) is not None

    two = student.on(ranks=2)
    two.accepts("tensor_parallel.ColumnParallelLinear", 5, 6)
    two.raises(ValueError, "tensor_parallel.ColumnParallelLinear", 5, 7, says=("out_features", 7))
    two.accepts(made_of, 5, 6)
    two.raises(ValueError, made_of, 6, 7, says=("out_features", 7))


# ---------------------------------------------------------------------------------------------- RowParallelLinear


@of_rows
@pytest.mark.points(2)
@pytest.mark.parametrize(("ranks", "bias"), [(2, True), (2, False)])
def test_a_row_parallel_layer_holds_columns(student, check, rng, ranks, bias):
    """from_linear gives rank r the r-th of N slices of the weight's columns and the whole bias, as parameters, and keeps no more."""

    def probe(*weights):
        from tensor_parallel import RowParallelLinear

        layer, kept = inside.kept_by(lambda: RowParallelLinear.from_linear(inside.whole_linear(*weights)))
        return *inside.parts_of(layer), kept

    W, b = linear_weights(rng, 32, 16, bias=bias, **F64)
    team = student.on(ranks=ranks)
    weights, biases, names, kept = zip(*team.run(probe, W, b), strict=True)

    check(list(weights), slices(W, ranks, 1), what="the weights", mistakes={
        "rank r holds rows of the weight; it should hold columns": slices(W, ranks),
        "rank r holds the columns r, r + N, …; they should be a slice": round_robin(W, ranks, 1),
        "each rank holds the whole weight": [W] * ranks,
        "the slices are in the reverse order": slices(W, ranks, 1)[::-1],
        "all ranks hold the first slice": slices(W, ranks, 1)[:1] * ranks,
        "the weight is transposed": [part.T.contiguous() for part in slices(W, ranks, 1)],
    })  # fmt: skip
    check(list(biases), [b] * ranks, what="the biases", mistakes={
        "the bias is in slices; it should be whole on each rank": lambda: slices(b, ranks),
        "only rank 0 has the bias; each rank should": [b, *[None] * (ranks - 1)],
        "only rank 0 has the bias, the others have zeros; each rank should have it": lambda: [b, *[0 * b] * (ranks - 1)],
        "the bias is divided by the number of ranks; it should be whole": lambda: [b / ranks] * ranks,
        "the bias is missing": [None] * ranks,
    })  # fmt: skip
    check(list(names), [["bias", "weight"] if bias else ["weight"]] * ranks, what="the names of the parameters")
    check.that(keeps_its_part(kept, W), KEEPS_MORE)
    check.that(not team.traffic, SENDS_EARLY)


@of_rows
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("parallel", "ranks", "shape"), [(False, 2, (2, 3)), (False, 4, (5,)), (True, 2, (2, 3)), (True, 4, ())]
)
def test_the_products_of_the_ranks_are_summed(student, check, rng, parallel, ranks, shape):
    """Each rank returns all of x Wᵀ, for the whole x or for the slices of x, whatever the layout in memory."""
    W, _ = linear_weights(rng, 8, 3, **F64)
    x = randn(rng, *shape, 8, **F64)

    outputs = student.on(ranks=ranks).run(row_parallel, x, parallel, W)

    parts = [part @ rows.T for part, rows in zip(slices(x, ranks, -1), slices(W, ranks, 1), strict=True)]
    check(outputs, [x @ W.T] * ranks, relative=1e-9, mistakes={
        "each rank returns its own product; they should be summed": parts,
        "the products are averaged; they should be summed": [x @ W.T / ranks] * ranks,
        "each rank uses the first slice of x; it should use its own": [
            sum(slices(x, ranks, -1)[0] @ rows.T for rows in slices(W, ranks, 1))
        ] * ranks,
        "only rank 0 has the sum; each rank should": [x @ W.T, *parts[1:]],
        "the products are put side by side; they should be summed": [torch.cat(parts, -1)] * ranks,
    })  # fmt: skip


def row_parallel(x, parallel, *weights):
    """A probe: the output for the whole x, or for this rank's slice of it."""
    from tensor_parallel import RowParallelLinear

    options = {"input_is_parallel": True} if parallel else {}  # False is the default
    layer = RowParallelLinear.from_linear(inside.whole_linear(*weights), **options)
    with torch.no_grad():
        return inside.a_tensor(layer(inside.strided(inside.own_slice(x) if parallel else x)))


@of_rows
@pytest.mark.points(2)
@pytest.mark.parametrize("parallel", [False, True])
def test_the_bias_counts_once(student, check, rng, parallel):
    """The bias is in the output once, not once a rank."""
    ranks = 2
    W, b = linear_weights(rng, 4, 3, **F64)
    x = randn(rng, 2, 4, **F64)

    outputs = student.on(ranks=ranks).run(row_parallel, x, parallel, W, b)

    check(outputs, [linear(x, W, b)] * ranks, relative=1e-9, mistakes={
        "the bias counts N times: add it once": [linear(x, W, ranks * b)] * ranks,
        "the bias is not added": [linear(x, W)] * ranks,
        "the bias is divided by the number of ranks": [linear(x, W, b / ranks)] * ranks,
        "only rank 0 adds the bias, after the sum": [linear(x, W, b), *[linear(x, W)] * (ranks - 1)],
    })  # fmt: skip


@of_rows
@pytest.mark.points(2)
def test_a_parallel_input_costs_one_all_reduce(student, check, rng):
    """With input_is_parallel=True there is one all-reduce forward, of as many numbers as y has, and nothing is sent backward."""

    def probe(x):
        from tensor_parallel import RowParallelLinear

        layer, x = RowParallelLinear(8, 3, input_is_parallel=True).double(), x.requires_grad_()
        return inside.sent_by(layer, x)

    team = student.on(ranks=2)
    found = team.run(probe, randn(rng, 2, 4, **F64))

    check(found, [([2, 3], True)] * 2, what="the shape of y, and whether x gets a gradient")
    sum_of_y = ("all_reduce", 48)
    check(sent_in(team.traffic, 2), [[[sum_of_y], []]] * 2, what="what is sent forward and backward", mistakes={
        "the gradient of y, which is the same on each rank, is reduced once more": [[[sum_of_y], [sum_of_y]]] * 2,
        "the gradient of x, which is this rank's own, is reduced": [[[sum_of_y], [("all_reduce", 64)]]] * 2,
        "nothing is sent": [[[], []]] * 2,
    })  # fmt: skip


@of_rows
@pytest.mark.points(2)
def test_a_whole_input_costs_activations_alone(student, check, rng):
    """By default no more is sent than the numbers of y forward, and those of x and y backward, twice at the most: no weight."""

    def probe(x, *weights):
        from tensor_parallel import RowParallelLinear

        return inside.sent_by(RowParallelLinear.from_linear(inside.whole_linear(*weights)), x.clone().requires_grad_())

    W, b = linear_weights(rng, 32, 16, **F64)
    team = student.on(ranks=2)
    found = team.run(probe, randn(rng, 1, 32, **F64), W, b)

    check(found, [([1, 16], True)] * 2, what="the shape of y, and whether x gets a gradient")
    for fact in facts_of_activations(sent_in(team.traffic, 2), forward=2 * 16 * 8, backward=2 * (16 + 32) * 8):
        check.that(*fact)


@of_rows
@pytest.mark.points(2)
@pytest.mark.parametrize(("parallel", "ranks"), [(False, 2), (True, 2), (False, 4)])
def test_the_gradients_of_a_row_parallel_input(student, check, rng, parallel, ranks):
    """A whole x gets its whole gradient on each rank, a slice of x that of this slice, also from frozen weights."""

    def probe(x, cotangent, beside, parallel, *weights):
        from tensor_parallel import RowParallelLinear

        layer = RowParallelLinear.from_linear(inside.whole_linear(*weights), input_is_parallel=parallel)
        own = [inside.own_slice(each) if parallel else each for each in (x, beside)]
        return inside.gradients_beside(layer, own[0], cotangent, own[1])

    W, b = linear_weights(rng, 4, 3, **F64)
    x, cotangent, beside = randn(rng, 2, 5, 4, **F64), randn(rng, 2, 5, 3, **F64), randn(rng, 2, 5, 4, **F64)
    found = student.on(ranks=ranks).run(probe, x, cotangent, beside, parallel, W, b)

    whole, others = 2 * cotangent @ W, slices(2 * beside, ranks, -1) if parallel else [2 * beside] * ranks
    parts, own = slices(whole, ranks, -1) if parallel else [whole] * ranks, torch.arange(4).view(ranks, -1)
    alone = [torch.zeros_like(whole).index_copy(-1, own[r], whole[..., own[r]]) for r in range(ranks)]
    gathered = torch.cat(slices(2 * beside, ranks, -1), -1)
    wrong = {
        "x gets a gradient only in this rank's slice, zeros elsewhere; it should be gathered": alone,
        "x gets a gradient N times too large only in this rank's slice, and zeros elsewhere": [
            ranks * part for part in alone
        ],
        FROM_ELSEWHERE: [whole + (ranks - 1) * gathered] * ranks,
        "the gradient of x is N times too large: that of the output should not be summed": [
            ranks * part for part in parts
        ],
        "the gradient of x is N² times too large": [ranks * ranks * part for part in parts],
        "the gradient of x is divided by N": [part / ranks for part in parts],
        "x gets no gradient, since nothing flows back through what is sent": [0 * part for part in parts],
    }
    mistakes = {
        sentence: [part + other for part, other in zip(given, others, strict=True)]
        for sentence, given in wrong.items()
        if given[0].shape == others[0].shape
    }
    truth = [part + other for part, other in zip(parts, others, strict=True)]
    for place, what in enumerate(("the gradients of x", "the gradients of x where the weights are frozen")):
        check([each[place] for each in found], truth, relative=1e-9, what=what, mistakes=mistakes)


@of_rows
@pytest.mark.points(2)
@pytest.mark.parametrize("parallel", [False, True])
def test_row_parallel_weights_get_their_gradients(student, check, rng, parallel):
    """weight gets the r-th slice of the whole gradient, and bias all of its own on each rank, also where x requires none."""

    def probe(x, cotangent, parallel, *weights):
        from tensor_parallel import RowParallelLinear

        layer = RowParallelLinear.from_linear(inside.whole_linear(*weights), input_is_parallel=parallel)
        x = inside.own_slice(x) if parallel else x
        y = layer(x)
        layer(torch.ones_like(x))  # another call lies between forward and backward
        return inside.gradients(y, [layer.weight, layer.bias], [cotangent])

    W, b = linear_weights(rng, 4, 3, **F64)
    x, cotangent = randn(rng, 2, 5, 4, **F64), randn(rng, 2, 5, 3, **F64)
    found = student.on(ranks=2).run(probe, x, cotangent, parallel, W, b)

    rows, of_each = x.flatten(0, 1), cotangent.flatten(0, 1)
    parts, of_bias = slices(of_each.T @ rows, 2, 1), of_each.sum(0)
    check([each[0] for each in found], parts, relative=1e-9, what="the gradients of weight", mistakes={
        "the gradient of weight is N times too large: that of the output should not be summed": [2 * part for part in parts],
        "the gradient of weight is divided by N": [part / 2 for part in parts],
        "weight gets no gradient, since nothing flows back through the sum": [0 * part for part in parts],
    })  # fmt: skip
    check([each[1] for each in found], [of_bias] * 2, relative=1e-9, what="the gradients of bias", mistakes={
        "the gradient of bias is N times too large": [2 * of_bias] * 2,
        "the gradient of bias is divided by N; the bias counts once, as in one process": [of_bias / 2] * 2,
        "bias gets no gradient": [0 * of_bias] * 2,
        "only rank 0's bias gets a gradient": [of_bias, 0 * of_bias],
    })  # fmt: skip


@of_rows
@pytest.mark.points(1)
def test_a_new_row_parallel_layer(student, check):
    """A new layer has a weight like a slice of nn.Linear's, and the same bias on each rank, unless there should be none."""

    def probe():
        from tensor_parallel import RowParallelLinear

        layer, kept = inside.kept_by(lambda: RowParallelLinear(16, 6))
        again, rude = inside.made_politely(lambda: RowParallelLinear(16, 6))
        plain = RowParallelLinear(16, 6, bias=False, input_is_parallel=True)
        inside.mark()
        with torch.no_grad():
            outputs = inside.listed([layer(torch.ones(2, 16)), plain(torch.ones(2, 8))])
        weight, bias, names = inside.parts_of(layer)
        more = rude, inside.parts_of(again)[0], len(names) == 2
        return bias, plain.bias is None, [list(y.shape) for y in outputs], weight, outputs[0], kept, *more

    team = student.on(ranks=2)
    biases, absent, outputs, weights, whole, kept, rude, again, learn = zip(*team.run(probe), strict=True)

    check([list(bias.shape) for bias in biases], [[6]] * 2, what="the shapes of the biases", mistakes={
        "the bias is in slices; it should be whole on each rank": [[3]] * 2
    })  # fmt: skip
    check(biases[1], biases[0], otherwise="the ranks start with different biases; it should be the same on all")
    check.that(absent == (True, True), "there is a bias although bias is False")
    check(list(outputs), [[[2, 6], [2, 6]]] * 2, what="the shapes of the outputs")
    for fact in [*facts_of_new_weights(weights, (6, 8), 1 / 4), *facts_when_made(rude, weights, again, learn)]:
        check.that(*fact)
    check(whole[1], whole[0], otherwise="the outputs of a new layer differ from rank to rank")
    check.that(bool(whole[0].any()), "the output of a new layer is all zeros")
    check.that(keeps_its_part(kept, torch.zeros(6, 16)), KEEPS_MORE)
    check.that(is_made_silently(team.traffic, 2), SENDS_EARLY)


@of_rows
@pytest.mark.points(1)
def test_a_row_parallel_layer_copies_its_weights(student, check, rng):
    """Where the layer's parameters are changed in place, the Linear that it is made from stays as it is."""

    def probe(*weights):
        from tensor_parallel import RowParallelLinear

        linear = inside.whole_linear(*weights)
        layer = RowParallelLinear.from_linear(linear)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(1.0)
            y = inside.a_tensor(layer(torch.ones(4, dtype=torch.float64)))
        return linear.weight.detach(), linear.bias.detach(), linear.bias.requires_grad, y

    W, b = linear_weights(rng, 4, 3, **F64)
    found = student.on(ranks=2).run(probe, W, b)

    for weight, bias, learns, _ in found:
        check(weight, W, otherwise="the given linear's weight changes with the layer's: from_linear should copy it")
        check(bias, b, otherwise="the given linear's bias changes with the layer's: from_linear should copy it")
        check.that(learns, "the given linear is frozen by from_linear")
    moved = (W + 1).sum(1) + b + 1
    check([each[3] for each in found], [moved] * 2, what="the output after the change", mistakes={
        "the parameters of the layer are not what its output is made of": [W.sum(1) + b] * 2,
    })  # fmt: skip


@of_rows
@pytest.mark.points(1)
def test_columns_that_the_ranks_cannot_share_are_refused(student):
    """An in_features that N does not divide is a ValueError on each rank; out_features may be any."""

    def made_of(width_in, width_out):
        from tensor_parallel import RowParallelLinear

        return isinstance(RowParallelLinear.from_linear(torch.nn.Linear(width_in, width_out)), RowParallelLinear)

    two = student.on(ranks=2)
    two.accepts("tensor_parallel.RowParallelLinear", 6, 5)
    two.raises(ValueError, "tensor_parallel.RowParallelLinear", 7, 5, says=("in_features", 7))
    two.accepts(made_of, 6, 5)
    two.raises(ValueError, made_of, 7, 6, says=("in_features", 7))
