import math

import torch
import torch.nn as nn

LOG2E = math.log2(math.e)


def _visible(n_queries, first_key, n_keys, device):
    """(Tq, Bk) True where key <= query."""
    rows = torch.arange(n_queries, device=device).unsqueeze(-1)
    return rows >= torch.arange(first_key, first_key + n_keys, device=device)


def _run(q, k, v, causal, block_size):
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    n = q.size(-2)
    qs = q.to(compute) * (LOG2E / math.sqrt(q.size(-1)))  # scores in powers of two
    acc = qs.new_zeros(*qs.shape[:-1], v.size(-1))
    m = qs.new_full(qs.shape[:-1], -math.inf)
    l = qs.new_zeros(qs.shape[:-1])
    for k_j, v_j, first in zip(k.split(block_size, -2), v.split(block_size, -2), range(0, k.size(-2), block_size)):
        s = torch.einsum("bhqd,bhkd->bhqk", qs, k_j.to(compute))
        if causal:
            s.masked_fill_(~_visible(n, first, k_j.size(-2), q.device), -math.inf)
        new = torch.maximum(m, s.max(-1).values)
        s.sub_(new.unsqueeze(-1)).exp2_()
        shrink = (m - new).exp2_()
        l.mul_(shrink).add_(s.sum(-1))
        acc.mul_(shrink.unsqueeze(-1)).add_(torch.matmul(s, v_j.to(compute)))
        m = new
    return acc.div_(l.unsqueeze(-1)).to(q.dtype), m, l


def flash_attention_forward(q, k, v, causal=False, block_size=64):
    if block_size <= 0:
        raise ValueError("block_size must be positive, got %r" % block_size)
    with torch.no_grad():
        out, m, l = _run(q, k, v, causal, block_size)
        return out, m / LOG2E + torch.log(l)


class FlashAttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, causal, block_size):
        return _run(q, k, v, causal, block_size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, ctx.causal, ctx.block_size = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    def backward(ctx, do, *_):
        q, k, v, o, m, l = ctx.saved_tensors
        compute, n, b = m.dtype, q.size(-2), ctx.block_size
        scale = q.size(-1) ** -0.5
        q_, do_ = q.to(compute), do.to(compute)
        rest = torch.einsum("bhqd,bhqd->bhq", do_, o.to(compute))
        dq, dks, dvs = torch.zeros_like(q_), [], []
        for first in range(0, k.size(-2), b):
            k_j, v_j = k[:, :, first : first + b].to(compute), v[:, :, first : first + b].to(compute)
            p = (torch.matmul(q_, k_j.mT) * (scale * LOG2E) - m.unsqueeze(-1)).exp2() / l.unsqueeze(-1)
            if ctx.causal:
                p = p.where(_visible(n, first, k_j.size(-2), q.device), 0.0)
            dvs.append(p.mT @ do_)
            ds = p * (do_ @ v_j.mT - rest.unsqueeze(-1)) * scale
            dq += ds @ k_j
            dks.append(ds.mT @ q_)
        return dq.to(q.dtype), torch.cat(dks, -2).to(k.dtype), torch.cat(dvs, -2).to(v.dtype), None, None


def flash_attention(q, k, v, causal=False, block_size=64):
    return FlashAttentionFunction.apply(q, k, v, causal, block_size)[0]


class FlashAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1, block_size=64):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"num_heads ({num_heads}) must divide d_model ({d_model})")
        self.h, self.block_size = num_heads, block_size
        self.qkv = nn.Linear(d_model, d_model * 3, bias=True)
        self.proj = nn.Linear(d_model, d_model, bias=True)
        self.p = dropout

    def forward(self, x, causal=False):
        q, k, v = (t.unflatten(-1, (self.h, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        y = flash_attention(q, k, v, causal=causal, block_size=self.block_size)
        y = torch.nn.functional.dropout(y.transpose(1, 2).flatten(-2), self.p, self.training)
        return self.proj(y)
