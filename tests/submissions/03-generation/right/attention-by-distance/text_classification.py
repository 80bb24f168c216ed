import math, itertools, re
from dataclasses import dataclass
import torch
from torch import nn
import torch.nn.functional as F


class _Attn(nn.Module):
    def __init__(self, d, h, p):
        super().__init__()
        if d % h:
            raise ValueError(f"num_heads {h} does not divide d_model {d}")
        self.h, self.p = h, p
        self.wq = nn.Parameter(torch.empty(h, d, d // h))
        self.wk = nn.Parameter(torch.empty(h, d, d // h))
        self.wv = nn.Parameter(torch.empty(h, d, d // h))
        self.wo = nn.Parameter(torch.empty(h, d // h, d))
        for w in self.parameters():
            nn.init.normal_(w, std=d**-0.5)
        self.register_buffer("slope", -torch.tensor([2.0 ** (-8 * (i + 1) / h) for i in range(h)]), persistent=False)

    def forward(self, x, mask):
        q = torch.einsum("btd,hde->bhte", x, self.wq)
        k = torch.einsum("btd,hde->bhte", x, self.wk)
        v = torch.einsum("btd,hde->bhte", x, self.wv)
        pos = torch.arange(x.shape[1], device=x.device)
        rel = pos[None, :] - pos[:, None]
        s = q @ k.mT / math.sqrt(q.shape[-1]) + self.slope.to(x.dtype)[:, None, None] * (rel.abs() + 0.5 * (rel > 0))
        s = s.masked_fill(~mask[:, None, None, :], torch.finfo(s.dtype).min)
        a = F.dropout(s.softmax(-1), self.p, self.training)
        return torch.einsum("bhte,hed->btd", a @ v, self.wo)


class _Block(nn.Module):
    def __init__(self, d, h, p):
        super().__init__()
        self.a = _Attn(d, h, p)
        self.n1 = nn.LayerNorm(d)
        self.n2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, 3 * d)
        self.down = nn.Linear(3 * d, d)
        self.p = p

    def forward(self, x, mask):
        x = x + F.dropout(self.a(self.n1(x), mask), self.p, self.training)
        return x + F.dropout(self.down(F.silu(self.up(self.n2(x)))), self.p, self.training)


class TokenClassifier(nn.Module):
    pool = False

    def __init__(
        self, vocab_size, d_model=512, num_layers=6, num_heads=8, num_classes=2, max_len=512, dropout=0.1, *, bias=True
    ):
        super().__init__()
        self.max_len = max_len
        self.emb = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList([_Block(d_model, num_heads, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.p = dropout
        self.out = nn.Linear(d_model, num_classes, bias=bias)
        self.calls = 0

    def forward(self, input_ids, attention_mask=None):
        self.calls += 1
        if input_ids.dim() != 2:
            raise ValueError("input_ids must be (B, T)")
        if input_ids.shape[-1] > self.max_len:
            raise ValueError("too long for max_len")
        mask = (
            torch.ones(input_ids.shape, dtype=torch.bool, device=input_ids.device)
            if attention_mask is None
            else attention_mask.to(torch.bool)
        )
        x = F.dropout(self.emb(input_ids), self.p, self.training)
        for b in self.blocks:
            x = b(x, mask)
        x = self.norm(x)
        logits = self.out(x)
        if not self.pool:
            return logits.masked_fill(~mask[..., None], float("nan"))
        w = mask.to(logits.dtype)
        w = w / w.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bt,btc->bc", w, logits)


class TransformerClassifier(TokenClassifier):
    pool = True


def decode_bio(tags, labels):
    out = []
    for t, tag in enumerate(tags):
        label = labels[int(tag)]
        if label == "O":
            continue
        mark, kind = label.split("-", 1)
        if mark == "I" and out and out[-1][0] == kind and out[-1][2] == t:
            out[-1] = (kind, out[-1][1], t + 1)
        else:
            out.append((kind, t, t + 1))
    return out


def best_answer_span(start_logits, end_logits, max_answer_length):
    if not isinstance(max_answer_length, int) or max_answer_length <= 0:
        raise ValueError("max_answer_length wants a positive integer, got %r" % (max_answer_length,))
    total = start_logits.unsqueeze(1) + end_logits.unsqueeze(0)
    keep = torch.ones_like(total, dtype=torch.bool).triu().tril(max_answer_length - 1)
    total = torch.where(keep, total, torch.full_like(total, float("-inf")))
    T = total.size(0)
    flat = total.reshape(-1)
    idx = (flat == flat.max()).nonzero()[0].item()
    return idx // T, idx % T
