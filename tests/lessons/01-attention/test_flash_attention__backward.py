"""Hidden tests of flash attention: the gradients, and the layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from flash_attention_helpers import CAUSAL_SIZES, SIZES, causal_mistakes, forward_mistakes, part, plain, qkv, visible
from shared import (
    MANNERS,
    along,
    dropout_facts,
    dtype_of,
    each_like_own,
    is_own,
    is_right,
    join_heads,
    like_own,
    linear,
    linear_weights,
    nearly,
    on_right_parts,
    randn,
    split_by_view,
    split_heads,
)

BACKWARD = pytest.mark.question("flash_attention")
LAYER = pytest.mark.question("FlashAttention")


# ---------------------------------------------------------------------------------------------- the gradients


def plain_gradients(q, k, v, g, causal, slip="", part=slice(None)):
    """The gradients of plain attention at q, k and v, in float64; with a slip, or with a part of the terms of each sum."""
    q, k, v, g = q.double(), k.double(), v.double(), g.double()
    scale = q.shape[-1] ** -0.5
    seen = visible(q, k, causal)
    s, dp = q @ k.mT * scale, g @ v.mT
    p = s.masked_fill(~seen, -math.inf).softmax(-1)
    delta = (p * dp).sum(-1, keepdim=True) * (slip != "delta")
    if slip == "mask":
        p = (s - s.masked_fill(~seen, -math.inf).logsumexp(-1, keepdim=True)).exp()
    elif slip == "sum":
        p = p / p.amax(-1, keepdim=True)
    ds = dp * seen if slip == "softmax" else p * (dp - delta)
    dq = ds[..., part] @ k[:, :, part] * scale
    ds, p, q, g = (x[:, :, part] for x in (ds, p, q, g))
    return dq, ds.mT @ q * scale, p.mT @ g


def gradient_mistakes(q, k, v, g, causal, block, of):
    """What students make of one of the gradients: that of q, k or v for `of` 0, 1 or 2."""
    Tq, Tk, root, name = q.shape[2], k.shape[2], q.shape[-1] ** 0.5, "qkv"[of]
    right = plain_gradients(q, k, v, g, causal)
    full = (Tq, Tk, Tk)[of] // block * block
    last = ((Tk, Tq, Tq)[of] - 1) // block * block

    def slip(name):
        return lambda: plain_gradients(q, k, v, g, causal, name)[of]

    def adding(part):  # only a part of the keys (for q) or of the queries (for k and v)
        return lambda: plain_gradients(q, k, v, g, causal, part=part)[of]

    mistakes = {
        f"no gradient reaches {name}": torch.zeros_like(right[of]),
        "causal is ignored in the backward": slip("mask"),
        "the weights of the backward are not normalised; they should be exp(score - logsumexp)": slip("sum"),
        f"the gradient of {name} has the wrong sign": -right[of],
        f"the gradient of {name} holds only the first tile's part: add up all tiles": adding(slice(block)),
        f"the gradient of {name} holds only the last tile's part: add up all tiles": adding(slice(last, None)),
        f"the gradient of {name} lacks the part of the last tile, which is not full": adding(slice(last or None)),
        f"the end of {name}, which fills no tile, gets no gradient": torch.cat(
            [right[of][:, :, :full], torch.zeros_like(right[of][:, :, full:])], dim=2
        ),
    }
    if of < 2:
        mistakes |= {
            "the softmax's backward lacks δ, the row sums of dO * O": slip("delta"),
            "the softmax's backward is missing; dS should be P * (dP - δ)": slip("softmax"),
            f"the gradient of {name} is not divided by sqrt(Dh)": right[of] * root,
            f"the gradient of {name} is divided by sqrt(Dh) twice": right[of] / root,
        }
    swapped = {f"the gradient of {'qkv'[i]} is returned for that of {name}": right[i] for i in range(3) if i != of}
    return mistakes | swapped


def forward_and_backward(q, k, v, g, causal, block, right):
    """A probe: the output and the gradients at q, k and v; on a right forward, where that is asked for or the own one fails."""

    def use():
        from flash_attention import flash_attention

        leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        output = flash_attention(*leaves, causal, block)
        output = output[0] if isinstance(output, (tuple, list)) else output  # which has a test of its own
        return [output, *inside.gradients(output, leaves, [g])]

    return inside.use_of(use, "flash_attention", "flash_attention", right)


def gradients_of(student, inputs, causal, block, of=(0, 1, 2)):
    """The gradients at q, k and v, on a right forward where these are right only so: the forward has tests of its own."""
    truth = plain_gradients(*inputs, causal)

    def fine(results):
        return all(nearly(results[1 + i], truth[i], 1e-4) for i in of)

    return on_right_parts(student, forward_and_backward, *inputs, causal, block, fine=fine)[1:]


def like_own_float32(student, truth, q, k, v, g, causal, block):
    """The output and the gradients, where they are right in float32, or else what they are then."""
    single = student.run(forward_and_backward, q.float(), k.float(), v.float(), g.float(), causal, block, False)
    return [like_own(single[0], truth[0]), *each_like_own(single[1:], truth[1:])]


GRADIENT_SIZES = [SIZES[0], SIZES[1], CAUSAL_SIZES[2], SIZES[5]]
OUTPUT_CASES = [
    *((size, False) for size in (SIZES[0], SIZES[1], SIZES[4], SIZES[5])),
    *((size, True) for size in CAUSAL_SIZES[:3]),
]


@BACKWARD
@pytest.mark.points(1)
@pytest.mark.parametrize(("size", "causal"), OUTPUT_CASES, ids=str)
def test_flash_attention_returns_the_output_alone(student, check, rng, size, causal):
    """flash_attention returns the output of flash_attention_forward, and not its logsumexp."""
    q, k, v, _ = qkv(rng, *size[:-1])
    output = student.call("flash_attention.flash_attention", q, k, v, causal=causal, block_size=size[-1])

    truth = plain(q, k, v, causal)
    expected = truth[0]
    if not is_right(output, expected):  # which is for the tests of the forward to say
        own = student.call("flash_attention.flash_attention_forward", q, k, v, causal, size[-1])
        expected = like_own(own[0] if isinstance(own, (tuple, list)) else own, truth[0])
    mistakes = part(forward_mistakes(q, k, v, size[-1]) | (causal_mistakes(q, k, v, size[-1]) if causal else {}), 0)
    both = {"the logsumexp is returned too": lambda: type(output)(x.float() for x in truth)}
    check(output, expected, dtype=torch.float32, mistakes=both | mistakes)


@BACKWARD
@pytest.mark.points(2)
@pytest.mark.parametrize("size", GRADIENT_SIZES, ids=str)
def test_the_gradient_of_q(student, check, rng, size):
    """The gradient of the queries is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    found = gradients_of(student, inputs, False, size[-1], of=[0])

    mistakes = gradient_mistakes(*inputs, False, size[-1], of=0)
    check(found[0], plain_gradients(*inputs, False)[0], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(2)
@pytest.mark.parametrize("size", GRADIENT_SIZES, ids=str)
def test_the_gradient_of_k(student, check, rng, size):
    """The gradient of the keys is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    found = gradients_of(student, inputs, False, size[-1], of=[1])

    mistakes = gradient_mistakes(*inputs, False, size[-1], of=1)
    check(found[1], plain_gradients(*inputs, False)[1], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(2)
@pytest.mark.parametrize("size", GRADIENT_SIZES, ids=str)
def test_the_gradient_of_v(student, check, rng, size):
    """The gradient of the values is that of plain attention."""
    inputs = qkv(rng, *size[:-1])
    found = gradients_of(student, inputs, False, size[-1], of=[2])

    mistakes = gradient_mistakes(*inputs, False, size[-1], of=2)
    check(found[2], plain_gradients(*inputs, False)[2], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("size", CAUSAL_SIZES, ids=str)
def test_causal_gradients_are_those_of_the_keys_that_are_seen(student, check, rng, size):
    """With causal, too, all gradients are those of plain attention; those that are right without it are compared."""
    inputs, block = qkv(rng, *size[:-1]), size[-1]
    seeing_all, right = gradients_of(student, inputs, False, block), plain_gradients(*inputs, False)
    of = [i for i in range(3) if nearly(seeing_all[i], right[i], 1e-4)] or [0, 1, 2]
    found, truth = gradients_of(student, inputs, True, block, of), plain_gradients(*inputs, True)

    for i in of:
        mistakes = gradient_mistakes(*inputs, True, block, of=i)
        check(found[i], truth[i], dtype=torch.float32, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(1)
def test_float64_gradients_are_exact(student, check, rng):
    """In float64 the output and the gradients are float64, and as exact."""
    q, k, v, g = qkv(rng, 1, 2, 7, 5, 6, dtype=torch.float64)
    results = student.run(forward_and_backward, q, k, v, g, True, 3, False)

    truth = [plain(q, k, v, True)[0], *plain_gradients(q, k, v, g, True)]
    expected = like_own_float32(student, truth, q, k, v, g, True, 3)
    check(
        [dtype_of(x) for x in results],
        [torch.float64] * 4,
        mistakes={"gradients of float64 inputs are float32": [torch.float64] + [torch.float32] * 3},
    )
    rounded = "float64 is rounded to float32 on the way; it should stay float64"
    for value, right, own in zip(results, truth, expected, strict=True):
        mistakes = {rounded: check.when(nearly(value, right, 1e-4))}
        check(value, own, relative=None if own is right else 1e-4, mistakes=mistakes)


@BACKWARD
@pytest.mark.points(1)
def test_bfloat16_gradients_are_as_right_as_bfloat16_is(student, check, rng):
    """In bfloat16 the output and the gradients are bfloat16, and as right as that is."""
    q, k, v, g = (x.bfloat16() for x in qkv(rng, 1, 2, 13, 11, 6))
    results = student.run(forward_and_backward, q / 4, k, v, g, True, 4, False)

    truth = [plain(q / 4, k, v, True)[0], *plain_gradients(q / 4, k, v, g, True)]
    check(results, like_own_float32(student, truth, q / 4, k, v, g, True, 4), dtype=torch.bfloat16, terms=4)


@BACKWARD
@pytest.mark.points(1)
def test_the_backward_with_large_scores(student, check, rng):
    """Scores of some 300 overflow in the backward no more than in the forward."""
    q, k = torch.randint(-2, 3, (2, 1, 2, 7, 4), generator=rng).float()
    v, g = randn(rng, 2, 1, 2, 7, 4)
    q[..., 0], k[..., 0] = 20 * (-1) ** torch.arange(7), 3 * torch.arange(7.0)
    results, wide = (
        student.run(forward_and_backward, *(x.to(dtype) for x in (q, k, v, g)), False, 3, False)
        for dtype in (torch.float32, torch.float64)
    )

    # Most weights are 0 or 1, so gradients of q and k cancel: errors are those of terms as large as k, q and g.
    overflow = "the gradients overflow; the weights should be exp(score - logsumexp)"
    for value, own, truth in zip(results[1:], wide[1:], plain_gradients(q, k, v, g, False), strict=True):
        check.that(bool(value.isfinite().all()), overflow)
        check(value, like_own(own, truth), dtype=torch.float32, terms=1024, scale=20.0)


@BACKWARD
@pytest.mark.points(2)
def test_calls_do_not_disturb_each_other(student, check, rng):
    """Two calls may be under way at once, and a backward may be run twice."""

    def probe(inputs, g):
        def use():
            from flash_attention import flash_attention

            def output_of(leaves, causal, block):
                output = flash_attention(*leaves, causal, block)
                return output[0] if isinstance(output, (tuple, list)) else output

            first, second = ([x.clone().requires_grad_() for x in part] for part in inputs)
            alone = [
                inside.gradients(output_of(*call), call[0], [g]) for call in ((first, False, 3), (second, True, 2))
            ]
            outputs, unused = (
                (output_of(first, False, 3), output_of(second, True, 2)),
                {"allow_unused": True, "materialize_grads": True},
            )
            twice = [torch.autograd.grad(outputs[0], first, g, retain_graph=True, **unused) for _ in range(2)]
            return alone, *twice, torch.autograd.grad(outputs[1], second, g, **unused)

        return inside.use_of(use, "flash_attention", "flash_attention", False)

    *first, g = qkv(rng, 1, 2, 7, 5, 4)
    *second, _ = qkv(rng, 1, 2, 7, 5, 4)
    alone, once, again, other = student.run(probe, [first, second], g)

    of_first, of_second = (
        each_like_own(grads, truth)
        for grads, truth in zip(
            alone, (plain_gradients(*first, g, False), plain_gradients(*second, g, True)), strict=True
        )
    )
    shared = "the backward uses what another call saved: save it on ctx"
    check(list(once), of_first, dtype=torch.float32, mistakes={shared: of_second})
    check(again, once, otherwise="a second backward gives different gradients: the first changed what was saved")
    check(list(other), of_second, dtype=torch.float32)


@BACKWARD
@pytest.mark.points(1)
def test_any_inputs_and_cotangents_do(student, check, rng):
    """Strided inputs and gradients, and inputs that need no gradient, all work, and none is changed in place."""

    def probe(q, k, v, g):
        def use():
            from flash_attention import flash_attention

            def output_of(*inputs):
                output = flash_attention(*inputs)
                return output[0] if isinstance(output, (tuple, list)) else output

            leaves = [x.clone().requires_grad_() for x in (q, k, v)]
            plain = output_of(*leaves, False, 3)
            of_plain = inside.gradients(plain, leaves, [g])
            ones = [torch.ones_like(plain)]
            of_square = inside.gradients(output_of(*leaves, True, 3).square(), leaves, ones)
            result, _, rude = inside.manners(output_of, q, k, v)
            inputs = [inside.strided(x).requires_grad_() for x in (q, k, v)]
            strided = inside.strided(g)
            found = inside.gradients(output_of(*inputs, False, 3), inputs, [strided])
            of_k = inside.gradients(output_of(q, inputs[1], v, True, 3).square(), [inputs[1]], ones)[0]
            of_v = inside.gradients(output_of(q, k, inputs[2], True, 3).square(), [inputs[2]], ones)[0]
            return [plain, *of_plain, *of_square], result, found, of_k, of_v, [*inputs, strided], rude

        return inside.use_of(use, "flash_attention", "flash_attention", False)

    inputs = qkv(rng, 2, 2, 7, 5, 4)
    own, result, found, of_k, of_v, after, rude = student.run(probe, *inputs)

    output, causal_output = plain(*inputs[:3])[0], plain(*inputs[:3], True)[0]
    truth = [output, *plain_gradients(*inputs, False), *plain_gradients(*inputs[:3], 2 * causal_output, True)]
    expected = [like_own(own[0], truth[0]), *each_like_own(own[1:], truth[1:])]
    relative = None if all(map(is_right, own, truth)) else 1e-3  # what is wrong may be of large terms that cancel
    changed = "q, k, v or the gradient of the output is changed in place"
    check(after, list(inputs), otherwise=changed)
    check(result, expected[0], dtype=torch.float32, mistakes={"causal is on by default": causal_output})
    check(list(found), expected[1:4], dtype=torch.float32, relative=relative)
    check([of_k, of_v], expected[5:], dtype=torch.float32, relative=relative)
    check(rude, "", mistakes=MANNERS)


@BACKWARD
@pytest.mark.points(3)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [(2, 2, 32, 3, 8), (1, 2, 256, 4, None)], ids=str)
def test_memory_grows_with_the_length_not_its_square(student, check, rng, size, causal):
    """Forward and backward make no tensor of half the scores; at most q, k, v, the output and 2 numbers a row are kept."""

    def probe(q, k, v, g, causal, options):
        from flash_attention import flash_attention

        return inside.memory_use(lambda q, k, v: flash_attention(q, k, v, causal, **options), [q, k, v], g)

    B, H, T, Dh, block = size
    use = student.run(probe, *qkv(rng, B, H, T, T, Dh), causal, {"block_size": block} if block else {})

    matrix, sequence = B * H * T * T, B * H * T
    whole = "the {} makes the matrix of scores, or half of it; it should work on one tile at a time"
    check.that(use["between"] < matrix, "the weights or scores of all tiles are kept for the backward")
    for name in ("forward", "backward"):
        check.that(use[name] < matrix / 2, whole.format(name))
    more = "more is kept for the backward than q, k, v, the output and two numbers for each query"
    check.that(use["between"] <= 4 * sequence * Dh + 2 * sequence, more)


@BACKWARD
@pytest.mark.gpu
@pytest.mark.points(1)
@pytest.mark.needs("test_bfloat16_gradients_are_as_right_as_bfloat16_is")
def test_flash_attention_in_bfloat16_on_the_gpu(student, check, device, rng):
    """On a GPU, in bfloat16, the output and the gradients stay there and are as right as bfloat16 is."""
    q, k, v, g = (x.bfloat16() for x in qkv(rng, 1, 2, 150, 130, 16))
    results = student.run(forward_and_backward, q / 4, k, v, g, True, 64, False)

    truth = [plain(q / 4, k, v, True)[0], *plain_gradients(q / 4, k, v, g, True)]
    check(results, truth, dtype=torch.bfloat16, terms=4)


# ---------------------------------------------------------------------------------------------- FlashAttention


def each_with_its_heads(y, heads):
    return [split_heads(z, heads) for z in y.chunk(3, -1)]


@dataclass(frozen=True)
class LayerSteps:
    """The layer's steps, which are right; a mistake replaces one."""

    split: Callable = each_with_its_heads  # of the joint projection, into q, k and v (B, H, T, Dh)
    order: tuple = (0, 1, 2)
    scale: Callable = lambda d, D: d**-0.5
    join: Callable = join_heads
    project: Callable = linear
    finish: Callable = lambda x, output: output


def flash_layer(x, qkv, proj, heads, causal=False, **steps):
    """The layer, in float64; steps: those of LayerSteps that differ."""
    do, D = LayerSteps(**steps), x.shape[-1]
    parts = do.split(linear(x, *qkv), heads)
    output, _ = plain(*(parts[i] for i in do.order), causal, scale=do.scale(D // heads, D))
    return do.finish(x, do.project(do.join(output), *proj))


LAYER_MISTAKES = {  # what students make of the layer: sentence -> the step that is wrong
    "causal has no effect": dict(causal=False),
    "causal is always on": dict(causal=True),
    "q and k are swapped; the rows of qkv should be ordered q, k, v": dict(order=(1, 0, 2)),
    "k and v are swapped; the rows of qkv should be ordered q, k, v": dict(order=(0, 2, 1)),
    "q and v are swapped; the rows of qkv should be ordered q, k, v": dict(order=(2, 1, 0)),
    "the rows of qkv are taken head by head; all rows of q should come first, then all of k, then all of v": dict(
        split=lambda y, heads: y.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4)
    ),
    "a head owns every H-th row; it should own a block of Dh rows": dict(
        split=lambda y, heads: y.unflatten(-1, (3, -1, heads)).permute(2, 0, 4, 1, 3)
    ),
    "the heads are split by a view alone, which mixes positions; a transpose should follow": dict(
        split=lambda y, heads: [split_by_view(z, heads) for z in y.chunk(3, -1)]
    ),
    "the heads are joined without a transpose, which mixes positions": dict(
        join=lambda o: o.reshape(o.shape[0], o.shape[2], -1)
    ),
    "the heads are interleaved where they are joined": dict(join=lambda o: o.permute(0, 2, 3, 1).flatten(2)),
    "attention runs over the heads of a position; q, k and v should have the shape (B, H, T, Dh)": dict(
        split=lambda y, heads: [z.unflatten(-1, (heads, -1)) for z in y.chunk(3, -1)], join=lambda o: o.flatten(2)
    ),
    "the scores are divided by sqrt(D); they should be divided by sqrt(Dh)": dict(scale=lambda d, D: D**-0.5),
    "the scores are divided by sqrt(Dh) twice": dict(scale=lambda d, D: 1 / d),
    "the scores are not divided by sqrt(Dh)": dict(scale=lambda d, D: 1.0),
    "the output is not projected by proj": dict(project=lambda o, *_: o),
    "the input is added to the output": dict(finish=lambda x, output: output + x),
}


LAYER_SIZES = [(2, 7, 12, 3, False, 3), (1, 5, 8, 2, True, 2), (3, 6, 6, 1, True, 64), (2, 1, 6, 3, False, 4)]


@LAYER
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "T", "D", "heads", "causal", "block"), LAYER_SIZES)
def test_the_layer_is_multi_head_attention(student, check, rng, B, T, D, heads, causal, block):
    """The layer projects by qkv, attends in each head, joins the heads in order and projects by proj."""

    def probe(x, weights, heads, causal, block, right):
        def use():
            from flash_attention import FlashAttention

            def make_and_use(x, *causal):
                return inside.loaded(FlashAttention(x.shape[-1], heads, 0.1, block), weights)(x, *causal)

            return inside.manners(make_and_use, x, *([True] if causal else []))

        return inside.use_of(use, "flash_attention", "FlashAttention", right)

    x = 1.5 * randn(rng, B, T, D)
    weights = {"qkv": linear_weights(rng, D, 3 * D), "proj": linear_weights(rng, D, D)}
    truth = flash_layer(x, *weights.values(), heads, causal)
    given = (x, weights, heads, causal, block)
    output, (after, *_), rude = on_right_parts(
        student, probe, *given, fine=lambda found: nearly(found[:1], [truth], 1e-4)
    )

    check(after, x, otherwise="x is changed in place")
    slips = {
        sentence: partial(flash_layer, x, *weights.values(), heads, **{"causal": causal, **slip})
        for sentence, slip in LAYER_MISTAKES.items()
    }
    both = {"a pair is returned; only the output should be returned": lambda: (output[0].view_as(x), *output[1:])}
    pair = both if isinstance(output, (tuple, list)) else {}
    check(output, truth, dtype=torch.float32, mistakes=pair | slips)
    check(rude, "", mistakes=MANNERS)


