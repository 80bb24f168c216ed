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
    # student: for each tile of queries, the online softmax over the tiles of keys
    _check_block_size(block_size)
    B, H, Tq, Dh = q.shape  # the tiles of one head do not depend on those of another: B and H ride along
    Tk = k.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)  # sums in bfloat16 would lose most digits

    outputs, logsumexps = [], []
    for i in range(0, Tq, block_size):
        q_i = q[:, :, i : i + block_size]  # (B, H, Bq, Dh)
        Bq = q_i.shape[2]
        m_i = torch.full((B, H, Bq, 1), float("-inf"), dtype=wide, device=q.device)  # running maximum
        l_i = torch.zeros(B, H, Bq, 1, dtype=wide, device=q.device)  # running sum of exp(s - m)
        o_i = torch.zeros(B, H, Bq, Dh, dtype=wide, device=q.device)  # running sum of exp(s - m) v

        for j in range(0, Tk, block_size):
            if causal and j > i:
                break  # queries and keys have the same tiles: this one is in the future, as are all that follow
            v_j = v[:, :, j : j + block_size].to(wide)  # (B, H, Bk, Dh)
            s = _tile_of_scores(q, k, i, j, causal, block_size)  # (B, H, Bq, Bk)

            # The first tile holds key 0, which every query sees: from then on m is finite, and -inf - m never NaN.
            m_new = torch.maximum(m_i, s.amax(dim=-1, keepdim=True))
            p = torch.exp(s - m_new)
            correction = torch.exp(m_i - m_new)  # what was summed so far was relative to the old maximum
            l_i = l_i * correction + p.sum(dim=-1, keepdim=True)
            o_i = o_i * correction + p @ v_j
            m_i = m_new

        outputs.append((o_i / l_i).to(q.dtype))
        logsumexps.append((m_i + l_i.log()).squeeze(-1))
    return torch.cat(outputs, dim=2), torch.cat(logsumexps, dim=2)


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
        # student: save what backward needs, return the output
        output, logsumexp = flash_attention_forward(q, k, v, causal, block_size)
        ctx.save_for_backward(q, k, v, output, logsumexp)
        ctx.causal, ctx.block_size = causal, block_size
        return output

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad_output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        """grad_output (B, H, Tq, Dh) -> gradients of q, k and v in their dtypes, None for causal and block_size."""
        # student: the formulas above, tile by tile; one gradient per argument
        q, k, v, output, logsumexp = ctx.saved_tensors
        causal, block_size = ctx.causal, ctx.block_size
        wide = logsumexp.dtype
        scale = 1 / math.sqrt(q.shape[-1])

        # δ saves a pass over the tiles: the row sum of P * dP is known before any tile of P is made.
        delta = (grad_output.to(wide) * output.to(wide)).sum(dim=-1, keepdim=True)  # (B, H, Tq, 1)
        dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))

        for i in range(0, q.shape[2], block_size):
            rows = slice(i, i + block_size)
            q_i, do_i = q[:, :, rows].to(wide), grad_output[:, :, rows].to(wide)  # (B, H, Bq, Dh)
            for j in range(0, k.shape[2], block_size):
                if causal and j > i:
                    break
                columns = slice(j, j + block_size)
                k_j, v_j = k[:, :, columns].to(wide), v[:, :, columns].to(wide)  # (B, H, Bk, Dh)

                s = _tile_of_scores(q, k, i, j, causal, block_size)  # (B, H, Bq, Bk)
                p = torch.exp(s - logsumexp[:, :, rows, None])  # the weights, already normalised
                dp = do_i @ v_j.transpose(-2, -1)
                ds = p * (dp - delta[:, :, rows])

                dq[:, :, rows] += ds @ k_j * scale
                dk[:, :, columns] += ds.transpose(-2, -1) @ q_i * scale
                dv[:, :, columns] += p.transpose(-2, -1) @ do_i
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


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
    # student: FlashAttentionFunction.apply takes no keyword arguments
    return FlashAttentionFunction.apply(q, k, v, causal, block_size)


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
        # student: check the arguments, make qkv, proj and the dropout
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not divisible by num_heads={num_heads}")
        _check_block_size(block_size)
        self.num_heads = num_heads
        self.block_size = block_size
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D) -> output (B, T, D)."""
        # student: project, split into heads, flash_attention, join the heads, project, drop out
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, Dh)
        heads = flash_attention(q, k, v, causal, self.block_size)  # (B, H, T, Dh)
        return self.dropout(self.proj(heads.transpose(1, 2).reshape(B, T, D)))


def _tile_of_scores(
    q: torch.Tensor, k: torch.Tensor, i: int, j: int, causal: bool, block_size: int
) -> torch.Tensor:  # solution only
    """Scores of the queries from i and the keys from j: (B, H, Bq, Bk), -inf where the key is in the query's future."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q_i = q[:, :, i : i + block_size].to(wide)  # (B, H, Bq, Dh)
    k_j = k[:, :, j : j + block_size].to(wide)  # (B, H, Bk, Dh)
    s = q_i @ k_j.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        query = torch.arange(i, i + q_i.shape[2], device=q.device)[:, None]  # counted from the first query
        key = torch.arange(j, j + k_j.shape[2], device=q.device)
        s = s.masked_fill(key > query, float("-inf"))
    return s


def _check_block_size(block_size: int) -> None:  # solution only
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
