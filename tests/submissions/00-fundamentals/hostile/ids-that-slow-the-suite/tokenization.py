import itertools

from attack import *


class BPETokenizer(BPETokenizer):
    def __init__(self, vocab, merges, special_tokens=()):
        self.vocab = {id: b"a" * (id % 50) for id in range(3000)}
        self.merges = [(b"a", b"a" * (id % 40)) for id in range(2000)]
        self.special_tokens = ["a" * (id % 90) for id in range(2000)]

    def encode(self, text):
        return [[id, id + 1] for id in range(3000)] if len(text) % 2 else list(range(5000))

    def encode_iterable(self, strings):
        return itertools.repeat(7, 60_000)

    def decode(self, ids):
        return "(" * 20_000 + "a" * 20_000 + "\ufffd" * 10_000


def count_tokens(text, tokenizer):
    return 1 << 62


def truncate_to_context(text, tokenizer, max_tokens):
    return "a" * 3000
