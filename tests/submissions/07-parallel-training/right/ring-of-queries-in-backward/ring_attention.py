"""Ring attention the other way round: keys and values go to rank - 1 in forward, queries go round in backward."""

import torch
import torch.distributed as dist


def hand_on(message):
    """Sends to rank - 1, receives from rank + 1: even ranks send first, so that nobody waits for ever."""
    rank, size = dist.get_rank(), dist.get_world_size()
    came = torch.empty_like(message)
    if rank % 2 == 0:
        dist.send(message, (rank - 1) % size)
        dist.recv(came, (rank + 1) % size)
    else:
        dist.recv(came, (rank + 1) % size)
        dist.send(message, (rank - 1) % size)
    return came


def pack(*parts):
    return torch.cat(parts, dim=-1).contiguous()


def hidden(n, query_rank, key_rank, device):
    """(n, n) bool: keys that are later than the query."""
    query = torch.arange(n, device=device) + query_rank * n
    key = torch.arange(n, device=device) + key_rank * n
    return key[None, :] > query[:, None]


class Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal):
        rank, size = dist.get_rank(), dist.get_world_size()
        n, width = q.shape[2], k.shape[-1]
        total, lse = None, None
        block = pack(k, v)
        for step in range(size):
            owner = (rank + step) % size
            if not causal or owner <= rank:
                keys, values = block[..., :width], block[..., width:]
                scores = torch.einsum("bhid,bhjd->bhij", q, keys) * width**-0.5
                if causal:
                    scores = scores.masked_fill(hidden(n, rank, owner, q.device), float("-inf"))
                part_lse = scores.logsumexp(-1, keepdim=True)
                part = torch.einsum("bhij,bhjd->bhid", (scores - part_lse).exp(), values)
                if total is None:
                    total, lse = part, part_lse
                else:
                    both = torch.logaddexp(lse, part_lse)
                    total = total * (lse - both).exp() + part * (part_lse - both).exp()
                    lse = both
            if step + 1 < size:
                block = hand_on(block)
        ctx.save_for_backward(q, k, v, total, lse)
        ctx.causal = bool(causal)
        return total

    @staticmethod
    def backward(ctx, g):
        q, k, v, out, lse = ctx.saved_tensors
        rank, size = dist.get_rank(), dist.get_world_size()
        n, width, wide = q.shape[2], q.shape[-1], v.shape[-1]
        scale = width**-0.5
        delta = torch.einsum("bhid,bhid->bhi", g, out)[..., None]
        traveller = pack(q, g, lse, delta, torch.zeros_like(q))
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for step in range(size):
            owner = (rank + step) % size  # whose queries are here
            qs, gs, ls, ds, dq = traveller.split([width, wide, 1, 1, width], dim=-1)
            if not ctx.causal or rank <= owner:
                scores = torch.einsum("bhid,bhjd->bhij", qs, k) * scale
                weights = (scores - ls).exp()
                if ctx.causal:
                    weights = weights.masked_fill(hidden(n, owner, rank, q.device), 0.0)
                slope = weights * (torch.einsum("bhid,bhjd->bhij", gs, v) - ds) * scale
                dv = dv + torch.einsum("bhij,bhid->bhjd", weights, gs)
                dk = dk + torch.einsum("bhij,bhid->bhjd", slope, qs)
                dq = dq + torch.einsum("bhij,bhjd->bhid", slope, k)
            traveller = hand_on(pack(qs, gs, ls, ds, dq) if step + 1 < size else pack(dq))
        return traveller, dk, dv, None


def ring_attention(q, k, v, causal=False):
    if q.dtype in (torch.bfloat16, torch.float16):
        return Ring.apply(q.float(), k.float(), v.float(), causal).to(q.dtype)
    return Ring.apply(q, k, v, causal)
