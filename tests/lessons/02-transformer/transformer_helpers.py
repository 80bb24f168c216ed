"""What the hidden tests of transformer share: the layers as the papers write them, and how values are compared with them."""

import math
from functools import partial

import torch
import torch.nn.functional as F

D, H, FF, V, MAX_LEN = 24, 3, 32, 13, 9  # inside.filled needs heads that are 8 wide


def randn(rng, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=rng, dtype=dtype)


def wide(rng, *shape):
    """Inputs as large as what the norms give with the gain that they get."""
    return 8 * randn(rng, *shape, D, dtype=torch.float64)


def tokens(rng, *shape, below=V, pad=None):
    """Random ids, none of which is pad; the first is 0, which is a token like any other where it is not the pad."""
    ids = torch.randint(0, below - 1, shape, generator=rng)
    if pad is not None:
        ids += ids >= pad
    if pad != 0:
        ids[0, 0] = 0
    return ids


def tables(rng, *rows, size=1.0):
    return [randn(rng, count, D, dtype=torch.float64) * size for count in rows]


def random_mask(rng, *shape):
    """In it every query sees the first key, and does not see the second; what comes first and second differs in the last."""
    mask = torch.rand(shape, generator=rng) < 0.5
    mask[..., 0], mask[..., 1] = True, False
    mask[::2, ..., -1], mask[1::2, ..., -1] = True, False
    return mask


def masks(rng, B, Tq, Tk):
    """One for the keys of each sequence, one for pairs of query and key, one for each head, in different dtypes."""
    shapes = {torch.bool: (B, 1, 1, Tk), torch.int64: (Tq, Tk), torch.float32: (B, H, Tq, Tk)}
    return [random_mask(rng, *shape).to(dtype) for dtype, shape in shapes.items()]


def real(ids, pad):
    return (ids != pad)[:, None, None]  # (B, 1, 1, T)


