import torch
from attack import *


@answer
def nan(q, k, v):
    return torch.full((*q.shape[:-1], v.shape[-1]), float("nan"))
