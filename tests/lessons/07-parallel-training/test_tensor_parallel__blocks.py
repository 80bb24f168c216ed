"""Hidden tests of tensor_parallel: TensorParallelMLP and TensorParallelAttention, against the same layers in one process.

Values are compared in float64, to 1e-9 of their size. Results are lists with one item a rank. How a student names and lays
out the parameters is not known. What is built on linear layers of the student's that are wrong may be right on right ones.
"""

import pytest
import torch
import torch.nn.functional as F

from shared import attend, join_heads, linear, linear_weights, nearly, on_right_parts, past, randn, split_heads
from tensor_parallel_helpers import (
    FROM_ELSEWHERE,
    KEEPS_MORE,
    RUDELY_MADE,
    SENDS_EARLY,
    keeps_its_part,
    parted_by_marks,
    sent_in,
)

of_mlps = pytest.mark.question("TensorParallelMLP")
of_attentions = pytest.mark.question("TensorParallelAttention")
D, D_FF = 3, 8
F64 = {"dtype": torch.float64}


def all_nearly(truth):
    """Whether each rank's value is the truth."""
    return lambda values: all(isinstance(value, torch.Tensor) and nearly(value, truth, 1e-9) for value in values)


def weights_after_a_step(function, weights, x, rate, factors=None):
    """The weights after a step of gradient descent on Σ cos(n) · output n; a weight's gradient counts `factors` times."""
    weights = [weight.double().requires_grad_() for weight in weights]
    output = function(x, *weights)
    total = (torch.arange(output.numel()).double().cos().view_as(output) * output).sum()
    grads = torch.autograd.grad(total, weights)
    steps = zip(weights, grads, factors or [1.0] * len(weights), strict=True)
    return [weight.detach() - rate * factor * grad for weight, grad, factor in steps]


# ---------------------------------------------------------------------------------------------- TensorParallelMLP


def mlp(x, up, of_up, down, of_down, act=F.gelu):
    """down(act(up(x))) in float64."""
    return linear(act(linear(x, up, of_up)), down, of_down)


def mlp_weights(rng, bias=True, of_down=None):
    """of_down: whether down has a bias, if not as up."""
    last = bias if of_down is None else of_down
    return [*linear_weights(rng, D, D_FF, bias, **F64), *linear_weights(rng, D_FF, D, last, **F64)]


def mlp_of(x, weights, right):
    """A probe: the output of from_linears."""
    from tensor_parallel import TensorParallelMLP

    def use():
        up, down = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
        with torch.no_grad():
            return inside.a_tensor(TensorParallelMLP.from_linears(up, down)(inside.strided(x)))

    return inside.use_of(use, "tensor_parallel", "TensorParallelMLP", right)


@of_mlps
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("ranks", "bias", "shape"),
    [(2, (True, True), (2, 5)), (4, (True, True), (3,)), (2, (False, False), (1, 1)), (2, (True, False), (2,)), (2, (False, True), ())],
)  # fmt: skip
def test_the_mlp_is_that_of_one_process(student, check, rng, ranks, bias, shape):
    """Each rank returns down(GELU(up(x))), with the exact GELU, with two biases, one or none."""
    x, weights = randn(rng, *shape, D, **F64), mlp_weights(rng, *bias)

    truth = mlp(x, *weights)
    outputs = on_right_parts(student.on(ranks=ranks), mlp_of, x, weights, fine=all_nearly(truth))

    up, of_up, down, of_down = weights
    hidden = F.gelu(linear(x, up, of_up))
    parts = [linear(hidden[..., own], down[:, own]) for own in torch.arange(D_FF).view(ranks, -1)]
    check(outputs, [truth] * ranks, relative=1e-9, mistakes={
        "the GELU is the approximation by tanh; it should be exact": [
            mlp(x, *weights, act=lambda h: F.gelu(h, approximate="tanh"))
        ] * ranks,
        "the activation is ReLU; it should be GELU": [mlp(x, *weights, act=F.relu)] * ranks,
        "the activation is SiLU; it should be GELU": [mlp(x, *weights, act=F.silu)] * ranks,
        "the activation is missing": [mlp(x, *weights, act=lambda h: h)] * ranks,
        "the bias of down counts N times": lambda: [truth + (ranks - 1) * of_down] * ranks,
        "the bias of down is missing": lambda: [truth - of_down] * ranks,
        "the bias of up is missing": lambda: [mlp(x, up, None, down, of_down)] * ranks,
        "the ranks' parts are not summed": [part if of_down is None else part + of_down for part in parts],
        "GELU is applied to the result": [F.gelu(truth)] * ranks,
    })  # fmt: skip