@LAYER
@pytest.mark.points(1)
def test_the_layer_has_two_linear_layers(student, check, rng):
    """qkv is Linear(D, 3D) and proj Linear(D, D), both with bias; float64 and the device of x are kept."""

    def probe(x):
        from flash_attention import FlashAttention

        shapes = inside.linear_shapes(FlashAttention(6, 2), ("qkv", "proj"))

        def use():
            layer = FlashAttention(6, 2).double()
            return inside.a_tensor(layer(x.double())).dtype, inside.on_meta(layer.to("meta"), x.double(), True)

        return shapes, *inside.use_of(use, "flash_attention", "FlashAttention", False)

    shapes, dtype, on_meta = student.run(probe, randn(rng, 2, 5, 6))

    check(shapes, [(6, 18, True), (6, 6, True)], mistakes={
        "qkv and proj have no bias": [(6, 18, False), (6, 6, False)],
        "qkv has no bias": [(6, 18, False), (6, 6, True)],
        "proj has no bias": [(6, 18, True), (6, 6, False)],
    })  # fmt: skip
    elsewhere = "the layer makes tensors on another device than that of x"
    check(on_meta, "", mistakes={elsewhere: "mixes devices", elsewhere + ", and returns one": "leaves the device"})
    check(dtype, torch.float64, mistakes={"the layer does not keep float64": torch.float32})


