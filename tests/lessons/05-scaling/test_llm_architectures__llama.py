"""Hidden tests of llm_architectures: LlamaModel, new and with the weights of transformers, against its steps in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

import shared
from llm_architectures_helpers import agreeing, gated, rms
from shared import MANNERS, join_heads, linear_weights, on_right_parts, past, randn, split_heads, tokens, weigh

MODEL = pytest.mark.question("LlamaModel")
LOAD = pytest.mark.question("load_huggingface")

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
LOADED = {
    "neighbours are turned as pairs; transformers turns (0, Dh/2), (1, Dh/2 + 1), …": {"turn": in_neighbours},
    "queries and keys are turned the other way round": {"turn": lambda x, cos, sin: in_halves(x, cos, -sin)},
    "head h reads the keys of head h modulo num_kv_heads; neighbours should share them": {
        "share": lambda x, group: x.repeat(1, group, 1, 1),
    },
    "gate and up are swapped": {"names": (("mlp.gate_proj", "mlp.up_proj"), ("mlp.up_proj", "mlp.gate_proj"))},
    "keys and values are swapped": {
        "names": (("self_attn.k_proj", "self_attn.v_proj"), ("self_attn.v_proj", "self_attn.k_proj")),
    },
    "the two norms of a layer are swapped": {
        "names": (("input_layernorm", "post_attention_layernorm"), ("post_attention_layernorm", "input_layernorm")),
    },
    "the norms of the layers are not loaded": {"norm": lambda x, weight, eps: rms(x, 1.0, eps)},
    "the last norm is not loaded": {"last_norm": lambda x, weight, eps: rms(x, 1.0, eps)},
    "the output gets the weight of the embedding; model.lm_head has its own": {"names": (("lm_head", "model.embed_tokens.weight"),)},
}  # fmt: skip
# ---------------------------------------------------------------------------------------------- a new model

D, H, KV, FF, V, LAYERS = 24, 3, 1, 32, 13, 2  # inside.with_known_weights needs heads that are 8 wide
SIZES = (V, D, LAYERS, H, KV, FF)


def known_state(table):
    """By the names of transformers, what inside.with_known_weights makes of the weights."""
    signs = torch.tensor([1, 1, 1, 1, 1, -1, 1, -1], dtype=torch.float64).repeat(4)

    def matrix(rows, columns):
        return (0.03 if FF in (rows, columns) else 0.02) * signs[:rows, None] * signs[:columns]

    gain = torch.full((D,), 8.0)
    shapes = {"self_attn.q": (D, D), "self_attn.k": (8, D), "self_attn.v": (8, D), "self_attn.o": (D, D)}
    shapes |= {"mlp.gate": (FF, D), "mlp.up": (FF, D), "mlp.down": (D, FF)}
    layer = {f"{name}_proj": matrix(*shape) for name, shape in shapes.items()}
    layer |= {"input_layernorm": gain, "post_attention_layernorm": gain}
    state = {f"model.layers.{n}.{name}.weight": weight for n in range(LAYERS) for name, weight in layer.items()}
    return state | {"model.embed_tokens.weight": table, "model.norm.weight": gain, "lm_head.weight": table}


@MODEL
@pytest.mark.points(3)
@pytest.mark.parametrize("base", [None, 20.0])
def test_a_new_model_is_a_llama(student, check, rng, base):
    """Embedding, pre-norm layers with rotary positions of rope_base, SwiGLU, a last norm, the output: with known weights."""

    def probe(sizes, base, table, ids, right):
        def use():
            from llm_architectures import LlamaModel

            model = LlamaModel(*sizes) if base is None else LlamaModel(*sizes, rope_base=base)
            return inside.a_tensor(inside.with_known_weights(model, [table])(ids)).detach()

        return inside.use_of(use, "llm_architectures", "LlamaModel", right)

    table, ids = randn(rng, V, D, dtype=torch.float64), tokens(rng, V, 2, 9)
    state, used = known_state(table), base or 10000.0
    do = Llama(H, KV, frequencies=lambda width: rotary_theta(width, used))

    def fine(found):
        return shared.is_right(found, do.logits(state, ids))

    logits = on_right_parts(student, probe, SIZES, base, table, ids, fine=fine)

    others = {
        "the frequencies are those of d_model; they should be those of a head's width": {
            "frequencies": lambda width: rotary_theta(D, used)[: width // 2],
        },
        "rope_base is not used": {"frequencies": rotary_theta} if base else None,
        "the positions are scaled by the wrong base; by default it should be 10000": None if base else {
            "frequencies": lambda width: rotary_theta(width, 500000.0),
        },
    }  # fmt: skip
    mistakes = {sentence: steps for sentence, steps in (others | EITHER).items() if steps}
    values = {
        sentence: lambda steps=steps: replace(do, **steps).logits(state, ids) for sentence, steps in mistakes.items()
    }
    check(logits, do.logits(state, ids), relative=1e-4, mistakes=values)


@MODEL
@pytest.mark.points(2)
def test_a_token_sees_all_before_it(student, check, rng):
    """Logits change with each token up to their place and with none that follows; short texts and single rows too."""

    def probe(sizes, ids, right):
        def use():
            from llm_architectures import LlamaModel

            model = LlamaModel(*sizes).double().eval()
            inside.draw_weights(model)
            one = model(ids[:, :1])  # a short one first: what is kept of it must not bother a longer one
            plain, changes = inside.a_tensor(model(ids)), []
            for place in range(ids.shape[1]):
                other = ids.clone()
                other[:, place] = (other[:, place] + 1) % sizes[0]
                changes.append((model(other) - plain).abs().amax((0, 2)))
            alone = torch.cat([model(row[None]) for row in ids])
            turned = model(ids[:, [1, 0, *range(2, ids.shape[1])]])
            moved = (turned - plain)[:, -1].detach().abs().max()
            return torch.stack(changes), [x.detach() for x in (plain, alone, one)], float(moved)

        return inside.use_of(use, "llm_architectures", "LlamaModel", right)

    changes, (plain, alone, one), moved = student.run(probe, (V, 16, 1, 4, 2, 20), tokens(rng, V, 3, 6), False)

    check.that(bool((changes[~past(6).T] < 1e-9).all()), "a token sees what follows it")
    check.that(bool((changes[past(6).T] > 1e-9).all()), "a token does not see itself, or one before it")
    check.that(moved > 1e-9, "the order of the tokens has no effect on the last logits")
    check(alone, plain, terms=4096, otherwise="a row has different logits in a batch and alone")
    check(
        one,
        plain[:, :1],
        terms=4096,
        otherwise="a text of one token has different logits from those at the start of a text",
    )


@MODEL
@pytest.mark.points(2)
def test_the_weights_are_those_of_llama(student, check):
    """Keys and values have num_kv_heads, SwiGLU three matrices, there is no bias, and the output has its own weight."""

    def probe(calls):
        from llm_architectures import LlamaModel

        models = [LlamaModel(*sizes) for sizes in calls]
        with_token = [list(weight.shape) for weight in models[0].parameters() if calls[0][0] in weight.shape]
        used = inside.says_something(models[0](torch.arange(6).view(2, 3)))
        return [inside.matrices(model)[1] for model in models], with_token, used

    v, d, heads, kv, ff = 71, 16, 4, 2, 20
    (one, two), with_token, used = student.run(probe, [(v, d, 1, heads, kv, ff), (v, d, 2, heads, kv, ff)])

    check.that(used, "the logits are the same everywhere")
    check(with_token, [[v, d], [v, d]], mistakes={
        "the output is tied to the embedding; it should have a weight of its own": [[v, d]],
        "the output has a bias; it should have none": [[v, d], [v, d], [v]],
    }, what="the weights that have a row for each token")  # fmt: skip
    layer = 2 * d * d + 2 * d * d * kv // heads + 3 * d * ff + 2 * d
    check(two - one, layer, mistakes={
        "keys and values have all heads; they should have num_kv_heads": layer + 2 * d * d - 2 * d * d * kv // heads,
        "the Linears have biases; they should have none": layer + 2 * d + 2 * d * kv // heads + 2 * ff + d,
        "the attention has biases; it should have none": layer + 2 * d + 2 * d * kv // heads,
        "the norms have biases; RMSNorm should have none": layer + 2 * d,
        "the feed-forward has two matrices; SwiGLU has three": layer - d * ff,
        "the two norms of a layer are one": layer - d,
        "the layers share their weights, or are not registered": 0,
    }, what="the numbers of a layer")  # fmt: skip
    check(one - layer, 2 * v * d + d, mistakes={
        "there is no norm after the last layer": 2 * v * d,
        "there is a table of positions; RoPE has no weights": 2 * v * d + d + 2048 * d,
    }, what="the numbers besides the layers")  # fmt: skip


@MODEL
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("sizes", "length", "words"),
    [
        ((V, 24, 1, 5, 5, FF), 3, ("num_heads", "d_model", 5)),
        ((V, 24, 1, 6, 4, FF), 3, ("num_kv_heads", "num_heads", 4)),
        ((V, 9, 1, 3, 3, FF), 3, ("d_model", "num_heads", "dim", 3, 9)),
        ((V, 24, 1, 3, 1, FF, 6), 7, ("max_len", "input_ids", 7)),
    ],
)
def test_sizes_that_do_not_fit_llama_are_refused(student, check, sizes, length, words):
    """D not divisible by H, H by num_kv_heads, an odd width of a head and a text longer than max_len are a ValueError."""

    def probe(sizes, length):
        from llm_architectures import LlamaModel

        return list(inside.a_tensor(LlamaModel(*sizes).eval()(torch.zeros(2, length, dtype=torch.int64))).shape)

    student.raises(ValueError, probe, sizes, length, says=words)
    check(student.run(probe, (V, 24, 1, 3, 1, FF, 6), 6), [2, 6, V])


@MODEL
@pytest.mark.points(1)
def test_all_of_llama_learns(student, check, rng):
    """Every matrix and every norm gets a gradient from the logits."""

    def probe(sizes, ids, right):
        def use():
            from llm_architectures import LlamaModel

            model = LlamaModel(*sizes).double().eval()
            inside.draw_weights(model)
            weights, logits = list(model.parameters()), inside.a_tensor(model(ids))
            return [bool(grad.any()) for grad in inside.gradients(logits, weights)]

        return inside.use_of(use, "llm_architectures", "LlamaModel", right)

    reached = student.run(probe, SIZES, tokens(rng, V, 2, 5), False)

    check.that(any(reached), "no gradient reaches the weights")
    check.that(all(reached), "no gradient reaches some of the weights")


@MODEL
@pytest.mark.points(1)
def test_llama_drops_nothing_and_changes_nothing_else(student, check, rng):
    """Train mode gives what eval mode gives; ids may be strided or int32 and stay as they are; max_len and rope_base have defaults."""

    def probe(sizes, ids):
        import inspect

        from llm_architectures import LlamaModel

        model, other = LlamaModel(*sizes), LlamaModel(*sizes)
        seeded = torch.equal(model.eval()(ids), other.eval()(ids))
        plain = inside.a_tensor(model.eval()(ids))
        logits, (after,), rude = inside.manners(model.train(), ids)
        results = [x.detach() for x in (plain, logits, model(ids.int()))]
        parameters = inspect.signature(LlamaModel).parameters
        defaults = {name: p.default for name, p in parameters.items() if name in ("max_len", "rope_base")}
        return seeded, results, after, rude, defaults, model.double()(ids).dtype, model.bfloat16()(ids).dtype

    ids = tokens(rng, V, 3, 7)
    seeded, (plain, logits, short), after, rude, defaults, *dtypes = student.run(probe, SIZES, ids)

    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check(after, ids, otherwise="input_ids are changed in place")
    check(rude, "", mistakes=MANNERS)
    check(plain.dtype, torch.float32)
    check(
        logits,
        plain,
        terms=4096,
        otherwise="the logits of train mode differ from those of eval mode: there should be no dropout",
    )
    check(short, plain, terms=4096, otherwise="the logits depend on whether ids have 32 or 64 bits")
    check(defaults, {"max_len": 2048, "rope_base": 10000.0}, what="the defaults")
    check(dtypes, [torch.float64, torch.bfloat16], what="the dtypes of a float64 and a bfloat16 model")


# ---------------------------------------------------------------------------------------------- the weights of transformers

CONFIG = {
    "vocab_size": 19, "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
}  # fmt: skip


def llama_state(rng, kv_heads=2):
    """Random weights by the names of transformers, so large that each one shows."""
    d, ff, kv = 32, 20, 8 * kv_heads
    shapes = {"self_attn.q": (d, d), "self_attn.k": (d, kv), "self_attn.v": (d, kv), "self_attn.o": (d, d)}
    shapes |= {"mlp.gate": (d, ff), "mlp.up": (d, ff), "mlp.down": (ff, d)}
    state = {"model.embed_tokens.weight": randn(rng, 19, d), "model.norm.weight": 1 + 0.4 * randn(rng, d)}
    for n in range(2):
        parts = {f"{name}_proj": linear_weights(rng, *shape, False)[0] for name, shape in shapes.items()}
        parts |= {name: 1 + 0.4 * randn(rng, d) for name in ("input_layernorm", "post_attention_layernorm")}
        state |= {f"model.layers.{n}.{name}.weight": weight for name, weight in parts.items()}
    return state | {"lm_head.weight": linear_weights(rng, d, 19, False)[0]}


def logits_after_loading(calls, ids, right):
    """A probe: the logits of a student's model that has loaded one of transformers, for each (configuration, weights)."""

    def use():
        from llm_architectures import LlamaModel

        found = []
        for config, weights in calls:
            model = LlamaModel(*[config[name] for name in inside.LLAMA_SIZES])
            model.load_huggingface(inside.llama_like(config, weights))
            found.append(inside.a_tensor(model.eval()(ids)).detach())
        return found

    return inside.use_of(use, "llm_architectures", "LlamaModel", right)


