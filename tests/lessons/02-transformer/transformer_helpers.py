"""What the hidden tests of transformer share: the models of the papers, step by step, and how a student's are compared."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F

import shared
from shared import join_heads, linear, nearly, past, randn, split_heads, weigh

D, H, FF, V, MAX_LEN, OF_SOURCE = 24, 3, 32, 13, 9, 11  # inside.with_known_weights needs heads that are 8 wide
TYPES = 7  # token types of BERT: no 2 layers have so many norms that one tensor of all gains looks like a table
LAYER = (D, H, FF)


def made_with(layers, vocab_size=V):
    return vocab_size, D, layers, H, FF, MAX_LEN


def bert_made_with(layers):
    return *made_with(layers), 0.1, TYPES


# ---------------------------------------------------------------------------------------------- inputs


def wide(rng, *shape):
    """Inputs as large as what the norms give with the gain that they get."""
    return 8 * randn(rng, *shape, D, dtype=torch.float64)


def some_ids(rng, *shape, below=V, pad=None):
    """Random ids, none of which is pad; the first is 0, which is a token like any other where it is not the pad."""
    ids = torch.randint(0, below - 1, shape, generator=rng)
    if pad is not None:
        ids += ids >= pad
    if pad != 0:
        ids[0, 0] = 0
    return ids


def tables(rng, *rows, size=1.0):
    return [randn(rng, count, D, dtype=torch.float64) * size for count in rows]


def masks(rng, B, Tq, Tk, heads=H):
    """One for the keys of each sequence, one for pairs of query and key, one for each head, in different dtypes."""
    shapes = {torch.bool: (B, 1, 1, Tk), torch.int64: (Tq, Tk), torch.float32: (B, heads, Tq, Tk)}
    return [shared.random_mask(rng, *shape).to(dtype) for dtype, shape in shapes.items()]


def real(ids, pad):
    return (ids != pad)[:, None, None]  # (B, 1, 1, T)


# ---------------------------------------------------------------------------------------------- the weights and the steps

GAIN = torch.full((D,), 8.0, dtype=torch.float64), torch.zeros(D)


def known_layer(d_ff=FF, scale=1.0, norm=GAIN):
    """The weights of a layer as inside.with_known_weights leaves them."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(12)

    def matrix(rows, columns):
        return (0.03 if FF in (rows, columns) else 0.02) * scale * signs[:rows, None] * signs[:columns], None

    attention = {**{name: matrix(D, D) for name in "qkvo"}, "norm": norm}
    return {"self": attention, "cross": attention, "ffn": {"1": matrix(d_ff, D), "2": matrix(D, d_ff), "norm": norm}}


KNOWN = known_layer()


def norm(x, pair=GAIN, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], pair[0].double(), pair[1].double(), eps)


