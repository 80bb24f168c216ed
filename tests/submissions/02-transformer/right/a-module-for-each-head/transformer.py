"""One general layer for all four models; every head has three Linears of its own."""

import torch
import torch.nn.functional as F
from positional_encoding import PositionalEncoding
from torch import nn


class Head(nn.Module):
    def __init__(self, d_model, width, bias):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(d_model, width, bias=bias) for _ in range(3))


class Heads(nn.Module):
    def __init__(self, d_model, num_heads, dropout, bias):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("d_model %d is no multiple of num_heads %d" % (d_model, num_heads))
        self.heads = nn.ModuleList(Head(d_model, d_model // num_heads, bias) for _ in range(num_heads))
        self.join, self.dropout = nn.Linear(d_model, d_model, bias=bias), dropout
        self.scale = (d_model // num_heads) ** -0.5

    def forward(self, x, source, mask, causal=False):
        b, tq, tk = x.size(0), x.size(1), source.size(1)
        seen = torch.ones(b, len(self.heads), tq, tk, dtype=torch.bool, device=x.device)
        if mask is not None:
            seen = seen & mask.to(torch.bool)
        if causal:
            seen = seen & torch.ones(tq, tk, dtype=torch.bool, device=x.device).tril()
        outputs = []
        for n, head in enumerate(self.heads):
            here = seen[:, n]
            empty = ~here.any(-1, keepdim=True)
            scores = torch.baddbmm(torch.zeros_like(here, dtype=x.dtype).masked_fill(~here, -1e30), head.query(x), head.key(source).mT, alpha=self.scale)
            mixed = F.dropout(scores.softmax(-1), self.dropout, self.training) @ head.value(source)
            outputs.append(mixed.masked_fill(empty, 0.0))
        return self.join(torch.cat(outputs, -1))


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, act=torch.relu):
        return self.w_2(self.drop(act(self.w_1(x))))


class Layer(nn.Module):
    """Norms live in two stacked parameters; `steps` of them."""

    def __init__(self, d_model, num_heads, d_ff, dropout, steps=2, bias=False, before=False, act=torch.relu, eps=1e-5, inner=None):
        super().__init__()
        self.attentions = nn.ModuleList(Heads(d_model, num_heads, dropout, bias) for _ in range(steps - 1))
        self.feed_forward = PositionwiseFeedForward(d_model, d_ff, dropout if inner is None else inner)
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(d_model)) for _ in range(steps))
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(d_model)) for _ in range(steps))
        self.drop, self.before, self.act, self.eps = nn.Dropout(dropout), before, act, eps

    def add(self, n, x, f):
        def norm(y):
            return F.layer_norm(y, y.shape[-1:], self.gains[n], self.shifts[n], self.eps)

        return x + self.drop(f(norm(x))) if self.before else norm(x + self.drop(f(x)))

    def run(self, x, mask=None, memory=None, memory_mask=None, causal=False):
        x = self.add(0, x, lambda y: self.attentions[0](y, y, mask, causal))
        if memory is not None:
            x = self.add(1, x, lambda y: self.attentions[1](y, memory, memory_mask))
        return self.add(len(self.gains) - 1, x, lambda y: self.feed_forward(y, self.act))


class EncoderLayer(Layer):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__(d_model, num_heads, d_ff, dropout)

    def forward(self, x, mask=None):
        return self.run(x, mask)


class DecoderLayer(Layer):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__(d_model, num_heads, d_ff, dropout, steps=3)

    def forward(self, x, memory, tgt_mask=None, memory_mask=None, causal=False):
        return self.run(x, tgt_mask, memory, memory_mask, causal)


class Encoder(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = PositionalEncoding(d_model, max_len, dropout)
        self.layers = nn.ModuleList(EncoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))

    def forward(self, ids, mask=None):
        x = self.position(self.embedding(ids).mul(self.embedding.embedding_dim**0.5))
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Decoder(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position = PositionalEncoding(d_model, max_len, dropout)
        self.layers = nn.ModuleList(DecoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))

    def forward(self, ids, memory, tgt_mask=None, memory_mask=None):
        x = self.position(self.embedding(ids).mul(self.embedding.embedding_dim**0.5))
        for layer in self.layers:
            x = layer(x, memory, tgt_mask, memory_mask, causal=True)
        return x


class Transformer(nn.Module):
    def __init__(
        self, src_vocab_size, tgt_vocab_size, d_model=512, num_layers=6, num_heads=8, d_ff=2048, max_len=5000, dropout=0.1, pad_id=0
    ):
        super().__init__()
        self.encoder = Encoder(src_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.decoder = Decoder(tgt_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.generator = nn.Linear(d_model, tgt_vocab_size)
        self.pad_id = pad_id
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), src.ne(self.pad_id))

    def encode(self, src):
        return self.encoder(src, src.ne(self.pad_id)[:, None, None, :])

    def decode(self, tgt, memory, src_mask=None):
        if src_mask is not None and src_mask.dim() != 4:
            src_mask = src_mask[:, None, None, :]
        return self.generator(self.decoder(tgt, memory, tgt.ne(self.pad_id)[:, None, None, :], src_mask))


def gelu_new(x):
    return F.gelu(x, approximate="tanh")


