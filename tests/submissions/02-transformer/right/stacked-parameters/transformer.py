# functional style, loops over heads, no nn.Linear/LayerNorm in GPT/BERT, double inside the softmax
import math

import torch
from positional_encoding import PositionalEncoding
from torch import nn
from torch.nn import functional as F


class PositionwiseFeedForward(nn.Sequential):
    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.add_module("w_1", nn.Linear(d_model, d_ff))
        self.add_module("act", nn.ReLU())
        self.add_module("drop", nn.Dropout(dropout))
        self.add_module("w_2", nn.Linear(d_ff, d_model))


class Head(nn.Module):
    def __init__(self, d, dh):
        super().__init__()
        bound = 1 / math.sqrt(d)
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(d, dh).uniform_(-bound, bound)) for _ in range(3)])

    def forward(self, x, y, mask):
        q, k, v = (t @ w for t, w in zip((x, y, y), self.weights, strict=False))
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=q.size(-1) ** -0.5)
        if mask is None:
            return torch.softmax(scores, 2) @ v
        e = torch.exp(scores - scores.detach().amax(-1, keepdim=True)) * mask.to(scores)
        total = e.sum(-1, keepdim=True)
        return (e / (total + (total == 0))) @ v


class Heads(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide d_model {d_model}")
        self.heads = nn.ModuleList(Head(d_model, d_model // num_heads) for _ in range(num_heads))
        self.mix = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, y, mask=None):
        if mask is not None:
            while mask.dim() < 4:
                mask = mask.unsqueeze(0)
            mask = mask.expand(x.shape[0], len(self.heads), x.shape[1], y.shape[1])
        return self.mix(torch.cat([h(x, y, None if mask is None else mask[:, i]) for i, h in enumerate(self.heads)], 2))


class EncoderLayer(nn.Module):
    CROSS = False

    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        subs = [Heads(d_model, num_heads)]
        if self.CROSS:
            subs.append(Heads(d_model, num_heads))
        subs.append(PositionwiseFeedForward(d_model, d_ff, dropout))
        self.subs = nn.ModuleList(subs)
        self.norms = nn.ModuleDict({str(i): nn.LayerNorm([d_model]) for i in range(len(subs))})
        self.dropout = nn.Dropout(dropout)

    def run(self, x, functions):
        for f, n in zip(functions, self.norms.values(), strict=False):
            x = n(self.dropout(f(x)) + x)
        return x

    def forward(self, x, mask=None):
        return self.run(x, [lambda y: self.subs[0](y, y, mask), self.subs[1]])


class DecoderLayer(EncoderLayer):
    CROSS = True

    def forward(self, x, memory, tgt_mask=None, memory_mask=None):
        a, c, f = self.subs
        return self.run(x, [lambda y: a(y, y, tgt_mask), lambda y: c(y, memory, memory_mask), f])


class Encoder(nn.Module):
    Layer = EncoderLayer

    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = PositionalEncoding(d_model, max_len, dropout)
        self.scale = d_model**0.5
        for i in range(num_layers):
            setattr(self, f"layer{i}", self.Layer(d_model, num_heads, d_ff, dropout))
        self.n = num_layers

    def forward(self, ids, mask=None):
        x = self.position(self.embedding(ids).mul(self.scale))
        for i in range(self.n):
            x = getattr(self, f"layer{i}")(x, mask)
        return x


class Decoder(Encoder):
    Layer = DecoderLayer

    def forward(self, ids, memory, tgt_mask=None, memory_mask=None):
        n = ids.size(1)
        see = torch.arange(n, device=ids.device)
        see = (see.unsqueeze(1) >= see).to(torch.uint8)
        if tgt_mask is not None:
            see = see * tgt_mask.to(torch.uint8)
        x = self.position(self.embedding(ids).mul(self.scale))
        for i in range(self.n):
            x = getattr(self, f"layer{i}")(x, memory, see, memory_mask)
        return x


class Transformer(nn.Module):
    def __init__(
        self,
        src_vocab_size,
        tgt_vocab_size,
        d_model=512,
        num_layers=6,
        num_heads=8,
        d_ff=2048,
        max_len=5000,
        dropout=0.1,
        pad_id=0,
    ):
        super().__init__()

        def make():
            return dict(
                d_model=d_model, num_layers=num_layers, num_heads=num_heads, d_ff=d_ff, max_len=max_len, dropout=dropout
            )

        self.src, self.tgt = Encoder(src_vocab_size, **make()), Decoder(tgt_vocab_size, **make())
        self.project = nn.Linear(d_model, tgt_vocab_size, bias=False)
        self.register_buffer("pad", torch.tensor(pad_id), persistent=False)

    def keep(self, ids):
        return (
            ids.ne(self.pad).view(ids.size(0), 1, 1, ids.size(1))
            if ids.is_contiguous()
            else ids.ne(self.pad)[:, None, None, :]
        )

    def encode(self, src):
        return self.src(src, self.keep(src))

    def decode(self, tgt, memory, src_mask=None):
        if src_mask is not None:
            src_mask = src_mask.reshape(len(src_mask), 1, 1, -1)
        return self.project(self.tgt(tgt, memory, self.keep(tgt), src_mask))

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), self.keep(src))


