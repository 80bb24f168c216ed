import torch
import torch.nn as nn
import torch.nn.functional as F


def causal_mask(length, device=None):
    index = torch.arange(length, device=device)
    return index.unsqueeze(1) >= index.unsqueeze(0)


def padding_mask(lengths, max_length=None):
    if not torch.is_tensor(lengths):
        lengths = torch.tensor(lengths)
    size = lengths.max().item() if max_length is None else max_length
    if (lengths > size).any():
        raise ValueError(f"lengths must be at most {size}: {lengths.tolist()}")
    mask = torch.zeros(len(lengths), 1, 1, size, dtype=torch.bool, device=lengths.device)
    for row, length in enumerate(lengths.tolist()):
        mask[row, ..., :length] = True
    return mask


def masked_softmax(scores, mask):
    """Exponentials of what may be seen, over their sum; a sum of nothing counts as one."""
    if mask is None:
        return torch.softmax(scores, -1)
    mask = torch.broadcast_to(mask != 0, scores.shape)
    peak = torch.where(mask, scores, -torch.inf).amax(-1, keepdim=True).detach()
    peak = torch.where(torch.isinf(peak), torch.zeros_like(peak), peak)
    exponentials = torch.where(mask, torch.where(mask, scores - peak, 0).exp(), 0)
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / torch.where(total == 0, torch.ones_like(total), total)


class ScaledDotProductAttention(nn.Module):
    def __init__(self, temperature, attn_dropout=0.1):
        if not temperature > 0:
            raise ValueError("temperature should be positive, got %r" % temperature)
        super().__init__()
        self.scale = 1 / temperature
        self.p = attn_dropout

    def forward(self, q, k, v, mask=None):
        scores = torch.einsum("...qd,...kd->...qk", q * self.scale, k)
        weights = F.dropout(masked_softmax(scores, mask), self.p, self.training)
        return torch.einsum("...qk,...kd->...qd", weights, v), weights


class MultiHeadAttention(nn.Module):
    def __init__(self, n_head, d_model, d_k, d_v, dropout=0.1):
        super().__init__()
        self.n_head, self.d_k, self.d_v, self.p = n_head, d_k, d_v, dropout
        self.w_q = nn.Linear(d_model, n_head * d_k, bias=False)
        self.w_k = nn.Linear(d_model, n_head * d_k, bias=False)
        self.w_v = nn.Linear(d_model, n_head * d_v, bias=False)
        self.w_o = nn.Linear(n_head * d_v, d_model, bias=False)
        nn.init.xavier_uniform_(self.w_q.weight)

    def forward(self, q, k, v, mask=None):
        w_q = self.w_q.weight.view(self.n_head, self.d_k, -1)
        w_k = self.w_k.weight.view(self.n_head, self.d_k, -1)
        w_v = self.w_v.weight.view(self.n_head, self.d_v, -1)
        w_o = self.w_o.weight.view(-1, self.n_head, self.d_v)
        queries = torch.einsum("bqm,hdm->bhqd", q, w_q)
        keys = torch.einsum("bkm,hdm->bhkd", k, w_k)
        values = torch.einsum("bkm,hdm->bhkd", v, w_v)
        scores = torch.einsum("bhqd,bhkd->bhqk", queries, keys) * self.d_k**-0.5
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        weights = F.dropout(masked_softmax(scores, mask), self.p, self.training)
        return torch.einsum("bhqk,bhkd,mhd->bqm", weights, values, w_o), weights


def heads_of(x, num_heads):
    return x.view(x.size(0), x.size(1), num_heads, -1)


class CausalAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.num_heads, self.p = num_heads, dropout
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).unbind(2)  # B T H d
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / (width // self.num_heads) ** 0.5
        future = torch.ones(length, length, device=x.device).triu(1)
        weights = scores.masked_fill(future == 1, -torch.inf).softmax(-1)
        weights = F.dropout(weights, self.p, self.training)
        output = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        return self.proj(output), weights


class CrossAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.num_heads, self.p = num_heads, dropout
        self.q, self.kv = nn.Linear(d_model, d_model), nn.Linear(d_model, 2 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x, context, context_mask=None):
        q = heads_of(self.q(x), self.num_heads)
        k, v = heads_of(self.kv(context), 2 * self.num_heads).split(self.num_heads, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.size(-1) ** 0.5
        mask = None if context_mask is None else context_mask[:, None, None]
        weights = F.dropout(masked_softmax(scores, mask), self.p, self.training)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)), weights


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, dropout=0.0):
        super().__init__()
        for number, name, divisor in ((d_model, "d_model", num_heads), (num_heads, "num_heads", num_kv_heads)):
            if number % divisor:
                raise ValueError(f"{name}={number} is not a multiple of {divisor}")
        self.num_heads, self.num_kv_heads, self.p = num_heads, num_kv_heads, dropout
        width = d_model // num_heads
        self.q = nn.Linear(d_model, num_heads * width, bias=False)
        self.k = nn.Linear(d_model, num_kv_heads * width, bias=False)
        self.v = nn.Linear(d_model, num_kv_heads * width, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, causal=True):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.num_kv_heads, self.num_heads // self.num_kv_heads, -1)  # B T KV G d
        k, v = heads_of(self.k(x), self.num_kv_heads), heads_of(self.v(x), self.num_kv_heads)  # B T KV d
        scores = torch.einsum("bqngd,bknd->bngqk", q, k) / q.size(-1) ** 0.5
        weights = masked_softmax(scores, causal_mask(length, x.device) if causal else None)
        weights = F.dropout(weights, self.p, self.training)
        return self.proj(torch.einsum("bngqk,bknd->bqngd", weights, v).flatten(2))
