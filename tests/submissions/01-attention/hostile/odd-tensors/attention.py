import torch
from attack import *

odd = [
    lambda x: x.to("meta"),
    lambda x: x.to_sparse(),
    lambda x: torch.nested.nested_tensor([x, x]),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    lambda x: torch._neg_view(x),
    lambda x: (lambda: x),
    lambda x: iter([x]),
    lambda x: torch.nn.Parameter(x),
]


@answer
def one_of_them(q, k, v):
    return odd[torch.initial_seed() % len(odd)](torch.zeros(*q.shape[:-1], v.shape[-1]))
