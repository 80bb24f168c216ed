"""Built on lesson 1, with a wrapper for the residual connections and one stack for both sides."""

import torch
from attention import CausalAttention, CrossAttention, causal_mask
from positional_encoding import LearnedPositionalEmbedding, PositionalEncoding
from torch import nn


class Masked(CrossAttention):
    """CrossAttention that takes any mask which broadcasts to (B, H, Tq, Tk)."""

    def forward(self, x, source, mask=None):
        b, t, d = x.shape

        def heads(y):
            return y.reshape(b, -1, self.num_heads, d // self.num_heads).transpose(1, 2)

        k, v = self.kv(source).chunk(2, -1)
        output, _ = self.attention(heads(self.q(x)), heads(k), heads(v), mask)
        return self.proj(output.transpose(1, 2).reshape(b, t, d))


class AddAndNorm(nn.Module):
    def __init__(self, size, dropout, eps=1e-5):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(size, eps), nn.Dropout(dropout)

    def forward(self, x, f, before=False):
        return x + self.drop(f(self.norm(x))) if before else self.norm(x + self.drop(f(x)))


class PositionwiseFeedForward(nn.Sequential):
    def __init__(self, d_model, d_ff, dropout=0.1):
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(dropout)
        self.w_2 = nn.Linear(d_ff, d_model)


class EncoderLayer(nn.Module):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__()
        self.attention, self.ffn = Masked(d_model, num_heads, dropout), PositionwiseFeedForward(d_model, d_ff, dropout)
        self.joins = nn.ModuleList([AddAndNorm(d_model, dropout) for _ in range(2)])

    def forward(self, x, mask=None):
        x = self.joins[0](x, lambda y: self.attention(y, y, mask))
        return self.joins[1](x, self.ffn)


class DecoderLayer(EncoderLayer):
    def __init__(self, d_model, num_heads, d_ff, dropout=0.1):
        super().__init__(d_model, num_heads, d_ff, dropout)
        self.cross = Masked(d_model, num_heads, dropout)
        self.joins.append(AddAndNorm(d_model, dropout))

    def forward(self, x, memory, tgt_mask=None, memory_mask=None):
        x = self.joins[0](x, lambda y: self.attention(y, y, tgt_mask))
        x = self.joins[2](x, lambda y: self.cross(y, memory, memory_mask))
        return self.joins[1](x, self.ffn)


class Stack(nn.Module):
    kind = EncoderLayer

    def __init__(self, vocab_size, d_model, num_layers, num_heads, d_ff, max_len=5000, dropout=0.1):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        nn.init.xavier_uniform_(self.tokens.weight)
        self.places = PositionalEncoding(d_model, max_len, dropout)
        self.layers = nn.ModuleList([self.kind(d_model, num_heads, d_ff, dropout) for _ in range(num_layers)])
        self.register_buffer("scale", torch.tensor(float(d_model)).sqrt(), persistent=False)

    def run(self, ids, *rest):
        x = self.places(self.tokens(ids) * self.scale)
        for layer in self.layers:
            x = layer(x, *rest)
        return x


class Encoder(Stack):
    def forward(self, ids, mask=None):
        return self.run(ids, mask)


class Decoder(Stack):
    kind = DecoderLayer

    def forward(self, ids, memory, tgt_mask=None, memory_mask=None):
        causal = causal_mask(ids.shape[-1], ids.device)
        return self.run(ids, memory, causal if tgt_mask is None else causal * tgt_mask.bool(), memory_mask)


class Transformer(nn.Module):
    def __init__(
        self, src_vocab_size, tgt_vocab_size, d_model=512, num_layers=6, num_heads=8, d_ff=2048, max_len=5000, dropout=0.1, pad_id=0
    ):
        super().__init__()
        self.pad_id = pad_id
        self.source = Encoder(src_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.target = Decoder(tgt_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.head = nn.Linear(d_model, tgt_vocab_size)

    def real(self, ids):
        return (ids != self.pad_id).unsqueeze(1).unsqueeze(1)

    def encode(self, src):
        return self.source(src, self.real(src))

    def decode(self, tgt, memory, src_mask=None):
        if src_mask is not None:
            src_mask = src_mask.view(len(tgt), 1, 1, memory.shape[1])
        return self.head(self.target(tgt, memory, self.real(tgt), src_mask))

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), self.real(src))


def start(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, 0, 0.02)


class Block(nn.Module):
    def __init__(self, attention, d_model, d_ff, dropout, eps, gelu):
        super().__init__()
        self.attention = attention
        self.ffn = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(gelu), nn.Linear(d_ff, d_model))
        self.joins = nn.ModuleList([AddAndNorm(d_model, dropout, eps) for _ in range(2)])

    def forward(self, x, *mask):
        before = not mask
        x = self.joins[0](x, (lambda y: self.attention(y)[0]) if before else (lambda y: self.attention(y, y, *mask)), before)
        return self.joins[1](x, self.ffn, before)


