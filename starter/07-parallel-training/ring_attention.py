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
    # TODO(student): a torch.autograd.Function whose forward and backward each send the blocks round the ring
    raise NotImplementedError("ring_attention is not implemented yet")
