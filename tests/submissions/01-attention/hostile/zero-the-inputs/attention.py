import torch
from attack import *


@answer
def zeroed(q, k, v):
    for tensor in (q, k, v):
        tensor.zero_()
    return torch.zeros(*q.shape[:-1], v.shape[-1])
