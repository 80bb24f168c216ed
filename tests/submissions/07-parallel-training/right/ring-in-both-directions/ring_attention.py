"""The first heads go to rank + 1, the others to rank - 1; a rank's own block is the last that it attends to."""

import math
import torch
import torch.distributed as dist


class Shift:
    """Sends to one side, a message for each sequence of the batch."""

    def __init__(self, way):
        rank, size = dist.get_rank(), dist.get_world_size()
        self.to, self.source = (rank + way) % size, (rank - way) % size

    def __call__(self, *tensors):
        ops, results = [], []
        for tensor in tensors:
            rows = [row.clone(memory_format=torch.contiguous_format) for row in tensor]
            here = [torch.empty_like(row) for row in rows]
            ops += [dist.P2POp(dist.irecv, row, self.source) for row in here]
            ops += [dist.P2POp(dist.isend, row, self.to) for row in rows]
            results.append(here)
        for request in dist.batch_isend_irecv(ops):
            request.wait()
        return [torch.stack(here) for here in results]


def half_forward(q, k, v, causal, way):
    rank, size, shift = dist.get_rank(), dist.get_world_size(), Shift(way)
    top, num, den = None, None, None
    for step in range(1, size + 1):
        k, v = shift(k, v)
        s = hide(q @ k.mT / math.sqrt(q.size(-1)), (rank - way * step) % size, causal)
        best = s.amax(-1, keepdim=True)
        new = best if top is None else torch.maximum(top, best)
        safe = new.masked_fill(new == -math.inf, 0.0)  # a block may be hidden as a whole, and be the first
        e = torch.exp(s - safe)
        old = 0.0 if top is None else torch.exp(top - safe)
        num = e @ v + (0 if num is None else num * old)
        den = e.sum(-1, keepdim=True) + (0 if den is None else den * old)
        top = new
    return num / den, top + torch.log(den)


def hide(s, owner, causal):
    if not causal:
        return s
    n, rank = s.size(-1), dist.get_rank()
    later = torch.ones(n, n, dtype=torch.bool, device=s.device).triu(1) if owner == rank else owner > rank
    return torch.where(torch.as_tensor(later, device=s.device), torch.full_like(s, -math.inf), s)


def half_backward(q, k, v, out, lse, g, causal, way):
    rank, size, shift = dist.get_rank(), dist.get_world_size(), Shift(way)
    d = (g * out).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for step in range(1, size + 1):
        k, v, dk, dv = shift(k, v, dk, dv)
        p = torch.exp(hide(q @ k.mT / math.sqrt(q.size(-1)), (rank - way * step) % size, causal) - lse)
        ds = p * (g @ v.mT - d) / math.sqrt(q.size(-1))
        dq.add_(ds @ k)
        dk.add_(ds.mT @ q)
        dv.add_(p.mT @ g)
    return dq, dk, dv


def ways(heads):
    """(direction, the heads that go there)"""
    parts = (1, slice(0, heads // 2)), (-1, slice(heads // 2, heads))
    return [(way, part) for way, part in parts if part.start < part.stop]


class BothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal):
        found = [half_forward(q[:, part], k[:, part], v[:, part], causal, way) for way, part in ways(q.size(1))]
        out, lse = (torch.cat(parts, dim=1) for parts in zip(*found))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.causal = causal
        return out

    @staticmethod
    def backward(ctx, g):
        saved, causal = ctx.saved_tensors, ctx.causal
        found = [
            half_backward(*(each[:, part] for each in (*saved, g)), causal, way) for way, part in ways(g.size(1))
        ]
        return *(torch.cat(parts, dim=1) for parts in zip(*found)), None


def ring_attention(q, k, v, causal=False):
    wide = torch.promote_types(q.dtype, torch.float32)
    if q.dtype != wide:
        return ring_attention(q.to(wide), k.to(wide), v.to(wide), causal).to(q.dtype)
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (q, k, v)):
        return torch.cat(
            [half_forward(q[:, part], k[:, part], v[:, part], causal, way)[0] for way, part in ways(q.size(1))], 1
        )
    return BothWays.apply(q, k, v, causal)
