"""Hidden tests of transformer.

Layers may call their weights what they like, so inside.with_known_weights gives each one a value that follows from its
shape alone. With these weights, `KNOWN` in the helpers, the models there are the truth, in float64; GPT and BERT are
compared once more with the random weights of a model of `transformers`. A layer or a stack that is not right is compared
once more with what the student's own parts give, so that a mistake costs points where it was made, not above it.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from shared import (
    has_nan,
    linear,
    nearly,
    past,
    randn,
    random_mask,
    split_by_view,
    true_gradients,
    weigh,
    wrong_share,
)
from transformer_helpers import (
    BERT_STEPS,
    FF,
    GPT_STEPS,
    KNOWN,
    LAYER,
    MAX_LEN,
    OF_SOURCE,
    PARTS,
    TYPES,
    D,
    H,
    ModelSteps,
    V,
    bert,
    bert_made_with,
    counted,
    decoder,
    decoder_layer,
    encoder,
    encoder_layer,
    gelu_tanh,
    gpt,
    known_layer,
    made_with,
    masks,
    norm,
    real,
    sinusoids,
    some_ids,
    tables,
    wide,
)

# ---------------------------------------------------------------------------------------------- comparing


def compared(student, name, args, calls, truth, mistakes, rows=(), *, at=None, gradients=False, within=2e-5, **right):
    """For `check(**…)`: a model of the student, with known weights, and the truth, in float64.

    calls: the inputs of each call. truth: (ModelSteps, *inputs) -> output. mistakes: sentence -> the step that is wrong, or a
    function that changes the inputs of a call. at: only these places count. within: an eps of 1e-6 in a norm, as good as
    1e-5, changes no more. right: steps of this model.
    """

    def probe(*args):
        return inside.results(*args)

    def values(wrong=(), notes=()):
        change, steps = (wrong, {}) if callable(wrong) else (lambda *call: call, dict(wrong))
        model = partial(truth, ModelSteps(**right | steps, notes=notes))
        if not gradients:
            return [counted(model(*change(*call)), at) for call in calls]
        found = [true_gradients(model, *change(*call)) for call in calls]
        return [[*outputs, *grads] for outputs, grads in found]

    told = (name, args, list(rows), calls, gradients)
    results, expected, notes = student.run(probe, *told), values(), ()
    if not gradients and not nearly([counted(result, at) for result in results], expected):
        results, notes = student.run(probe, *told, {part: made_of for part, (made_of, *_) in PARTS.items()})
        expected = values(notes=notes)
    return {
        "value": [counted(result, at) for result in results],
        "expected": expected,
        "relative": within,
        "mistakes": {sentence: partial(values, wrong, notes) for sentence, wrong in mistakes.items()},
    }


# ---------------------------------------------------------------------------------------------- the known mistakes


def own_norm(x, pair, eps, bottom=lambda x: x.std(-1, keepdim=True)):
    """A layer norm as one may write it, which divides by the deviation of D - 1 numbers, or by something else."""
    return pair[0].double() * (x - x.mean(-1, keepdim=True)) / (bottom(x) + eps) + pair[1].double()


NAMES = {"self": "self-attention", "cross": "cross-attention", "ffn": "feed-forward"}


def only(step, style, other="post"):
    return {"style": lambda name: style if name == step else other}


STYLE_MISTAKES = {  # what a layer has no step for, it cannot have wrong
    "the norm comes before each sub-layer (pre-norm); it should follow the residual connection": {"style": lambda step: "pre"},
    "the norm follows the residual connection (post-norm); it should come before each sub-layer": {"style": lambda step: "post"},
    "there is a norm before each sub-layer, and one after it": {"style": lambda step: "pre and post"},
    "the norm is applied to the sub-layer's output, before the residual is added": {"style": lambda step: "branch"},
    # The known weights let all vectors point one way: where one residual connection is missing, others may not show.
    **{f"the residual connection around the {NAMES[s]} is missing, or all are": only(s, "post, no residual") for s in NAMES},
    "the residual connections are missing": {"style": lambda step: "post, no residual"},
    "the norms inside the layer are missing": {"style": lambda step: "no norm"},
    **{f"the norm of the {NAMES[s]} is missing": only(s, "no norm") for s in NAMES},
    **{f"the {NAMES[s]} is left out": {"order": lambda order, s=s: [step for step in order if step != s]} for s in NAMES},
    "a norm divides by the deviation of D - 1 numbers; it should divide by that of all D": {"norm": own_norm},
    "a norm divides by the variance; it should divide by its root": {
        "norm": partial(own_norm, bottom=lambda x: x.var(-1, keepdim=True, unbiased=False))
    },
    "the sub-layers come in the wrong order": {"order": lambda order: order[::-1]},
    "the feed-forward uses ReLU; it should use GELU": {"act": torch.relu},
    "the feed-forward has nothing between its two linear maps": {"act": lambda x: x},
    "the scores are not divided by the square root of a head's width": {"scale": lambda width: 1.0},
    "the scores are divided by the square root of d_model, not of a head's width": {"scale": lambda width: math.sqrt(D)},
    "the scores are divided by a head's width, not by its square root": {"scale": float},
    "the attention has one head only": {"heads": 1},
    "the softmax runs over the queries, not over the keys": {"weigh": partial(weigh, over=-2)},
    "the softmax runs over the heads, not over the keys": {"weigh": partial(weigh, over=1)},
    "the heads are split by a view alone, which mixes positions; a transpose should follow it": {"split": split_by_view},
}  # fmt: skip
MASK_MISTAKES = {
    "the mask is applied after the softmax": {"weigh": lambda scores, hidden: scores.softmax(-1).masked_fill(hidden, 0)},
    "the scores that the mask hides are zero; they should be minus infinity": {"weigh": partial(weigh, low=0.0)},
    "the mask reaches the first layer only": {"masked": lambda n: n == 0},
    "the mask reaches the last layer only": {"masked": lambda n: n == 1},
}  # fmt: skip
CAUSAL_MISTAKES = {
    "a position sees the future: there is no causal mask": {"causal": lambda length: past(length) | True},
    "a position does not see itself": {"causal": lambda length: past(length).tril(-1)},
    "the causal mask is transposed: a position sees the future, not the past": {"causal": lambda length: past(length).T},
    "only the first layer is causal": {"masked": lambda n: n == 0},
}  # fmt: skip
DEPTH_MISTAKES = {"one layer runs, whatever num_layers says": {"layers": 1}, "no layer runs": {"layers": 0}}
LOGIT_MISTAKES = {
    "the result holds probabilities; it should hold logits": {"logits": lambda x: x.softmax(-1)},
    "the result holds log-probabilities; it should hold logits": {"logits": lambda x: x.log_softmax(-1)},
}
WITH_GELU = {"the feed-forward uses GELU; it should use ReLU": {"act": F.gelu}}
BY_ITSELF = "the layer is causal by itself; it should hide only what its masks hide"


EMPTY_MISTAKES = {
    "a query that may attend to nothing gets NaN": {"weigh": partial(weigh, empty=math.nan)},
    "a query that may attend to nothing attends to every key alike": {"weigh": partial(weigh, empty=0.25)},
}
BY_OR = "the causal mask and the other mask are joined by or; they should be joined by and"
EMBEDDING_MISTAKES = DEPTH_MISTAKES | {
    "the embedding is not multiplied by the square root of d_model": {"size": 1.0},
    "the embedding is multiplied by d_model, not by its square root": {"size": D},
    "the embedding is divided by the square root of d_model": {"size": D**-0.5},
    "the square root of d_model multiplies the positions too": {"late_size": math.sqrt(D), "size": 1.0},
    "the positional encoding is missing": {"position": lambda length: 0.0},
    "positions are counted from 1": {"position": lambda length: sinusoids(length + 1)[1:]},
    "the embeddings are normed before the layers": {"first": norm},
}
TWO_MASK_MISTAKES = MASK_MISTAKES | {
    "tgt_mask is ignored": lambda x, memory, mask, other: (x, memory, None, other),
    "memory_mask is ignored": lambda x, memory, mask, other: (x, memory, mask, None),
    "the masks are ignored": lambda x, memory, mask, other: (x, memory, None, None),
    "tgt_mask is turned around: true means may attend": lambda x, memory, mask, other: (x, memory, inverted(mask), other),
    "memory_mask is turned around: true means may attend": lambda x, memory, mask, other: (x, memory, mask, inverted(other)),
}  # fmt: skip


def inverted(mask):
    return None if mask is None else mask == 0


def never(ids, pad):
    return None


# ---------------------------------------------------------------------------------------------- PositionwiseFeedForward


@pytest.mark.question("PositionwiseFeedForward")
@pytest.mark.points(3)
@pytest.mark.parametrize(("B", "T", "d_model", "d_ff", "dtype"), [
    (2, 5, 6, 10, torch.float32), (1, 1, 4, 3, torch.float32), (3, 2, 5, 7, torch.float64),
])  # fmt: skip
def test_the_feed_forward_is_two_linear_maps_with_a_relu_between(student, check, rng, B, T, d_model, d_ff, dtype):
    """The feed-forward is w_2(ReLU(w_1(x))), at every position alone."""

    def probe(x, weights):
        from transformer import PositionwiseFeedForward

        model = PositionwiseFeedForward(x.shape[-1], weights[0].shape[0]).to(x.dtype).eval()
        slots = [model.w_1.weight, model.w_1.bias, model.w_2.weight, model.w_2.bias]
        shapes = [list(slot.shape) for slot in slots]
        if shapes == [list(weight.shape) for weight in weights]:
            for slot, weight in zip(slots, weights, strict=True):
                slot.data.copy_(weight)
        leaf = x.clone().requires_grad_()
        return shapes, model(x), inside.gradients(model(leaf), [leaf], [x])[0]

    def feed_forward(x, w1, b1, w2, b2, act=torch.relu):
        return linear(act(linear(x, w1, b1)), w2, b2)

    x = randn(rng, B, T, d_model, dtype=dtype)
    w1, b1, w2, b2 = w = [randn(rng, *s, dtype=dtype) for s in ((d_ff, d_model), (d_ff,), (d_model, d_ff), (d_model,))]
    shapes, result, gradient = student.run(probe, x, w)

    right = [list(weight.shape) for weight in w]
    check(
        shapes, right, mistakes={"w_1 and w_2 are swapped; w_1 should lead from d_model to d_ff": right[2:] + right[:2]}
    )
    check(result, feed_forward(x, *w), dtype=dtype, mistakes={
        "there is no ReLU between w_1 and w_2": lambda: feed_forward(x, *w, act=lambda h: h),
        "GELU is used; it should be ReLU": lambda: feed_forward(x, *w, act=F.gelu),
        "there is a ReLU after w_2 too": lambda: feed_forward(x, *w).relu(),
        "the ReLU comes before w_1": lambda: feed_forward(x.relu(), *w, act=lambda h: h),
        "the input is added; the layer adds it, and the feed-forward should not": lambda: x + feed_forward(x, *w),
        "the result is normed; the layer does that, and the feed-forward should not": lambda: norm(feed_forward(x, *w)),
        "the bias of w_1 is not added": lambda: feed_forward(x, w1, 0 * b1, w2, b2),
        "the bias of w_2 is not added": lambda: feed_forward(x, w1, b1, w2, 0 * b2),
    })  # fmt: skip
    leaf = x.double().requires_grad_()
    truth = torch.autograd.grad(feed_forward(leaf, *w), leaf, x.double())[0]
    check(gradient, truth, dtype=dtype, mistakes={"no gradient reaches x": 0 * truth})


@pytest.mark.question("PositionwiseFeedForward")
@pytest.mark.points(2)
@pytest.mark.parametrize("dropout", [None, 0.4, 0.0])
def test_dropout_acts_after_the_relu(student, check, rng, dropout):
    """In train mode a share of `dropout` (0.1 by default) of the hidden numbers is dropped, the rest is scaled up."""

    def probe(x, w1, w2, *dropout):
        from transformer import PositionwiseFeedForward

        model = PositionwiseFeedForward(64, 48, *dropout).train()
        model.w_1.weight.data.copy_(w1)
        model.w_1.bias.data.fill_(9.0)  # all that the ReLU sees is positive
        model.w_2.weight.data.copy_(w2)
        model.w_2.bias.data.zero_()
        return inside.a_tensor(model(x))

    x = randn(rng, 200, 1, 64)
    w2 = torch.linalg.qr(randn(rng, 64, 48))[0]  # w2ᵀ takes the output back to the hidden numbers
    w1 = 0.1 * randn(rng, 48, 64)
    output = student.run(probe, x, w1, w2, *([] if dropout is None else [dropout]))

    check.that(output.shape == x.shape, "the result does not have the shape of x")
    p = 0.1 if dropout is None else dropout
    hidden = F.linear(x.double(), w1.double()) + 9.0  # (200, 1, 48)
    found = output @ w2
    kept = found.abs() > 0.1
    share_kept = (found[kept] / hidden[kept]).mean()
    other_share = "the wrong share is dropped; it should be the argument dropout, 0.1 by default"
    check(found, hidden * kept / (1 - p), dtype=torch.float32, mistakes={
        "dropout acts on the output of w_2; it should come directly after the ReLU": check.when(bool((output == 0).any())),
        "there is no dropout in train mode": hidden,
        "what is not dropped is not scaled up by 1 / (1 - dropout)": hidden * kept,
        other_share: hidden * kept * share_kept,
    })  # fmt: skip
    wrong = wrong_share(int(kept.sum()), kept.numel(), 1 - p, other_share)
    check.that(not wrong, wrong)


# ---------------------------------------------------------------------------------------------- EncoderLayer, DecoderLayer


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(4)
def test_an_encoder_layer_is_attention_and_feed_forward_in_post_norm(student, check, rng):
    """Both sub-layers have a residual connection with a norm after it; every position sees every other."""
    calls = [(wide(rng, *shape),) for shape in ((2, 5), (1, 1), (3, 6))]
    mistakes = STYLE_MISTAKES | WITH_GELU | {BY_ITSELF: lambda x: (x, past(x.shape[1]))}
    check(**compared(student, "EncoderLayer", LAYER, calls, partial(encoder_layer, KNOWN), mistakes))


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(3)
def test_an_encoder_layer_attends_to_what_its_mask_shows(student, check, rng):
    """The mask broadcasts to (B, H, T, T), is boolean or holds 0 and 1, and true means: may attend."""
    calls = [(wide(rng, B, T), mask) for B, T in ((2, 5), (4, 4)) for mask in masks(rng, B, T, T)]
    mistakes = MASK_MISTAKES | {
        "the mask is ignored": lambda x, mask: (x,),
        "a mask (T, T) is taken for one of padding where T equals B": lambda x, mask: (
            x, mask[:, None, None] if mask.shape == x.shape[:2] else mask
        ),
        "the mask is turned around: true means may attend": lambda x, mask: (x, mask == 0),
        "the mask is transposed: its rows are queries": lambda x, mask: (x, mask.mT),
    }  # fmt: skip
    check(**compared(student, "EncoderLayer", LAYER, calls, partial(encoder_layer, KNOWN), mistakes))


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(2)
def test_a_position_that_sees_nothing_keeps_what_it_has(student, check, rng):
    """Where the mask hides every key the attention adds zero; outputs and gradients are right, in float64."""
    x, mask = wide(rng, 2, 4), random_mask(rng, 2, 1, 4, 4)
    mask[0, 0, 2] = mask[1, 0, 0] = False
    mistakes, truth = EMPTY_MISTAKES | MASK_MISTAKES, partial(encoder_layer, KNOWN)
    check(**compared(student, "EncoderLayer", LAYER, [(x, mask)], truth, mistakes, gradients=True))


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(4)
def test_a_decoder_layer_has_three_sub_layers_in_post_norm(student, check, rng):
    """Self-attention, cross-attention to memory, feed-forward; without masks everything is seen."""
    calls = [(wide(rng, B, Tt), wide(rng, B, Ts)) for B, Tt, Ts in ((2, 4, 6), (1, 1, 3), (3, 5, 1))]
    mistakes = STYLE_MISTAKES | WITH_GELU | {
        BY_ITSELF: lambda x, memory: (x, memory, past(x.shape[1])),
        "the cross-attention comes before the self-attention": {"order": lambda order: ["cross", "self", "ffn"]},
        "the feed-forward comes before the cross-attention": {"order": lambda order: ["self", "ffn", "cross"]},
        "the cross-attention attends to x, not to memory": {"source": lambda x, memory: x},
        "there is a norm on the memory": {"source": lambda x, memory: norm(memory)},
    }  # fmt: skip
    check(**compared(student, "DecoderLayer", LAYER, calls, partial(decoder_layer, KNOWN), mistakes))


def with_two_masks(rng, x, memory, heads=H):
    """Calls with both masks, in all their forms, and with one alone."""
    pairs = list(zip(masks(rng, 2, 5, 5, heads), masks(rng, 2, 5, 6, heads), strict=True))
    return [(x, memory, *pair) for pair in (*pairs, (pairs[0][0], None), (None, pairs[0][1]))]


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(3)
def test_a_decoder_layer_attends_to_what_its_masks_show(student, check, rng):
    """tgt_mask is for the self-attention, memory_mask for the cross-attention, in every form of a mask."""
    calls = with_two_masks(rng, wide(rng, 2, 5), wide(rng, 2, 6))
    mistakes = TWO_MASK_MISTAKES | {
        BY_ITSELF: lambda x, memory, mask, other: (
            x,
            memory,
            past(5) if mask is None else past(5) & (mask != 0),
            other,
        ),
    }
    check(**compared(student, "DecoderLayer", LAYER, calls, partial(decoder_layer, KNOWN), mistakes))


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(2)
def test_a_target_that_sees_nothing_keeps_what_it_has(student, check, rng):
    """Where a mask hides every key the attention adds zero; outputs and gradients are right, in float64."""
    x, memory = wide(rng, 2, 4), wide(rng, 2, 4)
    tgt_mask, memory_mask = past(4), random_mask(rng, 2, 1, 1, 4)
    memory_mask[1] = tgt_mask[1, :] = False
    calls, mistakes = (
        [(x, memory, tgt_mask, memory_mask)],
        {
            **EMPTY_MISTAKES,
            **MASK_MISTAKES,
            "no gradient reaches memory": {"source": lambda x, memory: memory.detach()},
        },
    )
    check(**compared(student, "DecoderLayer", LAYER, calls, partial(decoder_layer, KNOWN), mistakes, gradients=True))


# ---------------------------------------------------------------------------------------------- Encoder, Decoder


@pytest.mark.question("Encoder")
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "T", "layers"), [(2, 5, 2), (1, 1, 1), (3, MAX_LEN, 2)])
def test_the_encoder_is_embedding_positions_and_layers(student, check, rng, B, T, layers):
    """Embedding times the square root of d_model, plus sinusoidal positions, then the layers; every token is seen."""
    rows, calls = tables(rng, V), [(some_ids(rng, B, T),)]
    mistakes = EMBEDDING_MISTAKES | STYLE_MISTAKES | WITH_GELU | {
        "the encoder is causal": lambda ids: (ids, past(T)),
        "token 0 is hidden though no mask was given": lambda ids: (ids, real(ids, 0)),
    }  # fmt: skip
    truth = partial(encoder, *rows)
    check(**compared(student, "Encoder", made_with(layers), calls, truth, mistakes, rows, layers=layers))


@pytest.mark.question("Encoder")
@pytest.mark.points(2)
def test_every_layer_of_the_encoder_gets_the_mask(student, check, rng):
    """The mask reaches all layers, in every form that a mask may have."""
    rows, calls = tables(rng, V), [(some_ids(rng, 2, 6), mask) for mask in masks(rng, 2, 6, 6)]
    mistakes = MASK_MISTAKES | {
        "the mask is ignored": lambda ids, mask: (ids,),
        "the mask is turned around: true means may attend": lambda ids, mask: (ids, mask == 0),
    }
    check(**compared(student, "Encoder", made_with(2), calls, partial(encoder, *rows), mistakes, rows))


@pytest.mark.question("Decoder")
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "Tt", "Ts", "layers"), [(2, 5, 4, 2), (1, 1, 3, 1), (3, MAX_LEN, 11, 2)])
def test_the_decoder_is_causal_of_its_own_accord(student, check, rng, B, Tt, Ts, layers):
    """Embedding times the square root of d_model, plus positions, then causal layers that see all of memory."""
    rows, calls = tables(rng, V), [(some_ids(rng, B, Tt), wide(rng, B, Ts))]
    mistakes = EMBEDDING_MISTAKES | CAUSAL_MISTAKES | STYLE_MISTAKES | WITH_GELU | {
        "the causal mask hides memory too": lambda ids, memory: (ids, memory, None, torch.ones(Tt, Ts).tril()),
        "token 0 is hidden though no mask was given": lambda ids, memory: (ids, memory, real(ids, 0)),
    }  # fmt: skip
    truth = partial(decoder, *rows)
    check(**compared(student, "Decoder", made_with(layers), calls, truth, mistakes, rows, layers=layers))


@pytest.mark.question("Decoder")
@pytest.mark.points(4)
def test_the_decoder_joins_its_mask_with_the_causal_one(student, check, rng):
    """A position attends to what tgt_mask and the causal mask both show, and to what memory_mask shows of memory."""
    rows, calls = tables(rng, V), with_two_masks(rng, some_ids(rng, 2, 5), wide(rng, 2, 6), heads=1)
    calls.append(
        (some_ids(rng, 4, 4), wide(rng, 4, 6), masks(rng, 4, 4, 4)[1], None)
    )  # (T, T), though (B, T) is as large
    mistakes = TWO_MASK_MISTAKES | {
        "the causal mask is dropped where a tgt_mask is given; both should apply": {"join": lambda causal, mask: mask},
        "there is no causal mask": {"causal": lambda length: past(length) | True},
        BY_OR: {"join": torch.logical_or},
    }
    check(**compared(student, "Decoder", made_with(2), calls, partial(decoder, *rows), mistakes, rows))


# ---------------------------------------------------------------------------------------------- Transformer


def encode(rows, do, src, *, pad):
    return encoder(rows, do, src, do.in_encoder(src, pad))


def decode(rows, do, tgt, memory, src_mask=None, *, pad):
    src_mask = src_mask[:, None, None] if src_mask is not None and src_mask.dim() == 2 else src_mask
    return do.logits(decoder(rows, do, tgt, memory, do.in_target(tgt, pad), src_mask) @ rows.T)


def transformer(rows, do, src, tgt, *, pad):
    memory = encode(rows[0], do, src, pad=pad)
    return decode(rows[1], do, tgt, memory, do.in_memory(src, pad), pad=pad)


PADDED = ("in_encoder", "in_memory", "in_target")


def made_for(pad):
    return OF_SOURCE, *made_with(2), 0.1, pad


@pytest.mark.question("Transformer")
@pytest.mark.points(5)
@pytest.mark.parametrize(("pad", "where"), [(0, -1), (3, -1), (0, 1), (3, None)])
def test_the_transformer_never_attends_to_padding(student, check, rng, pad, where):
    """The logits are those of encoder, decoder and output layer; padding of source and target is hidden everywhere."""
    rows = tables(rng, OF_SOURCE, V)
    src, tgt = some_ids(rng, 3, 7, below=OF_SOURCE, pad=pad), some_ids(rng, 3, 5, pad=pad)
    for ids in (src, tgt) if where else ():
        ids[1, -2:] = ids[2, where] = pad
    mistakes = EMBEDDING_MISTAKES | CAUSAL_MISTAKES | LOGIT_MISTAKES | {
        "the encoder attends to the padding of the source": {"in_encoder": never},
        "the decoder attends to the padding of the source": {"in_memory": never},
        "the padding of the source is attended to": {"in_encoder": never, "in_memory": never},
        "the padding of the target is attended to": {"in_target": never},
        BY_OR: {"join": torch.logical_or},
        "pad_id is ignored: the token 0 is hidden": dict.fromkeys(PADDED, lambda ids, pad: real(ids, 0)),
        "no padding is hidden": dict.fromkeys(PADDED, never),
    }  # fmt: skip
    truth = partial(transformer, rows, pad=pad)
    check(**compared(student, "Transformer", made_for(pad), [(src, tgt)], truth, mistakes, rows))


@pytest.mark.question("Transformer")
@pytest.mark.points(4)
def test_encode_and_decode_are_the_two_halves(student, check, rng):
    """encode gives the memory; decode takes any memory, and a src_mask (B, Ts) or (B, 1, 1, Ts) or none."""
    rows = tables(rng, OF_SOURCE, V)
    src, tgt = some_ids(rng, 4, 6, below=OF_SOURCE, pad=3), some_ids(rng, 4, 4, pad=3)
    src[1, -2:] = tgt[2, -1] = 3
    memory, mask = wide(rng, 4, 5), random_mask(rng, 4, 5)
    mistakes = EMBEDDING_MISTAKES | {"encode attends to the padding of the source": {"in_encoder": never}}
    truth = partial(encode, rows[0], pad=3)
    check(**compared(student, "Transformer.encode", made_for(3), [(src,)], truth, mistakes, rows, at=src != 3))

    calls = [(tgt, memory, *mask) for mask in ((), (None,), (mask,), (mask.long(),), (mask[:, None, None],))]
    calls += [(tgt, memory[:, :1], mask[:, :1]), (tgt[:1, :1], memory[:1], mask[:1])]  # one source token, one sequence
    mistakes = EMBEDDING_MISTAKES | {
        "src_mask is ignored": lambda tgt, memory, mask=None: (tgt, memory),
        "a src_mask (B, Ts) is taken for one of queries and keys": lambda tgt, memory, mask=None: (
            tgt, memory, mask if mask is None or mask.dim() == 4 else mask[None, None]
        ),
        "src_mask is turned around: true means may attend": lambda tgt, memory, mask=None: (tgt, memory, inverted(mask)),
        "decode does not hide the padding of the target": {"in_target": never},
        "decode is not causal": {"join": lambda causal, mask: mask},
    }  # fmt: skip
    check(
        **compared(student, "Transformer.decode", made_for(3), calls, partial(decode, rows[1], pad=3), mistakes, rows)
    )


@pytest.mark.question("Transformer")
@pytest.mark.points(2)
def test_rows_of_nothing_but_padding_harm_nobody(student, check, rng):
    """A source of padding alone and a target that begins with padding give finite logits and gradients."""

    def probe(src, tgt, rows):
        from transformer import Transformer

        model = inside.with_known_weights(Transformer(11, 13, 24, 2, 3, 32, 9), rows)
        logits = inside.a_tensor(model(src, tgt))
        logits[tgt != 0].sum().backward()
        return logits, [bool(weight.grad.isfinite().all()) for weight in model.parameters() if weight.grad is not None]

    rows = tables(rng, OF_SOURCE, V)
    src, tgt = some_ids(rng, 3, 5, below=OF_SOURCE, pad=0), some_ids(rng, 3, 4, pad=0)
    src[1] = tgt[1] = tgt[0, :2] = 0
    logits, finite = student.run(probe, src, tgt, rows)

    check.that(not has_nan(logits), "a query that may attend to nothing gives NaN")
    truth = partial(transformer, rows, pad=0)
    check(**compared(student, "Transformer", made_for(0), [(src, tgt)], truth, {}, rows, at=tgt != 0))
    check.that(all(finite), "the gradients are NaN where a query may attend to nothing")


# ---------------------------------------------------------------------------------------------- GPTModel, BERTModel

POSITION_MISTAKES = {
    "the positions are missing": {"learned": lambda table: 0 * table},
    "positions are counted from 1": {"learned": lambda table: table.roll(-1, 0)},
    "positions begin at 2, as behind a padding index; they should begin at 0": {"learned": lambda table: table.roll(-2, 0)},
    "the positions are sinusoidal; they should be learned": {"learned": lambda table: sinusoids(MAX_LEN)},
}  # fmt: skip


@pytest.mark.question("GPTModel")
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "d_ff"), [(3, MAX_LEN, 2, FF), (2, 5, 2, FF), (1, 1, 1, None)])
def test_gpt_is_a_causal_pre_norm_stack(student, check, rng, B, T, layers, d_ff):
    """Token plus learned position, causal pre-norm layers with GELU, a last norm, logits by the token embedding."""
    rows, calls = tables(rng, V, MAX_LEN, size=8.0), [(some_ids(rng, B, T),)]
    mistakes = {"the feed-forward uses exact GELU; it should use the tanh form": {"act": F.gelu}}
    pre_norm = STYLE_MISTAKES | {
        **{f"the residual connection around the {NAMES[s]} is missing, or all are": only(s, "pre, no residual", "pre") for s in NAMES},
        "the residual connections are missing": {"style": lambda step: "pre, no residual"},
        **{f"the norm of the {NAMES[s]} is missing": only(s, "no norm", "pre") for s in NAMES},
    }  # fmt: skip
    mistakes |= pre_norm | CAUSAL_MISTAKES | DEPTH_MISTAKES | LOGIT_MISTAKES
    mistakes |= {"the norm after the last layer is missing": {"last_norm": lambda x, *_: x}} | POSITION_MISTAKES
    truth, made_of = partial(gpt, rows, w=known_layer(d_ff or 4 * D)), (V, D, layers, H, d_ff, MAX_LEN)
    steps = GPT_STEPS | {"layers": layers}
    check(**compared(student, "GPTModel", made_of, calls, truth, mistakes, rows, within=5e-6, **steps))


@pytest.mark.question("BERTModel")
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "typed"), [(2, 5, 2, False), (1, 1, 1, True), (3, MAX_LEN, 2, True)])
def test_bert_is_three_embeddings_a_norm_and_a_post_norm_stack(student, check, rng, B, T, layers, typed):
    """Token, position and type are added and normed; then post-norm layers with exact GELU, seeing in both directions."""
    rows = tables(rng, V, MAX_LEN, TYPES)
    call = some_ids(rng, B, T), *([torch.randint(0, TYPES, (B, T), generator=rng)] if typed else [])
    mistakes = {"the feed-forward uses the tanh form of GELU; it should use the exact form": {"act": gelu_tanh}}
    mistakes |= STYLE_MISTAKES | DEPTH_MISTAKES | POSITION_MISTAKES | {
        "there is no norm after the embeddings": {"first_norm": lambda x, *_: x},
        "the types are not added": {"types": lambda table: 0 * table},
        "token_type_ids is ignored": lambda ids, types=None: (ids,),
        "the second argument is taken for the attention mask; it should be token_type_ids": lambda ids, types: (ids, None, types),
        "the model is causal": lambda ids, types=None: (ids, types, past(T)[None]),
        "token 0 is hidden though no mask was given": lambda ids, types=None: (ids, types, ids != 0),
    }  # fmt: skip
    made_of, steps = bert_made_with(layers), BERT_STEPS | {"layers": layers}
    check(**compared(student, "BERTModel", made_of, [call], partial(bert, rows), mistakes, rows, within=5e-6, **steps))


@pytest.mark.question("BERTModel")
@pytest.mark.points(3)
def test_bert_never_attends_to_what_its_mask_hides(student, check, rng):
    """attention_mask (B, T) is true or 1 at real tokens; the output there does not depend on the others."""
    rows, ids = tables(rng, V, MAX_LEN, TYPES), some_ids(rng, 3, 7)
    types, mask = torch.randint(0, TYPES, (3, 7), generator=rng), torch.ones(3, 7, dtype=torch.bool)
    mask[1, -3:] = mask[2, 1] = mask[2, -1] = False
    calls = [(ids, types, mask) for mask in (mask.long(), mask, mask.float())]
    mistakes = MASK_MISTAKES | {
        "attention_mask is ignored": lambda ids, types, mask: (ids, types),
        "attention_mask is turned around: true means may attend": lambda ids, types, mask: (ids, types, mask == 0),
        "the second argument is taken for the attention mask; it should be token_type_ids": lambda ids, types, mask: (
            ids, mask.long(), types
        ),
    }  # fmt: skip
    truth = partial(bert, rows)
    check(**compared(student, "BERTModel", bert_made_with(2), calls, truth, mistakes, rows, at=mask, **BERT_STEPS))
