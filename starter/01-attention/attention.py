"""Attention: every position asks a question and takes a weighted mean of what the others hold.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V              Vaswani et al. 2017, "Attention Is All You Need", equation 1

The rest of the module uses that one line in several ways: several heads, each with a small Q, K and V of its own;
causal attention, which cannot see the future; cross attention, which asks one sequence about another; and grouped
queries, which share the keys and values that a generating model has to keep.

Letters in the shapes: B batch, T length (Tq of the queries, Tk of the keys), H heads, D = d_model, Dh = D / H.
Heads and positions are counted from 0.
A mask is boolean or holds 0 and 1; true (1) means "may attend".
"""

import math

import torch
from torch import nn


def causal_mask(length: int, device: torch.device | str | None = None) -> torch.Tensor:
    """The mask of a decoder: position i may attend to the positions j <= i.

    Args:
        length: the number of positions T.
        device: where the mask is made; torch's default device if None.

    Returns:
        (T, T) bool, lower triangular with the diagonal.
    """
    # TODO(student): True on and below the diagonal
    raise NotImplementedError("causal_mask is not implemented yet")


def padding_mask(lengths: torch.Tensor | list[int], max_length: int | None = None) -> torch.Tensor:
    """Hides the padding behind sequences of different lengths.

    Args:
        lengths: how many positions of each sequence are real: an integer tensor (B,) or a list of B integers, all >= 1.
        max_length: the padded length T; the greatest of the lengths if None.

    Returns:
        (B, 1, 1, T) bool, which broadcasts over heads and queries, on the device of lengths.

    Raises:
        ValueError: a length is more than max_length.
    """
    # TODO(student): True at the positions that are less than the length
    raise NotImplementedError("padding_mask is not implemented yet")


