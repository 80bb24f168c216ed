"""What the hidden tests of llm_architectures share: the formulas of the parts that several models have, and the steps of
Llama, in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shared import join_heads, past, split_heads, weigh


def rms(x, weight=1.0, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def gated(x, gate, up, down, act=F.silu):
    """down(act(gate(x)) · up(x)), with the weights of three Linears."""
    return (act(x @ gate.double().T) * (x @ up.double().T)) @ down.double().T


def agreeing(value, truth, styles, near):
    """The first of the styles, sentence -> its changes, whose truth(changes) is near the value; {} if it is none.

    With it a test can ask for its own subject alone: what is wrong in the plainest result already costs nothing there.
    """
    if near(value, truth({})):
        return {}
    return next((changes for changes in styles.values() if near(value, truth(changes))), {})


# ---------------------------------------------------------------------------------------------- Llama, step by step


def in_halves(x, cos, sin):
    """Turns the pairs (0, Dh/2), (1, Dh/2 + 1), …"""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def in_neighbours(x, cos, sin):
    """Turns the pairs (0, 1), (2, 3), …"""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotary_theta(width, base=10000.0):
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


@dataclass(frozen=True)
class Llama:
    """Its steps. All are right, and a mistake replaces one."""

    heads: int
    kv_heads: int
    turn: Callable = in_halves
    turn_k: Callable | None = None
    turn_v: Callable = lambda x, cos, sin: x
    frequencies: Callable = rotary_theta
    factor: float = 1.0  # of cosines and sines
    eps: float = 1e-6
    norm: Callable = rms
    scale: Callable = lambda width, d_model: math.sqrt(width)
    visible: Callable = past
    share: Callable = lambda x, group: x.repeat_interleave(group, 1)
    act: Callable = F.silu
    style: Callable = lambda x, f, norm: x + f(norm(x))
    last_norm: Callable = rms
    names: tuple = ()  # (a part, the part whose weights it gets instead)

    def logits(self, state, ids):
        layers = 1 + max(int(name.split(".")[2]) for name in state if ".layers." in name)
        x = state["model.embed_tokens.weight"].double()[ids]
        for n in range(layers):
            part = {
                name.removeprefix(f"model.layers.{n}.").removesuffix(".weight"): weight.double()
                for name, weight in state.items()
                if f".layers.{n}." in name
            }
            part |= {name: part[other] for name, other in self.names if other in part}
            x = self.style(
                x, lambda y, w=part: self.attend(w, y), lambda y, w=part: self.normed(w["input_layernorm"], y)
            )
            ffn = [part[f"mlp.{name}_proj"] for name in ("gate", "up", "down")]
            x = self.style(
                x,
                lambda y, w=ffn: gated(y, *w, self.act),
                lambda y, w=part: self.normed(w["post_attention_layernorm"], y),
            )
        x = self.last_norm(x, state["model.norm.weight"].double(), self.eps)
        return x @ state[dict(self.names).get("lm_head", "lm_head.weight")].double().T

    def normed(self, weight, x):
        return self.norm(x, weight, self.eps)

    def attend(self, w, x):
        q, k, v = (
            split_heads(x @ w[f"self_attn.{name}_proj"].T, heads)
            for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads))
        )
        angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * self.frequencies(q.shape[-1])
        turned = angles.cos() * self.factor, angles.sin() * self.factor
        q, k, v = self.turn(q, *turned), (self.turn_k or self.turn)(k, *turned), self.turn_v(v, *turned)
        k, v = (self.share(y, self.heads // self.kv_heads) for y in (k, v))
        scores = q @ k.mT / self.scale(q.shape[-1], x.shape[-1])
        see = self.visible(x.shape[1])
        return join_heads(weigh(scores, ~see.expand(scores.shape)) @ v) @ w["self_attn.o_proj"].T


def not_turned(x, cos, sin):
    return x


def layer_norm_of(x, weight, eps):
    return F.layer_norm(x, x.shape[-1:], eps=eps) * weight


EITHER = {  # sentence -> the steps that it replaces, whatever the weights are
    "queries and keys are not turned": {"turn": not_turned},
    "only the queries are turned; the keys should be turned too": {"turn_k": not_turned},
    "the values are turned; only queries and keys should be": {"turn_v": in_halves},
    "the frequencies are base^(-i / Dh); they should be base^(-2i / Dh)": {"frequencies": lambda width: rotary_theta(width) ** 0.5},
    "the scores are not divided by the root of a head's width": {"scale": lambda width, d_model: 1.0},
    "the scores are divided by the root of d_model; it should be that of a head's width": {
        "scale": lambda width, d_model: math.sqrt(d_model),
    },
    "attention is not causal": {"visible": lambda length: torch.ones(length, length, dtype=torch.bool)},
    "no token sees itself": {"visible": lambda length: past(length).tril(-1)},
    "the feed-forward has a GELU; it should have silu": {"act": F.gelu},
    "the norms subtract the mean; they should be RMSNorm": {"norm": layer_norm_of, "last_norm": layer_norm_of},
    "the norm follows the residual connection; it should come before each sub-layer": {
        "style": lambda x, f, norm: norm(x + f(x)),
    },
    "the residual connections are missing": {"style": lambda x, f, norm: f(norm(x))},
    "the sub-layers have no norm before them": {"style": lambda x, f, norm: x + f(x)},
    "there is no norm after the last layer": {"last_norm": lambda x, weight, eps: x},
    "the eps of the norms is 1e-5": {"eps": 1e-5},
}  # fmt: skip