@LAYER
@pytest.mark.points(2)
def test_the_layer_is_trained(student, check, rng):
    """Right gradients reach x and all weights."""

    def probe(x, g, weights, right):
        def use():
            from flash_attention import FlashAttention

            layer, leaf = inside.loaded(FlashAttention(8, 2, 0.0, 3), weights), x.clone().requires_grad_()
            linears = {name: getattr(layer, name) for name in weights}
            tensors = [leaf, *(x for linear in linears.values() for x in (linear.weight, linear.bias) if x is not None)]
            output = layer(leaf, causal=True)
            slopes = inside.slopes_of(lambda: (layer(leaf, causal=True) * g).sum(), tensors)
            return output, inside.gradients(output, tensors, [g]), slopes

        return inside.use_of(use, "flash_attention", "FlashAttention", right)

    x, g = randn(rng, 2, 2, 5, 8, dtype=torch.float64)
    weights = {name: linear_weights(rng, 8, out, dtype=torch.float64) for name, out in (("qkv", 24), ("proj", 8))}
    leaves = [tensor.requires_grad_() for tensor in (x, *weights["qkv"], *weights["proj"])]
    right = flash_layer(x, *weights.values(), 2, causal=True)
    # Keys gain nothing from their bias: that gradient is zero up to the rounding of its terms.
    truth = list(torch.autograd.grad((right * g).sum(), leaves))
    x, right = x.detach(), right.detach()
    weights = {name: [tensor.detach() for tensor in pair] for name, pair in weights.items()}

    def fine(found):
        return len(found[1]) == len(truth) and nearly(found[1], truth, 1e-4)

    output, found, own = on_right_parts(student, probe, x, g, weights, fine=fine)
    stopped = [torch.zeros_like(t) if i < 3 else t for i, t in enumerate(truth)]
    none = {"no gradient passes through flash_attention, so that x and qkv get none": stopped}
    if is_own(output, right) and not nearly(output, right):  # which has its own test: these are the gradients of it
        check(along(found), own, relative=1e-4)
    else:
        check(found, truth, mistakes=none)