class ScaledDotProductAttention(nn.Module):
    """softmax(q kᵀ / temperature) v (Vaswani et al. 2017, section 3.2.1), with dropout on the weights.

    Args:
        temperature: what the scores are divided by, √d_k in the paper.
        attn_dropout: the probability with which a weight is dropped in train mode; 0 drops nothing.

    Raises:
        ValueError: temperature is not more than 0.
    """

    def __init__(self, temperature: float, attn_dropout: float = 0.1) -> None:
        # TODO(student): refuse a temperature <= 0, keep it, make the dropout
        raise NotImplementedError("ScaledDotProductAttention.__init__ is not implemented yet")

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q (..., Tq, d_k), k (..., Tk, d_k), v (..., Tk, d_v) -> output (..., Tq, d_v), weights (..., Tq, Tk).

        A query that may attend to nothing gets zero weights and a zero output; its gradients are zero too.
        The weights are returned as they multiply v: after the dropout.

        Args:
            mask: broadcasts to (..., Tq, Tk) by torch's rules; boolean or any dtype that holds 0 and 1.
        """
        # TODO(student): scores, mask, softmax over the keys, dropout, mean of the values
        raise NotImplementedError("ScaledDotProductAttention.forward is not implemented yet")


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each in a small space of its own (Vaswani et al. 2017, section 3.2.2).

        MultiHead(Q, K, V) = Concat(head_0, …, head_(H-1)) W_O,   head_h = Attention(Q W_Q_h, K W_K_h, V W_V_h)

    Args:
        n_head: H.
        d_model: D.
        d_k: the width of each head's queries and keys.
        d_v: the width of each head's values.
        dropout: the probability with which an attention weight is dropped in train mode; 0 drops nothing.

    Weights, all without bias:
        w_q, w_k: Linear(D, H·d_k).
        w_v: Linear(D, H·d_v).
        w_o: Linear(H·d_v, D).
        Head h owns the h-th block of d_k (or d_v) rows.
    """

    def __init__(self, n_head: int, d_model: int, d_k: int, d_v: int, dropout: float = 0.1) -> None:
        # TODO(student): w_q, w_k, w_v, w_o, all without bias
        raise NotImplementedError("MultiHeadAttention.__init__ is not implemented yet")

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q (B, Tq, D), k and v (B, Tk, D) -> output (B, Tq, D), weights (B, H, Tq, Tk).

        The scores are divided by √d_k. A query that may attend to nothing gets zeros.

        Args:
            mask: (Tq, Tk), or (B or 1, Tq, Tk) for all heads alike, or (B, H, Tq, Tk), or what broadcasts to the last.
        """
        # TODO(student): project, split into heads, attend, join the heads, project
        raise NotImplementedError("MultiHeadAttention.forward is not implemented yet")


class CausalAttention(nn.Module):
    """Self-attention of a decoder: a position attends to itself and to the past (GPT; Radford et al. 2018).

    Args:
        d_model: D.
        num_heads: H.
        dropout: the probability with which an attention weight is dropped in train mode; 0 drops nothing.

    Weights:
        qkv: Linear(D, 3·D), its rows q, then k, then v, and head h owns the h-th block of Dh rows in each.
        proj: Linear(D, D).

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.1) -> None:
        # TODO(student): check that D is divisible by H; qkv, proj
        raise NotImplementedError("CausalAttention.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, D) -> output (B, T, D), weights (B, H, T, T). The scores are divided by √Dh."""
        # TODO(student): q, k and v of x, attention under the causal mask, join the heads, project
        raise NotImplementedError("CausalAttention.forward is not implemented yet")


class CrossAttention(nn.Module):
    """One sequence asks another: queries from x, keys and values from a context (Vaswani et al. 2017, section 3.2.3).

    Args:
        d_model: D.
        num_heads: H.
        dropout: the probability with which an attention weight is dropped in train mode; 0 drops nothing.

    Weights:
        q: Linear(D, D).
        kv: Linear(D, 2·D), its rows k, then v.
        proj: Linear(D, D).
        Head h owns the h-th block of Dh rows in each of q, k and v.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.1) -> None:
        # TODO(student): check that D is divisible by H; q, kv, proj
        raise NotImplementedError("CrossAttention.__init__ is not implemented yet")

    def forward(
        self, x: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, Tq, D), context (B, Tk, D) -> output (B, Tq, D), weights (B, H, Tq, Tk).

        The scores are divided by √Dh. A query that may attend to nothing gets the bias of proj.

        Args:
            context_mask: (B, Tk), true at the positions of the context that may be seen, by every query and head.
        """
        # TODO(student): q of x, k and v of the context; mask its padding
        raise NotImplementedError("CrossAttention.forward is not implemented yet")


class GroupedQueryAttention(nn.Module):
    """Groups of query heads share one key and value head (Ainslie et al. 2023, "GQA").

    A model that generates keeps the keys and values of all positions; with KV heads instead of H they take KV / H of
    the memory. KV = H is multi-head attention, KV = 1 is multi-query attention (Shazeer 2019).

    Args:
        d_model: D.
        num_heads: H.
        num_kv_heads: KV.
        dropout: the probability with which an attention weight is dropped in train mode; 0 drops nothing.

    Weights, all without bias:
        q: Linear(D, H·Dh).
        k, v: Linear(D, KV·Dh).
        proj: Linear(D, D).

    Raises:
        ValueError: D is not divisible by H, or H is not divisible by KV.
    """

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, dropout: float = 0.0) -> None:
        # TODO(student): check both divisions; q, k, v, proj
        raise NotImplementedError("GroupedQueryAttention.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor, causal: bool = True) -> torch.Tensor:
        """x (B, T, D) -> output (B, T, D). Query head h uses kv head h // (H / KV); scores are divided by √Dh.

        Args:
            causal: whether a position sees only itself and the past, as in CausalAttention; if not, it sees all.
        """
        # TODO(student): repeat every kv head for its group of query heads, then attend
        raise NotImplementedError("GroupedQueryAttention.forward is not implemented yet")