def norm(x, wb, eps):
    c = x - x.mean(-1, keepdim=True)
    return c * torch.rsqrt(c.pow(2).mean(-1, keepdim=True) + eps) * wb[0] + wb[1]


def heads(x, wqkv, b, wo, bo, h, mask, p, training):
    B, T, D = x.shape
    qkv = torch.einsum("btd,sedh->sbeth", x, wqkv) + b[:, None, :, None, :]
    s = (qkv[0] @ qkv[1].mT) * (D // h) ** -0.5
    if mask is not None:
        s = s + torch.zeros_like(s).masked_fill(~mask, -1e30 if s.dtype != torch.float16 else -6e4)
    w = F.dropout(s.softmax(-1), p, training)
    if mask is not None:
        w = w * mask
    return torch.einsum("beth,ehd->btd", w @ qkv[2], wo) + bo


class GPTModel(nn.Module):
    """One stacked parameter for each role: (layers, …)."""

    def __init__(self, vocab_size, d_model=768, num_layers=12, num_heads=8, d_ff=None, max_len=1024, dropout=0.1):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("d_model")
        self.max_len, self.h, self.p, self.eps = max_len, num_heads, dropout, [1e-5] * (2 * num_layers + 1)
        L, D, H, Ff = num_layers, d_model, num_heads, d_ff or 4 * d_model

        def n(*s):
            return nn.Parameter(torch.randn(*s) * 0.02)

        def z(*s):
            return nn.Parameter(torch.zeros(*s))

        self.table, self.places = n(vocab_size, D), n(max_len, D)
        self.qkv, self.qkv_b = n(L, 3, H, D, D // H), z(L, 3, H, D // H)
        with torch.no_grad():
            self.wo, self.wo_b = nn.Parameter(n(L, H, D // H, D) / math.sqrt(2 * L)), z(L, D)
            self.w2, self.b2 = nn.Parameter(n(L, Ff, D) / math.sqrt(2 * L)), z(L, D)
        self.w1, self.b1 = n(L, D, Ff), z(L, Ff)
        self.gains, self.shifts = nn.Parameter(torch.ones(2 * L + 1, D)), z(2 * L + 1, D)

    def forward(self, input_ids):
        B, T = input_ids.shape
        if self.max_len < T:
            raise ValueError(f"sequence too long for max_len {self.max_len}")

        def drop(y):
            return F.dropout(y, self.p, self.training)

        x = drop(F.embedding(input_ids, self.table) + self.places[:T])
        mask = torch.full((T, T), True, device=x.device).tril()
        for i in range(len(self.w1)):
            y = norm(x, (self.gains[2 * i], self.shifts[2 * i]), self.eps[2 * i])
            x = x + drop(
                heads(y, self.qkv[i], self.qkv_b[i], self.wo[i], self.wo_b[i], self.h, mask, self.p, self.training)
            )
            y = norm(x, (self.gains[2 * i + 1], self.shifts[2 * i + 1]), self.eps[2 * i + 1]) @ self.w1[i] + self.b1[i]
            y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
            x = x + drop(y @ self.w2[i] + self.b2[i])
        return F.linear(norm(x, (self.gains[-1], self.shifts[-1]), self.eps[-1]), self.table)

    @torch.no_grad()
    def load_huggingface(self, model):
        c = model.config
        L, _, H, D, dh = self.qkv.shape
        sizes = {
            "vocab_size": (self.table.shape[0], c.vocab_size),
            "d_model": (D, c.n_embd),
            "num_layers": (L, c.n_layer),
            "num_heads": (H, c.n_head),
            "max_len": (self.max_len, c.n_positions),
            "d_ff": (self.w1.shape[2], c.n_inner or 4 * c.n_embd),
        }
        for name, (a, b) in sizes.items():
            if a != b:
                raise ValueError(f"{name} differs: {a}, {b}")
        sd = {k: v.detach().clone() for k, v in model.state_dict().items()}

        def g(key):
            return torch.stack([sd[f"transformer.h.{i}.{key}"] for i in range(L)])

        self.table.copy_(sd["transformer.wte.weight"])
        self.places.copy_(sd["transformer.wpe.weight"])
        self.qkv.copy_(g("attn.c_attn.weight").reshape(L, D, 3, H, dh).permute(0, 2, 3, 1, 4))
        self.qkv_b.copy_(g("attn.c_attn.bias").reshape(L, 3, H, dh))
        self.wo.copy_(g("attn.c_proj.weight").reshape(L, H, dh, D))
        self.wo_b.copy_(g("attn.c_proj.bias"))
        self.w1.copy_(g("mlp.c_fc.weight"))
        self.b1.copy_(g("mlp.c_fc.bias"))
        self.w2.copy_(g("mlp.c_proj.weight"))
        self.b2.copy_(g("mlp.c_proj.bias"))
        for mine, kind in ((self.gains, "weight"), (self.shifts, "bias")):
            mine[0:-1:2] = g("ln_1." + kind)
            mine[1:-1:2] = g("ln_2." + kind)
            mine[-1] = sd["transformer.ln_f." + kind]
        self.eps = [c.layer_norm_epsilon] * (2 * L + 1)
        return self


class BERTModel(nn.Module):
    def __init__(
        self,
        vocab_size,
        d_model=768,
        num_layers=12,
        num_heads=12,
        d_ff=3072,
        max_len=512,
        dropout=0.1,
        type_vocab_size=2,
    ):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("num_heads")
        self.sizes = dict(
            vocab_size=vocab_size,
            hidden_size=d_model,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=d_ff,
            max_position_embeddings=max_len,
            type_vocab_size=type_vocab_size,
        )
        self.p, self.eps = dropout, 1e-12
        d, P = d_model, lambda *s: nn.Parameter(torch.randn(*s) * 0.02)
        self.e = nn.ParameterList([P(vocab_size, d), P(max_len, d), P(type_vocab_size, d)])
        self.gains, self.shifts = (
            nn.Parameter(torch.ones(2 * num_layers + 1, d)),
            nn.Parameter(torch.zeros(2 * num_layers + 1, d)),
        )
        self.b = nn.ModuleList()
        for _ in range(num_layers):
            h = num_heads
            self.b.append(
                nn.ParameterDict(
                    {
                        "qkv": P(3, h, d, d // h),
                        "qb": P(3, h, d // h),
                        "wo": P(h, d // h, d),
                        "ob": P(d),
                        "w1": P(d_ff, d),
                        "b1": P(d_ff),
                        "w2": P(d, d_ff),
                        "b2": P(d),
                    }
                )
            )

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        T = input_ids.shape[-1]
        if self.sizes["max_position_embeddings"] < T:
            raise ValueError("max_len")
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        ids = (input_ids, torch.arange(T, device=input_ids.device).expand_as(input_ids), kinds)

        def drop(y):
            return F.dropout(y, self.p, self.training)

        x = drop(
            norm(
                sum(F.embedding(i.long(), e) for i, e in zip(ids, self.e, strict=False)),
                (self.gains[0], self.shifts[0]),
                self.eps,
            )
        )
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for i, b in enumerate(self.b):
            y = heads(
                x, b["qkv"], b["qb"], b["wo"], b["ob"], self.sizes["num_attention_heads"], mask, self.p, self.training
            )
            x = norm(x + drop(y), (self.gains[2 * i + 1], self.shifts[2 * i + 1]), self.eps)
            y = F.linear(x, b["w1"], b["b1"])
            y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            x = norm(x + drop(F.linear(y, b["w2"], b["b2"])), (self.gains[2 * i + 2], self.shifts[2 * i + 2]), self.eps)
        return x

    @torch.no_grad()
    def load_huggingface(self, model):
        for k, v in self.sizes.items():
            if getattr(model.config, k) != v:
                raise ValueError(f"{k}: {v} here, {getattr(model.config, k)} there")
        sd = model.state_dict()
        norms = ["embeddings.LayerNorm"]
        for mine, name in zip(self.e, ("word", "position", "token_type"), strict=False):
            mine.data[...] = sd[f"embeddings.{name}_embeddings.weight"]
        d, h = self.sizes["hidden_size"], self.sizes["num_attention_heads"]
        for i, b in enumerate(self.b):
            pre = f"encoder.layer.{i}."
            norms += [pre + "attention.output.LayerNorm", pre + "output.LayerNorm"]
            for j, w in enumerate(("query", "key", "value")):
                b["qkv"][j].copy_(sd[pre + f"attention.self.{w}.weight"].view(h, d // h, d).transpose(1, 2))
                b["qb"][j].copy_(sd[pre + f"attention.self.{w}.bias"].view(h, d // h))
            b["wo"].copy_(sd[pre + "attention.output.dense.weight"].t().reshape(h, d // h, d))
            b["ob"].copy_(sd[pre + "attention.output.dense.bias"])
            b["w1"].copy_(sd[pre + "intermediate.dense.weight"])
            b["b1"].copy_(sd[pre + "intermediate.dense.bias"])
            b["w2"].copy_(sd[pre + "output.dense.weight"])
            b["b2"].copy_(sd[pre + "output.dense.bias"])
        for i, name in enumerate(norms):
            self.gains[i].copy_(sd[name + ".weight"])
            self.shifts[i].copy_(sd[name + ".bias"])
        self.eps = model.config.layer_norm_eps
        return self
