"""Hidden tests of llm_architectures: LlamaModel with the weights of transformers, against its steps in float64."""

import math
from dataclasses import replace

import pytest
import torch

import shared
from llm_architectures_helpers import EITHER, Llama, agreeing, in_halves, in_neighbours, rms, rotary_theta
from shared import linear_weights, nearly, on_right_parts, randn, tokens

pytestmark = pytest.mark.question("load_huggingface")

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


@pytest.mark.points(3)
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
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
KINDS = {  # rope_parameters, the frequencies that they mean
    "a base of 50": ({"rope_type": "default", "rope_theta": 50.0}, lambda width: rotary_theta(width, 50.0)),
    "linear": ({"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}, lambda width: rotary_theta(width) / 3.0),
    "llama3": (LLAMA3, llama3_theta),
}


@pytest.mark.points(2)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rotary_frequencies_come_along(student, check, rng, kind):
    """They are those of the loaded model, for 300 positions: another base, scaled ones, those of Llama 3.1."""
    parameters, frequencies = KINDS[kind]
    state, far, do = llama_state(rng), tokens(rng, 19, 1, 300), Llama(4, 2)
    config, ids = {**CONFIG, "max_position_embeddings": 512}, far[:, :30]
    calls = [(config, state), ({**config, "rope_parameters": parameters}, state)]
    right = replace(do, frequencies=frequencies)

    def start(logits):
        return logits[:, :30] if isinstance(logits, torch.Tensor) and logits.dim() == 3 else logits

    def fine(found):
        return nearly(found[1], right.logits(state, far), 1e-3)

    plain, logits = on_right_parts(student, logits_after_loading, calls, far, fine=fine)
    own = agreeing(start(plain), lambda steps: with_steps(do, state, ids, steps), LOADED | EITHER, shared.is_right)

    if "frequencies" not in own:
        right = replace(right, **own)
    wrong = {
        "the rotary frequencies of the model are not taken over": rotary_theta,
        "the positions are multiplied by the factor; they should be divided": lambda width: 3.0 * rotary_theta(width),
    }
    truth = right.logits(state, far)
    check(start(logits), start(truth), dtype=torch.float32, within=1e-4, what="the logits at the first 30 places", mistakes={
        sentence: lambda steps=steps: with_steps(right, state, ids, {"frequencies": steps}) for sentence, steps in wrong.items()
    })  # fmt: skip
    check(logits, truth, dtype=torch.float32, within=5e-3, what="the logits at 300 places")  # angles are rounded there


@pytest.mark.points(1)
def test_the_factor_of_yarn_comes_along(student, check, rng):
    """Cosines and sines of YaRN are multiplied by 0.1 ln(factor) + 1, the model's attention_scaling."""
    state, ids, do = llama_state(rng), tokens(rng, 19, 2, 30), Llama(4, 2)
    calls = [(CONFIG, state), ({**CONFIG, "rope_parameters": YARN}, state)]
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


@pytest.mark.points(2)
def test_loading_copies_and_keeps_the_rest(student, check, rng):
    """load_huggingface returns the model itself; nothing is shared; dtypes, max_len, modes and the loaded model stay."""

    def probe(config, state, ids):
        from llm_architectures import LlamaModel

        sizes = [config[name] for name in inside.LLAMA_SIZES]
        ours, theirs = (inside.mix_modes(x) for x in (LlamaModel(*sizes), inside.llama_like(config, state)))
        before, modes = inside.held_by(theirs), inside.modes_of(ours)
        names = [name for name, _ in ours.named_parameters()]
        result, _, rude = inside.manners(ours.load_huggingface, theirs)
        returns, kept = result is ours, [inside.modes_of(ours) == modes, inside.holds(theirs, before)]
        learns = [name for name, weight in ours.named_parameters() if weight.requires_grad] == names
        plain = inside.a_tensor(ours(ids)).detach()
        for weight in theirs.parameters():
            weight.data.mul_(-2.0)
        again, before = inside.a_tensor(ours(ids)).detach(), inside.held_by(theirs)
        for weight in ours.parameters():
            weight.data.mul_(3.0)
        copied = inside.holds(theirs, before)
        wide, narrow = LlamaModel(*sizes).double(), inside.mix_modes(inside.llama_like(config, state).bfloat16())
        before, modes = inside.held_by(narrow), inside.modes_of(narrow)
        wide.load_huggingface(narrow)
        dtypes = sorted({str(weight.dtype) for weight in wide.parameters()})
        kept += [inside.holds(narrow, before), inside.modes_of(narrow) == modes]

        def dtype_of_logits(model):
            try:
                return str(inside.a_tensor(model(ids)).dtype)
            except RuntimeError:
                return "an error"

        short = LlamaModel(*sizes).bfloat16()
        shorts = [dtype_of_logits(short), dtype_of_logits(short.load_huggingface(narrow) or short)]
        lengths = []
        for most in (40, 80):  # less and more than that of the loaded model
            bounded = LlamaModel(*sizes, max_len=most)
            bounded.load_huggingface(theirs)
            for length in (most, most + 1):
                try:
                    lengths.append(inside.a_tensor(bounded(torch.zeros(1, length, dtype=torch.int64))).shape[1])
                except ValueError:
                    lengths.append("a ValueError")
        return returns, kept, dtypes, shorts, plain, again, copied, learns, lengths, rude

    returns, kept, dtypes, shorts, plain, again, copied, learns, lengths, rude = student.run(
        probe, CONFIG, llama_state(rng), tokens(rng, 19, 2, 6)
    )

    check.that(returns, "load_huggingface does not return the LlamaModel itself")
    check.that(kept[0], "loading changes the mode of the LlamaModel or of a part of it; it should leave modes alone")
    check(dtypes, ["torch.float64"], mistakes={
        "a float64 model becomes float32 by loading": ["torch.float32"],
        "a float64 model takes over the dtype of the loaded one; it should keep its own": ["torch.bfloat16"],
    })  # fmt: skip
    check(shorts[1], shorts[0], what="the dtype of a bfloat16 model's logits after loading", mistakes={
        "a bfloat16 model cannot run after loading; its cosines and sines should keep their dtype": check.when(shorts[1] == "an error"),
        "a bfloat16 model gives float32 after loading; its cosines and sines should keep their dtype": check.when(
            shorts == ["torch.bfloat16", "torch.float32"]
        ),
    })  # fmt: skip
    shared_weight = "a weight is shared with the loaded model; it should be copied"
    check(again, plain, terms=4096, otherwise=shared_weight)
    check.that(kept[1], "loading changes the model that is loaded")
    check.that(kept[2], "loading changes the dtype or the weights of the model that is loaded")
    check.that(kept[3], "loading changes the mode of the model that is loaded")
    check.that(copied, shared_weight)
    check.that(learns, "after loading, parameters are missing, new or frozen; they should be the same as before")
    check(lengths, [40, "a ValueError", 80, "a ValueError"], what="which lengths are taken after loading", mistakes={
        "loading makes max_len that of the loaded model; it should stay": [40, 41, "a ValueError", "a ValueError"],
        "loading makes max_len no more than that of the loaded model; it should stay": [40, "a ValueError", "a ValueError", "a ValueError"],
        "loading makes max_len no less than that of the loaded model; it should stay": [40, 41, 80, "a ValueError"],
    })  # fmt: skip
    check.that(rude == "", "load_huggingface prints, or changes the grad mode or another setting of torch")


@pytest.mark.points(1)
def test_a_second_load_leaves_nothing_of_the_first(student, check, rng):
    """Weights, eps and rotary frequencies are those of the model that was loaded last, also where the first was used."""

    def probe(config, firsts, state, ids):
        from llm_architectures import LlamaModel

        sizes, last = [config[name] for name in inside.LLAMA_SIZES], inside.llama_like(config, state)
        found = []
        for change in [{}, *firsts]:
            model = LlamaModel(*sizes)
            if change:
                model.load_huggingface(inside.llama_like(config | change))
                model(ids)
            model.load_huggingface(last)
            found.append(inside.a_tensor(model(ids)).detach())
        return found

    firsts = {
        "the eps": {"rms_norm_eps": 0.7},
        "the factor of scaled rotary frequencies": {"rope_parameters": KINDS["linear"][0]},
        "the attention_scaling of YaRN": {"rope_parameters": YARN},
        "the base of the rotary frequencies": {"rope_parameters": KINDS["a base of 50"][0]},
        "a tied head": {"tie_word_embeddings": True},
    }
    alone, *found = student.run(probe, CONFIG, list(firsts.values()), llama_state(rng), tokens(rng, 19, 2, 20))

    check.that(shared.is_own(alone, torch.zeros(2, 20, 19)), "the logits are the same everywhere")
    for name, logits in zip(firsts, found, strict=True):
        check(logits, alone, terms=4096, otherwise=f"{name} of a model that was loaded before stays")


REFUSED = {  # what differs: what the configuration has instead
    "vocab_size": [{"vocab_size": 20}, {"vocab_size": 18}],
    "d_model": [{"hidden_size": 64, "head_dim": 16}, {"hidden_size": 64, "head_dim": 8}],
    "d_ff": [{"intermediate_size": 21}],
    "num_layers": [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}],
    "num_heads": [{"num_attention_heads": 8, "head_dim": 4, "num_key_value_heads": 4}],
    "num_kv_heads": [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}],
    "the width of a head": [{"head_dim": 16}],
    "a bias of the attention": [{"attention_bias": True}],
    "a bias of the feed-forward": [{"mlp_bias": True}],
    "the activation": [{"hidden_act": "gelu"}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}],
}
SHAPES = list(REFUSED)[:7]


