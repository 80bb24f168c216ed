import math

import torch
import torch.nn as nn


def code_of(position, d_model):
    row = []
    for column in range(d_model):
        angle = position / math.pow(10000.0, (column // 2 * 2) / d_model)
        row.append(math.sin(angle) if column % 2 == 0 else math.cos(angle))
    return row


class _Added(nn.Module):
    def table(self):
        raise NotImplementedError

    def forward(self, x):
        table = self.table()
        length = x.shape[1]
        if length > len(table):
            raise ValueError(f"x is longer than max_len = {len(table)}: {length}")
        out = torch.stack([x[:, t] + table[t].to(dtype=x.dtype) for t in range(length)], dim=1)
        return self.finish(out)

    def finish(self, out):
        return out


class PositionalEncoding(_Added):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        super().__init__()
        self.drop = nn.Dropout(p=dropout) if dropout else nn.Identity()
        self.register_buffer("pe", torch.zeros(1, max_len, d_model, dtype=torch.float32))
        self.pe[0] = torch.tensor([code_of(p, d_model) for p in range(max_len)], dtype=torch.float32)

    def table(self):
        return self.pe[0]

    def finish(self, out):
        return self.drop(out)


class LearnedPositionalEmbedding(_Added):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.embedding = nn.Embedding(max_len, d_model)
        self.register_buffer("ids", torch.arange(max_len), persistent=False)

    def table(self):
        return self.embedding(self.ids)


def relative_positional_encoding(seq_len, d_model, max_relative_position=32):
    m = max_relative_position
    return torch.tensor([
        [code_of(max(-m, min(m, j - i)) + m, d_model) for j in range(seq_len)] for i in range(seq_len)
    ])


def alibi_bias(num_heads, seq_len):
    p = 1 << (num_heads.bit_length() - 1)
    bias = torch.full((num_heads, seq_len, seq_len), float("-inf"))
    for h in range(num_heads):
        exponent = 8 * (h + 1) / p if h < p else 4 * (2 * (h - p + 1) - 1) / p
        for i in range(seq_len):
            for j in range(i + 1):
                bias[h, i, j] = -(2.0**-exponent) * (i - j)
    return bias
