import torch
from attack import *

wrong = [lambda shape: torch.ones(shape), lambda shape: torch.ones(*shape, 1), lambda shape: 1.0, lambda shape: None]


@answer
def any_of_them(q, k, v):
    shape = (*q.shape[:-1], v.shape[-1])
    return wrong[q.dim() % 4](shape)