def sinusoids(length):
    column = torch.arange(D, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** ((column - column % 2) / D)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


@dataclass(frozen=True)
class ModelSteps:
    """The steps of a model, beginning with those of the parts that others are made of. All are right, and a mistake replaces one."""

    act: Callable = torch.relu  # of a feed-forward
    heads: int = H
    split: Callable = split_heads
    scale: Callable = math.sqrt  # of a head's width
    weigh: Callable = weigh
    source: Callable = lambda x, memory: memory  # what the cross-attention attends to
    order: Callable = lambda steps: steps
    style: Callable = lambda step: "post"  # one of STYLES
    norm: Callable = norm
    eps: float = 1e-5  # the last of a layer
    size: float = math.sqrt(D)  # by which the embedding is multiplied
    position: Callable = sinusoids
    late_size: float = 1.0
    first: Callable = lambda x: x
    layers: int = 2
    masked: Callable = lambda n: True  # whether layer n gets the mask
    causal: Callable = past
    join: Callable = lambda causal, mask: causal & mask  # the last of a stack
    in_encoder: Callable = real  # of whole models: where what is hidden
    in_memory: Callable = real
    in_target: Callable = real
    learned: Callable = lambda table: table  # the tables of positions and of types
    types: Callable = lambda table: table
    first_norm: Callable = norm
    last_norm: Callable = norm
    logits: Callable = lambda x: x
    notes: tuple = ()  # what the student's own parts give: (part, inputs, output)


# ---------------------------------------------------------------------------------------------- the student's own parts

# Arguments with which a part is made; the number of its inputs that are no masks; the last of its steps.
PARTS = {
    "PositionwiseFeedForward": ((D, FF), 1, "act"),
    "EncoderLayer": (LAYER, 1, "eps"),
    "DecoderLayer": (LAYER, 2, "eps"),
    "Encoder": (made_with(2, OF_SOURCE), 1, "join"),
    "Decoder": (made_with(2), 2, "join"),
}


def own_part(name):
    """Lets the student's own part stand for a formula, so that its mistakes count in its own tests and not above them.

    It does where inside.results has noted what a part of the right size gives for these inputs, and no step is changed.
    """

    names = [step.name for step in fields(ModelSteps)]
    steps = fields(ModelSteps)[: names.index(PARTS[name][2]) + 1]

    def decorate(formula):
        def value(weights, do, *inputs):
            right = all(getattr(do, step.name) is step.default for step in steps)
            noted = [given for part, *given in do.notes if right and part == name]
            outputs = [output for call, output in noted if same_call(name, call, inputs)]
            varied = [
                output for output in outputs if bool((output != output.flatten()[0]).any())
            ]  # zeros hide too much
            return varied[0] if varied else formula(weights, do, *inputs)

        return value

    return decorate


def same_call(name, noted, inputs):
    """Whether a part was given these inputs, and masks that show the same."""

    def shown(mask, queries, keys):
        shape = queries.shape[0], H, queries.shape[1], keys.shape[1]
        visible = torch.ones(shape, dtype=torch.bool) if mask is None else (mask != 0).expand(shape)
        return visible & past(shape[2]) if name == "Decoder" and keys is queries else visible

    count = PARTS[name][1]
    if len(noted) != len(inputs) or not nearly(noted[:count], inputs[:count]):
        return False
    with contextlib.suppress(AttributeError, RuntimeError, TypeError):  # the noted one is something else than a mask
        return all(
            torch.equal(*(shown(mask, inputs[0], keys) for mask in pair))
            for *pair, keys in zip(noted[count:], inputs[count:], inputs, strict=False)
        )
    return False


# ---------------------------------------------------------------------------------------------- the models


def attention(w, do, x, source, mask):
    q, k, v = (do.split(linear(y, *w[name]), do.heads) for y, name in ((x, "q"), (source, "k"), (source, "v")))
    output, _ = shared.attend(q, k, v, mask, scale=do.scale(q.shape[-1]), weigh=do.weigh)
    return linear(join_heads(output), *w["o"])


@own_part("PositionwiseFeedForward")
def two_maps(w, do, x):
    return linear(do.act(linear(x, *w["1"])), *w["2"])


STYLES = {
    "post": lambda x, f, norm: norm(x + f(x)),
    "pre": lambda x, f, norm: x + f(norm(x)),
    "pre and post": lambda x, f, norm: norm(x + f(norm(x))),
    "branch": lambda x, f, norm: x + norm(f(x)),
    "post, no residual": lambda x, f, norm: norm(f(x)),
    "pre, no residual": lambda x, f, norm: f(norm(x)),
    "no norm": lambda x, f, norm: x + f(x),
}


def in_turn(w, do, x, sub_layers):
    for step in do.order(list(sub_layers)):
        x = STYLES[do.style(step)](x, sub_layers[step], lambda y, step=step: do.norm(y, w[step]["norm"], do.eps))
    return x


@own_part("EncoderLayer")
def encoder_layer(w, do, x, mask=None):
    return in_turn(w, do, x, {
        "self": lambda y: attention(w["self"], do, y, y, mask),
        "ffn": lambda y: two_maps(w["ffn"], do, y),
    })  # fmt: skip


@own_part("DecoderLayer")
def decoder_layer(w, do, x, memory, mask=None, memory_mask=None):
    return in_turn(w, do, x, {
        "self": lambda y: attention(w["self"], do, y, y, mask),
        "cross": lambda y: attention(w["cross"], do, y, do.source(y, memory), memory_mask),
        "ffn": lambda y: two_maps(w["ffn"], do, y),
    })  # fmt: skip


def stack(w, do, layer, x, mask, *memory):
    """Layers with these weights, those that are `masked` with the mask; memory: with its mask, behind a decoder's x."""
    for n in range(do.layers):
        x = layer(w[n] if isinstance(w, list) else w, do, x, *memory[:1], mask if do.masked(n) else None, *memory[1:])
    return x


def embed(rows, do, ids):
    return do.first((rows[ids] * do.size + do.position(ids.shape[1])) * do.late_size)


@own_part("Encoder")
def encoder(rows, do, ids, mask=None):
    return stack(KNOWN, do, encoder_layer, embed(rows, do, ids), mask)


@own_part("Decoder")
def decoder(rows, do, ids, memory, tgt_mask=None, memory_mask=None):
    visible = do.causal(ids.shape[1])
    visible = visible if tgt_mask is None else do.join(visible, tgt_mask != 0)
    return stack(KNOWN, do, decoder_layer, embed(rows, do, ids), visible, memory, memory_mask)


gelu_tanh = partial(F.gelu, approximate="tanh")
GPT_STEPS = {"style": lambda step: "pre", "act": gelu_tanh}
BERT_STEPS = {"act": F.gelu, "eps": 1e-12}


def gpt(rows, do, ids, *, w=KNOWN, final=GAIN, output=None):
    """w: the weights of all layers, or a list; output: the rows that give the logits, where they are not the tokens'."""
    token, position = rows
    x = token[ids] + do.learned(position)[: ids.shape[1]]
    x = stack(w, do, encoder_layer, x, do.causal(ids.shape[1]))
    return do.logits(do.last_norm(x, final, do.eps) @ (token if output is None else output).T)


def bert(rows, do, ids, types=None, mask=None, *, w=KNOWN, first=GAIN):
    token, position, kinds = rows
    kinds = do.types(kinds)[torch.zeros_like(ids) if types is None else types]
    x = do.first_norm(token[ids] + do.learned(position)[: ids.shape[1]] + kinds, first, do.eps)
    mask = mask[:, None, None] if mask is not None and mask.shape == ids.shape else mask
    return stack(w, do, encoder_layer, x, mask)


def counted(result, at):
    """The result, with zeros at the places (B, T) that do not count."""
    if at is None or not isinstance(result, torch.Tensor) or result.shape[:-1] != at.shape:
        return result
    return result.masked_fill(~at.unsqueeze(-1), 0.0)