@of_mlps
@pytest.mark.points(2)
def test_the_mlp_gives_x_its_whole_gradient(student, check, rng):
    """On each rank the gradient of x is that of the whole MLP, also where the weights are frozen."""

    def probe(x, cotangent, beside, weights, right):
        from tensor_parallel import TensorParallelMLP

        def use():
            mlp = TensorParallelMLP.from_linears(inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:]))
            return inside.gradients_beside(mlp, x, cotangent, beside)

        return inside.use_of(use, "tensor_parallel", "TensorParallelMLP", right)

    x, cotangent, beside = (randn(rng, 2, 5, D, **F64) for _ in range(3))
    weights = mlp_weights(rng)
    whole, *parts = (part_of_gradient(x, cotangent, weights, own) for own in (slice(None), slice(0, 4), slice(4, 8)))
    found = on_right_parts(
        student.on(ranks=2), probe, x, cotangent, beside, weights, fine=all_pairs_nearly(whole + 2 * beside)
    )

    sentence = "the gradient of x is only what this rank's part gives; it should be summed over the ranks"
    for case in of_gradients(found, whole, 2 * beside, {sentence: parts}):
        check(**case)


def all_pairs_nearly(truth):
    """Whether both values of each rank are the truth."""
    return lambda found: all(isinstance(pair, (list, tuple)) and all_nearly(truth)(pair) for pair in found)


def of_gradients(found, whole, other, parts):
    """What check takes: the gradients of x on two ranks, of which the layer gives `whole`, and `other` comes from elsewhere.

    parts: a sentence and what each rank's part gives.
    """
    wrong = {
        **parts,
        FROM_ELSEWHERE: [whole + other] * 2,
        "the gradient of x is N times too large": [2 * whole] * 2,
        "the gradient of x is N² times too large": [4 * whole] * 2,
        "the gradient of x is divided by the number of ranks": [whole / 2] * 2,
        "x gets no gradient": [0 * whole] * 2,
    }
    mistakes = {sentence: [part + other for part in given] for sentence, given in wrong.items()}
    return [
        {
            "value": [each[place] for each in found],
            "expected": [whole + other] * 2,
            "relative": 1e-9,
            "what": what,
            "mistakes": mistakes,
        }
        for place, what in enumerate(("the gradients of x", "the gradients of x where the weights are frozen"))
    ]


def part_of_gradient(x, cotangent, weights, own):
    """What the inner features `own` give to the gradient of x; down's bias gives nothing."""
    up, of_up, down, of_down = weights
    x = x.clone().requires_grad_()
    y = mlp(2 * x, up[own], of_up[own], down[:, own], of_down)
    return torch.autograd.grad((cotangent * y).sum(), x)[0]


