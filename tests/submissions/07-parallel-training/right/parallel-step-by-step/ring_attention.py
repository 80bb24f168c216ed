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
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable


def hand_on(tensor: torch.Tensor, limit: int) -> torch.Tensor:
    """Sends a tensor to the next rank, and returns the one that comes from the previous rank.

    Even ranks send first and odd ranks receive first, so that not all wait for each other. A message has at most limit elements.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    following, previous = (rank + 1) % world_size, (rank - 1) % world_size
    flat = tensor.contiguous().view(-1)
    received = torch.empty_like(flat)
    for start in range(0, flat.numel(), limit):
        out, into = flat[start : start + limit], received[start : start + limit]
        if rank % 2 == 0:
            dist.send(out, following)
            dist.recv(into, previous)
        else:
            dist.recv(into, previous)
            dist.send(out, following)
    return received.view(tensor.shape)


def block_scores(q: torch.Tensor, k: torch.Tensor, triangle: bool) -> torch.Tensor:
    """q kᵀ / sqrt(Dh) in the wider dtype; with triangle, -inf for the keys behind a query of the same block."""
    scores = q @ k.to(q.dtype).transpose(-2, -1) / math.sqrt(q.shape[-1])
    if triangle:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores


class RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        limit = 6 * k.numel()
        wide = torch.promote_types(q.dtype, torch.float32)
        queries = q.to(wide)
        maximum = torch.full((*q.shape[:-1], 1), -math.inf, dtype=wide, device=q.device)
        total = torch.zeros_like(maximum)
        output = torch.zeros((*q.shape[:-1], v.shape[-1]), dtype=wide, device=q.device)
        keys, values = k, v
        for step in range(world_size):
            owner = (rank - step) % world_size
            if not causal or owner <= rank:
                scores = block_scores(queries, keys, causal and owner == rank)
                larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
                shrink = torch.exp(maximum - larger)
                weights = torch.exp(scores - larger)
                total = total * shrink + weights.sum(-1, keepdim=True)
                output = output * shrink + weights @ values.to(wide)
                maximum = larger
            if step < world_size - 1:
                keys = hand_on(keys, limit)
                values = hand_on(values, limit)
        output = output / total
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, output, maximum + total.log())
        return output.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple:
        q, k, v, output, logsumexp = ctx.saved_tensors
        need_q, need_k, need_v, _ = ctx.needs_input_grad
        rank, world_size = dist.get_rank(), dist.get_world_size()
        limit = 6 * k.numel()
        wide = output.dtype
        scale = 1 / math.sqrt(q.shape[-1])
        queries = q.to(wide)
        gradient = gradient.to(wide)
        delta = (gradient * output).sum(-1, keepdim=True)
        keys, values = k, v
        grad_q = torch.zeros(q.shape, dtype=wide, device=q.device)
        grad_k = torch.zeros(k.shape, dtype=wide, device=k.device)  # of the block that is here just now
        grad_v = torch.zeros(v.shape, dtype=wide, device=v.device)
        for step in range(world_size):
            owner = (rank - step) % world_size
            if not ctx.causal or owner <= rank:
                scores = block_scores(queries, keys, ctx.causal and owner == rank)
                weights = torch.exp(scores - logsumexp)
                if need_v:
                    grad_v = grad_v + weights.transpose(-2, -1) @ gradient
                if need_q or need_k:
                    grad_scores = weights * (gradient @ values.to(wide).transpose(-2, -1) - delta)
                    grad_q = grad_q + scale * (grad_scores @ keys.to(wide))
                    grad_k = grad_k + scale * (grad_scores.transpose(-2, -1) @ queries)
            if world_size > 1:
                if step < world_size - 1:
                    keys = hand_on(keys, limit)
                    values = hand_on(values, limit)
                # the gradients go one step further, and are at home then
                if need_k:
                    grad_k = hand_on(grad_k, limit)
                if need_v:
                    grad_v = hand_on(grad_v, limit)
        return (
            grad_q.to(q.dtype) if need_q else None,
            grad_k.to(k.dtype) if need_k else None,
            grad_v.to(v.dtype) if need_v else None,
            None,
        )


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
    return RingAttention.apply(q, k, v, causal)