def past(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def everything(length):
    return torch.ones(length, length, dtype=torch.bool)


# ---------------------------------------------------------------------------------------------- the truth

GAIN = torch.full((D,), 8.0, dtype=torch.float64), torch.zeros(D)


def known_layer(d_ff=FF, scale=1.0, norm=GAIN):
    """The weights of a layer as inside.filled leaves them."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(12)

    def matrix(rows, columns):
        return (0.03 if FF in (rows, columns) else 0.02) * scale * signs[:rows, None] * signs[:columns], None

    attention = {**{name: matrix(D, D) for name in "qkvo"}, "norm": norm}
    return {"self": attention, "cross": attention, "ffn": {"1": matrix(d_ff, D), "2": matrix(D, d_ff), "norm": norm}}


def linear(x, pair):
    weight, bias = pair
    return F.linear(x, weight.double(), None if bias is None else bias.double())


def norm(x, pair=GAIN, eps=1e-5):
    gain, bias = pair
    return F.layer_norm(x, x.shape[-1:], gain.double(), bias.double(), eps)


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, Dh)


def split_by_view(x, heads):
    return x.reshape(x.shape[0], heads, x.shape[1], -1)


def attend(w, x, memory, mask, *, heads=H, divide=None, over=-1, score=-math.inf, late=False, empty=0.0, split=split):
    q, k, v = (split(linear(source, w[name]), heads) for source, name in ((x, "q"), (memory, "k"), (memory, "v")))
    scores = q @ k.mT / (divide or math.sqrt(q.shape[-1]))  # (B, H, Tq, Tk)
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
    if late:
        weights = scores.softmax(over).masked_fill(hidden, 0.0)
    else:
        nothing = hidden.all(dim=-1, keepdim=True)
        weights = scores.masked_fill(hidden & ~nothing, score).softmax(over).masked_fill(nothing, empty)
    return linear((weights @ v).transpose(1, 2).flatten(2), w["o"])


STYLES = {
    "post": lambda x, f, norm: norm(x + f(x)),
    "pre": lambda x, f, norm: x + f(norm(x)),
    "pre and post": lambda x, f, norm: norm(x + f(norm(x))),
    "branch": lambda x, f, norm: x + norm(f(x)),
    "post, no residual": lambda x, f, norm: norm(f(x)),
    "pre, no residual": lambda x, f, norm: f(norm(x)),
    "no norm": lambda x, f, norm: x + f(x),
}


def own_norm(x, pair, eps, bottom=lambda x: x.std(-1, keepdim=True)):
    """A layer norm as one may write it, which divides by the deviation of D - 1 numbers, or by something else."""
    return pair[0].double() * (x - x.mean(-1, keepdim=True)) / (bottom(x) + eps) + pair[1].double()


def layer(
    w, x, memory, mask, memory_mask, *, steps, style="post", act=torch.relu, eps=1e-5, source=None, norm=norm, **wrong
):  # fmt: skip
    """Sub-layers in `steps`, each joined to x in a style: one for all, or {step: style, "other": style}."""
    sub_layers = {
        "self": lambda y: attend(w["self"], y, y, mask, **wrong),
        "cross": lambda y: attend(w["cross"], y, source(y, memory) if source else memory, memory_mask, **wrong),
        "ffn": lambda y: linear(act(linear(y, w["ffn"]["1"])), w["ffn"]["2"]),
    }
    for step in steps:
        joined = STYLES[style if isinstance(style, str) else style.get(step, style["other"])]
        x = joined(x, sub_layers[step], lambda y, step=step: norm(y, w[step]["norm"], eps))
    return x


KNOWN = known_layer()
ENCODER, DECODER = ("self", "ffn"), ("self", "cross", "ffn")


def stack(x, memory=None, mask=None, memory_mask=None, *, layers=2, w=KNOWN, masked=None, **options):
    """Layers with the weights w (a list where they differ); `masked` are those that get the mask, all by default."""
    for n, weights in enumerate(w if isinstance(w, list) else [w] * layers):
        x = layer(weights, x, memory, mask if masked is None or n in masked else None, memory_mask, **options)
    return x


def waves(length):
    column = torch.arange(D, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** ((column - column % 2) / D)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def embed(ids, rows, scale=D**0.5, position=waves, late_scale=1.0, first=lambda x: x):
    return first((rows[ids] * scale + position(ids.shape[1])) * late_scale)


def encoder(ids, mask=None, *, rows, embedding=(), steps=ENCODER, **wrong):
    return stack(embed(ids, rows, **dict(embedding)), None, mask, steps=steps, **wrong)


def decoder(
    ids,
    memory,
    tgt_mask=None,
    memory_mask=None,
    *,
    rows,
    embedding=(),
    steps=DECODER,
    causal=past,
    joined=None,
    join=torch.logical_and,
    **wrong,
):
    """`joined` is what the causal mask is where a tgt_mask is given."""
    visible = causal(ids.shape[1]) if tgt_mask is None else join((joined or causal)(ids.shape[1]), tgt_mask != 0)
    return stack(embed(ids, rows, **dict(embedding)), memory, visible, memory_mask, steps=steps, **wrong)


def decode(tgt, memory, src_mask=None, *, rows, pad, hide=real, **wrong):
    src_mask = src_mask[:, None, None] if src_mask is not None and src_mask.dim() == 2 else src_mask
    return decoder(tgt, memory, hide(tgt, pad), src_mask, rows=rows, **wrong) @ rows.T


def transformer(src, tgt, *, rows, pad, in_encoder=real, in_memory=real, in_target=real, logits=lambda x: x, **wrong):
    for_both = {key: wrong[key] for key in ("embedding", "layers") if key in wrong}
    memory = encoder(src, in_encoder(src, pad), rows=rows[0], **for_both)
    return logits(decode(tgt, memory, in_memory(src, pad), rows=rows[1], pad=pad, hide=in_target, **wrong))


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def gpt(ids, *, rows, final=GAIN, last=norm, eps=1e-5, causal=past, logits=lambda x: x, output=None, **options):
    """`output` are the rows that give the logits, where they are not the tokens'."""
    token, position = rows
    options = {"steps": ENCODER, "style": "pre", "act": gelu_tanh, **options}
    x = stack(token[ids] + position[: ids.shape[1]], None, causal(ids.shape[1]), eps=eps, **options)
    return logits(last(x, final, eps) @ (token if output is None else output).T)


def bert(ids, types=None, mask=None, *, rows, first=GAIN, first_norm=norm, eps=1e-12, **options):
    token, position, kinds = rows
    x = token[ids] + position[: ids.shape[1]] + kinds[torch.zeros_like(ids) if types is None else types]
    options = {"steps": ENCODER, "style": "post", "act": F.gelu, **options}
    mask = mask[:, None, None] if mask is not None and mask.shape == ids.shape else mask
    return stack(first_norm(x, first, eps), None, mask, eps=eps, **options)


# ---------------------------------------------------------------------------------------------- comparing, and the mistakes


def agree(check, value, expected, mistakes=None, within=2e-5):
    """check in float64, but only to `within` of the size: an eps of 1e-6 in a norm, as good as 1e-5, changes no more."""
    check(value, expected, terms=within / (8 * torch.finfo(torch.float64).eps), mistakes=mistakes)


def comparison(student, check):
    """Compares a model of the student, with known weights, with the truth."""

    def compare(name, args, calls, truth, options, rows=(), *, at=None, gradients=False, within=2e-5):
        """calls: the inputs of each call. options: a mistake's sentence -> keyword arguments of truth, or a function that
        changes the inputs of a call. at: compares at these places only."""

        def probe(*args):
            return inside.results(*args)

        def of(call, wrong):
            inputs, wrong = (wrong(*call), {}) if callable(wrong) else (call, wrong)
            if not gradients:
                return truth(*inputs, **wrong) if at is None else truth(*inputs, **wrong)[at]
            inputs = [item.detach().requires_grad_() if item.is_floating_point() else item for item in inputs]
            output, leaves = truth(*inputs, **wrong), [item for item in inputs if item.requires_grad]
            total = (torch.arange(output.numel(), dtype=torch.float64).sin() * output.flatten()).sum()
            return [output.detach(), *torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)]

        results, expected = (
            student.run(probe, name, args, list(rows), calls, gradients),
            [of(call, {}) for call in calls],
        )
        if at is not None:
            right = all(isinstance(result, torch.Tensor) and result.shape[: at.dim()] == at.shape for result in results)
            assert right, f"{name} does not return a tensor that begins with the shape (B, T)"
            results = [result[at] for result in results]
        mistakes = {text: (lambda wrong=wrong: [of(call, wrong) for call in calls]) for text, wrong in options.items()}
        agree(check, results, expected, mistakes, within)

    return compare