@of_mlps
@pytest.mark.points(2)
def test_the_mlp_learns_as_in_one_process(student, check, rng):
    """After a step of SGD on the parameters of each rank, where x requires no gradient, the output is that of the whole MLP."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelMLP

        def use():
            linears = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
            return inside.output_after_a_step(lambda: TensorParallelMLP.from_linears(*linears), linears, x)

        return inside.use_of(use, "tensor_parallel", "TensorParallelMLP", right)

    x, weights = randn(rng, 2, 5, D, **F64), mlp_weights(rng)
    truth = mlp(x, *weights_after_a_step(mlp, weights, x, 0.1))
    team = student.on(ranks=2)
    found = on_right_parts(team, probe, x, weights, fine=lambda found: all_nearly(truth)([each[0] for each in found]))

    wrong = {
        "the gradient of down's bias is N times too large": [1, 1, 1, 2],
        "the gradients are N times too large": [2] * 4,
        "the gradients of all but down's bias are N times too large": [2, 2, 2, 1],
        "the gradients are divided by the number of ranks": [0.5] * 4,
        "down's bias gets no gradient, or is not a parameter": [1, 1, 1, 0],
        "up's bias gets no gradient, or is not a parameter": [1, 0, 1, 1],
        "only down learns": [0, 0, 1, 1],
        "only up learns": [1, 1, 0, 0],
        "nothing is learnt": [0] * 4,
    }
    check([each[0] for each in found], [truth] * 2, relative=1e-9, what="the outputs after a step", mistakes={
        sentence: [mlp(x, *weights_after_a_step(mlp, weights, x, 0.1, factors))] * 2 for sentence, factors in wrong.items()
    })  # fmt: skip
    check.that(
        all(given is True for _, given in found),
        "from_linears, or a step of the MLP, changes the given linears: copy their weights",
    )


def of_forward_and_backward(size):
    """Mistakes: what two ranks send, (operation, bytes) forward and backward, where it is not one all-reduce each."""
    sent = ("all_reduce", size)
    return {
        "nothing is sent backward, though the gradients of x should be summed": [[[sent], []]] * 2,
        "nothing is sent": [[[], []]] * 2,
        "backward there are two all-reduces; one should be enough": [[[sent], [sent, sent]]] * 2,
        "backward there are three all-reduces; q, k and v should share one": [[[sent], [sent] * 3]] * 2,
        "forward there are two all-reduces; one should be enough": [[[sent, sent], [sent]]] * 2,
        "forward and backward there are two all-reduces each; one should be enough": [[[sent, sent], [sent, sent]]] * 2,
    }


def is_gathered(sent):
    """Whether ranks gather in any part."""
    return any("gather" in name for parts in sent if parts is not None for part in parts for name, _ in part)


@of_mlps
@pytest.mark.points(3)
def test_the_mlp_reduces_once_forward_and_once_backward(student, check, rng):
    """Forward and backward there is one all-reduce each, of as many numbers as x has; nothing else is sent."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelMLP

        def use():
            mlp = TensorParallelMLP.from_linears(inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:]))
            return inside.sent_by(mlp, x.clone().requires_grad_())

        return inside.use_of(use, "tensor_parallel", "TensorParallelMLP", right)

    x, weights = randn(rng, 2, 5, D, **F64), mlp_weights(rng)
    team, wanted = student.on(ranks=2), [[[("all_reduce", 240)]] * 2] * 2
    seen = []  # with the student's own layers, and, if that is not what it should be, with right ones
    found = on_right_parts(
        team, probe, x, weights, fine=lambda _: seen.append(sent_in(team.traffic, 2)) or seen[-1] == wanted
    )
    sent = wanted if wanted in seen else seen[0]

    check(found, [([2, 5, 3], True)] * 2, what="the shape of the output, and whether x gets a gradient")
    check(sent, wanted, what="what is sent forward and backward", mistakes={
        **of_forward_and_backward(240),
        "the inner activations or the weights are gathered": check.when(is_gathered(sent)),
    })  # fmt: skip


