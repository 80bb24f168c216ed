"""Attention, one head after the other, with torch's own functions where they exist."""

import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def causal_mask(length: int, device=None) -> Tensor:
    above = torch.full((length, length), True, device=device).triu(diagonal=1)
    return above.logical_not()


def padding_mask(lengths, max_length: Optional[int] = None) -> Tensor:
    device = lengths.device if isinstance(lengths, Tensor) else None
    numbers = [int(n) for n in lengths]
    if max_length is None:
        max_length = max(numbers)
    for n in numbers:
        if n > max_length:
            raise ValueError(f"length {n} is more than max_length ({max_length})")
    rows = [[True] * n + [False] * (max_length - n) for n in numbers]
    return torch.tensor(rows, device=device).reshape(len(numbers), 1, 1, max_length)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Optional[Tensor], drop: nn.Module):
    scores = torch.matmul(q, k.mT).div(scale)
    if mask is None:
        weights = F.softmax(scores, dim=-1)
    else:
        allowed = mask.to(torch.bool)
        some = allowed.any(dim=-1, keepdim=True)
        # A row without any key is opened for the softmax, so that it stays finite, and closed by the product.
        bias = torch.zeros_like(scores).masked_fill((allowed | ~some).logical_not(), float("-inf"))
        weights = F.softmax(scores + bias, dim=-1) * some
    weights = drop(weights)
    return torch.matmul(weights, v), weights


class ScaledDotProductAttention(nn.Module):
    def __init__(self, temperature: float, attn_dropout: float = 0.1):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"bad temperature: {temperature}")
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=False)
        self.value = float(temperature)
        self.attn_dropout = nn.Dropout(attn_dropout)

    def forward(self, q, k, v, mask=None):
        return attend(q, k, v, self.value, mask, self.attn_dropout)


class MultiHeadAttention(nn.Module):
    def __init__(self, n_head, d_model, d_k, d_v, dropout=0.1):
        super().__init__()
        self.sizes = (n_head, d_k, d_v)
        self.w_q, self.w_k = (nn.Linear(d_model, n_head * d_k, bias=False) for _ in range(2))
        self.w_v = nn.Linear(d_model, n_head * d_v, bias=False)
        self.w_o = nn.Linear(n_head * d_v, d_model, bias=False)
        self.dropout, self.after = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, q, k, v, mask=None):
        n_head, d_k, d_v = self.sizes
        outputs, maps = [], []
        for head in range(n_head):
            keys, values = slice(head * d_k, (head + 1) * d_k), slice(head * d_v, (head + 1) * d_v)
            one = mask
            if mask is not None and mask.dim() == 4:
                one = mask[:, head if mask.shape[1] > 1 else 0]
            output, weights = attend(
                F.linear(q, self.w_q.weight[keys]),
                F.linear(k, self.w_k.weight[keys]),
                F.linear(v, self.w_v.weight[values]),
                math.sqrt(d_k), one, self.dropout,
            )
            outputs.append(output)
            maps.append(weights)
        return self.after(self.w_o(torch.cat(outputs, dim=-1))), torch.stack(maps, dim=1)


def one_by_one(q, k, v, num_heads, mask, drop):
    width = q.shape[-1] // num_heads
    pairs = [attend(*parts, math.sqrt(width), mask, drop)
             for parts in zip(*(x.split(width, dim=-1) for x in (q, k, v)))]
    return torch.cat([output for output, _ in pairs], dim=-1), torch.stack([weights for _, weights in pairs], dim=1)


class _Heads(nn.Module):
    def __init__(self, d_model, num_heads, dropout):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model ({d_model}) must be a multiple of the number of heads")
        self.num_heads = num_heads
        self.proj = nn.Linear(d_model, d_model)
        self.attn_drop, self.resid_drop = nn.Dropout(dropout), nn.Dropout(dropout)

    def finish(self, q, k, v, mask):
        output, weights = one_by_one(q, k, v, self.num_heads, mask, self.attn_drop)
        return self.resid_drop(self.proj(output)), weights


class CausalAttention(_Heads):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__(d_model, num_heads, dropout)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.masks = {}

    def forward(self, x):
        key = x.shape[1], x.device
        if key not in self.masks:
            self.masks[key] = causal_mask(*key)
        return self.finish(*self.qkv(x).tensor_split(3, dim=2), self.masks[key])


class CrossAttention(_Heads):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__(d_model, num_heads, dropout)
        self.q, self.kv = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model * 2)

    def forward(self, x, context, context_mask=None):
        k, v = self.kv(context).tensor_split(2, dim=2)
        if context_mask is not None:
            context_mask = context_mask.unsqueeze(1).expand(-1, x.shape[1], -1)
        return self.finish(self.q(x), k, v, context_mask)


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, dropout=0.0):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model is {d_model}, no multiple of {num_heads}")
        if num_heads % num_kv_heads != 0:
            raise ValueError(f"num_kv_heads is {num_kv_heads}, which does not divide {num_heads}")
        self.width, self.dropout = d_model // num_heads, dropout
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, num_kv_heads * self.width, bias=False)
        self.v = nn.Linear(d_model, num_kv_heads * self.width, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, causal=True):
        q, k, v = (layer(x).unflatten(2, (-1, self.width)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        output = F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, dropout_p=self.dropout if self.training else 0.0, enable_gqa=True
        )
        return self.proj(output.transpose(1, 2).flatten(2))