@LAYER
@pytest.mark.points(2)
@pytest.mark.parametrize(("B", "T", "block", "causal"), [(2, 32, 8, False), (2, 32, 8, True), (1, 256, None, False)])
def test_the_layer_never_holds_the_matrix_of_scores(student, check, rng, B, T, block, causal):
    """The layer uses flash_attention with its block_size, 64 by default: no tensor has half of all scores."""

    def probe(x, causal, options):
        from flash_attention import FlashAttention

        layer = FlashAttention(6, 2, dropout=0.0, **options).train(not causal)
        return inside.memory_use(lambda x: layer(x, causal), [x], torch.ones_like(x))

    use = student.run(probe, randn(rng, B, T, 6), causal, {"block_size": block} if block else {})

    whole, forward, backward = (
        "the layer makes the matrix of scores: call flash_attention with block_size",
        "the forward of the layer makes the matrix of scores: call flash_attention with block_size",
        "the backward of the layer makes the matrix of scores; it should make one tile at a time",
    )
    small = [use[name] < B * 2 * T * T / 2 for name in ("forward", "backward")]
    check(small, [True, True], mistakes={whole: [False, False], backward: [True, False], forward: [False, True]})


@LAYER
@pytest.mark.points(1)
@pytest.mark.parametrize("options", [{"dropout": 0.5}, {}], ids=str)
def test_the_layer_drops_out_in_train_mode_only(student, check, rng, options):
    """Dropout is off in eval mode, follows the seed in train mode, and is on by default."""

    def probe(x, weights, options):
        from flash_attention import FlashAttention

        def use():
            no_dropout, other, fresh = (
                inside.loaded(FlashAttention(d_model=12, num_heads=3, dropout=0.0, block_size=64), weights)
                for _ in range(3)
            )
            runs = inside.dropout_runs(inside.loaded(FlashAttention(12, 3, **options), weights), x)
            own = [inside.a_tensor(other(x, causal=True)), inside.a_tensor(fresh(x))]
            no_dropout.train()
            return [*runs, inside.a_tensor(no_dropout(x, causal=True)), no_dropout(x), *own]

        return inside.use_of(use, "flash_attention", "FlashAttention", False)

    x, weights = randn(rng, 4, 9, 12), {"qkv": linear_weights(rng, 12, 36), "proj": linear_weights(rng, 12, 12)}
    *runs, causal, undropped, own_causal, own = student.run(probe, x, weights, options)

    for fact in dropout_facts(runs):  # 432 outputs at a rate of 0.1: alike with a probability of 0.82^432
        check.that(*fact)
    truth, with_causal = (
        like_own(plain, flash_layer(x, *weights.values(), 3, sees_the_past))
        for plain, sees_the_past in ((own, False), (own_causal, True))
    )
    check(runs[3][0], truth, dtype=torch.float32)
    check(causal, with_causal, dtype=torch.float32, mistakes={
        "the rate of the dropout is ignored: 0 should drop nothing": lambda: torch.where(causal == 0, 0, with_causal / 0.9),
    })  # fmt: skip
    check(undropped, truth, dtype=torch.float32, mistakes={"the layer stays causal after a causal call": with_causal})


@LAYER
@pytest.mark.points(1)
def test_heads_that_do_not_divide_the_width_are_refused(student):
    """d_model not divisible by num_heads is a ValueError that names one of them."""

    def probe(d_model, num_heads):
        from flash_attention import FlashAttention

        FlashAttention(d_model, num_heads)

    student.accepts(probe, 8, 4)
    student.accepts(probe, 6, 3)
    student.raises(ValueError, probe, 8, 3, says=("num_heads", "d_model", 8, 3))
    student.raises(ValueError, probe, 6, 4, says=("num_heads", "d_model", 6, 4))