@of_mlps
@pytest.mark.points(2)
def test_each_rank_works_out_its_part_of_the_mlp(student, check, rng):
    """Where all parameters of one rank are zeros, what the other ranks' inner features give is left."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelMLP

        def use():
            return inside.without_each_rank(
                lambda: TensorParallelMLP.from_linears(*(inside.whole_linear(weight) for weight in weights)), x
            )

        return inside.use_of(use, "tensor_parallel", "TensorParallelMLP", right)

    x, (up, _, down, _) = randn(rng, 2, 5, D, **F64), mlp_weights(rng, bias=False)
    first, second = (mlp(x, up[own], None, down[:, own], None) for own in (slice(0, D_FF // 2), slice(D_FF // 2, None)))
    truth = torch.stack([second, first])  # without rank 0, without rank 1
    found = on_right_parts(student.on(ranks=2), probe, x, [up, down], fine=all_parts(truth, up, down))

    check([each[0] for each in found], [truth] * 2, relative=1e-9, what="the output where one rank's parameters are zeros", mistakes=work_of_one(first + second))  # fmt: skip
    check.that(keeps_its_part([each[1] for each in found], torch.cat([up.flatten(), down.flatten()])), KEEPS_MORE)


def all_parts(truth, *weights):
    """Whether each rank's value is the truth, and it keeps its part of the weights."""
    whole = torch.cat([weight.flatten() for weight in weights])
    return lambda found: (
        all_nearly(truth)([each[0] for each in found]) and keeps_its_part([each[1] for each in found], whole)
    )


def work_of_one(whole):
    """Mistakes: the output where the parameters of rank 0, and where those of rank 1, are zeros, on each of two ranks."""
    nothing = torch.zeros_like(whole)
    return {
        "rank 0 does all the work; each rank should do its part": [torch.stack([nothing, whole])] * 2,
        "each rank works out everything by itself; it should do its part": [
            torch.stack([nothing, whole]), torch.stack([whole, nothing])
        ],
        "each rank works out everything, which is then averaged; it should do its part": [torch.stack([whole, whole]) / 2] * 2,
        "the parameters of the ranks do not matter": [torch.stack([whole, whole])] * 2,
    }  # fmt: skip


