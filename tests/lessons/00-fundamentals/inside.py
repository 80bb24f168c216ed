"""Helpers for the probes of this lesson, which run in the student's process, with torch and the standard library only."""

import os
import tempfile
from collections.abc import Mapping

import torch

from ..inside import a_tensor

# ---------------------------------------------------------------------------------------------- tokenization


def built(vocab, merges, special_tokens=()):
    """A tokenizer of these parts, which are passed as copies."""
    from tokenization import BPETokenizer

    return BPETokenizer(dict(vocab), list(merges), list(special_tokens))


def trained(text, vocab_size, special_tokens=()):
    from tokenization import BPETokenizer

    return BPETokenizer.train(text, vocab_size, special_tokens)


def state(tokenizer):
    """A tokenizer's attributes as plain data; anything else is sent as it is."""
    vocab, merges, special_tokens = tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens
    pairs = isinstance(merges, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in merges)
    return {
        "vocab": dict(vocab) if isinstance(vocab, Mapping) else vocab,
        "merges": [tuple(pair) for pair in merges] if pairs else merges,
        "special_tokens": list(special_tokens) if isinstance(special_tokens, (list, tuple)) else special_tokens,
    }


def state_as_pairs(tokenizer):
    """The attributes, with the merges as a list of pairs also where they are kept as ranks, of pairs or of joined tokens.

    In what form they are kept is the matter of one test.
    """
    found = state(tokenizer)
    ranks = found["merges"]
    if isinstance(ranks, Mapping) and all(isinstance(key, tuple) for key in ranks):
        return found | {"merges": list(ranks)}
    if isinstance(ranks, Mapping) and all(isinstance(key, bytes) for key in ranks):
        return found | {"merges": [_halves(token, ranks) for token in ranks]}
    return found


def _halves(token, ranks):
    """The pair that became a token: what the merges before it make of its bytes."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        places = [i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not places:
            break
        i = min(places, key=lambda i: ranks[parts[i] + parts[i + 1]])
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(parts)


def path_in_an_empty_folder(name):
    return os.path.join(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")), name)


def names_beside(path):
    return sorted(os.listdir(os.path.dirname(path)))


class PlainByteTokenizer:
    """A token is a byte, also of U+FFFD."""

    __slots__ = ()

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class ByteTokenizer:
    """A token is a byte, or U+FFFD. It has `encode` and `decode` and nothing else, as any tokenizer might."""

    __slots__ = ()

    def encode(self, text):
        whole, parts = [256], text.split("\ufffd")
        return [*parts[0].encode(), *(id for part in parts[1:] for id in whole + list(part.encode()))]

    def decode(self, ids):
        return b"".join("\ufffd".encode() if id == 256 else bytes([id]) for id in ids).decode(errors="replace")


class LowerCaseTokenizer:
    """A token is a character, which loses its case."""

    __slots__ = ()

    def encode(self, text):
        return [ord(character) for character in text.lower()]

    def decode(self, ids):
        return "".join(map(chr, ids))


# ---------------------------------------------------------------------------------------------- bigram


def fitted(vocab_size, smoothing, ids):
    from bigram import BigramLanguageModel

    forget_wrong_pairs()
    model = BigramLanguageModel(vocab_size, smoothing=smoothing)
    model.fit(ids)
    return model


def forget_wrong_pairs():
    """Gives the model right training pairs where that is all it lacks: a mistake in them has tests of its own."""
    import bigram

    own = bigram.training_pairs
    if _counts_two_pairs(bigram.BigramLanguageModel):
        return
    bigram.training_pairs = lambda ids: (ids[..., :-1], ids[..., 1:])
    if not _counts_two_pairs(bigram.BigramLanguageModel):
        bigram.training_pairs = own


def _counts_two_pairs(model):
    """Whether a model finds the pairs (0, 2) and (2, 1) in 0, 2, 1: p(2 | 0) and p(1 | 2) are greater than p(0 | 1)."""
    try:
        fitted = model(3, smoothing=1.0).fit(torch.tensor([0, 2, 1]))
        rows = [fitted.next_token_probabilities(token).float() for token in range(3)]
        right = torch.tensor([[1 / 4, 1 / 4, 1 / 2], [1 / 3] * 3, [1 / 4, 1 / 2, 1 / 4]])
        return torch.allclose(torch.stack(rows), right) and abs(fitted.perplexity(torch.tensor([0, 2, 1])) - 2) < 1e-3
    except Exception:  # whatever it is, the tests say it
        return False


def probabilities(model, vocab_size):
    """The probabilities after each token: (V, V)."""
    rows = [model.next_token_probabilities(token) for token in range(vocab_size)]
    return torch.stack([a_tensor(row, "what next_token_probabilities returns") for row in rows])