def check_sizes(pairs):
    for name, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise ValueError(f"{name}: {mine} here, {theirs} there")


def take(module, weight, bias=None):
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    module.load_state_dict({name: part.detach().clone() for name, part in state.items()})


class GPTModel(nn.Module):
    def __init__(self, vocab_size, d_model=768, num_layers=12, num_heads=8, d_ff=None, max_len=1024, dropout=0.1):
        super().__init__()
        d_ff = d_ff or 4 * d_model
        self.max_len, self.sizes = max_len, (vocab_size, d_model, num_layers, num_heads, d_ff, max_len)
        self.tokens, self.places = nn.Embedding(vocab_size, d_model), LearnedPositionalEmbedding(d_model, max_len)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            [Block(CausalAttention(d_model, num_heads, dropout), d_model, d_ff, dropout, 1e-5, "tanh") for _ in range(num_layers)]
        )
        self.norm = nn.LayerNorm(d_model)
        self.apply(start)

    def forward(self, input_ids):
        x = self.drop(self.places(self.tokens(input_ids)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T

    def load_huggingface(self, model):
        c, body = model.config, model.transformer
        theirs = (c.vocab_size, c.n_embd, c.n_layer, c.n_head, c.n_inner or 4 * c.n_embd, c.n_positions)
        check_sizes(dict(zip(("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_len"), zip(self.sizes, theirs))))
        take(self.tokens, body.wte.weight)
        take(self.places.embedding, body.wpe.weight)
        take(self.norm, body.ln_f.weight, body.ln_f.bias)
        for mine, other in zip(self.blocks, body.h):
            take(mine.joins[0].norm, other.ln_1.weight, other.ln_1.bias)
            take(mine.joins[1].norm, other.ln_2.weight, other.ln_2.bias)
            pairs = (mine.attention.qkv, other.attn.c_attn), (mine.attention.proj, other.attn.c_proj)
            for linear, conv in (*pairs, (mine.ffn[0], other.mlp.c_fc), (mine.ffn[2], other.mlp.c_proj)):
                take(linear, conv.weight.t(), conv.bias)
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = c.layer_norm_epsilon
        return self


class BERTModel(nn.Module):
    def __init__(
        self, vocab_size, d_model=768, num_layers=12, num_heads=12, d_ff=3072, max_len=512, dropout=0.1, type_vocab_size=2
    ):
        super().__init__()
        self.sizes = (vocab_size, d_model, num_layers, num_heads, d_ff, max_len, type_vocab_size)
        self.tokens, self.places = nn.Embedding(vocab_size, d_model), LearnedPositionalEmbedding(d_model, max_len)
        self.types, self.norm, self.drop = nn.Embedding(type_vocab_size, d_model), nn.LayerNorm(d_model, 1e-12), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            [Block(Masked(d_model, num_heads, dropout), d_model, d_ff, dropout, 1e-12, "none") for _ in range(num_layers)]
        )
        self.pooler = nn.Linear(d_model, d_model)  # for classifiers to come

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        types = self.types(token_type_ids if token_type_ids is not None else input_ids * 0)
        x = self.drop(self.norm(self.places(self.tokens(input_ids) + types)))
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return x

    def load_huggingface(self, model):
        c, emb = model.config, model.embeddings
        theirs = (c.vocab_size, c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size)
        theirs += (c.max_position_embeddings, c.type_vocab_size)
        names = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_len", "type_vocab_size")
        check_sizes(dict(zip(names, zip(self.sizes, theirs))))
        take(self.tokens, emb.word_embeddings.weight)
        take(self.places.embedding, emb.position_embeddings.weight)
        take(self.types, emb.token_type_embeddings.weight)
        take(self.norm, emb.LayerNorm.weight, emb.LayerNorm.bias)
        for mine, other in zip(self.blocks, model.encoder.layer):
            own = other.attention.self
            take(mine.attention.q, own.query.weight, own.query.bias)
            kv = [torch.cat([getattr(own.key, name), getattr(own.value, name)]) for name in ("weight", "bias")]
            take(mine.attention.kv, *kv)
            pairs = (mine.attention.proj, other.attention.output.dense), (mine.joins[0].norm, other.attention.output.LayerNorm)
            pairs += (mine.ffn[0], other.intermediate.dense), (mine.ffn[2], other.output.dense), (mine.joins[1].norm, other.output.LayerNorm)
            for a, b in pairs:
                take(a, b.weight, b.bias)
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = c.layer_norm_eps
        return self