@of_mlps
@pytest.mark.points(1)
def test_a_new_mlp(student, check, rng):
    """A new MLP has 1 / N of the numbers, and down's whole bias, on each rank, and gives all ranks the same output."""

    def probe(x, right):
        from tensor_parallel import TensorParallelMLP

        return inside.use_of(lambda: inside.new_layer(TensorParallelMLP, (6, 16), x), "tensor_parallel", "TensorParallelMLP", right)  # fmt: skip

    x = randn(rng, 2, 5, 6)
    team, seen = student.on(ranks=2), []
    on_right_parts(team, probe, x, fine=fine_when_new(seen, team, (2 * 6 * 16 + 16) // 2 + 6, x))

    for fact in facts_when_new(*seen[-1] if seen[-1][-1] else seen[0], "down"):
        check.that(*fact)


def fine_when_new(seen, team, count, x):
    """For on_right_parts: adds to seen (what each rank found, what it sent, how many numbers it should have, x, is all fine?)."""

    def fine(found):
        case = found, parted_by_marks(team.traffic, 2, 3), count, x
        seen.append((*case, False))
        seen[-1] = *case, all(fact is True for fact, _ in facts_when_new(*seen[-1], ""))
        return seen[-1][-1]

    return fine


def facts_when_new(found, sent, count, x, _, last):
    """Facts about a new layer on two ranks, whose last part is called `last`."""
    wanted = [("all_reduce", x.nbytes)]
    first, second = (each[0] if each is not None else None for each in found)
    tensors = all(isinstance(y, torch.Tensor) and y.shape == x.shape for y in (first, second))
    return [
        (None not in found and all(each[1] == count for each in found), f"a rank should have 1 / N of the numbers and {last}'s bias"),
        (tensors and all(bool(y.any()) for y in (first, second)), "the output of a new layer is all zeros, or has the wrong shape"),
        (tensors and nearly(first, second), "the outputs of a new layer differ from rank to rank"),
        (not any(parts is None or parts[0] for parts in sent), SENDS_EARLY),
        ([parts and parts[1:] for parts in sent] == [[wanted, wanted]] * 2, "a new layer sends something other than one all-reduce forward and one backward"),
        (None not in found and all(each[2] <= 4 * (1.5 * count) for each in found), KEEPS_MORE),
        (None not in found and {each[3] for each in found} == {""}, RUDELY_MADE),
    ]  # fmt: skip


@of_mlps
@pytest.mark.points(1)
def test_inner_features_that_the_ranks_cannot_share_are_refused(student):
    """A d_ff that N does not divide is a ValueError on each rank; d_model may be any."""

    def made_of(d_model, d_ff):
        from tensor_parallel import TensorParallelMLP

        return callable(TensorParallelMLP.from_linears(torch.nn.Linear(d_model, d_ff), torch.nn.Linear(d_ff, d_model)))

    two, four = student.on(ranks=2), student.on(ranks=4)
    two.accepts("tensor_parallel.TensorParallelMLP", 3, 6)
    two.raises(ValueError, "tensor_parallel.TensorParallelMLP", 4, 7, says=FEATURES + (7,))
    two.accepts(made_of, 3, 6)
    two.raises(ValueError, made_of, 4, 7, says=FEATURES + (7,))
    four.accepts("tensor_parallel.TensorParallelMLP", 3, 8)
    four.raises(ValueError, "tensor_parallel.TensorParallelMLP", 4, 6, says=FEATURES + (6,))


FEATURES = ("d_ff", "out_features", "in_features", "up", "down")  # as the parts call it


# ---------------------------------------------------------------------------------------------- TensorParallelAttention


def whole_attention(x, qkv, of_qkv, proj, of_proj, heads=4, causal=False, scale=None):
    """The whole layer in float64."""
    q, k, v = (split_heads(each, heads) for each in linear(x, qkv, of_qkv).chunk(3, -1))
    attended, _ = attend(q, k, v, past(x.shape[1]) if causal else None, scale=scale)
    return linear(join_heads(attended), proj, of_proj)


def attention_weights(rng, width=8, bias=True, of_proj=None):
    """of_proj: whether proj has a bias, if not as qkv."""
    last = bias if of_proj is None else of_proj
    return [*linear_weights(rng, width, 3 * width, bias, **F64), *linear_weights(rng, width, width, last, **F64)]


def attention_of(x, weights, heads, options, right):
    """A probe: the output of from_linears."""
    from tensor_parallel import TensorParallelAttention

    def use():
        qkv, proj = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
        layer = TensorParallelAttention.from_linears(qkv, proj, heads)
        with torch.no_grad():
            return inside.a_tensor(layer(inside.strided(x), **options))

    return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)


def sliced_heads(qkv, ranks, heads):
    """The rows of q, k and v as they come where the r-th slice of all rows is taken for rank r's q, k and v."""
    parts = [part.chunk(3) for part in qkv.chunk(ranks)]
    return torch.cat([torch.cat([part[place] for part in parts]) for place in range(3)])


def by_heads(qkv, heads):
    """The rows as they are where each head has its q, k and v together."""
    return qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


@of_attentions
@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("ranks", "bias", "B", "T"),
    [(2, (True, True), 2, 5), (4, (True, True), 1, 3), (2, (False, False), 3, 1), (2, (True, False), 1, 2), (2, (False, True), 1, 2)],
)  # fmt: skip
def test_the_attention_is_that_of_one_process(student, check, rng, ranks, bias, B, T):
    """Each rank returns proj of all heads' softmax(q kᵀ / √Dh) v, with two biases, one or none."""
    x, weights = randn(rng, B, T, 8, **F64), attention_weights(rng, 8, *bias)

    truth = whole_attention(x, *weights)
    outputs = on_right_parts(student.on(ranks=ranks), attention_of, x, weights, 4, {}, fine=all_nearly(truth))

    qkv, of_qkv, proj, of_proj = weights

    def with_rows(change, **options):
        moved = None if of_qkv is None else change(of_qkv, **options)
        return [whole_attention(x, change(qkv, **options), moved, proj, of_proj)] * ranks

    check(outputs, [truth] * ranks, relative=1e-9, mistakes={
        "a rank takes a slice of all rows of qkv; it should take slices of q, of k and of v": with_rows(
            sliced_heads, ranks=ranks, heads=4
        ),
        "the rows of qkv are read head by head; q, k and v should come one after the other": with_rows(by_heads, heads=4),
        "the attention is causal by default": [whole_attention(x, *weights, causal=True)] * ranks,
        "the scores are not divided by √Dh": [whole_attention(x, *weights, scale=1.0)] * ranks,
        "the scores are divided by √D; Dh is the width of one head": [whole_attention(x, *weights, scale=8**0.5)] * ranks,
        "the scores are divided by √(D / N)": [whole_attention(x, *weights, scale=(8 / ranks) ** 0.5)] * ranks,
        "the scores are divided by Dh; it should be √Dh": [whole_attention(x, *weights, scale=2.0)] * ranks,
        "a rank has one head of all its columns": [whole_attention(x, *weights, heads=ranks)] * ranks,
        "a rank has num_heads heads; it should have num_heads / N": lambda: [whole_attention(x, *weights, heads=4 * ranks)] * ranks,
        "the bias of proj counts N times": lambda: [truth + (ranks - 1) * of_proj] * ranks,
        "the bias of proj is missing": lambda: [truth - of_proj] * ranks,
        "the bias of qkv is missing": lambda: [whole_attention(x, qkv, None, proj, of_proj)] * ranks,
        "proj is transposed": [whole_attention(x, qkv, of_qkv, proj.T, of_proj)] * ranks,
    })  # fmt: skip


