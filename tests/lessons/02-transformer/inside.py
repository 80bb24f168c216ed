"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import contextlib
import inspect

import torch
from torch import nn

from ..inside import a_tensor, copies, gradients, weights_of, with_known_weights

# ---------------------------------------------------------------------------------------------- transformer


def results(name, args, tables, calls, gradients=False, parts=None):
    """What a model of the student gives with known weights for each call's inputs, in eval mode.

    name: of a class, or "Class.method". With gradients each result is [output, inside.gradients at the inputs that are
    floating point]. With parts, class -> its arguments: (results, what the model's parts give: `_of_parts`).
    """
    import transformer

    name, *method = name.split(".")
    model, heard = with_known_weights(getattr(transformer, name)(*args), tables), []
    _listen(model, parts or (), heard)
    function = getattr(model, method[0]) if method else model
    found = [_with_gradients(function, call) if gradients else function(*call) for call in calls]
    return found if parts is None else (found, _of_parts(parts, tables, heard))


def _with_gradients(function, call):
    leaves = [item.clone().requires_grad_() if item.is_floating_point() else item for item in call]
    output = a_tensor(function(*leaves))
    return [output, *gradients(output, [leaf for leaf in leaves if leaf.requires_grad])]


def _listen(model, parts, heard):
    """Adds (class, inputs) to `heard` when a part is called. It gets copies of them, and the same random numbers each time:
    what a part does to its inputs, or draws in eval mode, is for its own tests to say.
    """

    def hook(part, args, options):
        call = inspect.signature(part.forward).bind(*args, **options)
        call.apply_defaults()
        inputs = list(call.arguments.values())
        heard.append((type(part).__name__, copies(inputs)))
        torch.manual_seed(1)
        return tuple(copies(inputs)), {}

    for part in model.modules():
        if part is not model and type(part).__name__ in parts:
            part.register_forward_pre_hook(hook, with_kwargs=True)


def _of_parts(parts, tables, heard):
    """What was heard, as (class, inputs, output): the output of such a part by itself, made with the right arguments.

    A model that makes its parts with other arguments, or changes them, gives something else. Calls that such a part does
    not take are left out.
    """
    import transformer

    made, notes = {}, []
    for name, inputs in heard:
        with contextlib.suppress(Exception):
            if name not in made:
                made[name] = with_known_weights(getattr(transformer, name)(*parts[name]), tables)
                _listen(made[name], parts, [])
            torch.manual_seed(1)
            notes.append((name, inputs, a_tensor(made[name](*copies(inputs)))))
    return notes


def randomized(model, vocab_size=None):
    """The model with random weights: its first ones may be so small, or zero, that nothing shows. A row a token is larger."""
    with torch.no_grad():
        for weight in weights_of(model):
            if weight.dim() > 1:
                weight.normal_(std=1.0 if vocab_size in weight.shape else weight.shape[-1] ** -0.5)
    return model


def gpt_pair(config, weights=None):
    """The student's GPTModel and the one of transformers, of the same sizes, in eval mode; the second with weights by name."""
    from transformer import GPTModel
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config(**config, bos_token_id=None, eos_token_id=None))
    sizes = [config[key] for key in ("vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions")]
    return GPTModel(*sizes).eval(), _with_weights(theirs, weights)


def bert_pair(config, weights=None):
    """The same for BERT."""
    from transformer import BERTModel
    from transformers import BertConfig, BertModel

    theirs = BertModel(BertConfig(**config))
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
    sizes = [config[key] for key in names.split()]
    return BERTModel(*sizes, type_vocab_size=config["type_vocab_size"]).eval(), _with_weights(theirs, weights)


def _with_weights(model, weights):
    """The model of transformers in eval mode; what the test does not name, a pooler, stays as it is."""
    state = model.state_dict()
    unknown = set(weights or ()) - set(state)
    if unknown:
        raise RuntimeError(f"this transformers has no weights called {unknown}")
    state |= weights or {}
    if weights and "lm_head.weight" in state:
        state["lm_head.weight"] = weights["transformer.wte.weight"]
    model.load_state_dict(state)
    return model.eval()


# ---------------------------------------------------------------------------------------------- rope_encoding


def or_none(function, *args):
    """The tensor that the student's own function gives; None where it fails, which other tests say."""
    with contextlib.suppress(Exception):
        result = function(*args)
        return result if isinstance(result, torch.Tensor) else None


def turned_back(turn, x, y):
    """Whether gradients are those of a linear function: (Σ y · turn(x), Σ x · y turned back, whether any comes back)."""
    leaf = x.clone().requires_grad_()
    (slope,) = gradients(turn(leaf), [leaf], [y])
    return (y * turn(x)).sum().item(), (x * slope).sum().item(), bool(slope.any())


# ---------------------------------------------------------------------------------------------- training: trainers


class Toy(nn.Module):
    """A model(src, tgt) -> logits: out(tanh(target embedding + mean of the source embeddings but 0)). Keeps calls.

    Args:
        weights: "src" (Vs, D), "tgt" (Vt, D), "weight" (V, D) and "bias" (V,) of the last layer; dtype becomes theirs.
    """

    def __init__(self, weights):
        super().__init__()
        width = weights["src"].shape[1]
        self.src_embedding = nn.Embedding(*weights["src"].shape)
        self.tgt_embedding = nn.Embedding(*weights["tgt"].shape)
        self.out = nn.Linear(width, weights["weight"].shape[0])
        self.to(weights["src"])
        for parameter, name in self.named_weights():
            parameter.data.copy_(weights[name])
        self.calls = []

    def named_weights(self):
        weights = self.src_embedding.weight, self.tgt_embedding.weight, self.out.weight, self.out.bias
        return zip(weights, NAMES, strict=True)

    def forward(self, src, tgt):
        real = (src != 0).to(self.src_embedding.weight)[..., None]  # (B, Ts, 1): padding of the source does not count
        read = (self.src_embedding(src) * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)  # (B, 1, D)
        mixed = self.tgt_embedding(tgt) + read  # (B, T, D)
        logits = self.out(torch.tanh(mixed))  # (B, T, V)
        self.calls.append({
            "src": src, "tgt": tgt, "training": self.training, "logits": logits.detach(), "weight_dtype": self.out.weight.dtype,
        })  # fmt: skip
        return logits


NAMES = ("src", "tgt", "weight", "bias")
