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


def ring_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """softmax(Q Kᵀ / sqrt(Dh)) V over the sequence of all ranks, of which each has one slice.

    Every rank of the default process group calls it, with slices of the same shapes. Rank r has the r-th of world_size equal
    contiguous slices of the positions, of queries, keys and values alike, and gets the r-th slice of the output.

    Backward communicates as well: every rank must run it, and what requires a gradient is the same on all ranks.
    Only first derivatives are needed.

    What is sent: blocks, and only from a rank to its two neighbours in the ring, (rank + 1) % world_size and (rank - 1) % world_size,
    by send and receive; no collective, and so no barrier. Both directions may be used. A message has no more elements than six
    blocks of keys, or of values where these are wider; a gradient counts as a block.
    The ranks share the work: where each query sees each key, every rank gets at least a block from each other rank, handed on
    by those between them, in forward and again in backward.

    What is held: a rank never has more than a few blocks of keys, neither in one tensor nor in several, in forward, in backward
    and between the two; the scores of its queries for one block, (T / P)², are not counted; those for
    the blocks of all ranks are too many. So its memory does not grow with world_size, if its slice stays as long as it is.

    Args:
        q, k: (B, H, T / P, Dh), v: (B, H, T / P, Dv), in any layout; Dv may differ from Dh.
        causal: a query sees the keys of its own and of earlier positions of the whole sequence.

    Returns:
        output (B, H, T / P, Dv) in the dtype of q. Sums over the keys are made in float32, or in the dtype of q where that is wider;
        the gradients of keys and values may go round in the dtype of k and v.
    """
    # student: a torch.autograd.Function whose forward and backward each send the blocks round the ring
    return _RingAttention.apply(q, k, v, causal)


class _RingAttention(torch.autograd.Function):  # solution only
    """Saves this rank's q, k, v, output and logsumexp, and no block of another rank."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
    ) -> torch.Tensor:  # the rank's slices -> its slice of the output
        output, logsumexp = _attend_to_all(q, k, v, causal)
        ctx.save_for_backward(q, k, v, output, logsumexp)
        ctx.causal = causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        q, k, v, output, logsumexp = ctx.saved_tensors
        dq, dk, dv = _gradients(q, k, v, output, logsumexp, grad_output, ctx.causal)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None


def _attend_to_all(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:  # solution only
    """The output (B, H, T/P, Dv) in the dtype of q, and the logsumexp of each query's scores (B, H, T/P, 1)."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    wide = torch.promote_types(q.dtype, torch.float32)  # sums in bfloat16 would lose most digits
    m_i = q.new_full((*q.shape[:-1], 1), float("-inf"), dtype=wide)  # running maximum
    l_i = torch.zeros_like(m_i)  # running sum of exp(s - m)
    o_i = q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=wide)  # running sum of exp(s - m) v

    for step in range(world_size):
        owner = (rank - step) % world_size  # whose block this is
        last = step == world_size - 1
        on_the_way = None if last else _Passing([k, v])  # the next block comes while this one is computed with
        if not (causal and owner > rank):  # else all of its keys are in the future
            s = _scores(q, k, wide, causal and owner == rank)  # (B, H, T/P, T/P)
            # Step 0 is the rank's own block, of which each query sees at least one key: m_i is finite from then on.
            m_new = torch.maximum(m_i, s.amax(dim=-1, keepdim=True))
            p = torch.exp(s - m_new)
            correction = torch.exp(m_i - m_new)  # what was summed so far was relative to the old maximum
            l_i = l_i * correction + p.sum(dim=-1, keepdim=True)
            o_i = o_i * correction + p @ v.to(wide)
            m_i = m_new
        if on_the_way is not None:
            k, v = on_the_way.wait()
    return (o_i / l_i).to(q.dtype), m_i + l_i.log()


def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    grad_output: torch.Tensor,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # solution only
    """dQ, dK, dV of this rank's slice. With P the weights, dO the gradient of the output, and the sums over all ranks' blocks:

    dV = Pᵀ dO       dP = dO Vᵀ       dS = P * (dP - δ), δ_i = dO_i · O_i       dQ = dS K / sqrt(Dh)       dK = dSᵀ Q / sqrt(Dh)
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    wide = logsumexp.dtype
    scale = 1 / math.sqrt(q.shape[-1])
    do = grad_output.to(wide)
    delta = (do * output.to(wide)).sum(dim=-1, keepdim=True)  # (B, H, T/P, 1)
    dq = torch.zeros_like(q, dtype=wide)
    # These are of the block that is here just now, and hold the parts of all ranks that it has passed.
    dk, dv = torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)

    for step in range(world_size):
        owner = (rank - step) % world_size
        if not (causal and owner > rank):
            s = _scores(q, k, wide, causal and owner == rank)
            p = torch.exp(s - logsumexp)  # the weights among the keys of all ranks
            ds = p * (do @ v.to(wide).mT - delta)
            dq += ds @ k.to(wide) * scale
            dk += ds.mT @ q.to(wide) * scale
            dv += p.mT @ do
        if step < world_size - 1:
            k, v, dk, dv = _Passing([k, v, dk, dv]).wait()
        else:
            dk, dv = _Passing([dk, dv]).wait()  # home: nobody needs the block itself any more
    return dq, dk, dv


def _scores(q: torch.Tensor, k: torch.Tensor, dtype: torch.dtype, diagonal: bool) -> torch.Tensor:  # solution only
    """(B, H, T/P, T/P); on the diagonal of a causal mask what is in the future is -inf."""
    s = q.to(dtype) @ k.to(dtype).mT / math.sqrt(q.shape[-1])
    if diagonal:
        s = s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), float("-inf"))
    return s


class _Passing:  # solution only
    """Tensors on their way to the next rank, and those of the previous rank on their way here.

    Who sends first and then receives waits for ever if all do: a send may end only when its receive has begun. So both
    are begun before either is waited for.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        following, previous = (rank + 1) % world_size, (rank - 1) % world_size
        self._sent = [tensor.contiguous() for tensor in tensors]  # kept until they have left
        self._received = [torch.empty_like(tensor) for tensor in self._sent]
        self._works = dist.batch_isend_irecv(
            [
                *(dist.P2POp(dist.isend, tensor, following) for tensor in self._sent),
                *(dist.P2POp(dist.irecv, tensor, previous) for tensor in self._received),
            ]
        )

    def wait(self) -> list[torch.Tensor]:
        for work in self._works:
            work.wait()
        return self._received
