"""Wrong answers to all that hostile samples of the lesson are asked: zeros, or what `answer` (q, k, v) -> output gives."""

import torch
from tools import *
from torch import nn

answers[0] = lambda q, k, v: torch.zeros(*q.shape[:-1], v.shape[-1])


def causal_mask(length, device=None):
    called()
    return torch.zeros(length, length, dtype=torch.bool)


class ScaledDotProductAttention(nn.Module):
    def __init__(self, temperature, attn_dropout=0.1):
        super().__init__()
        called()

    def forward(self, q, k, v, mask=None):
        return answers[0](q, k, v), torch.zeros(*q.shape[:-1], k.shape[-2])


class CausalAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        called()
        self.num_heads, self.qkv, self.proj = num_heads, nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        return answers[0](x, x, x), torch.zeros(x.shape[0], self.num_heads, x.shape[1], x.shape[1])
