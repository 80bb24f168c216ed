import torch
from attack import *


@answer
def odd(q, k, v):
    bits = torch.tensor([0x7F800000, -0x800000, 0x7FC12345, 0x7F800001], dtype=torch.int64).to(torch.int32)
    size = q[..., 0].numel() * v.shape[-1]
    return bits.repeat(size // 4 + 1)[:size].view(torch.float32).reshape(*q.shape[:-1], v.shape[-1])
