from collections.abc import Mapping
from itertools import count

from attack import *


class Vocabulary(Mapping):
    def __len__(self):
        return 256

    def __getitem__(self, id):
        return b"x" * 1000

    def __iter__(self):
        return count()


class Endless(list):
    def __iter__(self):
        return count()

    def __len__(self):
        return 1


class BPETokenizer(BPETokenizer):
    def __init__(self, vocab, merges, special_tokens=()):
        self.vocab, self.merges, self.special_tokens = Vocabulary(), Endless([0]), Endless([0])

    def encode(self, text):
        return Endless([0])

    def encode_iterable(self, strings):
        return count()