def with_steps(do, state, ids, steps):
    return replace(do, **steps).logits(state, ids)


@LOAD
@pytest.mark.points(4)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_loaded_logits_are_those_of_transformers(student, check, rng, kv_heads):
    """The logits are those of LlamaForCausalLM, to 1e-4, with as many heads of keys as of queries, with half, with one."""
    state, ids, do = llama_state(rng, kv_heads), tokens(rng, 19, 2, 11), Llama(4, kv_heads)

    def fine(found):
        return shared.is_right(found[0], do.logits(state, ids))

    config = {**CONFIG, "num_key_value_heads": kv_heads}
    logits, *_ = on_right_parts(student, logits_after_loading, [(config, state)], ids, fine=fine)

    values = {
        sentence: lambda steps=steps: with_steps(do, state, ids, steps) for sentence, steps in (LOADED | EITHER).items()
    }
    check(logits, do.logits(state, ids), dtype=torch.float32, within=1e-4, mistakes=values)


@LOAD
@pytest.mark.points(1)
def test_the_eps_of_the_norms_comes_along(student, check, rng):
    """rms_norm_eps is that of the loaded model, in all norms."""
    state, ids, do = llama_state(rng), tokens(rng, 19, 2, 8), Llama(4, 2)
    calls = [(CONFIG, state), ({**CONFIG, "rms_norm_eps": 0.7}, state)]

    def fine(found):
        return shared.is_right(found[1], replace(do, eps=0.7).logits(state, ids))

    plain, logits = on_right_parts(student, logits_after_loading, calls, ids, fine=fine)
    own = agreeing(plain, lambda steps: with_steps(do, state, ids, steps), LOADED | EITHER, shared.is_right)

    own = {key: step for key, step in own.items() if key != "eps"}
    do = replace(do, **own)
    kept = {
        "rms_norm_eps is not taken over": {"eps": 1e-6},
        "rms_norm_eps is not taken over, and was not 1e-6": {"eps": 1e-5},
        "rms_norm_eps is not taken over by the last norm": {"last_norm": lambda x, weight, eps: do.last_norm(x, weight, 1e-6)},
        "rms_norm_eps is taken over by the last norm alone": {"norm": lambda x, weight, eps: do.norm(x, weight, 1e-6)},
    }  # fmt: skip
    do = replace(do, eps=0.7)
    values = {sentence: lambda steps=steps: with_steps(do, state, ids, steps) for sentence, steps in kept.items()}
    check(logits, do.logits(state, ids), dtype=torch.float32, within=1e-4, mistakes=values)