class GPTModel(nn.Module):
    def __init__(self, vocab_size, d_model=768, num_layers=12, num_heads=8, d_ff=None, max_len=1024, dropout=0.1):
        super().__init__()
        self.max_len = max_len
        self.token, self.place = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        width = 4 * d_model if d_ff is None else d_ff
        options = {"bias": True, "before": True, "act": gelu_new, "inner": 0.0}
        self.layers = nn.ModuleList(Layer(d_model, num_heads, width, dropout, **options) for _ in range(num_layers))
        self.last, self.drop = nn.LayerNorm(d_model), nn.Dropout(dropout)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.token.weight
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, 0.0, 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, input_ids):
        length = input_ids.size(-1)
        if length > self.max_len:
            raise ValueError("input_ids is %d long, max_len is %d" % (length, self.max_len))
        x = self.drop(self.token(input_ids) + self.place(torch.arange(length, device=input_ids.device)))
        for layer in self.layers:
            x = layer.run(x, causal=True)
        return self.head(self.last(x))

    @torch.no_grad()
    def load_huggingface(self, model):
        c = model.config
        if len(self.layers) != c.n_layer or len(self.layers[0].attentions[0].heads) != c.n_head:
            raise ValueError("num_layers or num_heads differ")
        body = model.transformer
        put(self.token.weight, body.wte.weight)
        put(self.place.weight, body.wpe.weight)
        put(self.last.weight, body.ln_f.weight)
        put(self.last.bias, body.ln_f.bias)
        self.last.eps = c.layer_norm_epsilon
        for layer, other in zip(self.layers, body.h):
            layer.eps = c.layer_norm_epsilon
            joint = [part.split(other.attn.split_size) for part in (other.attn.c_attn.weight.T, other.attn.c_attn.bias)]
            load_attention(layer.attentions[0], list(zip(*joint)), (other.attn.c_proj.weight.T, other.attn.c_proj.bias))
            for n, ln in enumerate((other.ln_1, other.ln_2)):
                put(layer.gains[n], ln.weight)
                put(layer.shifts[n], ln.bias)
            for linear, conv in ((layer.feed_forward.w_1, other.mlp.c_fc), (layer.feed_forward.w_2, other.mlp.c_proj)):
                put(linear.weight, conv.weight.T)
                put(linear.bias, conv.bias)
        return self


def put(mine, other):
    if mine.shape != other.shape:
        raise ValueError("a weight of shape %s does not fit into %s" % (tuple(other.shape), tuple(mine.shape)))
    mine.copy_(other)


def load_attention(attention, qkv, join):
    count = len(attention.heads)
    for n, head in enumerate(attention.heads):
        for linear, (weight, bias) in zip((head.query, head.key, head.value), qkv):
            put(linear.weight, weight.chunk(count)[n])
            put(linear.bias, bias.chunk(count)[n])
    put(attention.join.weight, join[0])
    put(attention.join.bias, join[1])


class BERTModel(nn.Module):
    def __init__(
        self, vocab_size, d_model=768, num_layers=12, num_heads=12, d_ff=3072, max_len=512, dropout=0.1, type_vocab_size=2
    ):
        super().__init__()
        self.token, self.place = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.kind = nn.Embedding(type_vocab_size, d_model)
        self.first, self.drop = nn.LayerNorm(d_model, eps=1e-12), nn.Dropout(dropout)
        options = {"bias": True, "act": F.gelu, "eps": 1e-12, "inner": 0.0}
        self.layers = nn.ModuleList(Layer(d_model, num_heads, d_ff, dropout, **options) for _ in range(num_layers))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        length = input_ids.size(1)
        if length > self.place.num_embeddings:
            raise ValueError("input_ids is %d long, max_len is %d" % (length, self.place.num_embeddings))
        if token_type_ids is None:
            token_type_ids = input_ids.new_zeros(1, 1)
        x = self.token(input_ids) + self.place.weight[:length] + self.kind(token_type_ids)
        x = self.drop(self.first(x))
        for layer in self.layers:
            x = layer.run(x, None if attention_mask is None else attention_mask[:, None, None, :])
        return x

    @torch.no_grad()
    def load_huggingface(self, model):
        c, emb = model.config, model.embeddings
        if len(self.layers) != c.num_hidden_layers or len(self.layers[0].attentions[0].heads) != c.num_attention_heads:
            raise ValueError("num_layers or num_heads differ")
        pairs = (self.token, emb.word_embeddings), (self.place, emb.position_embeddings), (self.kind, emb.token_type_embeddings)
        for mine, other in pairs:
            put(mine.weight, other.weight)
        put(self.first.weight, emb.LayerNorm.weight)
        put(self.first.bias, emb.LayerNorm.bias)
        self.first.eps = c.layer_norm_eps
        for layer, other in zip(self.layers, model.encoder.layer):
            layer.eps = c.layer_norm_eps
            own, dense = other.attention.self, other.attention.output.dense
            qkv = [(part.weight, part.bias) for part in (own.query, own.key, own.value)]
            load_attention(layer.attentions[0], qkv, (dense.weight, dense.bias))
            for n, ln in enumerate((other.attention.output.LayerNorm, other.output.LayerNorm)):
                put(layer.gains[n], ln.weight)
                put(layer.shifts[n], ln.bias)
            for linear, dense in ((layer.feed_forward.w_1, other.intermediate.dense), (layer.feed_forward.w_2, other.output.dense)):
                put(linear.weight, dense.weight)
                put(linear.bias, dense.bias)
        return self