@of_attentions
@pytest.mark.points(2)
def test_causal_attention_sees_the_past_alone(student, check, rng):
    """With causal=True a position has what the last one has where all after it is cut off; the default is causal=False."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelAttention

        def use():
            qkv, proj = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
            layer = TensorParallelAttention.from_linears(qkv, proj, 4)
            with torch.no_grad():
                alone = [inside.a_tensor(layer(x[:, : end + 1]))[:, -1] for end in range(x.shape[1])]
                long = layer(
                    x[:1, :1].repeat(1, 1100, 1), causal=True
                )  # so often the same: each position has what the first has
                results = [layer(x, causal=True), torch.stack(alone, 1), layer(x), layer(x, causal=False)]
                return inside.listed([*results, inside.a_tensor(long)[:, [0, -1]]])

        return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)

    x, weights = randn(rng, 2, 4, 8, **F64), attention_weights(rng)
    truth = whole_attention(x, *weights, causal=True)
    team = student.on(ranks=2)
    found = on_right_parts(team, probe, x, weights, fine=lambda found: all_nearly(truth)([each[0] for each in found]))

    for causal, alone, whole, plain, ends in found:
        check(ends[:, 1], ends[:, 0], relative=1e-9, what="the last of 1100 equal positions with causal=True")
        check(whole, plain, relative=1e-9, otherwise="the attention is causal by default")
        check.that(not nearly(causal, whole), "causal is ignored")
        check(causal, alone, relative=1e-9, what="the output with causal=True", mistakes={
            "a position does not see itself": check.when(bool(causal[:, 0].isnan().any())),
            "the mask is turned around: a position sees the later ones": check.when(nearly(causal[:, 0], whole[:, 0])),
        })  # fmt: skip


@of_attentions
@pytest.mark.points(2)
def test_the_attention_gives_x_its_whole_gradient(student, check, rng):
    """On each rank the gradient of x is that of the whole attention, also where the weights are frozen."""

    def probe(x, cotangent, beside, weights, right):
        from tensor_parallel import TensorParallelAttention

        def use():
            linears = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
            layer = TensorParallelAttention.from_linears(*linears, 4)
            return inside.gradients_beside(layer, x, cotangent, beside, True)  # causal

        return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)

    x, cotangent, beside = (randn(rng, 2, 5, 8, **F64) for _ in range(3))
    weights = attention_weights(rng)
    whole, *parts = (gradient_of_heads(x, cotangent, weights, rows) for rows in (range(8), range(4), range(4, 8)))
    found = on_right_parts(
        student.on(ranks=2), probe, x, cotangent, beside, weights, fine=all_pairs_nearly(whole + 2 * beside)
    )

    sentence = "the gradient of x is only what this rank's heads give; it should be summed over the ranks"
    for case in of_gradients(found, whole, 2 * beside, {sentence: parts}):
        check(**case)


def gradient_of_heads(x, cotangent, weights, rows):
    """What the heads with these rows give to the gradient of x, in causal attention of heads that are 2 wide."""
    qkv, of_qkv, proj, of_proj = weights
    x, own = x.clone().requires_grad_(), torch.tensor([[8 * part + row for row in rows] for part in range(3)])
    heads, own = len(rows) // 2, own.flatten()
    y = whole_attention(2 * x, qkv[own], of_qkv[own], proj[:, list(rows)], of_proj, heads=heads, causal=True)
    return torch.autograd.grad((cotangent * y).sum(), x)[0]


@of_attentions
@pytest.mark.points(2)
def test_the_attention_learns_as_in_one_process(student, check, rng):
    """After a step of SGD on the parameters of each rank, where x requires no gradient, the output is that of the whole layer."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelAttention

        def use():
            linears = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
            return inside.output_after_a_step(lambda: TensorParallelAttention.from_linears(*linears, 4), linears, x)

        return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)

    x, weights = randn(rng, 2, 5, 8, **F64), attention_weights(rng)
    truth = whole_attention(x, *weights_after_a_step(whole_attention, weights, x, 0.1))
    team = student.on(ranks=2)
    found = on_right_parts(team, probe, x, weights, fine=lambda found: all_nearly(truth)([each[0] for each in found]))

    wrong = {
        "the gradient of proj's bias is N times too large": [1, 1, 1, 2],
        "the gradients are N times too large": [2] * 4,
        "the gradients of all but proj's bias are N times too large": [2, 2, 2, 1],
        "the gradients are divided by the number of ranks": [0.5] * 4,
        "proj's bias gets no gradient, or is not a parameter": [1, 1, 1, 0],
        "only proj learns": [0, 0, 1, 1],
        "only qkv learns": [1, 1, 0, 0],
        "nothing is learnt": [0] * 4,
    }
    check([each[0] for each in found], [truth] * 2, relative=1e-9, what="the outputs after a step", mistakes={
        sentence: [whole_attention(x, *weights_after_a_step(whole_attention, weights, x, 0.1, factors))] * 2 for sentence, factors in wrong.items()
    })  # fmt: skip
    check.that(
        all(given is True for _, given in found),
        "from_linears, or a step of the layer, changes the given linears: copy their weights",
    )


