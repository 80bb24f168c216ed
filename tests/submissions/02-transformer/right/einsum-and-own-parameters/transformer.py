"""One file without lesson 1. Parameters are plain tensors; the heads are a dimension of them."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Norm(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.scale, self.shift, self.eps = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size)), eps

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + self.eps) * self.scale + self.shift


def softmax_where(scores, visible):
    """softmax over the visible keys; rows without any are zero."""
    if visible is None:
        return torch.softmax(scores, -1)
    visible = visible.bool().expand_as(scores)
    top = torch.where(visible, scores, torch.full_like(scores, -1e30)).amax(-1, keepdim=True)
    top = torch.where(visible.any(-1, keepdim=True), top, torch.zeros_like(top))
    exp = torch.where(visible, torch.exp(torch.where(visible, scores - top, torch.zeros_like(scores))), torch.zeros_like(scores))
    total = exp.sum(-1, keepdim=True)
    return exp / torch.where(total == 0, torch.ones_like(total), total)


class Attend(nn.Module):
    def __init__(self, size, heads, dropout):
        super().__init__()
        if size % heads:
            raise ValueError(f"num_heads={heads} does not divide d_model={size}")
        width = size // heads
        bound = 1 / math.sqrt(size)
        self.wq, self.wk, self.wv = (nn.Parameter(torch.empty(size, heads, width).uniform_(-bound, bound)) for _ in range(3))
        self.bq, self.bk, self.bv = (nn.Parameter(torch.zeros(heads, width)) for _ in range(3))
        self.wo = nn.Parameter(torch.empty(heads, width, size).uniform_(-bound, bound))
        self.bo = nn.Parameter(torch.zeros(size))
        self.width, self.p = width, dropout

    def forward(self, x, source, visible=None):
        q = torch.einsum("bid,dhw->bhiw", x, self.wq) + self.bq[:, None]
        k = torch.einsum("bjd,dhw->bhjw", source, self.wk) + self.bk[:, None]
        v = torch.einsum("bjd,dhw->bhjw", source, self.wv) + self.bv[:, None]
        weights = softmax_where(torch.einsum("bhiw,bhjw->bhij", q, k) * self.width**-0.5, visible)
        mixed = torch.einsum("bhij,bhjw->bhiw", F.dropout(weights, self.p, self.training), v)
        return torch.einsum("bhiw,hwd->bid", mixed, self.wo) + self.bo


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.w_1, self.w_2, self.p = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model), dropout

    def forward(self, x):
        return self.w_2(F.dropout(torch.clamp(self.w_1(x), min=0), self.p, self.training))


class EncoderLayer(nn.Module):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        self.a, self.f = Attend(d_model, num_heads, dropout), PositionwiseFeedForward(d_model, d_ff, dropout)
        self.na, self.nf, self.p = Norm(d_model), Norm(d_model), dropout

    def forward(self, x, mask=None):
        x = self.na(x + F.dropout(self.a(x, x, mask), self.p, self.training))
        return self.nf(x + F.dropout(self.f(x), self.p, self.training))


class DecoderLayer(nn.Module):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        self.a, self.c = Attend(d_model, num_heads, dropout), Attend(d_model, num_heads, dropout)
        self.f = PositionwiseFeedForward(d_model, d_ff, dropout)
        self.na, self.nc, self.nf, self.p = Norm(d_model), Norm(d_model), Norm(d_model), dropout

    def forward(self, x, memory, tgt_mask=None, memory_mask=None):
        x = self.na(x + F.dropout(self.a(x, x, tgt_mask), self.p, self.training))
        x = self.nc(x + F.dropout(self.c(x, memory, memory_mask), self.p, self.training))
        return self.nf(x + F.dropout(self.f(x), self.p, self.training))


class Embed(nn.Module):
    def __init__(self, vocab, size, max_len, dropout):
        super().__init__()
        self.table, self.size, self.max_len, self.p = nn.Embedding(vocab, size), size, max_len, dropout

    def forward(self, ids):
        length = ids.size(1)
        if length > self.max_len:
            raise ValueError(f"a sequence of {length} is longer than max_len={self.max_len}")
        position = torch.arange(length, device=ids.device, dtype=torch.float64)[:, None]
        rate = torch.exp(torch.arange(0, self.size, 2, device=ids.device, dtype=torch.float64) * (-math.log(10000.0) / self.size))
        waves = torch.stack([torch.sin(position * rate), torch.cos(position * rate)], -1).flatten(-2)[:, : self.size]
        x = self.table(ids) * self.size**0.5
        return F.dropout(x + waves.to(x.dtype), self.p, self.training)


class Encoder(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.embed = Embed(vocab_size, d_model, max_len, dropout)
        self.stack = nn.ModuleList([EncoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers)])

    def forward(self, ids, mask=None):
        x = self.embed(ids)
        for layer in self.stack:
            x = layer(x, mask)
        return x


class Decoder(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.embed = Embed(vocab_size, d_model, max_len, dropout)
        self.stack = nn.ModuleList([DecoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers)])

    def forward(self, ids, memory, tgt_mask=None, memory_mask=None):
        t = torch.arange(ids.size(1), device=ids.device)
        seen = t[None, :] <= t[:, None]
        if tgt_mask is not None:
            seen = torch.logical_and(seen, tgt_mask)
        x = self.embed(ids)
        for layer in self.stack:
            x = layer(x, memory, seen, memory_mask)
        return x


class Transformer(nn.Module):
    def __init__(self, src_vocab_size, tgt_vocab_size, d_model=512, num_layers=6, num_heads=8, d_ff=2048, max_len=5000, dropout=0.1, pad_id=0):
        super().__init__()
        sizes = (d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.enc, self.dec = Encoder(src_vocab_size, *sizes), Decoder(tgt_vocab_size, *sizes)
        self.out, self.pad_id = nn.Linear(d_model, tgt_vocab_size, bias=False), pad_id

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), torch.ne(src, self.pad_id))

    def encode(self, src):
        return self.enc(src, torch.ne(src, self.pad_id)[:, None, None])

    def decode(self, tgt, memory, src_mask=None):
        if src_mask is not None:
            src_mask = src_mask.reshape(src_mask.size(0), 1, 1, -1)
        return self.out(self.dec(tgt, memory, torch.ne(tgt, self.pad_id)[:, None, None], src_mask))


class Conv(nn.Module):
    """x W + b, as GPT-2 keeps it."""

    def __init__(self, size_in, size_out, std):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(size_in, size_out) * std), nn.Parameter(torch.zeros(size_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class GPTBlock(nn.Module):
    def __init__(self, size, heads, inner, dropout, depth):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.ln_1, self.ln_2 = Norm(size, 1e-5), Norm(size, 1e-5)
        self.c_attn, self.c_proj = Conv(size, 3 * size, 0.02), Conv(size, size, 0.02)
        self.c_fc, self.c_out = Conv(size, inner, 0.02), Conv(inner, size, 0.02)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(2, 3)) / math.sqrt(d // self.heads)
        future = torch.full((t, t), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        weights = F.dropout((scores + future).softmax(-1), self.p, self.training)
        x = x + F.dropout(self.c_proj((weights @ v).permute(0, 2, 1, 3).reshape(b, t, d)), self.p, self.training)
        h = self.c_fc(self.ln_2(x))
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return x + F.dropout(self.c_out(h), self.p, self.training)


class GPTModel(nn.Module):
    def __init__(self, vocab_size, d_model=768, num_layers=12, num_heads=8, d_ff=None, max_len=1024, dropout=0.1):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.max_len, self.p = max_len, dropout
        self.wte, self.wpe = nn.Parameter(torch.randn(vocab_size, d_model) * 0.02), nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.h = nn.ModuleList([GPTBlock(d_model, num_heads, d_ff or 4 * d_model, dropout, num_layers) for _ in range(num_layers)])
        self.ln_f = Norm(d_model, 1e-5)

    def forward(self, input_ids):
        t = input_ids.size(1)
        if t > self.max_len:
            raise ValueError(f"{t} tokens, max_len is {self.max_len}")
        x = F.dropout(F.embedding(input_ids, self.wte) + self.wpe[:t], self.p, self.training)
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte)

    def load_huggingface(self, model):
        theirs = model.state_dict()
        if model.config.n_head != self.h[0].heads:
            raise ValueError(f"num_heads is {self.h[0].heads}, the model has {model.config.n_head}")
        mine = {}
        for name in self.state_dict():
            other = "transformer." + name.replace("c_fc", "mlp.c_fc").replace("c_out", "mlp.c_proj")
            other = other.replace("c_attn", "attn.c_attn").replace(".c_proj", ".attn.c_proj") if "c_out" not in name else other
            other = other.replace("scale", "weight").replace("shift", "bias")
            mine[name] = theirs.pop(other + ".weight" if name in ("wte", "wpe") else other, None)
        left = [name for name in theirs if name != "lm_head.weight"]
        bad = [name for name, part in self.state_dict().items() if mine[name] is None or mine[name].shape != part.shape]
        if left or bad:
            raise ValueError(f"the model has other sizes: {left + bad}")
        self.load_state_dict(mine)
        for norm in [part for part in self.modules() if isinstance(part, Norm)]:
            norm.eps = model.config.layer_norm_epsilon
        return self


class BERTBlock(nn.Module):
    def __init__(self, size, heads, inner, dropout):
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(size, size) for _ in range(4))
        self.up, self.down, self.n1, self.n2 = nn.Linear(size, inner), nn.Linear(inner, size), Norm(size, 1e-12), Norm(size, 1e-12)
        self.heads, self.p = heads, dropout

    def forward(self, x, visible):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        weights = F.dropout(softmax_where(q @ k.mT / q.size(-1) ** 0.5, visible), self.p, self.training)
        x = self.n1(x + F.dropout(self.dense((weights @ v).transpose(1, 2).flatten(2)), self.p, self.training))
        h = self.up(x)
        return self.n2(x + F.dropout(self.down(h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))), self.p, self.training))


class BERTModel(nn.Module):
    def __init__(self, vocab_size, d_model=768, num_layers=12, num_heads=12, d_ff=3072, max_len=512, dropout=0.1, type_vocab_size=2):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.words, self.places, self.kinds = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model), nn.Embedding(type_vocab_size, d_model)
        self.first, self.p, self.max_len = Norm(d_model, 1e-12), dropout, max_len
        self.blocks = nn.ModuleList([BERTBlock(d_model, num_heads, d_ff, dropout) for _ in range(num_layers)])

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        if input_ids.size(1) > self.max_len:
            raise ValueError(f"{input_ids.size(1)} tokens, max_len is {self.max_len}")
        x = self.words(input_ids) + self.places.weight[: input_ids.size(1)]
        x = x + (self.kinds.weight[0] if token_type_ids is None else self.kinds(token_type_ids))
        x = F.dropout(self.first(x), self.p, self.training)
        visible = None if attention_mask is None else attention_mask[:, None, None] > 0
        for block in self.blocks:
            x = block(x, visible)
        return x

    def load_huggingface(self, model):
        theirs = {name: part.clone() for name, part in model.state_dict().items() if not name.startswith("pooler")}
        names = {
            "words": "embeddings.word_embeddings", "places": "embeddings.position_embeddings",
            "kinds": "embeddings.token_type_embeddings", "first": "embeddings.LayerNorm",
        }
        for n in range(model.config.num_hidden_layers):
            base = f"encoder.layer.{n}."
            names |= {f"blocks.{n}.{x}": f"{base}attention.self.{x}" for x in ("query", "key", "value")}
            names |= {
                f"blocks.{n}.dense": base + "attention.output.dense", f"blocks.{n}.n1": base + "attention.output.LayerNorm",
                f"blocks.{n}.up": base + "intermediate.dense", f"blocks.{n}.down": base + "output.dense", f"blocks.{n}.n2": base + "output.LayerNorm",
            }
        state = {}
        for mine, other in names.items():
            norm = "LayerNorm" in other
            for a, b in (("scale" if norm else "weight", "weight"), ("shift" if norm else "bias", "bias")):
                if f"{other}.{b}" in theirs:
                    state[f"{mine}.{a}"] = theirs[f"{other}.{b}"]
        if self.blocks[0].heads != model.config.num_attention_heads:
            raise ValueError("num_heads differs")
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the model has other sizes: {error}") from error
        for part in self.modules():
            if isinstance(part, Norm):
                part.eps = model.config.layer_norm_eps
        return self
