from itertools import count

import torch
from attack import *


class Endless(list):
    def __iter__(self):
        return count()


class EndlessPair(tuple):
    def __iter__(self):
        return (torch.zeros(1000) for _ in count())


class EndlessDict(dict):
    def items(self):
        return ((number, [number] * 100) for number in count())


@answer
def endlessly(ids, length):
    return Endless([0])


def beam_search(*args, **options):
    return EndlessPair((0, 0))


def speculative_sample(*args, **options):
    return EndlessDict({0: 0})
