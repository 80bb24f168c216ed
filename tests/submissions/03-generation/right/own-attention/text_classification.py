"""Nothing of the earlier lessons: RMS norms, rotary positions, one-hot tokens through a Linear, the head before the mean."""

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * self.gain


def rotate(x):
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * 0.01 ** (torch.arange(half, device=x.device) / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    one, two = x[..., :half], x[..., half : 2 * half]
    return torch.cat([one * cos - two * sin, one * sin + two * cos, x[..., 2 * half :]], -1)


class Block(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.n1, self.n2 = Norm(width), Norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 6 * width), nn.Linear(3 * width, width)

    def forward(self, x, bias):
        B, T, D = x.shape
        q, k, v = self.qkv(self.n1(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        scores = rotate(q) @ rotate(k).transpose(-1, -2) * (D // self.heads) ** -0.5 + bias
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(B, T, D))
        gate, value = self.up(self.n2(x)).chunk(2, -1)
        return x + F.dropout(self.down(F.silu(gate) * value), self.dropout, self.training)


class TokenClassifier(nn.Module):
    def __init__(self, vocab_size, d_model=512, num_layers=6, num_heads=8, num_classes=2, max_len=512, dropout=0.1):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("d_model %d, num_heads %d" % (d_model, num_heads))
        self.vocab_size, self.max_len = vocab_size, max_len
        self.embed = nn.Linear(vocab_size, d_model, bias=False)
        self.blocks = nn.ModuleList([Block(d_model, num_heads, dropout) for _ in range(num_layers)])
        self.last = Norm(d_model)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, input_ids, attention_mask=None):
        if input_ids.shape[-1] > self.max_len:
            raise ValueError("input_ids is longer than max_len (%d > %d)" % (input_ids.shape[-1], self.max_len))
        x = self.embed(F.one_hot(input_ids, self.vocab_size).to(self.embed.weight.dtype))
        bias = torch.zeros(input_ids.shape, dtype=x.dtype, device=x.device)
        if attention_mask is not None:
            bias = (1 - attention_mask.to(x.dtype)) * -1e9
        for block in self.blocks:
            x = block(x, bias[:, None, None])
        return self.head(self.last(x))


class TransformerClassifier(TokenClassifier):
    def forward(self, input_ids, attention_mask=None):
        logits = super().forward(input_ids, attention_mask)
        if attention_mask is None:
            return logits.mean(-2)
        mask = attention_mask.to(logits.dtype).unsqueeze(-1)
        return (logits * mask).sum(-2) / mask.sum(-2)


def decode_bio(tags, labels):
    words = [labels[t] for t in tags] + ["O"]
    begins = [
        w[0] == "B" or (w[0] == "I" and (t == 0 or words[t - 1] not in ("B" + w[1:], w))) for t, w in enumerate(words)
    ]
    result = []
    for t, begin in enumerate(begins):
        if begin:
            end = next(u for u in range(t + 1, len(words)) if words[u] == "O" or begins[u])
            result.append((words[t][2:], t, end))
    return result


def best_answer_span(start_logits, end_logits, max_answer_length):
    n = start_logits.numel()
    table = (start_logits.unsqueeze(1) + end_logits).tolist()
    pairs = [(i, j) for i in range(n) for j in range(n) if i <= j < i + max_answer_length]
    return sorted(pairs, key=lambda p: -table[p[0]][p[1]])[0]
