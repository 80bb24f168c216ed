"""Ring attention: exact attention over a sequence that no rank could hold alone.

Liu, Zaharia and Abbeel 2023, "Ring Attention with Blockwise Transformers for Near-Infinite Context", arXiv:2310.01889;
Li et al. 2021, "Sequence Parallelism: Long Sequence Training from System Perspective", arXiv:2105.13120 (a ring of keys, then one
of values); Dao 2023, "FlashAttention-2", arXiv:2307.08691 (the formulas of the backward with the logsumexp).

Each rank has one slice of the sequence: its queries, keys and values. The queries stay. The keys and values travel in a ring:
in each of world_size steps a rank attends to the block that it has just now, hands it to the next rank and gets another from the
previous one. The softmax over all keys is put together from the blocks as in FlashAttention, with a running maximum m, a running sum
l of exp(s - m) and a running output, which shrink by exp(old m - new m) whenever the maximum grows:

    step        0        1        2        3         the blocks that each rank attends to (4 ranks)
    rank 0      0   ->   3   ->   2   ->   1
    rank 1      1   ->   0   ->   3   ->   2
    rank 2      2   ->   1   ->   0   ->   3
    rank 3      3   ->   2   ->   1   ->   0

In the backward the weights are made again, from the logsumexp L = m + ln l of each query, so the blocks make the round once more.
With each of them travels its gradient, to which every rank adds its queries' part, and which comes home after world_size steps.

Sizes: B batch, H heads, P = world_size, T length of the whole sequence, of which a rank has T / P positions.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable


def ring_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """softmax(Q Kᵀ / sqrt(Dh)) V over the sequence of all ranks, of which each has one slice.

    Every rank of the default process group calls it, with slices of the same shapes. Rank r has the r-th of world_size equal
    contiguous slices of the positions, of queries, keys and values alike, and gets the r-th slice of the output.

    Backward communicates as well: every rank must run it, and what requires a gradient is the same on all ranks.
    Only first derivatives are needed.

    What is sent: blocks, and only from a rank to its two neighbours in the ring, (rank + 1) % world_size and (rank - 1) % world_size,
    by send and receive; no collective. Both directions may be used. A message has no more elements than six blocks of keys.
    The ranks share the work: where each query sees each key, every rank gets at least a block from each other rank, handed on
    by those between them, in forward and again in backward.

    What is held: a rank never has more than a few blocks of keys, neither in one tensor nor in several, in forward, in backward
    and between the two. So its memory does not grow with world_size, if its slice stays as long as it is.

    Args:
        q, k: (B, H, T / P, Dh), v: (B, H, T / P, Dv), in any layout; Dv may differ from Dh.
        causal: a query sees the keys of its own and of earlier positions of the whole sequence.

    Returns:
        output (B, H, T / P, Dv) in the dtype of q. Sums over the keys are made in float32, or in the dtype of q where that is wider.
    """
    return _RingAttention.apply(q, k, v, causal)


# ---------------------------------------------------------------------------------------------- the ring


def _pass_on(here: torch.Tensor, there: torch.Tensor, most: int, tag: int) -> list[dist.Work]:
    """Begins to send `here` to the next rank, and to receive `there` from the previous one, in messages of at most `most` numbers."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        there.copy_(here)
        return []
    ops = [dist.P2POp(dist.isend, part, (rank + 1) % size, tag=tag) for part in here.split(most)]
    ops += [dist.P2POp(dist.irecv, part, (rank - 1) % size, tag=tag) for part in there.split(most)]
    return dist.batch_isend_irecv(ops)


def _wait(works: Sequence[dist.Work]) -> None:
    for work in works:
        work.wait()


def _blocks(k: torch.Tensor, v: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(whose, keys, values) of all ranks in dtype, the own ones first. A block is on its way while the caller works on it: two buffers."""
    rank, size = dist.get_rank(), dist.get_world_size()
    here = _flat(k, v)
    there = torch.empty_like(here) if size > 1 else None
    for step in range(size):
        works = _pass_on(here, there, 6 * k.numel(), tag=0) if step < size - 1 else []
        yield (rank - step) % size, *(part.to(dtype) for part in _unflat(here, k, v))
        _wait(works)
        here, there = there, here


def _flat(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _unflat(flat: torch.Tensor, *like: torch.Tensor) -> list[torch.Tensor]:
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _scores(q: torch.Tensor, k: torch.Tensor, diagonal: bool) -> torch.Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    if diagonal:
        scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1), -math.inf)
    return scores


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        rank, wide = dist.get_rank(), torch.promote_types(q.dtype, torch.float32)
        query = q.to(wide) / math.sqrt(q.shape[-1])
        m = query.new_full((*q.shape[:-1], 1), -math.inf)
        l, o = torch.zeros_like(m), query.new_zeros(*q.shape[:-1], v.shape[-1])
        for owner, key, value in _blocks(k, v, wide):
            if causal and owner > rank:
                continue  # later positions
            scores = _scores(query, key, causal and owner == rank)
            new = torch.maximum(m, scores.amax(-1, keepdim=True))
            shrink, weights = (m - new).exp_(), scores.sub_(new).exp_()
            m, l = new, l * shrink + weights.sum(-1, keepdim=True)
            o = o * shrink + torch.einsum("bhij,bhjd->bhid", weights, value)
        output = (o / l).to(q.dtype)
        ctx.save_for_backward(q, k, v, output, m + l.log())
        ctx.causal = causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, output, logsumexp = ctx.saved_tensors
        rank, wide, scale = dist.get_rank(), logsumexp.dtype, 1 / math.sqrt(q.shape[-1])
        query, gradient = q.to(wide) * scale, gradient.to(wide)
        delta = (gradient * output.to(wide)).sum(-1, keepdim=True)
        dq = torch.zeros_like(query)
        travels = any(ctx.needs_input_grad[1:3])  # the gradients of keys and values, one step behind them
        sent, there, works = None, None, []
        for owner, key, value in _blocks(k, v, wide):
            if ctx.causal and owner > rank:
                part = query.new_zeros(k.numel() + v.numel())
            else:
                weights = _scores(query, key, ctx.causal and owner == rank).sub_(logsumexp).exp_()
                ds = torch.einsum("bhid,bhjd->bhij", gradient, value).sub_(delta).mul_(weights)
                dq += torch.einsum("bhij,bhjd->bhid", ds, key)
                part = _flat(torch.einsum("bhij,bhid->bhjd", ds, query), torch.einsum("bhij,bhid->bhjd", weights, gradient))
            if travels:
                _wait(works)
                part += 0 if there is None else there
                sent, there = part, torch.empty_like(part) if there is None else there
                works = _pass_on(sent, there, 6 * k.numel(), tag=1)
        _wait(works)
        dk, dv = _unflat(there, k, v) if travels else (None, None)
        grads = zip((dq * scale, dk, dv), (q, k, v), ctx.needs_input_grad, strict=False)
        return *(g.to(x.dtype) if needed else None for g, x, needed in grads), None
