import re

import torch
from torch import nn


class _Base(nn.Module):
    """torch's pre-norm layers with learned positions, and a head of two layers."""

    def __init__(self, vocab_size, d_model=512, num_layers=6, num_heads=8, num_classes=2, max_len=512, dropout=0.1):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.max_len = max_len
        self.tokens = nn.Embedding(vocab_size, d_model, padding_idx=0)
        self.places = nn.Embedding(max_len, d_model)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d_model, num_heads, 4 * d_model, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Sequential(
            nn.Linear(d_model, d_model), nn.Tanh(), nn.Dropout(dropout), nn.Linear(d_model, num_classes)
        )

    def encode(self, input_ids, real):
        T = input_ids.size(1)
        if T > self.max_len:
            raise ValueError(f"{T} tokens are more than max_len={self.max_len}")
        x = self.drop(self.tokens(input_ids) + self.places.weight[:T])
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~real)
        return self.norm(x)


class TransformerClassifier(_Base):
    def forward(self, input_ids, attention_mask=None):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real = attention_mask > 0
        states = self.encode(input_ids, real)
        means = [row[keep].mean(0) for row, keep in zip(states, real)]
        return self.head(torch.stack(means))


class TokenClassifier(_Base):
    def forward(self, input_ids, attention_mask=None):
        real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask > 0
        return self.head(self.encode(input_ids, real))


def decode_bio(tags, labels):
    found = []
    t = 0
    while t < len(tags):
        match = re.fullmatch(r"[BI]-(.*)", labels[tags[t]])
        if not match:
            t += 1
            continue
        start, t = t, t + 1
        while t < len(tags) and labels[tags[t]] == "I-" + match[1]:
            t += 1
        found.append((match[1], start, t))
    return found


def best_answer_span(start_logits, end_logits, max_answer_length):
    # For each length a diagonal; of equal scores the smallest (start, end).
    T = len(start_logits)
    best = []
    for length in range(1, min(max_answer_length, T) + 1):
        sums = start_logits[: T - length + 1] + end_logits[length - 1 :]
        top = sums.max()
        start = int((sums == top).nonzero()[0])
        best.append((-float(top), start, start + length - 1))
    _, start, end = min(best)
    return start, end
