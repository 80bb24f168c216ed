import math
from collections import namedtuple, OrderedDict
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def causal_mask(length, device=None):
    i = torch.arange(length, device=device)
    return i.unsqueeze(-1) >= i

def padding_mask(lengths, max_length=None):
    if isinstance(lengths, torch.Tensor):
        device, values = lengths.device, lengths.tolist()
    elif isinstance(lengths, (list, tuple)):
        device, values = None, lengths
    else:
        raise TypeError("lengths: tensor or list")
    longest = max(values)
    max_length = longest if max_length is None else max_length
    if max_length < longest:
        raise ValueError("max_length too small")
    out = torch.zeros(len(values), 1, 1, max_length, dtype=torch.bool, device=device)
    for row, n in zip(out, values):
        row[..., :n] = True
    return out

def attend(q, k, v, temperature, mask, p, training):
    st = k @ q.transpose(-2, -1) / temperature            # (..., Tk, Tq)
    if mask is not None:
        mt = torch.atleast_2d(mask).transpose(-2, -1).ne(0)
        st = torch.where(mt, st, torch.finfo(st.dtype).min / 2)
        w = torch.exp(st - torch.logsumexp(st, -2, keepdim=True))
        w = torch.where(mt, w, 0.0)
    else:
        w = (st - st.logsumexp(-2, keepdim=True)).exp()
    w = F.dropout(w, p, training).transpose(-2, -1)
    return w.matmul(v), w

class ScaledDotProductAttention(nn.Module):
    """With dropout layer made only when needed, extra buffers in state."""
    def __init__(self, temperature, attn_dropout=0.1):
        super().__init__()
        if temperature <= 0.0:
            raise ValueError("The temperature must be positive")
        self.temperature = float(temperature)
        self.dropout = nn.Dropout(attn_dropout) if attn_dropout > 0 else nn.Identity()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
    def forward(self, q, k, v, mask=None):
        p = getattr(self.dropout, "p", 0.0)
        return attend(q, k, v, self.temperature, mask, p, self.training)

def _cat(pairs):
    return torch.cat([o for o, _ in pairs], -1), torch.stack([w for _, w in pairs], 1)

class MultiHeadAttention(nn.Module):
    def __init__(self, n_head, d_model, d_k, d_v, dropout=0.1):
        nn.Module.__init__(self)
        self.n_head = n_head
        self.w_q = self.fc_q = nn.Linear(d_model, n_head * d_k, False)
        self.w_k = self.fc_k = nn.Linear(d_model, n_head * d_k, False)
        self.w_v = self.fc_v = nn.Linear(d_model, n_head * d_v, False)
        self.w_o = self.fc_o = nn.Linear(n_head * d_v, d_model, False)
        self.attn = nn.ModuleList([ScaledDotProductAttention(math.sqrt(d_k), dropout) for _ in range(n_head)])
    def forward(self, q, k, v, mask=None):
        qs, ks, vs = (t.chunk(self.n_head, dim=-1) for t in (self.w_q(q), self.w_k(k), self.w_v(v)))
        out = []
        for h in range(self.n_head):
            m = mask
            if m is not None and m.dim() == 4:
                m = m.expand(-1, self.n_head, -1, -1)[:, h]
            out.append(self.attn[h](qs[h], ks[h], vs[h], m))
        o, w = _cat(out)
        return self.w_o(o), w

class CausalAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        if d_model // num_heads * num_heads != d_model:
            raise ValueError("num_heads")
        self.h = num_heads
        self.qkv = nn.Linear(d_model, d_model * 3)
        self.proj = nn.Linear(d_model, d_model)
        self.attn = ScaledDotProductAttention((d_model / num_heads) ** 0.5, dropout)
        self.register_buffer("bias", torch.ones(64, 64, dtype=torch.bool).tril())
    def forward(self, x):
        T = x.shape[1]
        m = self.bias[:T, :T] if T <= 64 else causal_mask(T, x.device)
        q, k, v = self.qkv(x).chunk(3, 2)
        pairs = [self.attn(*p, m) for p in zip(*(t.chunk(self.h, 2) for t in (q, k, v)))]
        o, w = _cat(pairs)
        return self.proj(o), w

class CrossAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1):
        super().__init__()
        if d_model % num_heads > 0:
            raise ValueError("d_model")
        self.h = num_heads
        self.attn = ScaledDotProductAttention((d_model / num_heads) ** 0.5, dropout)
        self.proj = nn.Linear(d_model, d_model)
        self.kv = nn.Linear(d_model, d_model * 2)
        self.q = nn.Linear(d_model, d_model)
    def forward(self, x, context, context_mask=None):
        W, b = self.kv.weight, self.kv.bias
        D = x.shape[2]
        k, v = F.linear(context, W[:D], b[:D]), F.linear(context, W[D:], b[D:])
        m = None if context_mask is None else context_mask.unsqueeze(-2)
        o, w = _cat([self.attn(*p, mask=m) for p in zip(*(t.chunk(self.h, -1) for t in (self.q(x), k, v)))])
        return self.proj(o), w

class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, dropout=0.0):
        super().__init__()
        for a, b in ((d_model, num_heads), (num_heads, num_kv_heads)):
            if a % b:
                raise ValueError(f"{a} is not divisible by {b} (num_heads, num_kv_heads, d_model)")
        d = d_model // num_heads
        self.h, self.g = num_heads, num_heads // num_kv_heads
        self.d = d
        self.q = nn.Linear(d_model, num_heads * d, bias=False)
        self.k = nn.Linear(d_model, num_kv_heads * d, bias=False)
        self.v = nn.Linear(d_model, num_kv_heads * d, bias=False)
        self.proj = nn.Linear(num_heads * d, d_model, bias=False)
        self.attn = ScaledDotProductAttention(d ** 0.5, dropout)
    def forward(self, x, causal=True):
        B, T, D = x.shape
        q = self.q(x).view(B, T, -1, self.g, self.d).permute(0, 2, 3, 1, 4)      # B KV G T d
        k, v = (l(x).view(B, T, -1, 1, self.d).permute(0, 2, 3, 1, 4).expand(-1, -1, self.g, -1, -1) for l in (self.k, self.v))
        m = causal_mask(T, device=x.device) if causal else None
        o, _ = self.attn(q, k, v, m)
        return self.proj(o.permute(0, 3, 1, 2, 4).reshape(B, T, D))
