"""Hidden tests of transformer: weights loaded from transformers' GPT-2 and BERT."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from transformer_helpers import FF, D, H, bert, gelu_tanh, given, gpt, randn, tokens

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


def random_state(rng, embeddings, norm_name, layers, bias):
    """Weights by the names that transformers gives them, so large that each one shows."""
    shapes = {
        norm_name: (D,),
        **{prefix + name: shape for prefix, parts in layers.items() for name, shape in parts.items()},
    }
    state = {f"{name}.weight": 0.4 * randn(rng, rows, D) for name, rows in embeddings.items()}
    for name, shape in shapes.items():
        state |= {
            f"{name}.weight": 0.4 * randn(rng, *shape) + (len(shape) == 1),
            f"{name}.bias": 0.4 * randn(rng, shape[bias]),
        }
    return state


def gpt2_state(rng, d_ff=FF):
    shapes = GPT2_LAYER | {"mlp.c_fc": (D, d_ff), "mlp.c_proj": (d_ff, D)}
    embeddings, layers = (
        {"transformer.wte": 31, "transformer.wpe": 11},
        {f"transformer.h.{n}.": shapes for n in range(2)},
    )
    return random_state(rng, embeddings, "transformer.ln_f", layers, -1)


def bert_state(rng):
    embeddings = {
        f"embeddings.{name}_embeddings": rows for name, rows in (("word", 31), ("position", 11), ("token_type", 2))
    }
    return random_state(
        rng, embeddings, "embeddings.LayerNorm", {f"encoder.layer.{n}.": BERT_LAYER for n in range(2)}, 0
    )


def pair_of(state, name):
    return state[f"{name}.weight"], state[f"{name}.bias"]


def gpt2(state, ids, *, order="qkv", across=lambda weight: weight.T, unloaded=(), **options):
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
    return gpt(ids, rows=rows, w=w, final=pair_of(state, "transformer.ln_f"), **options)


def loaded_bert(
    state, ids, types, mask, *, order="qkv", norms=("attention.output.LayerNorm", "output.LayerNorm"), **options
):
    w = []
    for n in range(2):
        part = {name: pair_of(state, f"encoder.layer.{n}.{name}") for name in BERT_LAYER}
        attention = dict(
            zip(order, (part[f"attention.self.{name}"] for name in ("query", "key", "value")), strict=True)
        )
        attention |= {"o": part["attention.output.dense"], "norm": part[norms[0]]}
        w.append(
            {
                "self": attention,
                "ffn": {"1": part["intermediate.dense"], "2": part["output.dense"], "norm": part[norms[1]]},
            }
        )
    rows = [state[f"embeddings.{name}_embeddings.weight"].double() for name in ("word", "position", "token_type")]
    return bert(ids, types, mask, rows=rows, w=w, first=pair_of(state, "embeddings.LayerNorm"), **options)


def tried(truth, options):
    return {text: (lambda wrong=wrong: truth(**wrong)) for text, wrong in options.items()}


@pytest.mark.question("load_huggingface")
@pytest.mark.points(4)
@pytest.mark.parametrize("eps", [1e-5, 0.05])
def test_gpt_with_loaded_weights_gives_the_logits_of_transformers(student, check, rng, eps):
    """In eval mode the logits are those of GPT2LMHeadModel, to 1e-4; the layer-norm eps comes along."""

    def probe(config, state, ids):
        ours, theirs = inside.gpt_pair(config, state)
        loaded = ours.load_huggingface(theirs)
        return loaded is ours, ours.eval()(ids)

    state, ids = gpt2_state(rng), tokens(rng, 3, 11, below=31)
    returns_self, logits = student.run(probe, {**GPT2, "layer_norm_epsilon": eps}, state, ids)

    check(returns_self, True, mistakes={"load_huggingface does not return self": False})
    truth = partial(gpt2, state, ids, eps=eps)
    check(logits, truth(), dtype=torch.float32, within=1e-4, mistakes=tried(truth, {
        "the layer-norm eps is not taken over": {"eps": 1e-5},
        "the matrix of the attention's projection is not transposed": {"across": lambda weight: weight},
        **{f"c_attn holds q, k, v in this order: it was read as {', '.join(o)}": {"order": o} for o in ("kqv", "vkq", "qvk")},
        "the biases are not loaded": {"unloaded": ("bias",)},
        "the last norm is not loaded": {"unloaded": ("ln_f",)},
        "the norms are not loaded": {"unloaded": ("ln_",)},
        "the norms of the layers are not loaded": {"unloaded": ("ln_1", "ln_2")},
        "the feed-forward uses exact GELU: here it is the tanh form": {"act": F.gelu},
    }))  # fmt: skip


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
def test_gpt_loads_models_that_name_no_width(student, check, rng):
    """The n_inner of the published models is None, which means four times n_embd, as d_ff=None does here."""

    def probe(config, state, ids):
        ours, theirs = inside.gpt_pair(config, state)
        return ours.load_huggingface(theirs).eval()(ids)

    state, ids = gpt2_state(rng, 4 * D), tokens(rng, 3, 11, below=31)
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

    state, ids, types = bert_state(rng), tokens(rng, 3, 11, below=31), torch.randint(0, 2, (3, 11), generator=rng)
    mask = torch.arange(11) < torch.tensor([11, 6, 9])[:, None]
    returns_self, result, plain = student.run(probe, {**BERT, "layer_norm_eps": eps}, state, ids, types, mask.long())

    def truth(eps=eps, **wrong):
        return [loaded_bert(state, ids, *more, eps=eps, **wrong)[mask] for more in ((types, mask), (None, None))]

    check(returns_self, True, mistakes={"load_huggingface does not return self": False})
    right = all(isinstance(output, torch.Tensor) and output.shape == (3, 11, D) for output in (result, plain))
    assert right, "the result does not have the shape (B, T, D)"
    check([result[mask], plain[mask]], truth(), dtype=torch.float32, within=1e-4, mistakes=tried(truth, {
        "the layer-norm eps is not taken over": {"eps": 1e-12},
        "the layer-norm eps is not taken over, and was not 1e-12": {"eps": 1e-5},
        **{f"query, key and value are loaded as {', '.join(o)}": {"order": o} for o in ("kqv", "vkq", "qvk")},
        "the two norms of a layer are swapped": {"norms": ("output.LayerNorm", "attention.output.LayerNorm")},
        "both norms of a layer get the weights of its last": {"norms": ("output.LayerNorm", "output.LayerNorm")},
        "the feed-forward uses the tanh form of GELU: here it is exact": {"act": gelu_tanh},
    }))  # fmt: skip


MODELS = pytest.mark.parametrize(
    ("kind", "config", "state_of"), [("gpt", GPT2, gpt2_state), ("bert", BERT, bert_state)]
)


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
@MODELS
def test_loading_copies_and_never_shares(student, check, rng, kind, config, state_of):
    """Neither model changes when the other one does; the loaded one has the same parameters as before, and can be trained."""

    def probe(kind, config, state, ids):
        ours, theirs = getattr(inside, kind + "_pair")(config, state)
        before = len(list(ours.parameters()))
        _, _, torch_changed, printed = inside.manners(ours.load_huggingface, theirs)
        learns = len(list(ours.parameters())) == before and all(weight.requires_grad for weight in ours.parameters())
        states, outputs = [inside.named(theirs, state)], [inside.a_tensor(ours(ids))]
        for weight in theirs.parameters():
            weight.data.mul_(-2.0)
        outputs.append(ours(ids))
        for weight in ours.parameters():
            weight.data.mul_(3.0)
        return outputs, [*states, inside.named(theirs, state)], learns, torch_changed or printed

    state = state_of(rng)
    outputs, states, learns, rude = student.run(probe, kind, config, state, tokens(rng, 2, 5, below=31))

    shared = "a weight is shared with the loaded model: it is to be copied"
    check(outputs[1], outputs[0], otherwise=shared)
    check(states[0], state, otherwise="loading changes the model that is loaded")
    for name, weight in state.items():
        check(states[1][name], -2.0 * weight, mistakes={shared: -6.0 * weight})
    check(
        learns,
        True,
        mistakes={"after loading there are other parameters than before, or some cannot be trained": False},
    )
    check(rude, False, mistakes={"load_huggingface prints, or changes the grad mode or another setting of torch": True})


@pytest.mark.question("load_huggingface")
@pytest.mark.points(2)
@MODELS
def test_a_model_of_another_size_is_refused(student, check, rng, kind, config, state_of):
    """A model in which a size differs is a ValueError."""

    def probe(kind, config, sizes, ids):
        make = getattr(inside, kind + "_pair")
        return [inside.refusal(make(config)[0], make({**config, key: size})[1], ids) for key, size in sizes]

    others = {"n_layer": (1, 3), "num_hidden_layers": (1, 3), "type_vocab_size": (1, 4)}
    sizes = [(key, other) for key, size in config.items() for other in others.get(key, (2 * size,))]
    told = student.run(probe, kind, config, sizes, tokens(rng, 2, 5, below=31))

    # No weight shows the number of heads: a model that takes it over, and gives the same, is as good as one that refuses.
    told = [
        "ValueError" if "head" in key and answer == "the same" else answer
        for (key, _), answer in zip(sizes, told, strict=True)
    ]
    right = ["ValueError"] * len(sizes)
    one = {
        f"a model with another {key} is loaded": [*right[:n], "another", *right[n + 1 :]]
        for n, (key, _) in enumerate(sizes)
    }
    check(told, right, mistakes=one | {
        "a model of another size is loaded": lambda: given("another" in told or "the same" in told, told),
        "a model of another size is an error, but no ValueError": lambda: given("another error" in told, told),
    })  # fmt: skip
