"""Keys and values stay; queries go round, and with them what was summed for them."""

import torch
import torch.distributed as dist


def onward(tensors):
    """Each tensor goes to the next rank, in a message of its own; those of the previous one come."""
    rank, size = dist.get_rank(), dist.get_world_size()
    came, works = [], []
    for tag, tensor in enumerate(tensors):
        tensor = tensor.contiguous()
        came.append(torch.zeros_like(tensor))
        works += [dist.isend(tensor, (rank + 1) % size, tag=tag), dist.irecv(came[-1], (rank - 1) % size, tag=tag)]
    for work in works:
        work.wait()
    return came


def scores_of(q, k, owner, causal):
    """Scores of the queries of a rank with the keys of this one; those that are hidden are very small."""
    s = torch.matmul(q, k.transpose(2, 3)).div(k.shape[3] ** 0.5)
    if causal:
        n = k.shape[2]
        i = torch.arange(owner * n, owner * n + n).view(n, 1)
        j = torch.arange(dist.get_rank() * n, dist.get_rank() * n + n).view(1, n)
        s = s.masked_fill(j.gt(i).to(s.device), torch.finfo(s.dtype).min)
    return s


class QueriesTravel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal):
        rank, size = dist.get_rank(), dist.get_world_size()
        mine = q
        o = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        l = torch.zeros(*q.shape[:3], 1, dtype=q.dtype, device=q.device)
        m = torch.full_like(l, torch.finfo(q.dtype).min)
        for step in range(size):
            s = scores_of(q, k, (rank - step) % size, causal)
            high = torch.max(m, s.max(dim=3, keepdim=True).values)
            w, shrink = (s - high).exp(), (m - high).exp()
            w = torch.where(s == torch.finfo(s.dtype).min, torch.zeros_like(w), w)
            o, l, m = o * shrink + w @ v, l * shrink + w.sum(3, keepdim=True), high
            q, o, l, m = onward([q, o, l, m])
        out = o / l
        ctx.causal = causal
        ctx.save_for_backward(mine, k, v, out, l.log() + m)
        return out

    @staticmethod
    def backward(ctx, g):
        q, k, v, out, lse = ctx.saved_tensors
        rank, size = dist.get_rank(), dist.get_world_size()
        inner = (g * out).sum(3, keepdim=True)
        dq, dk, dv = torch.zeros_like(q), 0, 0
        for step in range(size):
            w = (scores_of(q, k, (rank - step) % size, ctx.causal) - lse).exp()
            slope = w * (g @ v.transpose(2, 3) - inner) / k.shape[3] ** 0.5
            dk, dv, dq = dk + slope.transpose(2, 3) @ q, dv + w.transpose(2, 3) @ g, dq + slope @ k
            q, g, lse, inner, dq = onward([q, g, lse, inner, dq])
        needs = ctx.needs_input_grad
        return dq if needs[0] else None, dk if needs[1] else None, dv if needs[2] else None, None


def ring_attention(q, k, v, causal=False):
    wide = torch.promote_types(q.dtype, torch.float32)
    return QueriesTravel.apply(q.to(wide), k.to(wide), v.to(wide), causal).type_as(q)
