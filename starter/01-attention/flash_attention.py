"""FlashAttention: exact attention that never holds the (T, T) matrix of scores.

Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness" (the idea);
Dao 2023, "FlashAttention-2" (the form written here: algorithm 1, with the loop over queries outside, and algorithm 2, with
the logsumexp); Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".

A GPU computes faster than it can fetch. Plain attention writes the scores S and the weights P, T^2 numbers each, to
slow memory and reads them back. FlashAttention walks through S in tiles that fit into fast memory:

- forward: for each tile of queries, walk over the tiles of keys with a running maximum m, a running sum l and a
  running output, and rescale what was summed so far whenever the maximum grows;
- backward: keep no tile; with the logsumexp L = m + ln l of each row a tile of P is exp(S - L), made again on the way.

In PyTorch this saves memory, not time: the speed comes when one kernel runs the whole loop (lesson 09-kernels).

Sizes: B batch, H heads, Tq queries, Tk keys, Dh = D // H; a tile has Bq queries and Bk keys, both at most block_size.
"""

import math

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable


def flash_attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False, block_size: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ / sqrt(Dh)) v, tile by tile. Dao 2023, algorithm 1.

    Args:
        q: (B, H, Tq, Dh), k and v: (B, H, Tk, Dh). Tq may differ from Tk, and block_size need not divide them.
        causal: query i sees the keys j <= i, both counted from the first, as `is_causal` in torch.
        block_size: the most queries, and the most keys, in a tile.

    Returns:
        output (B, H, Tq, Dh) in the dtype of q, and
        logsumexp (B, H, Tq) of q kᵀ / sqrt(Dh) over the keys that a query may see, in float32 or the dtype of q where
        that is wider.

    Raises:
        ValueError: block_size is less than 1.
    """
    # TODO(student): for each tile of queries, the online softmax over the tiles of keys
    raise NotImplementedError("flash_attention_forward is not implemented yet")


class FlashAttentionFunction(torch.autograd.Function):
    """flash_attention_forward with a backward that makes the tiles of P again. Dao 2023, algorithm 2.

    Between forward and backward it saves q, k, v, the output and the logsumexp, and never a tile. With P the weights
    and dO the gradient of the output O, the gradients are sums over tiles of

        dV = Pᵀ dO                      dP = dO Vᵀ
        dS = P * (dP - δ)               δ_i = Σ_j P_ij dP_ij = dO_i · O_i
        dQ = dS K / sqrt(Dh)            dK = dSᵀ Q / sqrt(Dh)
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, block_size: int
    ) -> torch.Tensor:
        """-> output (B, H, Tq, Dh); arguments as those of `flash_attention`."""
        # TODO(student): save what backward needs, return the output
        raise NotImplementedError("FlashAttentionFunction.forward is not implemented yet")

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad_output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        """grad_output (B, H, Tq, Dh) -> gradients of q, k and v in their dtypes, None for causal and block_size."""
        # TODO(student): the formulas above, tile by tile; one gradient per argument
        raise NotImplementedError("FlashAttentionFunction.backward is not implemented yet")


def flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False, block_size: int = 64
) -> torch.Tensor:
    """softmax(q kᵀ / sqrt(Dh)) v in memory that grows with T, not T^2, with first derivatives.

    For T >= 4 * block_size no operation, forward or backward, makes a tensor of B * H * Tq * Tk / 2 elements or more,
    and what is saved between them has at most 4 * B * H * T * Dh + 2 * B * H * T elements.

    Args:
        q, k, v, causal, block_size: as those of `flash_attention_forward`.

    Returns:
        output (B, H, Tq, Dh), in the dtype of q.

    Raises:
        ValueError: block_size is less than 1.
    """
    # TODO(student): FlashAttentionFunction.apply takes no keyword arguments
    raise NotImplementedError("flash_attention is not implemented yet")


class FlashAttention(nn.Module):
    """Multi-head self-attention on top of `flash_attention`.

    Args:
        d_model: D, divisible by num_heads.
        num_heads: H; head h owns the h-th block of Dh rows within q, within k and within v.
        dropout: acts on the output, in train mode only: the weights, on which it acts elsewhere, are never held
            here. 0 drops nothing.
        block_size: as that of `flash_attention`.

    Weights:
        qkv: Linear(D, 3 * D), rows ordered q, k, v.
        proj: Linear(D, D).

    Raises:
        ValueError: d_model is not divisible by num_heads, or block_size is less than 1.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.1, block_size: int = 64) -> None:
        # TODO(student): check the arguments, make qkv, proj and the dropout
        raise NotImplementedError("FlashAttention.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D) -> output (B, T, D)."""
        # TODO(student): project, split into heads, flash_attention, join the heads, project, drop out
        raise NotImplementedError("FlashAttention.forward is not implemented yet")
