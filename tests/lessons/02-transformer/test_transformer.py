"""Hidden tests of transformer.

Layers may call their weights what they like, so inside.filled gives each one a value that follows from its shape alone.
With these weights, `KNOWN` here, the models below are the truth, in float64; GPT and BERT are compared once more with
the random weights of a model of `transformers`. Keyword arguments turn the models into the mistakes that are known.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from transformer_helpers import (
    CAUSAL_MISTAKES,
    DECODER,
    DEPTH_MISTAKES,
    ENCODER,
    FF,
    KNOWN,
    LAYER,
    LOGIT_MISTAKES,
    MASK_MISTAKES,
    MAX_LEN,
    D,
    H,
    V,
    agree,
    comparison,
    decode,
    decoder,
    encoder,
    everything,
    given,
    layer,
    linear,
    made_with,
    masks,
    norm,
    past,
    randn,
    random_mask,
    real,
    style_mistakes,
    tables,
    tokens,
    transformer,
    waves,
    wide,
)

# ---------------------------------------------------------------------------------------------- the truth


def encoder_layer(x, mask=None, *, steps=ENCODER, **wrong):
    return layer(KNOWN, x, None, mask, None, steps=steps, **wrong)


def decoder_layer(x, memory, tgt_mask=None, memory_mask=None, *, steps=DECODER, detached=False, **wrong):
    return layer(KNOWN, x, memory.detach() if detached else memory, tgt_mask, memory_mask, steps=steps, **wrong)


# ---------------------------------------------------------------------------------------------- comparing, and the mistakes


@pytest.fixture
def compare(student, check):
    return comparison(student, check)


WITH_GELU = {"the feed-forward uses GELU: here it is ReLU": {"act": F.gelu}}
EMPTY_MISTAKES = {
    "a query that may attend to nothing gets NaN": {"empty": math.nan},
    "a query that may attend to nothing attends to every key alike": {"empty": 0.25},
}
BY_OR = "the causal mask and the other one are joined by or, which shows what either of them shows; it should be and"
EMBEDDING_MISTAKES = DEPTH_MISTAKES | {sentence: {"embedding": wrong} for sentence, wrong in {
    "the embedding is not multiplied by the square root of d_model": {"scale": 1.0},
    "the embedding is multiplied by d_model, not by its square root": {"scale": D},
    "the embedding is divided by the square root of d_model": {"scale": D**-0.5},
    "the square root of d_model multiplies the positions too": {"scale": 1.0, "late_scale": math.sqrt(D)},
    "the positional encoding is missing": {"position": lambda length: 0.0},
    "positions are counted from 1": {"position": lambda length: waves(length + 1)[1:]},
    "the embeddings are normed before the layers": {"first": norm},
}.items()}  # fmt: skip


# ---------------------------------------------------------------------------------------------- PositionwiseFeedForward


def feed_forward(x, w1, b1, w2, b2, act=torch.relu):
    return linear(act(linear(x.double(), (w1, b1))), (w2, b2))


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
        return shapes, model(x), inside.gradients([model(leaf)], [x], [leaf])[0]

    x = randn(rng, B, T, d_model, dtype=dtype)
    w1, b1, w2, b2 = w = [randn(rng, *s, dtype=dtype) for s in ((d_ff, d_model), (d_ff,), (d_model, d_ff), (d_model,))]
    shapes, result, gradient = student.run(probe, x, w)

    leaf = x.double().requires_grad_()
    expected = feed_forward(leaf, *w)
    right = [list(weight.shape) for weight in w]
    check(shapes, right, mistakes={"w_1 and w_2 are swapped: w_1 leads from d_model to d_ff": right[2:] + right[:2]})
    check(result, expected.detach(), dtype=dtype, mistakes={
        "there is no ReLU between w_1 and w_2": lambda: feed_forward(x, *w, act=lambda h: h),
        "GELU is used, not ReLU": lambda: feed_forward(x, *w, act=F.gelu),
        "there is a ReLU after w_2 too": lambda: feed_forward(x, *w).relu(),
        "the ReLU comes before w_1": lambda: feed_forward(x.relu(), *w, act=lambda h: h),
        "the input is added: the residual connection is the layer's part": lambda: x + feed_forward(x, *w),
        "the result is normed: the norm is the layer's part": lambda: norm(feed_forward(x, *w)),
        "the bias of w_1 is not added": lambda: feed_forward(x, w1, 0 * b1, w2, b2),
        "the bias of w_2 is not added": lambda: feed_forward(x, w1, b1, w2, 0 * b2),
    })  # fmt: skip
    truth = torch.autograd.grad(expected, leaf, x.double())[0]
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
        return model(x)

    x = randn(rng, 200, 1, 64)
    w2 = torch.linalg.qr(randn(rng, 64, 48))[0]  # w2ᵀ takes the output back to the hidden numbers
    w1 = 0.1 * randn(rng, 48, 64)
    output = student.run(probe, x, w1, w2, *([] if dropout is None else [dropout]))

    p = 0.1 if dropout is None else dropout
    assert getattr(output, "shape", None) == x.shape, "the result has another shape than x"
    hidden = F.linear(x.double(), w1.double()) + 9.0  # (200, 1, 48)
    found = output @ w2
    kept = found.abs() > 0.1
    share_kept = (found[kept] / hidden[kept]).mean()
    other_share = "another share is dropped than the argument dropout (0.1 by default) says"
    check(found, hidden * kept / (1 - p), dtype=torch.float32, mistakes={
        "dropout acts on the output of w_2: it comes directly after the ReLU": lambda: given((output == 0).any(), found),
        "there is no dropout in train mode": hidden,
        "what is not dropped is not scaled up by 1 / (1 - dropout)": hidden * kept,
        other_share: lambda: hidden * kept * share_kept,
    })  # fmt: skip
    # Of 9600 draws: the share strays by 0.03 with a probability below 1e-8.
    check(abs(float(kept.double().mean()) - (1 - p)) < 0.03, True, mistakes={other_share: False})


# ---------------------------------------------------------------------------------------------- EncoderLayer, DecoderLayer


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(4)
def test_an_encoder_layer_is_attention_and_feed_forward_in_post_norm(compare, rng):
    """Both sub-layers have a residual connection with a norm after it; every position sees every other."""
    calls = [(wide(rng, *shape),) for shape in ((2, 5), (1, 1), (3, 6))]
    compare("EncoderLayer", LAYER, calls, encoder_layer, style_mistakes(ENCODER) | WITH_GELU | {
        "the layer is causal of its own accord": lambda x: (x, past(x.shape[1])),
    })  # fmt: skip


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(3)
def test_an_encoder_layer_attends_to_what_its_mask_shows(compare, rng):
    """The mask broadcasts to (B, H, T, T), is boolean or holds 0 and 1, and true means: may attend."""
    calls = [(wide(rng, B, T), mask) for B, T in ((2, 5), (4, 4)) for mask in masks(rng, B, T, T)]
    compare("EncoderLayer", LAYER, calls, encoder_layer, MASK_MISTAKES | {
        "the mask is ignored": lambda x, mask: (x,),
        "a mask (T, T) is taken for one of padding where T equals B": lambda x, mask: (
            x, mask[:, None, None] if mask.shape == x.shape[:2] else mask
        ),
        "the mask is turned around: true means may attend": lambda x, mask: (x, mask == 0),
        "the mask is transposed: its rows are queries": lambda x, mask: (x, mask.mT),
    })  # fmt: skip


@pytest.mark.question("EncoderLayer")
@pytest.mark.points(2)
def test_a_position_that_sees_nothing_keeps_what_it_has(compare, rng):
    """Where the mask hides every key the attention adds zero; outputs and gradients are right, in float64."""
    x, mask = wide(rng, 2, 4), random_mask(rng, 2, 1, 4, 4)
    mask[0, 0, 2] = mask[1, 0, 0] = False
    compare("EncoderLayer", LAYER, [(x, mask)], encoder_layer, EMPTY_MISTAKES | MASK_MISTAKES, gradients=True)


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(4)
def test_a_decoder_layer_has_three_sub_layers_in_post_norm(compare, rng):
    """Self-attention, cross-attention to memory, feed-forward; without masks everything is seen."""
    calls = [(wide(rng, B, Tt), wide(rng, B, Ts)) for B, Tt, Ts in ((2, 4, 6), (1, 1, 3), (3, 5, 1))]
    compare("DecoderLayer", LAYER, calls, decoder_layer, style_mistakes(DECODER) | WITH_GELU | {
        "the layer is causal of its own accord: it does what its masks say": lambda x, memory: (x, memory, past(x.shape[1])),
        "the cross-attention comes before the self-attention": {"steps": ("cross", "self", "ffn")},
        "the feed-forward comes before the cross-attention": {"steps": ("self", "ffn", "cross")},
        "the cross-attention attends to x, not to memory": {"source": lambda y, memory: y},
        "there is a norm on the memory": {"source": lambda y, memory: norm(memory)},
    })  # fmt: skip


def with_two_masks(rng, x, memory):
    """Calls with both masks, in all their forms, and with one alone."""
    pairs = list(zip(masks(rng, 2, 5, 5), masks(rng, 2, 5, 6), strict=True))
    return [(x, memory, *pair) for pair in (*pairs, (pairs[0][0], None), (None, pairs[0][1]))]


def inverted(mask):
    return None if mask is None else mask == 0


TWO_MASK_MISTAKES = MASK_MISTAKES | {
    "tgt_mask is ignored": lambda x, memory, mask, other: (x, memory, None, other),
    "memory_mask is ignored": lambda x, memory, mask, other: (x, memory, mask, None),
    "the masks are ignored": lambda x, memory, mask, other: (x, memory, None, None),
    "tgt_mask is turned around: true means may attend": lambda x, memory, mask, other: (
        x,
        memory,
        inverted(mask),
        other,
    ),
    "memory_mask is turned around: true means may attend": lambda x, memory, mask, other: (
        x,
        memory,
        mask,
        inverted(other),
    ),
}


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(3)
def test_a_decoder_layer_attends_to_what_its_masks_show(compare, rng):
    """tgt_mask is for the self-attention, memory_mask for the cross-attention, in every form of a mask."""
    calls = with_two_masks(rng, wide(rng, 2, 5), wide(rng, 2, 6))
    compare("DecoderLayer", LAYER, calls, decoder_layer, TWO_MASK_MISTAKES | {
        "the layer is causal of its own accord: it does what its masks say": lambda x, memory, mask, other: (
            x, memory, past(5) if mask is None else past(5) & (mask != 0), other
        ),
    })  # fmt: skip


@pytest.mark.question("DecoderLayer")
@pytest.mark.points(2)
def test_a_target_that_sees_nothing_keeps_what_it_has(compare, rng):
    """Where a mask hides every key the attention adds zero; outputs and gradients are right, in float64."""
    x, memory = wide(rng, 2, 4), wide(rng, 2, 4)
    tgt_mask, memory_mask = past(4), random_mask(rng, 2, 1, 1, 4)
    memory_mask[1] = tgt_mask[1, :] = False
    compare("DecoderLayer", LAYER, [(x, memory, tgt_mask, memory_mask)], decoder_layer, EMPTY_MISTAKES | MASK_MISTAKES | {
        "no gradient reaches memory": {"detached": True},
    }, gradients=True)  # fmt: skip


# ---------------------------------------------------------------------------------------------- Encoder, Decoder


@pytest.mark.question("Encoder")
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "T", "layers"), [(2, 5, 2), (1, 1, 1), (3, MAX_LEN, 2)])
def test_the_encoder_is_embedding_positions_and_layers(compare, rng, B, T, layers):
    """Embedding times the square root of d_model, plus sinusoidal positions, then the layers; every token is seen."""
    rows, calls = tables(rng, V), [(tokens(rng, B, T),)]
    truth, mistakes = (
        partial(encoder, rows=rows[0], layers=layers),
        EMBEDDING_MISTAKES | style_mistakes(ENCODER) | WITH_GELU,
    )
    compare("Encoder", made_with(layers), calls, truth, mistakes | {
        "the encoder is causal": lambda ids: (ids, past(T)),
        "token 0 is hidden though no mask was given": lambda ids: (ids, real(ids, 0)),
    }, rows)  # fmt: skip


@pytest.mark.question("Encoder")
@pytest.mark.points(2)
def test_every_layer_of_the_encoder_gets_the_mask(compare, rng):
    """The mask reaches all layers, in every form that a mask may have."""
    rows, calls = tables(rng, V), [(tokens(rng, 2, 6), mask) for mask in masks(rng, 2, 6, 6)]
    compare("Encoder", made_with(2), calls, partial(encoder, rows=rows[0]), MASK_MISTAKES | {
        "the mask is ignored": lambda ids, mask: (ids,),
        "the mask is turned around: true means may attend": lambda ids, mask: (ids, mask == 0),
    }, rows)  # fmt: skip


@pytest.mark.question("Decoder")
@pytest.mark.points(4)
@pytest.mark.parametrize(("B", "Tt", "Ts", "layers"), [(2, 5, 4, 2), (1, 1, 3, 1), (3, MAX_LEN, 11, 2)])
def test_the_decoder_is_causal_of_its_own_accord(compare, rng, B, Tt, Ts, layers):
    """Embedding times the square root of d_model, plus positions, then causal layers that see all of memory."""
    rows, calls = tables(rng, V), [(tokens(rng, B, Tt), wide(rng, B, Ts))]
    mistakes = EMBEDDING_MISTAKES | CAUSAL_MISTAKES | style_mistakes(DECODER) | WITH_GELU
    compare("Decoder", made_with(layers), calls, partial(decoder, rows=rows[0], layers=layers), mistakes | {
        "the causal mask hides memory too": lambda ids, memory: (ids, memory, None, torch.ones(Tt, Ts).tril()),
        "token 0 is hidden though no mask was given": lambda ids, memory: (ids, memory, real(ids, 0)),
    }, rows)  # fmt: skip


@pytest.mark.question("Decoder")
@pytest.mark.points(4)
def test_the_decoder_joins_its_mask_with_the_causal_one(compare, rng):
    """A position attends to what tgt_mask and the causal mask both show, and to what memory_mask shows of memory."""
    rows, calls = tables(rng, V), with_two_masks(rng, tokens(rng, 2, 5), wide(rng, 2, 6))
    calls.append(
        (tokens(rng, 4, 4), wide(rng, 4, 6), masks(rng, 4, 4, 4)[1], None)
    )  # (T, T), though (B, T) looks the same
    compare("Decoder", made_with(2), calls, partial(decoder, rows=rows[0]), TWO_MASK_MISTAKES | {
        "the causal mask is dropped where a tgt_mask is given: both apply": {"joined": everything},
        "there is no causal mask": {"causal": everything},
        BY_OR: {"join": torch.logical_or},
    }, rows)  # fmt: skip


# ---------------------------------------------------------------------------------------------- Transformer


def never(ids, pad):
    return None


def made_for(pad):
    return 11, V, D, 2, H, FF, MAX_LEN, 0.1, pad


@pytest.mark.question("Transformer")
@pytest.mark.points(5)
@pytest.mark.parametrize(("pad", "where"), [(0, -1), (3, -1), (0, 1), (3, None)])
def test_the_transformer_never_attends_to_padding(compare, rng, pad, where):
    """The logits are those of encoder, decoder and output layer; padding of source and target is hidden everywhere."""
    src, tgt, rows = tokens(rng, 3, 7, below=11, pad=pad), tokens(rng, 3, 5, pad=pad), tables(rng, 11, V)
    for ids in (src, tgt) if where else ():
        ids[1, -2:] = ids[2, where] = pad
    truth, mistakes = partial(transformer, rows=rows, pad=pad), EMBEDDING_MISTAKES | CAUSAL_MISTAKES | LOGIT_MISTAKES
    compare("Transformer", made_for(pad), [(src, tgt)], truth, mistakes | {
        "the encoder attends to the padding of the source": {"in_encoder": never},
        "the decoder attends to the padding of the source": {"in_memory": never},
        "the padding of the source is attended to": {"in_encoder": never, "in_memory": never},
        "the padding of the target is attended to": {"in_target": never},
        BY_OR: {"join": torch.logical_or},
        "pad_id is ignored: the token 0 is hidden": {"pad": 0},
        "no padding is hidden": {"in_encoder": never, "in_memory": never, "in_target": never},
    }, rows)  # fmt: skip


@pytest.mark.question("Transformer")
@pytest.mark.points(4)
def test_encode_and_decode_are_the_two_halves(compare, rng):
    """encode gives the memory; decode takes any memory, and a src_mask (B, Ts) or (B, 1, 1, Ts) or none."""
    src, tgt, rows = tokens(rng, 4, 6, below=11, pad=3), tokens(rng, 4, 4, pad=3), tables(rng, 11, V)
    src[1, -2:] = tgt[2, -1] = 3
    memory, mask = wide(rng, 4, 5), random_mask(rng, 4, 5)

    def encode(src, hide=real, **wrong):
        return encoder(src, hide(src, 3), rows=rows[0], **wrong)

    compare("Transformer.encode", made_for(3), [(src,)], encode, EMBEDDING_MISTAKES | {
        "encode attends to the padding of the source": {"hide": never},
    }, rows, at=src != 3)  # fmt: skip
    calls = [(tgt, memory, *mask) for mask in ((), (None,), (mask,), (mask.long(),), (mask[:, None, None],))]
    calls += [(tgt, memory[:, :1], mask[:, :1]), (tgt[:1, :1], memory[:1], mask[:1])]  # one source token, one sequence
    compare("Transformer.decode", made_for(3), calls, partial(decode, rows=rows[1], pad=3), EMBEDDING_MISTAKES | {
        "src_mask is ignored": lambda tgt, memory, mask=None: (tgt, memory),
        "a src_mask (B, Ts) is taken for one of queries and keys": lambda tgt, memory, mask=None: (
            tgt, memory, mask if mask is None or mask.dim() == 4 else mask[None, None]
        ),
        "src_mask is turned around: true means may attend": lambda tgt, memory, mask=None: (tgt, memory, inverted(mask)),
        "decode does not hide the padding of the target": {"hide": never},
        "decode is not causal": {"joined": everything},
    }, rows)  # fmt: skip


@pytest.mark.question("Transformer")
@pytest.mark.points(2)
def test_rows_of_nothing_but_padding_harm_nobody(student, check, rng):
    """A source of padding alone and a target that begins with padding give finite logits and gradients."""

    def probe(src, tgt, rows):
        from transformer import Transformer

        model = inside.filled(Transformer(11, 13, 24, 2, 3, 32, 9), rows)
        logits = inside.a_tensor(model(src, tgt))
        logits[tgt != 0].sum().backward()
        return logits, [bool(weight.grad.isfinite().all()) for weight in model.parameters() if weight.grad is not None]

    src, tgt, rows = tokens(rng, 3, 5, below=11, pad=0), tokens(rng, 3, 4, pad=0), tables(rng, 11, V)
    src[1] = tgt[1] = tgt[0, :2] = 0
    logits, finite = student.run(probe, src, tgt, rows)

    assert getattr(logits, "shape", None) == (3, 4, V), "the logits do not have the shape (B, Tt, V)"
    check(bool(logits.isnan().any()), False, mistakes={"a query that may attend to nothing gives NaN": True})
    agree(check, logits[tgt != 0], transformer(src, tgt, rows=rows, pad=0)[tgt != 0])
    check(all(finite), True, mistakes={"the gradients are NaN where a query may attend to nothing": False})
