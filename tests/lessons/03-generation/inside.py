"""Helpers for the probes of the lesson: they run in the student's process, with torch and the standard library."""

import contextlib
import io
import json
import os
import tempfile

import torch
from torch import nn

# ---------------------------------------------------------------------------------------------- any function


def a_text(value):
    """The value, if it is a text; as `a_tensor` does it for tensors."""
    if isinstance(value, str):
        return value
    raise TypeError(f"the text is {'None' if value is None else type(value).__name__}, it should be a str")


# ---------------------------------------------------------------------------------------------- models


class Table:
    """A language model without weights: logits of the next token by the last two tokens, from a table (V, V, V).

    The token before the first is 0. It is a plain callable: it has no modes and no parameters.
    max_len: of the model; None means that it has none.
    """

    def __init__(self, table, max_len=None):
        self.table = table
        if max_len is not None:
            self.max_len = max_len

    def __call__(self, ids):
        if ids.shape[1] > getattr(self, "max_len", ids.shape[1]):
            raise RuntimeError("the model got more tokens than its max_len")
        before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        return self.table.to(ids.device)[before, ids]


class TableModule(nn.Module):
    """A Table with two modules inside. Keeps its mode, and theirs, at each call."""

    def __init__(self, table):
        super().__init__()
        self.table, self.one, self.two, self.calls = Table(table), nn.Dropout(0.5), nn.Dropout(0.5), []

    def forward(self, ids):
        self.calls.append(modes(self))
        return self.table(ids)


def modes(module):
    return [inner.training for inner in module.modules()]


def as_it_is(function, table, count, *args, **options):
    """Calls function(count models in mixed modes, ...): their modes before it, at each of their calls, and after it."""
    models = [TableModule(table).train() for _ in range(count)]
    for model in models:
        model.one.eval()
    before = [modes(model) for model in models]
    function(*models, *args, **options)
    return before, [model.calls for model in models], [modes(model) for model in models]


def unasked(max_len=None):
    """A model that must not be called."""

    def model(ids):
        raise RuntimeError("the model was called before the lengths were checked")

    if max_len is not None:
        model.max_len = max_len
    return model


class Speaker:
    """A model of bytes, or of `size` ids: after each context it says, almost surely, what say(list of ids) gives.

    Keeps the contexts it got.
    """

    def __init__(self, say, size=256):
        self.say, self.size, self.contexts = say, size, []

    def __call__(self, ids):
        rows = ids.tolist()
        self.contexts += rows
        logits = torch.zeros(*ids.shape, self.size)
        for b, row in enumerate(rows):
            for t in range(len(row)):
                logits[b, t, self.say(row[: t + 1])] = 100.0
        return logits


class Characters:
    """A tokenizer: each ASCII character is the id 127 - its code, so that bytes taken as ids are another text."""

    def encode(self, text):
        return [127 - min(ord(letter), 127) for letter in text]

    def decode(self, ids):
        return "".join(chr(127 - int(i)) for i in ids)


class Pieces(Characters):
    """Characters and two longer pieces, the first that fits: what was decoded may be encoded in more ids."""

    pieces = {"ab": 128, "bcd": 129}

    def encode(self, text):
        ids = []
        while text:
            piece = next((piece for piece in self.pieces if text.startswith(piece)), text[0])
            ids.append(self.pieces[piece] if piece in self.pieces else super().encode(piece)[0])
            text = text[len(piece) :]
        return ids

    def decode(self, ids):
        names = {i: piece for piece, i in self.pieces.items()}
        return "".join(names[int(i)] if int(i) in names else super(Pieces, self).decode([i]) for i in ids)


def with_sure_draws(function, *args, **options):
    """function(*args, **options), in which models that are sure of each token generate; so a wrong sample_next_token
    costs its own tests only.

    Where it does not draw what the logits are sure of, the likeliest token is taken instead; where it does, in a wrong
    shape, only if that fails: whoever wrote both may allow for that shape.
    """
    import text_generation

    own = getattr(text_generation, "sample_next_token", None)
    found = [_draws_what_is_sure(own, **filters) for filters in ({}, {"top_k": 1}, {"top_p": 0.9})]
    if all(same_shape for _, same_shape in found):
        return function(*args, **options)
    if all(same_tokens for same_tokens, _ in found):
        with contextlib.suppress(RuntimeError, IndexError):
            return function(*args, **options)
    text_generation.sample_next_token = lambda logits, *_, **__: logits.argmax(dim=-1)
    try:
        return function(*args, **options)
    finally:
        text_generation.sample_next_token = own


def _draws_what_is_sure(sample, **filters):
    """Whether it draws the right tokens, and whether it does so in the right shape."""
    try:
        drawn = sample(100.0 * nn.functional.one_hot(torch.tensor([4, 1]), 7), **filters)
        return drawn.flatten().tolist() == [4, 1], drawn.tolist() == [4, 1]
    except Exception:  # whatever is wrong: other tests say it
        return False, False


# ---------------------------------------------------------------------------------------------- checkpoints


def saved_gpt2(config, weights):
    """The folder of a GPT-2 of `transformers`, whose tokens are the 256 bytes and <|endoftext|>.

    config: settings of GPT2Config. weights: some weights by name; the others become 0.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))
    model = GPT2LMHeadModel(GPT2Config(**config, bos_token_id=256, eos_token_id=256))
    state = {name: torch.zeros_like(weight) for name, weight in model.state_dict().items()}
    if set(weights) - set(state):
        raise RuntimeError("this version of transformers names its weights differently")
    model.load_state_dict(state | weights)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model.save_pretrained(folder)

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2 shows these bytes as they are
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    files = {
        "vocab.json": json.dumps({letters[byte]: byte for byte in range(256)} | {"<|endoftext|>": 256}),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}),
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return folder
