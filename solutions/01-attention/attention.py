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
    # student: True on and below the diagonal
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


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
    # student: True at the positions that are less than the length
    lengths = torch.as_tensor(lengths)
    longest = int(lengths.max())
    if max_length is None:
        max_length = longest
    if longest > max_length:
        raise ValueError(f"max_length is {max_length}, but one of the sequences has the length {longest}")

    positions = torch.arange(max_length, device=lengths.device)  # (T,)
    real = positions < lengths[:, None]  # (B, T)
    return real[:, None, None, :]


class ScaledDotProductAttention(nn.Module):
    """softmax(q kᵀ / temperature) v (Vaswani et al. 2017, section 3.2.1), with dropout on the weights.

    Args:
        temperature: what the scores are divided by, √d_k in the paper.
        attn_dropout: the probability with which a weight is dropped in train mode; 0 drops nothing.

    Raises:
        ValueError: temperature is not more than 0.
    """

    def __init__(self, temperature: float, attn_dropout: float = 0.1) -> None:
        # student: refuse a temperature <= 0, keep it, make the dropout
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be more than 0, not {temperature}")
        self.temperature = temperature
        self.dropout = nn.Dropout(attn_dropout)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q (..., Tq, d_k), k (..., Tk, d_k), v (..., Tk, d_v) -> output (..., Tq, d_v), weights (..., Tq, Tk).

        A query that may attend to nothing gets zero weights and a zero output; its gradients are zero too.
        The weights are returned as they multiply v: after the dropout.

        Args:
            mask: broadcasts to (..., Tq, Tk) by torch's rules; boolean or any dtype that holds 0 and 1.
        """
        # student: scores, mask, softmax over the keys, dropout, mean of the values
        scores = q @ k.transpose(-2, -1) / self.temperature  # (..., Tq, Tk)

        if mask is None:
            weights = scores.softmax(dim=-1)
        else:
            hidden = mask == 0
            # The least finite number instead of -inf: a row with nothing to see would become NaN, and so would its
            # gradients. Such a row is now uniform until the second masked_fill, which changes nothing elsewhere.
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=-1).masked_fill(hidden, 0.0)

        weights = self.dropout(weights)
        return weights @ v, weights


def _split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:  # solution only
    """(B, T, H·d) -> (B, H, T, d): head h takes the h-th block of d columns."""
    batch, length, width = x.shape
    return x.reshape(batch, length, num_heads, width // num_heads).transpose(1, 2)


def _join_heads(x: torch.Tensor) -> torch.Tensor:  # solution only
    """(B, H, T, d) -> (B, T, H·d): the heads side by side, in order."""
    batch, num_heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, num_heads * width)


def _head_width(d_model: int, num_heads: int) -> int:  # solution only
    """Dh = D / H, or a ValueError."""
    if d_model % num_heads != 0:
        raise ValueError(f"d_model must be divisible by num_heads, but {d_model} / {num_heads} leaves a remainder")
    return d_model // num_heads


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
        # student: w_q, w_k, w_v, w_o, all without bias
        super().__init__()
        self.n_head = n_head
        self.w_q = nn.Linear(d_model, n_head * d_k, bias=False)
        self.w_k = nn.Linear(d_model, n_head * d_k, bias=False)
        self.w_v = nn.Linear(d_model, n_head * d_v, bias=False)
        self.w_o = nn.Linear(n_head * d_v, d_model, bias=False)
        self.attention = ScaledDotProductAttention(math.sqrt(d_k), dropout)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q (B, Tq, D), k and v (B, Tk, D) -> output (B, Tq, D), weights (B, H, Tq, Tk).

        The scores are divided by √d_k. A query that may attend to nothing gets zeros.

        Args:
            mask: (Tq, Tk), or (B or 1, Tq, Tk) for all heads alike, or (B, H, Tq, Tk), or what broadcasts to the last.
        """
        # student: project, split into heads, attend, join the heads, project
        q = _split_heads(self.w_q(q), self.n_head)  # (B, H, Tq, d_k)
        k = _split_heads(self.w_k(k), self.n_head)  # (B, H, Tk, d_k)
        v = _split_heads(self.w_v(v), self.n_head)  # (B, H, Tk, d_v)

        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1)  # torch would take the batch for the heads
        output, weights = self.attention(q, k, v, mask)  # (B, H, Tq, d_v), (B, H, Tq, Tk)

        return self.w_o(_join_heads(output)), weights


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
        # student: check that D is divisible by H; qkv, proj
        super().__init__()
        head_width = _head_width(d_model, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.attention = ScaledDotProductAttention(math.sqrt(head_width), dropout)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, D) -> output (B, T, D), weights (B, H, T, T). The scores are divided by √Dh."""
        # student: q, k and v of x, attention under the causal mask, join the heads, project
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, T, D) each
        q, k, v = (_split_heads(part, self.num_heads) for part in (q, k, v))  # (B, H, T, Dh) each

        visible = causal_mask(x.shape[1], device=x.device)  # (T, T)
        output, weights = self.attention(q, k, v, visible)  # (B, H, T, Dh), (B, H, T, T)

        return self.proj(_join_heads(output)), weights


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
        # student: check that D is divisible by H; q, kv, proj
        super().__init__()
        head_width = _head_width(d_model, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(d_model, d_model)
        self.kv = nn.Linear(d_model, 2 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.attention = ScaledDotProductAttention(math.sqrt(head_width), dropout)

    def forward(
        self, x: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, Tq, D), context (B, Tk, D) -> output (B, Tq, D), weights (B, H, Tq, Tk).

        The scores are divided by √Dh. A query that may attend to nothing gets the bias of proj.

        Args:
            context_mask: (B, Tk), true at the positions of the context that may be seen, by every query and head.
        """
        # student: q of x, k and v of the context; mask its padding
        k, v = self.kv(context).chunk(2, dim=-1)  # (B, Tk, D) each
        q, k, v = (_split_heads(part, self.num_heads) for part in (self.q(x), k, v))  # (B, H, T, Dh) each

        if context_mask is not None:
            context_mask = context_mask[:, None, None, :]  # (B, 1, 1, Tk)
        output, weights = self.attention(q, k, v, context_mask)  # (B, H, Tq, Dh), (B, H, Tq, Tk)

        return self.proj(_join_heads(output)), weights


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
        # student: check both divisions; q, k, v, proj
        super().__init__()
        head_width = _head_width(d_model, num_heads)
        if num_heads % num_kv_heads != 0:
            raise ValueError(f"num_heads ({num_heads}) must be divisible by num_kv_heads ({num_kv_heads})")
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.q = nn.Linear(d_model, num_heads * head_width, bias=False)
        self.k = nn.Linear(d_model, num_kv_heads * head_width, bias=False)
        self.v = nn.Linear(d_model, num_kv_heads * head_width, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)
        self.attention = ScaledDotProductAttention(math.sqrt(head_width), dropout)

    def forward(self, x: torch.Tensor, causal: bool = True) -> torch.Tensor:
        """x (B, T, D) -> output (B, T, D). Query head h uses kv head h // (H / KV); scores are divided by √Dh.

        Args:
            causal: whether a position sees only itself and the past, as in CausalAttention; if not, it sees all.
        """
        # student: repeat every kv head for its group of query heads, then attend
        q = _split_heads(self.q(x), self.num_heads)  # (B, H, T, Dh)
        k = _split_heads(self.k(x), self.num_kv_heads)  # (B, KV, T, Dh)
        v = _split_heads(self.v(x), self.num_kv_heads)  # (B, KV, T, Dh)

        group = self.num_heads // self.num_kv_heads
        k = k.repeat_interleave(group, dim=1)  # (B, H, T, Dh): head 0, head 0, …, head 1, head 1, …
        v = v.repeat_interleave(group, dim=1)

        visible = causal_mask(x.shape[1], device=x.device) if causal else None
        output, _ = self.attention(q, k, v, visible)  # (B, H, T, Dh)

        return self.proj(_join_heads(output))