def llama3_theta(width, factor=8.0, low=1.0, high=4.0, length=24):
    """Llama 3.1: frequencies of fewer than `low` turns in `length` tokens are divided by factor, above `high` they stay."""
    stays = ((length * rotary_theta(width) / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return rotary_theta(width) * (stays + (1 - stays) / factor)


def yarn_theta(width, factor=4.0, fast=32.0, slow=1.0, length=16):
    """YaRN (Peng et al. 2023): a ramp over the pairs, from those of `fast` turns in `length` tokens to those of `slow`."""
    first, last = (width * math.log(length / (2 * math.pi * turns)) / (2 * math.log(10000.0)) for turns in (fast, slow))
    first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
    ramp = ((torch.arange(width // 2, dtype=torch.float64) - first) / max(last - first, 0.001)).clamp(0, 1)
    return rotary_theta(width) * (1 - ramp + ramp / factor)


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24, "rope_theta": 10000.0,
}  # fmt: skip
KINDS = {  # rope_parameters, the frequencies that they mean
    "a base of 50": ({"rope_type": "default", "rope_theta": 50.0}, lambda width: rotary_theta(width, 50.0)),
    "linear": ({"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}, lambda width: rotary_theta(width) / 3.0),
    "llama3": (LLAMA3, llama3_theta),
}


@LOAD
@pytest.mark.points(2)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rotary_frequencies_come_along(student, check, rng, kind):
    """They are those of the loaded model: another base, positions that are scaled, those of Llama 3.1."""
    parameters, frequencies = KINDS[kind]
    state, ids, do = llama_state(rng), tokens(rng, 19, 2, 30), Llama(4, 2)
    calls = [(CONFIG, state), ({**CONFIG, "rope_parameters": parameters}, state)]
    right = replace(do, frequencies=frequencies)

    def fine(found):
        return shared.is_right(found[1], right.logits(state, ids))

    plain, logits = on_right_parts(student, logits_after_loading, calls, ids, fine=fine)
    own = agreeing(plain, lambda steps: with_steps(do, state, ids, steps), LOADED | EITHER, shared.is_right)

    if "frequencies" not in own:
        right = replace(right, **own)
    check(logits, right.logits(state, ids), dtype=torch.float32, within=1e-4, mistakes={
        "the rotary frequencies of the model are not taken over": lambda: replace(right, frequencies=rotary_theta).logits(state, ids),
        "the positions are multiplied by the factor; they should be divided": lambda: (
            replace(right, frequencies=lambda width: 3.0 * rotary_theta(width)).logits(state, ids)
        ),
    })  # fmt: skip


@LOAD
@pytest.mark.points(1)
def test_the_factor_of_yarn_comes_along(student, check, rng):
    """Cosines and sines of YaRN are multiplied by 0.1 ln(factor) + 1, the model's attention_scaling."""
    state, ids, do = llama_state(rng), tokens(rng, 19, 2, 30), Llama(4, 2)
    parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    calls = [(CONFIG, state), ({**CONFIG, "rope_parameters": parameters}, state)]
    right = replace(do, frequencies=yarn_theta, factor=0.1 * math.log(4.0) + 1)

    def fine(found):
        return shared.is_right(found[1], right.logits(state, ids))

    plain, logits = on_right_parts(student, logits_after_loading, calls, ids, fine=fine)
    own = agreeing(plain, lambda steps: with_steps(do, state, ids, steps), LOADED | EITHER, shared.is_right)

    if "frequencies" not in own:
        right = replace(right, **own)
    kept = {
        "attention_scaling is not taken over": {"factor": 1.0},
        "attention_scaling is used twice: cosines and sines, and the scores": {"factor": right.factor**2},
        "attention_scaling multiplies the scores; it should multiply cosines and sines, of queries and of keys": {
            "factor": right.factor**0.5,
        },
        "the rotary frequencies of YaRN are not taken over": {"frequencies": rotary_theta},
        "neither frequencies nor attention_scaling are taken over": {"frequencies": rotary_theta, "factor": 1.0},
    }  # fmt: skip
    values = {sentence: lambda steps=steps: with_steps(right, state, ids, steps) for sentence, steps in kept.items()}
    check(logits, right.logits(state, ids), dtype=torch.float32, within=1e-4, mistakes=values)


@LOAD
@pytest.mark.points(1)
def test_tied_heads_are_loaded(student, check, rng):
    """A model whose output is its embedding loads like any other."""
    state, ids, do = llama_state(rng), tokens(rng, 19, 2, 8), Llama(4, 2)
    state["model.embed_tokens.weight"] *= 0.4
    tied = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    calls = [(CONFIG, state), ({**CONFIG, "tie_word_embeddings": True}, tied)]

    def fine(found):
        return shared.is_right(found[1], do.logits(tied, ids))

    plain, logits = on_right_parts(student, logits_after_loading, calls, ids, fine=fine)
    own = agreeing(plain, lambda steps: with_steps(do, state, ids, steps), LOADED | EITHER, shared.is_right)

    check(logits, replace(do, **own).logits(tied, ids), dtype=torch.float32, within=1e-4)


@LOAD
@pytest.mark.points(2)
def test_loading_copies_and_keeps_the_rest(student, check, rng):
    """load_huggingface returns the model itself; nothing is shared; dtype, max_len, mode and the loaded model stay."""

    def probe(config, state, ids):
        from llm_architectures import LlamaModel

        sizes = [config[name] for name in inside.LLAMA_SIZES]
        ours, theirs = LlamaModel(*sizes, max_len=40), inside.llama_like(config, state)
        before = {name: weight.detach().clone() for name, weight in theirs.named_parameters()}
        names = [name for name, _ in ours.named_parameters()]
        result, _, rude = inside.manners(ours.train().load_huggingface, theirs)
        returns = result is ours, ours.training, theirs.training
        plain = inside.a_tensor(ours(ids)).detach()
        same = all(torch.equal(weight, before[name]) for name, weight in theirs.named_parameters())
        for weight in theirs.parameters():
            weight.data.mul_(-2.0)
        again = inside.a_tensor(ours(ids)).detach()
        for weight in ours.parameters():
            weight.data.mul_(3.0)
        kept = all(torch.equal(weight, -2.0 * before[name]) for name, weight in theirs.named_parameters())
        learns = [name for name, _ in ours.named_parameters()] == names and all(
            w.requires_grad for w in ours.parameters()
        )
        wide = LlamaModel(*sizes).double()
        wide.load_huggingface(inside.llama_like(config, state))
        dtypes = {str(weight.dtype) for weight in wide.parameters()}
        lengths = []
        for length in (40, 41):
            try:
                lengths.append(inside.a_tensor(ours(torch.zeros(1, length, dtype=torch.int64))).shape[1])
            except ValueError:
                lengths.append("a ValueError")
        return returns, sorted(dtypes), plain, again, same, kept, learns, lengths, rude

    state = llama_state(rng)
    returns, dtypes, plain, again, same, kept, learns, lengths, rude = student.run(
        probe, CONFIG, state, tokens(rng, 19, 2, 6)
    )

    check.that(returns[0], "load_huggingface does not return the LlamaModel itself")
    check.that(returns[1], "loading puts the LlamaModel into eval mode; it should leave the mode alone")
    check.that(not returns[2], "loading puts the loaded model into train mode")
    check(dtypes, ["torch.float64"], mistakes={"a float64 model becomes float32 by loading": ["torch.float32"]})
    shared_weight = "a weight is shared with the loaded model; it should be copied"
    check(again, plain, terms=4096, otherwise=shared_weight)
    check.that(same, "loading changes the model that is loaded")
    check.that(kept, shared_weight)
    check.that(learns, "after loading, parameters are missing, new or frozen; they should be the same as before")
    check(lengths, [40, "a ValueError"], what="which lengths are taken after loading", mistakes={
        "loading changes max_len; it should stay": [40, 41],
    })  # fmt: skip
    check.that(rude == "", "load_huggingface prints, or changes the grad mode or another setting of torch")


OTHERS = {  # name: what the configuration has instead
    "vocab_size": [{"vocab_size": 20}],
    "d_model": [{"hidden_size": 64, "head_dim": 16}, {"hidden_size": 64, "head_dim": 8}],
    "d_ff": [{"intermediate_size": 21}],
    "num_layers": [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}],
    "num_heads": [{"num_attention_heads": 8, "head_dim": 4, "num_key_value_heads": 4}],
    "num_kv_heads": [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}],
    "the width of a head": [{"head_dim": 16}],
}


def refusals_of(config, changes, right):
    """A probe: for each change of the configuration what loading does: "ValueError", "another error" or "loaded"; and
    whether the student's model then has the same weights, logits and mode as before."""

    def use():
        from llm_architectures import LlamaModel

        found = []
        for change in changes:
            model = LlamaModel(*[config[name] for name in inside.LLAMA_SIZES]).train()
            ids = torch.arange(12)[None] % config["vocab_size"]
            before = {name: value.clone() for name, value in model.state_dict().items()}
            logits = inside.a_tensor(model(ids)).detach()
            other = {"rms_norm_eps": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
            try:
                model.load_huggingface(inside.llama_like({**config, **other, **change}))
                answer = "loaded"
            except NotImplementedError:
                raise
            except Exception as error:
                answer = "ValueError" if isinstance(error, ValueError) else "another error"
            after = model.state_dict()
            same = set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
            alike = answer == "loaded" or torch.equal(model(ids).detach(), logits)
            found.append((answer, same, alike, model.training))
        return found

    return inside.use_of(use, "llm_architectures", "LlamaModel", right)


@LOAD
@pytest.mark.points(3)
def test_models_of_another_shape_are_refused(student, check):
    """A model with another V, D, d_ff, number of layers, heads or heads of keys, or width of a head, is a ValueError."""
    changes = [(name, change) for name, found in OTHERS.items() for change in found]
    answers = [answer for answer, *_ in student.run(refusals_of, CONFIG, [change for _, change in changes], False)]

    for (name, _), answer in zip(changes, answers, strict=True):
        check(answer, "ValueError", mistakes={
            f"a model is loaded although {name} differs; it should be refused": "loaded",
            "a model that does not fit raises the wrong error; it should be a ValueError": "another error",
        })  # fmt: skip


@LOAD
@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias"])
def test_biases_are_refused(student, check, name):
    """A model with biases in its attention or its feed-forward is a ValueError."""
    ((answer, *_),) = student.run(refusals_of, CONFIG, [{name: True}], False)

    where = {"attention_bias": "attention", "mlp_bias": "feed-forward"}[name]
    check(answer, "ValueError", mistakes={
        f"a model with biases in its {where} is loaded without them; it should be refused": "loaded",
        "a model with biases raises another error; it should be a ValueError": "another error",
    })  # fmt: skip


@LOAD
@pytest.mark.points(1)
def test_another_activation_is_refused(student, check):
    """A model whose hidden_act is not silu is a ValueError."""
    ((answer, *_),) = student.run(refusals_of, CONFIG, [{"hidden_act": "gelu"}], False)

    check(answer, "ValueError", mistakes={
        "a model with another activation is loaded; it should be refused": "loaded",
        "a model with another activation raises another error; it should be a ValueError": "another error",
    })  # fmt: skip


@LOAD
@pytest.mark.points(2)
def test_what_is_refused_leaves_the_model_as_it_was(student, check):
    """After an error weights, eps, rotary frequencies and mode are those from before: all is checked before the first copy."""
    changes = [{"intermediate_size": 21}, {"vocab_size": 20}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}]
    changes += [{"num_key_value_heads": 1}, {"attention_bias": True}]
    found = [row for row in student.run(refusals_of, CONFIG, changes, False) if row[0] != "loaded"]

    check.that(len(found) > 0, "models that do not fit are all loaded; they should be refused")
    for _, same, alike, training in found:
        check.that(same, "a model that is refused has been copied in part; check all shapes before the first copy")
        check.that(
            alike, "a model that is refused changes the logits: its eps or its rotary frequencies are taken over"
        )
        check.that(training, "a model that is refused changes the mode")
