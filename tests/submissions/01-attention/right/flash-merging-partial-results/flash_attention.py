import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function


def starts(length, size):
    return range(0, length, size)


def scores(q, k, i, j, causal):
    """Scaled scores of a tile whose first query is i and first key is j."""
    s = torch.matmul(q, k.transpose(2, 3)) * q.shape[3] ** -0.5
    if not causal:
        return s
    hidden = torch.ones(s.shape[2:], dtype=torch.bool, device=s.device).triu(1 + i - j)
    return s.masked_fill(hidden, torch.finfo(s.dtype).min)


def merge(a, b):
    """Two attentions over different keys, (output, logsumexp) each, are one over all of them."""
    both = torch.logaddexp(a[1], b[1])
    return a[0] * (a[1] - both).exp()[..., None] + b[0] * (b[1] - both).exp()[..., None], both


def flash_attention_forward(q, k, v, causal=False, block_size=64):
    kind = q.dtype
    if kind not in (torch.float32, torch.float64):
        q, k, v = q.float(), k.float(), v.float()
    output = torch.empty_like(q)
    lse = torch.empty(q.shape[:3], dtype=q.dtype, device=q.device)
    for i in starts(q.shape[2], block_size):
        rows, found = slice(i, i + block_size), None
        for j in starts(k.shape[2], block_size):
            if causal and j >= min(i + block_size, q.shape[2]):
                continue
            s = scores(q[:, :, rows], k[:, :, j : j + block_size], i, j, causal)
            partial = F.softmax(s, dim=3) @ v[:, :, j : j + block_size], torch.logsumexp(s, 3)
            found = partial if found is None else merge(found, partial)
        output[:, :, rows], lse[:, :, rows] = found
    return output.to(kind), lse


class FlashAttentionFunction(Function):
    @staticmethod
    def forward(ctx, q, k, v, causal=False, block_size=64):
        o, lse = flash_attention_forward(q, k, v, causal, block_size)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.how = causal, block_size
        return o

    @staticmethod
    def backward(ctx, g):
        q, k, v, o, lse = ctx.saved_tensors
        causal, size = ctx.how
        grads = [torch.zeros(t.shape, dtype=lse.dtype, device=t.device) for t in (q, k, v)]
        delta = (g.to(lse.dtype) * o.to(lse.dtype)).sum(3)
        for j in starts(k.shape[2], size):
            for i in starts(q.shape[2], size):
                parts = slice(i, i + size), slice(j, j + size), slice(j, j + size)
                if causal and j > min(i + size, q.shape[2]) - 1:
                    continue
                tile = [t[:, :, part].detach().to(lse.dtype).requires_grad_() for t, part in zip((q, k, v), parts)]
                with torch.enable_grad():
                    # With lse held fixed, rows of p sum to less than 1; the part that lse would add is -delta.
                    p = torch.exp(scores(tile[0], tile[1], i, j, causal) - lse[:, :, parts[0], None])
                    g_i = g[:, :, parts[0]].to(lse.dtype)
                    value = ((p @ tile[2]) * g_i).sum() - (p.sum(3) * delta[:, :, parts[0]]).sum()
                for total, part, grad in zip(grads, parts, torch.autograd.grad(value, tile)):
                    total[:, :, part] += grad
        return (*(grad.to(t.dtype) for grad, t in zip(grads, (q, k, v))), None, None)


def flash_attention(q, k, v, causal=False, block_size=64):
    return FlashAttentionFunction.apply(q, k, v, causal, block_size)


class FlashAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.1, block_size=64):
        super().__init__()
        self.d_head, remainder = divmod(d_model, num_heads)
        if remainder:
            raise ValueError(f"cannot split d_model={d_model} into num_heads={num_heads}")
        self.num_heads, self.block_size = num_heads, block_size
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, causal=False):
        D = x.shape[2]
        weights, biases = self.qkv.weight.split(self.d_head), self.qkv.bias.split(self.d_head)
        parts = [F.linear(x, w, b) for w, b in zip(weights, biases)]  # one (B, T, Dh) for each of 3H blocks
        q, k, v = (torch.stack(parts[n * self.num_heads : (n + 1) * self.num_heads], dim=1) for n in range(3))
        heads = flash_attention(q, k, v, causal, self.block_size)
        return self.drop(self.proj(torch.cat(heads.unbind(1), dim=-1).view(x.shape[0], x.shape[1], D)))
