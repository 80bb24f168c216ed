import math

import torch
import torch.nn.functional as F
from torch import nn


def rotations(positions, d_model):
    """(n,) -> (n, d_model) float64: position p is e^{i p w}, whose imaginary and real parts alternate."""
    pairs = (d_model + 1) // 2
    speed = torch.exp(torch.arange(pairs).double() * (-2 * math.log(10000) / d_model))
    angle = torch.outer(positions.double(), speed)
    circle = torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(circle).flip(-1).reshape(len(positions), 2 * pairs)[:, :d_model]


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        super().__init__()
        self.p, self.max_len = dropout, max_len
        self.register_buffer("pe", rotations(torch.arange(max_len), d_model).unsqueeze(0).to(torch.float32))

    def forward(self, x):
        T = x.size(1)
        if T > self.max_len:
            raise ValueError("sequence of %d positions, max_len is %d" % (T, self.max_len))
        total = torch.add(x, self.pe.narrow(1, 0, T)).type_as(x)
        return F.dropout(total, self.p, training=self.training)


class LearnedPositionalEmbedding(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings=max_len, embedding_dim=d_model)

    def forward(self, x):
        max_len, T = self.embedding.weight.size(0), x.size(1)
        if max_len < T:
            raise ValueError(f"max_len={max_len} is too small for x of length {T}")
        return (x + self.embedding.weight[:T]).to(dtype=x.dtype)


def relative_positional_encoding(seq_len, d_model, max_relative_position=32):
    m = max_relative_position
    # Row i of the result is a window of one long strip: distances -(T - 1)..T - 1, from T - 1 - i on.
    strip = torch.arange(1 - seq_len, seq_len).clip(-m, m) + m
    strip = rotations(strip, d_model).to(torch.get_default_dtype())
    return strip.unfold(0, seq_len, 1).flip(0).transpose(1, 2).contiguous()


def get_slopes(n):
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    closest = 2 ** math.floor(math.log2(n))
    return get_slopes(closest) + get_slopes(2 * closest)[0::2][: n - closest]


def alibi_bias(num_heads, seq_len):
    dtype = torch.get_default_dtype()
    steps = torch.arange(seq_len, dtype=dtype)
    future = torch.full((seq_len, seq_len), -math.inf, dtype=dtype).triu(1)
    line = steps - steps.unsqueeze(1)
    return torch.einsum("h,ij->hij", torch.tensor(get_slopes(num_heads), dtype=dtype), line) + future
