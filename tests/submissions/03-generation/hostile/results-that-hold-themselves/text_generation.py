import torch
from attack import *

self_holding = []
self_holding += [self_holding, {0: self_holding}]
doubling = [0]
for _ in range(30):
    doubling = [doubling, doubling]
one = torch.zeros(1 << 15, dtype=torch.int64)
many = [one] * 10_000


@answer
def themselves(ids, length):
    return self_holding if len(ids) > 1 else doubling


def beam_search(*args, **options):
    return many, self_holding


def speculative_sample(*args, **options):
    return {"ids": doubling}, doubling