STEPS = {"self": "self-attention", "cross": "cross-attention", "ffn": "feed-forward"}


def style_mistakes(steps, style="post"):
    """How sub-layers, residual connections and norms can go wrong in a layer that should have this style."""
    bare = f"{style}, no residual"
    return {
        "the norm comes before each sub-layer (pre-norm): here it follows the residual connection": {"style": "pre"},
        "the norm follows the residual connection (post-norm): here it comes before each sub-layer": {"style": "post"},
        "there is a norm before each sub-layer, and one after it": {"style": "pre and post"},
        "the norm is applied to the sub-layer's output, before the residual is added": {"style": "branch"},
        # The known weights let all vectors point one way: where one residual connection is missing, others may not show.
        **{f"the residual connection around the {STEPS[s]} is missing, or all are": {"style": {s: bare, "other": style}} for s in steps},
        "the residual connections are missing": {"style": bare},
        "the norms inside the layer are missing": {"style": "no norm"},
        **{f"the norm of the {STEPS[s]} is missing": {"style": {s: "no norm", "other": style}} for s in steps},
        **{f"the {STEPS[s]} is left out": {"steps": [other for other in steps if other != s]} for s in steps},
        "a norm divides by the deviation of D - 1 numbers; it should divide by that of all D": {"norm": own_norm},
        "a norm divides by the variance; it should divide by its root": {
            "norm": partial(own_norm, bottom=lambda x: x.var(-1, keepdim=True, unbiased=False))
        },
        "the sub-layers come in the wrong order": {"steps": steps[::-1]},
        "the feed-forward uses ReLU: here it is GELU": {"act": torch.relu},
        "the feed-forward has nothing between its two linear maps": {"act": lambda x: x},
        "the scores are not divided by the square root of a head's width": {"divide": 1.0},
        "the scores are divided by the square root of d_model, not of a head's width": {"divide": math.sqrt(D)},
        "the scores are divided by a head's width, not by its square root": {"divide": D / H},
        "the attention has one head only": {"heads": 1},
        "the softmax runs over the queries, not over the keys": {"over": -2},
        "the softmax runs over the heads, not over the keys": {"over": 1},
        "the heads are split by a view alone, which mixes positions: it takes a transpose too": {"split": split_by_view},
    }  # fmt: skip


MASK_MISTAKES = {
    "the mask is applied after the softmax": {"late": True},
    "the scores that the mask hides are zero, where they should be minus infinity": {"score": 0.0},
    "the mask reaches the first layer only": {"masked": [0]},
    "the mask reaches the last layer only": {"masked": [1]},
}
CAUSAL_MISTAKES = {
    "a position sees the future: there is no causal mask": {"causal": everything},
    "a position does not see itself": {"causal": lambda length: past(length).tril(-1)},
    "the causal mask is transposed: a position sees the future, not the past": {
        "causal": lambda length: past(length).T
    },
    "only the first layer is causal": {"masked": [0]},
}
DEPTH_MISTAKES = {"one layer runs, whatever num_layers says": {"layers": 1}, "no layer runs": {"layers": 0}}
LOGIT_MISTAKES = {
    "the result is a probability: logits are asked for": {"logits": lambda x: x.softmax(-1)},
    "the result is a log-probability: logits are asked for": {"logits": lambda x: x.log_softmax(-1)},
}


# ---------------------------------------------------------------------------------------------- PositionwiseFeedForward


def given(condition, value):
    """A mistake that shows in `condition`."""
    if not condition:
        raise ValueError("it was not this mistake")
    return value


# ---------------------------------------------------------------------------------------------- EncoderLayer, DecoderLayer

LAYER = (D, H, FF)


# ---------------------------------------------------------------------------------------------- Encoder, Decoder


def made_with(layers):
    return V, D, layers, H, FF, MAX_LEN
