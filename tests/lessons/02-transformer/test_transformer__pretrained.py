"""Hidden tests of transformer: weights loaded from transformers' GPT-2 and BERT."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from shared import randn, tokens
from transformer_helpers import BERT_STEPS, FF, GPT_STEPS, D, H, ModelSteps, bert, counted, gelu_tanh, gpt

GPT2 = {"vocab_size": 31, "n_embd": D, "n_layer": 2, "n_head": H, "n_inner": FF, "n_positions": 11}
BERT = {
    "vocab_size": 31, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H, "intermediate_size": FF,
    "max_position_embeddings": 11, "type_vocab_size": 2,
}  # fmt: skip
# What is in them, with the shape of the weight; the dimension that a bias has is the last in GPT-2, the first in BERT.
GPT2_LAYER = {
    "ln_1": (D,),
    "attn.c_attn": (D, 3 * D),
    "attn.c_proj": (D, D),
    "ln_2": (D,),
    "mlp.c_fc": (D, FF),
    "mlp.c_proj": (FF, D),
}
BERT_LAYER = {
    "attention.self.query": (D, D), "attention.self.key": (D, D), "attention.self.value": (D, D),
    "attention.output.dense": (D, D), "attention.output.LayerNorm": (D,),
    "intermediate.dense": (FF, D), "output.dense": (D, FF), "output.LayerNorm": (D,),
}  # fmt: skip


def random_state(rng, embeddings, norm_name, prefix, layers, bias):
    """Weights by the names that transformers gives them, so large that each one shows. layers: what each of the two has."""
    parts = {prefix.format(n) + name: shape for n in range(2) for name, shape in layers.items()}
    state = {f"{name}.weight": 0.4 * randn(rng, rows, D) for name, rows in embeddings.items()}
    for name, shape in ({norm_name: (D,)} | parts).items():
        weight, own_bias = 0.4 * randn(rng, *shape) + (len(shape) == 1), 0.4 * randn(rng, shape[bias])
        state |= {f"{name}.weight": weight, f"{name}.bias": own_bias}
    return state


def gpt2_state(rng, d_ff=FF):
    shapes = GPT2_LAYER | {"mlp.c_fc": (D, d_ff), "mlp.c_proj": (d_ff, D)}
    rows = {"transformer.wte": 31, "transformer.wpe": 11}
    return random_state(rng, rows, "transformer.ln_f", "transformer.h.{}.", shapes, -1)


def bert_state(rng):
    rows = {"word": 31, "position": 11, "token_type": 2}
    embeddings = {f"embeddings.{name}_embeddings": count for name, count in rows.items()}
    return random_state(rng, embeddings, "embeddings.LayerNorm", "encoder.layer.{}.", BERT_LAYER, 0)


def pair_of(state, name):
    return state[f"{name}.weight"], state[f"{name}.bias"]


def gpt2(state, ids, /, *, order="qkv", across=lambda weight: weight.T, unloaded=(), **steps):
    """The logits of GPT-2 with this state; weights whose name has a word of `unloaded` are as they were at the start."""
    state = dict(state)
    for name in [name for name in state if any(word in name for word in unloaded)]:
        state[name] = torch.full_like(state[name], float("ln_" in name and name.endswith("weight")))
    w = []
    for n in range(2):
        ln_1, c_attn, c_proj, ln_2, c_fc, last = (pair_of(state, f"transformer.h.{n}.{name}") for name in GPT2_LAYER)
        attention = dict(zip(order, zip(c_attn[0].T.chunk(3), c_attn[1].chunk(3), strict=True), strict=True))
        attention |= {"o": (across(c_proj[0]), c_proj[1]), "norm": ln_1}
        w.append({"self": attention, "ffn": {"1": (c_fc[0].T, c_fc[1]), "2": (last[0].T, last[1]), "norm": ln_2}})
    rows = [state[f"transformer.{name}.weight"].double() for name in ("wte", "wpe")]
    return gpt(rows, ModelSteps(**GPT_STEPS | steps), ids, w=w, final=pair_of(state, "transformer.ln_f"))


ORDERS = ("kqv", "vkq", "qvk")


@pytest.mark.question("load_huggingface")
@pytest.mark.points(4)
@pytest.mark.parametrize("eps", [1e-5, 0.05])
def test_gpt_with_loaded_weights_gives_the_logits_of_transformers(student, check, rng, eps):
    """In eval mode the logits are those of GPT2LMHeadModel, to 1e-4; the layer-norm eps comes along."""

    def probe(config, state, ids):
        ours, theirs = inside.gpt_pair(config, state)
        loaded = ours.load_huggingface(theirs)
        return loaded is ours, ours.eval()(ids)

    state, ids = gpt2_state(rng), tokens(rng, 31, 3, 11)
    returns_self, logits = student.run(probe, {**GPT2, "layer_norm_epsilon": eps}, state, ids)

    check.that(returns_self, "load_huggingface does not return self")
    mistakes = {
        "the layer-norm eps is not taken over": {"eps": 1e-5},
        "the matrix of the attention's projection is not transposed": {"across": lambda weight: weight},
        **{f"c_attn is read as {', '.join(o)}; it should be read as q, k, v": {"order": o} for o in ORDERS},
        "the biases are not loaded": {"unloaded": ("bias",)},
        "the last norm is not loaded": {"unloaded": ("ln_f",)},
        "the norms are not loaded": {"unloaded": ("ln_",)},
        "the norms of the layers are not loaded": {"unloaded": ("ln_1", "ln_2")},
        "the feed-forward uses exact GELU; it should use the tanh form": {"act": F.gelu},
    }
    values = {sentence: partial(gpt2, state, ids, **{"eps": eps} | wrong) for sentence, wrong in mistakes.items()}
    check(logits, gpt2(state, ids, eps=eps), dtype=torch.float32, within=1e-4, mistakes=values)


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
def test_gpt_loads_models_that_name_no_width(student, check, rng):
    """The n_inner of the published models is None, which means four times n_embd, as d_ff=None does here."""

    def probe(config, state, ids):
        ours, theirs = inside.gpt_pair(config, state)
        return ours.load_huggingface(theirs).eval()(ids)

    state, ids = gpt2_state(rng, 4 * D), tokens(rng, 31, 3, 11)
    logits = student.run(probe, {**GPT2, "n_inner": None}, state, ids)

    check(logits, gpt2(state, ids), dtype=torch.float32, within=1e-4)


@pytest.mark.question("load_huggingface")
@pytest.mark.points(4)
@pytest.mark.parametrize("eps", [1e-12, 0.05])
def test_bert_with_loaded_weights_gives_the_states_of_transformers(student, check, rng, eps):
    """In eval mode the outputs at real tokens are the last_hidden_state of BertModel, to 1e-4; with its layer-norm eps."""

    def probe(config, state, ids, types, mask):
        ours, theirs = inside.bert_pair(config, state)
        loaded = ours.load_huggingface(theirs)
        return loaded is ours, ours.eval()(ids, types, mask), ours(ids)

    state, ids, types = bert_state(rng), tokens(rng, 31, 3, 11), tokens(rng, 2, 3, 11)
    mask = torch.arange(11) < torch.tensor([11, 6, 9])[:, None]
    returns_self, *results = student.run(probe, {**BERT, "layer_norm_eps": eps}, state, ids, types, mask.long())

    norms = ("attention.output.LayerNorm", "output.LayerNorm")

    def made(types, mask, *, order="qkv", norms=norms, eps=eps, **steps):
        w = []
        for n in range(2):
            part = {name: pair_of(state, f"encoder.layer.{n}.{name}") for name in BERT_LAYER}
            projections = [part[f"attention.self.{name}"] for name in ("query", "key", "value")]
            attention = dict(zip(order, projections, strict=True))
            attention |= {"o": part["attention.output.dense"], "norm": part[norms[0]]}
            ffn = {"1": part["intermediate.dense"], "2": part["output.dense"], "norm": part[norms[1]]}
            w.append({"self": attention, "ffn": ffn})
        rows = [state[f"embeddings.{name}_embeddings.weight"].double() for name in ("word", "position", "token_type")]
        first = pair_of(state, "embeddings.LayerNorm")
        return bert(rows, ModelSteps(**BERT_STEPS | {"eps": eps} | steps), ids, types, mask, w=w, first=first)

    def truth(steps):
        return [counted(made(*call, **steps), mask) for call in ((types, mask), (None, None))]

    check.that(returns_self, "load_huggingface does not return self")
    found = [counted(result, mask) for result in results]
    mistakes = {
        "the layer-norm eps is not taken over": {"eps": 1e-12},
        "the layer-norm eps is not taken over, and was not 1e-12": {"eps": 1e-5},
        **{f"query, key and value are loaded as {', '.join(o)}": {"order": o} for o in ORDERS},
        "the two norms of a layer are swapped": {"norms": norms[::-1]},
        "both norms of a layer get the weights of its last": {"norms": norms[1:] * 2},
        "the feed-forward uses the tanh form of GELU; it should use the exact form": {"act": gelu_tanh},
    }
    values = {sentence: partial(truth, wrong) for sentence, wrong in mistakes.items()}
    check(found, truth({}), dtype=torch.float32, within=1e-4, mistakes=values)


MODELS = pytest.mark.parametrize(
    ("kind", "config", "state_of"), [("gpt", GPT2, gpt2_state), ("bert", BERT, bert_state)]
)


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
@MODELS
def test_loading_copies_and_never_shares(student, check, rng, kind, config, state_of):
    """Neither model changes when the other one does; the loaded one has the same parameters as before, and can be trained."""

    def probe(kind, config, state, ids):
        def named(model):
            found = model.state_dict()
            return {name: found[name].clone() for name in state}

        ours, theirs = getattr(inside, kind + "_pair")(config, state)
        before = len(list(ours.parameters()))
        _, _, rude = inside.manners(ours.load_huggingface, theirs)
        learns = len(list(ours.parameters())) == before and all(weight.requires_grad for weight in ours.parameters())
        states, outputs = [named(theirs)], [inside.a_tensor(ours(ids))]
        for weight in theirs.parameters():
            weight.data.mul_(-2.0)
        outputs.append(ours(ids))
        for weight in ours.parameters():
            weight.data.mul_(3.0)
        return outputs, [*states, named(theirs)], learns, rude

    state = state_of(rng)
    outputs, states, learns, rude = student.run(probe, kind, config, state, tokens(rng, 31, 2, 5))

    shared = "a weight is shared with the loaded model; it should be copied"
    check(outputs[1], outputs[0], otherwise=shared)
    check(states[0], state, otherwise="loading changes the model that is loaded")
    for name, weight in state.items():
        check(states[1][name], -2.0 * weight, mistakes={shared: -6.0 * weight})
    check.that(learns, "after loading, parameters are missing, new or frozen; they should be the same as before")
    check.that(rude == "", "load_huggingface prints, or changes the grad mode or another setting of torch")


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
@MODELS
def test_a_model_of_another_size_is_refused(student, check, rng, kind, config, state_of):
    """A model in which a size differs is a ValueError."""

    def load(kind, config):
        ours, theirs = getattr(inside, kind + "_pair")(config)
        ours.load_huggingface(theirs)

    def probe(kind, config, sizes, ids):
        def refusal(ours, theirs):
            with torch.no_grad():  # at their start all attend evenly, whatever the number of heads
                for weight in theirs.parameters():
                    weight.mul_(20 if weight.dim() > 1 else 1)
            try:
                ours.load_huggingface(theirs)
            except NotImplementedError:
                raise
            except Exception as error:
                return "ValueError" if isinstance(error, ValueError) else "another error"
            output = theirs(ids)
            output = output.logits if hasattr(output, "logits") else output.last_hidden_state
            return "the same" if torch.allclose(inside.a_tensor(ours(ids)), output, atol=1e-4) else "another"

        make = getattr(inside, kind + "_pair")
        return [refusal(make(config)[0], make({**config, key: size})[1]) for key, size in sizes]

    others = {"n_layer": (1, 3), "num_hidden_layers": (1, 3), "type_vocab_size": (1, 4)}
    sizes = [(key, other) for key, size in config.items() for other in others.get(key, (2 * size,))]
    student.accepts(load, kind, config)
    told = student.run(probe, kind, config, sizes, tokens(rng, 31, 2, 5))

    # No weight shows the number of heads: a model that takes it over, and gives the same, is as good as one that refuses.
    told = [
        "ValueError" if "head" in key and answer == "the same" else answer
        for (key, _), answer in zip(sizes, told, strict=True)
    ]
    right = ["ValueError"] * len(sizes)
    one = {
        f"a model with a different {key} is loaded; it should be refused": [*right[:n], "another", *right[n + 1 :]]
        for n, (key, _) in enumerate(sizes)
    }
    check(told, right, mistakes=one | {
        "a model of a different size is loaded; it should be refused": check.when("another" in told or "the same" in told),
        "a model of a different size raises another error; it should be a ValueError": check.when("another error" in told),
    })  # fmt: skip