def refusals_of(config, changes, right):
    """A probe: for each change of the configuration what loading does: "ValueError", "another error" or "loaded"; and what
    of both models is as before: the student's tensors, logits and modes, the other model's tensors and modes."""

    def use():
        from llm_architectures import LlamaModel

        found = []
        other = {"rms_norm_eps": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
        for change in changes:
            ours = inside.mix_modes(LlamaModel(*[config[name] for name in inside.LLAMA_SIZES]))
            theirs = inside.mix_modes(inside.llama_like({**config, **other, **change}))
            ids = torch.arange(12)[None] % config["vocab_size"]
            logits = inside.a_tensor(ours(ids)).detach()
            held, modes = ([ask(model) for model in (ours, theirs)] for ask in (inside.held_by, inside.modes_of))
            try:
                ours.load_huggingface(theirs)
                answer = "loaded"
            except NotImplementedError:
                raise
            except Exception as error:
                answer = "ValueError" if isinstance(error, ValueError) else "another error"
            kept = [inside.holds(*pair) for pair in zip((ours, theirs), held, strict=True)]
            stays = [inside.modes_of(model) == mode for model, mode in zip((ours, theirs), modes, strict=True)]
            alike = answer == "loaded" or torch.equal(ours(ids).detach(), logits)
            found.append((answer, kept[0], alike, stays[0], kept[1] and stays[1]))
        return found

    return inside.use_of(use, "llm_architectures", "LlamaModel", right)


@pytest.mark.points(2)
def test_models_of_another_shape_are_refused(student, check):
    """A model with another V, D, d_ff, number of layers, heads or heads of keys, or width of a head, is a ValueError."""
    changes = [(name, change) for name in SHAPES for change in REFUSED[name]]
    answers = [answer for answer, *_ in student.run(refusals_of, CONFIG, [change for _, change in changes], False)]

    for (name, _), answer in zip(changes, answers, strict=True):
        check(answer, "ValueError", mistakes={
            f"a model is loaded although {name} differs; it should be refused": "loaded",
            "a model that does not fit raises the wrong error; it should be a ValueError": "another error",
        })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["attention", "feed-forward"])
