"""Positions for attention: sinusoidal, learned, relative and ALiBi.

Attention is a weighted sum, and a sum does not know the order of its terms: without positions "dog bites man"
and "man bites dog" are the same sentence. This module has two kinds of remedy.

- Added to the embeddings, once, before the first layer: `PositionalEncoding` (fixed waves) and
  `LearnedPositionalEmbedding` (a trained table).
- Put into every attention layer, as a function of the distance between query and key:
  `relative_positional_encoding` (a code for each distance) and `alibi_bias` (a penalty that grows with the distance).

Sizes: B batch, T length, D = d_model, H heads.
"""

import torch
from torch import nn


class PositionalEncoding(nn.Module):
    """Adds fixed sine and cosine waves to the embeddings. Vaswani et al. 2017, section 3.5.

        pe[p, 2i]     = sin(p / 10000^(2i / D))
        pe[p, 2i + 1] = cos(p / 10000^(2i / D))

    Each pair of columns turns at its own speed, from one radian per position to one in 10000^(1 - 2 / D), so each position
    has its own pattern. A shift by k positions rotates a pair by the same angle, wherever the shift starts.

    Args:
        d_model: D, the width of the embeddings. It may be odd: the last column is then a sine.
        max_len: the number of positions that the table holds.
        dropout: the probability that an element of the sum is zeroed in train mode; 0 drops nothing.

    Buffer:
        pe: (1, max_len, D) float32, right to 1e-5 at every position. It is saved with the state and is not a parameter.
    """

    def __init__(self, d_model: int, max_len: int = 5000, dropout: float = 0.0) -> None:
        # student: work the angles out in float64 and keep the table as a float32 buffer
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        # A buffer moves with the module from device to device and is saved, but no optimizer will ever change it.
        self.register_buffer("pe", _sinusoidal_code(max_len, d_model).float()[None])  # (1, max_len, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, D) -> dropout(x + pe[:, :T]) (B, T, D), in the dtype of x.

        Raises:
            ValueError: T is greater than max_len.
        """
        # student: add the first T rows in the dtype of x; then dropout
        _check_length(x, max_len=self.pe.shape[1])
        return self.dropout(x + self.pe[:, : x.shape[1]].to(x.dtype))


class LearnedPositionalEmbedding(nn.Module):
    """Adds a trained vector for each position. Devlin et al. 2018 (BERT), Radford et al. 2018 (GPT).

    Nothing is assumed about how positions relate, and nothing is known about positions that were not trained.

    Args:
        d_model: D, the width of the embeddings.
        max_len: the number of positions.

    Weight:
        embedding: nn.Embedding of max_len vectors of size D.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        # student: an nn.Embedding with a row for each position
        super().__init__()
        self.embedding = nn.Embedding(max_len, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, D) -> x + embedding of the positions 0..T-1 (B, T, D), in the dtype of x.

        Raises:
            ValueError: T is greater than max_len.
        """
        # student: look up the positions 0..T-1, add in the dtype of x
        _check_length(x, max_len=self.embedding.num_embeddings)
        positions = torch.arange(x.shape[1], device=x.device)  # (T,)
        return x + self.embedding(positions).to(x.dtype)


def relative_positional_encoding(seq_len: int, d_model: int, max_relative_position: int = 32) -> torch.Tensor:
    """A code for the distance of every pair of positions. After Shaw et al. 2018.

    "Self-Attention with Relative Position Representations" learns two vectors for each distance, one that is added to the
    key k_j and one that is added to the value v_j; here a code is the sinusoidal code of the distance. Beyond
    m = max_relative_position the exact distance is taken not to matter, so it is clipped:

        result[i, j] = sinusoidal code of position clip(j - i, -m, m) + m

    Args:
        seq_len: T.
        d_model: D, the size of a code; it may be odd.
        max_relative_position: m.

    Returns:
        (T, T, D), on the CPU, in the default dtype.
    """
    # student: the distance j - i, clipped and shifted by m, picks a row of the table
    m = max_relative_position
    position = torch.arange(seq_len)
    distance = position[None, :] - position[:, None]  # (T, T): j - i, negative for the past
    code = _sinusoidal_code(2 * m + 1, d_model)  # (2m + 1, D): one row for each clipped distance
    return code[distance.clamp(-m, m) + m].to(torch.get_default_dtype())  # (T, T, D)


def alibi_bias(num_heads: int, seq_len: int) -> torch.Tensor:
    """What ALiBi adds to causal attention scores. Press et al. 2022, "Train Short, Test Long".

        bias[h, i, j] = -slope_h * (i - j)   for j <= i
                        -inf                 for j > i

    With p the greatest power of two <= H, the slopes are 2^(-8i / p) for i = 1..p and then, if H is not a power of two,
    2^(-4(2i - 1) / p) for i = 1..H - p, which are between the first ones; in that order.

    Args:
        num_heads: H.
        seq_len: T.

    Returns:
        (H, T, T), on the CPU, in the default dtype; add it to scores that are already divided by sqrt(d_k).
    """
    # student: the slopes, then -slope * (i - j) for each pair, and -inf above the diagonal
    slopes = torch.tensor(_alibi_slopes(num_heads))[:, None, None]  # (H, 1, 1)
    position = torch.arange(seq_len)
    distance = position[:, None] - position[None, :]  # (T, T): i - j, how far back the key is
    return (-slopes * distance).masked_fill(distance < 0, float("-inf"))  # (H, T, T)


def _alibi_slopes(num_heads: int) -> list[float]:  # solution only
    p = 1
    while 2 * p <= num_heads:
        p *= 2
    slopes = [2 ** (-8 * i / p) for i in range(1, p + 1)]
    between = [2 ** (-4 * (2 * i - 1) / p) for i in range(1, num_heads - p + 1)]
    return slopes + between


def _sinusoidal_code(length: int, d_model: int) -> torch.Tensor:  # solution only
    """The codes of positions 0..length-1: (length, D) float64.

    In float32 the angle of position 5000 would be wrong by up to 2e-4: a float32 near 5000 has 3 to 4 decimals.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]  # (L, 1)
    two_i = torch.arange(0, d_model, 2, dtype=torch.float64)  # (ceil(D / 2),)
    angle = position / 10000 ** (two_i / d_model)  # (L, ceil(D / 2))

    code = torch.empty(length, d_model, dtype=torch.float64)
    code[:, 0::2] = angle.sin()
    code[:, 1::2] = angle[:, : d_model // 2].cos()  # an odd D has one cosine less
    return code


def _check_length(x: torch.Tensor, max_len: int) -> None:  # solution only
    if x.shape[1] > max_len:
        raise ValueError(f"x has {x.shape[1]} positions, more than max_len={max_len}")
