import torch
from attack import *
from right_tokenization import BPETokenizer as Right
from right_tokenization import count_tokens as right_count


class Id(str):
    def __eq__(self, other):
        return other == int(str(self))

    def __hash__(self):
        return hash(int(str(self)))


KINDS = (Id, float, complex, lambda id: id == 1 or id, lambda id: b"%d" % id, torch.tensor, lambda id: torch.tensor(id).numpy()[()])


class BPETokenizer(Right):
    def __init__(self, vocab, merges, special_tokens=()):
        super().__init__(vocab, merges, special_tokens)
        self.vocab = {Id(id): token for id, token in self.vocab.items()}

    def encode(self, text):
        return [KINDS[place % len(KINDS)](id) for place, id in enumerate(Right.encode(self, text))]

    def decode(self, ids):
        return list(super().decode([int(id) for id in ids]))


def count_tokens(text, tokenizer):
    return float(right_count(text, tokenizer))