def test_biases_are_refused(student, check, name):
    """A model with biases in its attention or its feed-forward is a ValueError."""
    ((answer, *_),) = student.run(refusals_of, CONFIG, REFUSED[f"a bias of the {name}"], False)

    check(answer, "ValueError", mistakes={
        f"a model with biases in its {name} is loaded without them; it should be refused": "loaded",
        "a model with biases raises another error; it should be a ValueError": "another error",
    })  # fmt: skip


@pytest.mark.points(1)
def test_another_activation_is_refused(student, check):
    """A model whose hidden_act is not silu is a ValueError, whichever it is."""
    for answer, *_ in student.run(refusals_of, CONFIG, REFUSED["the activation"], False):
        check(answer, "ValueError", mistakes={
            "a model with another activation is loaded; it should be refused": "loaded",
            "a model with another activation raises another error; it should be a ValueError": "another error",
        })  # fmt: skip


@pytest.mark.points(2)
def test_what_is_refused_leaves_the_model_as_it_was(student, check):
    """After each kind of error both models are, bit for bit, those from before: all is checked before the first copy."""
    changes = [(name, change) for name, found in REFUSED.items() for change in found]
    found = student.run(refusals_of, CONFIG, [change for _, change in changes], False)
    found = [(name, *row) for (name, _), row in zip(changes, found, strict=True) if row[0] != "loaded"]

    check.that(len(found) > 0, "models that do not fit are all loaded; they should be refused")
    for name, _, same, alike, stays, theirs in found:
        check.that(same, f"{name} is checked after something was copied; all should be checked before the first copy")
        check.that(
            alike,
            f"{name} is checked after the eps or the rotary frequencies are taken over; it should be checked before",
        )
        check.that(stays, "a model that is refused changes the mode")
        check.that(theirs, "a model that is refused is changed itself")


@pytest.mark.gpu
@pytest.mark.points(1)
def test_llama_loads_and_runs_on_the_gpu(student, check, rng, device):
    """On the GPU, in bfloat16: the logits of a model that has loaded one from the CPU are there, too."""

    def probe(config, state, ids):
        from llm_architectures import LlamaModel

        model = LlamaModel(*[config[name] for name in inside.LLAMA_SIZES]).to(ids.device, torch.bfloat16).eval()
        new = inside.a_tensor(model(ids)).detach()
        model.load_huggingface(inside.llama_like(config, {name: weight.cpu() for name, weight in state.items()}))
        return new, inside.a_tensor(model(ids)).detach()

    logits = student.on(device=device, timeout=60).run(probe, CONFIG, llama_state(rng), tokens(rng, 19, 2, 11))

    for each in logits:
        check(each, each.clone(), dtype=torch.bfloat16)  # it was on the device
    check.that(not shared.has_nan(list(logits)), "a logit is NaN")