@of_attentions
@pytest.mark.points(3)
def test_the_attention_reduces_once_forward_and_once_backward(student, check, rng):
    """Forward and backward there is one all-reduce each, of as many numbers as x has; nothing else is sent."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelAttention

        def use():
            qkv, proj = inside.whole_linear(*weights[:2]), inside.whole_linear(*weights[2:])
            return inside.sent_by(TensorParallelAttention.from_linears(qkv, proj, 4), x.clone().requires_grad_(), True)

        return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)

    team, wanted = student.on(ranks=2), [[[("all_reduce", 384)]] * 2] * 2
    inputs = randn(rng, 2, 3, 8, **F64), attention_weights(rng)
    seen = []
    found = on_right_parts(
        team, probe, *inputs, fine=lambda _: seen.append(sent_in(team.traffic, 2)) or seen[-1] == wanted
    )
    sent = wanted if wanted in seen else seen[0]

    check(found, [([2, 3, 8], True)] * 2, what="the shape of the output, and whether x gets a gradient")
    check(sent, wanted, what="what is sent forward and backward", mistakes={
        **of_forward_and_backward(384),
        "the heads or the weights are gathered": check.when(is_gathered(sent)),
    })  # fmt: skip


@of_attentions
@pytest.mark.points(2)
def test_each_rank_works_out_its_own_heads(student, check, rng):
    """Where all parameters of one rank are zeros, what the other rank's heads give is left."""

    def probe(x, weights, right):
        from tensor_parallel import TensorParallelAttention

        def use():
            return inside.without_each_rank(
                lambda: TensorParallelAttention.from_linears(*(inside.whole_linear(weight) for weight in weights), 4), x
            )

        return inside.use_of(use, "tensor_parallel", "TensorParallelAttention", right)

    x, (qkv, _, proj, _) = randn(rng, 2, 5, 8, **F64), attention_weights(rng, bias=False)
    whole, first = (whole_attention(x, qkv, None, proj * (torch.arange(8) < seen), None) for seen in (8, 4))
    truth = torch.stack([whole - first, first])  # without rank 0, without rank 1
    found = on_right_parts(student.on(ranks=2), probe, x, [qkv, proj], fine=all_parts(truth, qkv, proj))

    check([each[0] for each in found], [truth] * 2, relative=1e-9, what="the output where one rank's parameters are zeros", mistakes={
        "the heads take turns: rank r should have the r-th slice of them": [
            torch.stack([whole_attention(x, qkv, None, proj * (torch.arange(8) // 2 % 2 == r), None) for r in (1, 0)])
        ] * 2,
        "the ranks have the heads in the wrong order": [truth.flip(0)] * 2,
        **work_of_one(whole),
    })  # fmt: skip
    check.that(keeps_its_part([each[1] for each in found], torch.cat([qkv, proj])), KEEPS_MORE)


@of_attentions
@pytest.mark.points(1)
def test_a_new_attention(student, check, rng):
    """A new attention has 1 / N of the numbers, and proj's whole bias, on each rank, and gives all ranks the same output."""

    def probe(x, right):
        from tensor_parallel import TensorParallelAttention

        return inside.use_of(lambda: inside.new_layer(TensorParallelAttention, (8, 4), x), "tensor_parallel", "TensorParallelAttention", right)  # fmt: skip

    x = randn(rng, 2, 5, 8)
    team, seen = student.on(ranks=2), []
    on_right_parts(team, probe, x, fine=fine_when_new(seen, team, (4 * 64 + 24) // 2 + 8, x))

    for fact in facts_when_new(*seen[-1] if seen[-1][-1] else seen[0], "proj"):
        check.that(*fact)


@of_attentions
@pytest.mark.points(1)
def test_heads_that_the_ranks_cannot_share_are_refused(student):
    """A num_heads that N does not divide, and a d_model that num_heads does not divide, are ValueErrors on each rank."""

    def made_of(d_model, heads):
        from tensor_parallel import TensorParallelAttention

        qkv, proj = torch.nn.Linear(d_model, 3 * d_model), torch.nn.Linear(d_model, d_model)
        return callable(TensorParallelAttention.from_linears(qkv, proj, heads))

    two, four = student.on(ranks=2), student.on(ranks=4)
    two.accepts("tensor_parallel.TensorParallelAttention", 6, 6)
    two.raises(ValueError, "tensor_parallel.TensorParallelAttention", 6, 3, says=("num_heads", 3))
    two.raises(ValueError, "tensor_parallel.TensorParallelAttention", 6, 4, says=("d_model", "num_heads", 6, 4))
    two.accepts(made_of, 6, 2)
    two.raises(ValueError, made_of, 6, 3, says=("num_heads", 3))
    two.raises(ValueError, made_of, 6, 4, says=("d_model", "num_heads", 6, 4))
    four.accepts("tensor_parallel.TensorParallelAttention", 8, 4)
    four.raises(ValueError, "tensor_parallel.TensorParallelAttention", 8, 2, says=("num_heads", 2))
