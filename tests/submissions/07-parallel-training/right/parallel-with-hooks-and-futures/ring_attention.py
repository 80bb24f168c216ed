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
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable


class _Ring:
    """This rank's two neighbours."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.right, self.left = (self.rank + 1) % self.size, (self.rank - 1) % self.size

    def shift(self, blocks: Sequence[torch.Tensor]) -> Callable[[], tuple[torch.Tensor, ...]]:
        """Begins to send blocks to the right and to receive as many from the left; call what it returns to wait for them.

        blocks are contiguous, and are to be left alone until then.
        """
        if not blocks or self.size == 1:
            return lambda: tuple(blocks)
        coming = tuple(torch.empty_like(block) for block in blocks)
        operations = [dist.P2POp(dist.isend, block, self.right) for block in blocks]
        operations += [dist.P2POp(dist.irecv, block, self.left) for block in coming]
        works = dist.batch_isend_irecv(operations)

        def wait() -> tuple[torch.Tensor, ...]:
            for work in works:
                work.wait()
            return coming

        return wait

    def owner(self, step: int) -> int:
        """Whose block this rank has in a step."""
        return (self.rank - step) % self.size


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        ring = _Ring()
        queries = q.to(_sum_dtype(q))
        block = (k.contiguous(), v.contiguous())
        softmax = _RunningSoftmax()
        for step in range(ring.size):
            arrive = ring.shift(block) if step < ring.size - 1 else None
            if not causal or ring.owner(step) <= ring.rank:
                softmax.add(_scores(queries, block[0], causal and step == 0), block[1].to(queries.dtype))
            if arrive is not None:
                block = arrive()
        output = softmax.output().to(q.dtype)
        ctx.save_for_backward(q, k, v, output, softmax.logsumexp())
        ctx.causal = causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, output, logsumexp = ctx.saved_tensors
        needs_q, needs_k, needs_v, _ = ctx.needs_input_grad
        ring = _Ring()
        queries = q.to(_sum_dtype(q))
        scale = 1 / math.sqrt(q.shape[-1])
        grad = grad_output.to(queries.dtype)
        delta = (grad * output).sum(-1, keepdim=True)

        dq = torch.zeros_like(queries) if needs_q else None
        block = (k.contiguous(), v.contiguous())
        # The gradients of the block that is here: they travel with it, one step later, since this rank's part comes first.
        travelling = tuple(
            torch.zeros(x.shape, dtype=queries.dtype, device=x.device) for x, need in ((k, needs_k), (v, needs_v)) if need
        )
        gradients_arrive = None
        for step in range(ring.size):
            arrive = ring.shift(block) if step < ring.size - 1 else None
            parts = ()
            if not ctx.causal or ring.owner(step) <= ring.rank:
                p = _scores(queries, block[0], ctx.causal and step == 0).sub_(logsumexp).exp_()
                if needs_v:
                    dv = p.transpose(-2, -1) @ grad
                if needs_q or needs_k:
                    ds = (grad @ block[1].to(grad.dtype).transpose(-2, -1)).sub_(delta).mul_(p).mul_(scale)
                    if needs_q:
                        dq += ds @ block[0].to(ds.dtype)
                    if needs_k:
                        parts = (ds.transpose(-2, -1) @ queries,)
                if needs_v:
                    parts = (*parts, dv)
            if gradients_arrive is not None:
                travelling = gradients_arrive()
            if parts:
                for total, part in zip(travelling, parts, strict=True):
                    total += part
            gradients_arrive = ring.shift(travelling)
            if arrive is not None:
                block = arrive()
        home = iter(gradients_arrive())
        return (
            dq.to(q.dtype) if needs_q else None,
            next(home).to(k.dtype) if needs_k else None,
            next(home).to(v.dtype) if needs_v else None,
            None,
        )


class _RunningSoftmax:
    """Maximum, sum and output of each query so far."""

    def __init__(self) -> None:
        self.maximum = self.sum = self.weighted = None

    def add(self, scores: torch.Tensor, values: torch.Tensor) -> None:
        """One block more. scores is used up. The first block has a key for each query, so that the maximum is a number."""
        maximum = scores.amax(-1, keepdim=True)
        if self.maximum is not None:
            maximum = torch.maximum(maximum, self.maximum)
        weights = scores.sub_(maximum).exp_()
        total, weighted = weights.sum(-1, keepdim=True), weights @ values
        if self.maximum is not None:
            shrink = (self.maximum - maximum).exp_()
            total += self.sum * shrink
            weighted += self.weighted * shrink
        self.maximum, self.sum, self.weighted = maximum, total, weighted

    def output(self) -> torch.Tensor:
        return self.weighted / self.sum

    def logsumexp(self) -> torch.Tensor:
        return self.maximum + self.sum.log()


def _sum_dtype(q: torch.Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _scores(queries: torch.Tensor, keys: torch.Tensor, triangle: bool) -> torch.Tensor:
    """A new tensor, (B, H, queries, keys); with a triangle, a query sees its own and earlier positions."""
    scores = queries @ keys.to(queries.dtype).transpose(-2, -1)
    scores.mul_(1 / math.sqrt(queries.shape[-1]))
    if triangle:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(hidden, -math.inf)
    return scores


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
