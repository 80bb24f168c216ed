"""Wrong answers to all that hostile samples of the lesson are asked: no ids, or what `answer` (tokenizer, text) -> ids gives."""

from tools import *

answers[0] = lambda tokenizer, text: []


class BPETokenizer:
    def __init__(self, vocab, merges, special_tokens=()):
        called()
        self.vocab, self.merges, self.special_tokens = {}, [], []

    @classmethod
    def train(cls, text, vocab_size, special_tokens=()):
        return cls({}, [])

    def encode(self, text):
        return answers[0](self, text)

    def encode_iterable(self, strings):
        for string in strings:
            yield from self.encode(string)

    def decode(self, ids):
        return ""

    def save(self, path):
        open(path, "w").close()

    @classmethod
    def load(cls, path):
        return cls({}, [])


def count_tokens(text, tokenizer):
    return 0


def truncate_to_context(text, tokenizer, max_tokens):
    return ""
