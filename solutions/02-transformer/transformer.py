"""The Transformer: attention, feed-forward layers, residual connections and norms, stacked.

Four models are built here from lesson 1's parts:

    Transformer     encoder and decoder, post-norm     Vaswani et al. 2017, "Attention Is All You Need"
    GPTModel        a decoder alone, pre-norm          Radford et al. 2019, "Language Models are Unsupervised …" (GPT-2)
    BERTModel       an encoder alone, post-norm        Devlin et al. 2018, "BERT"
    Encoder, Decoder with EncoderLayer, DecoderLayer and PositionwiseFeedForward are the parts of the first.

Every layer is a residual connection around a sub-layer f, and they differ in where the norm stands:

    post-norm   x ← LayerNorm(x + f(x))        the original; needs a warmup of the learning rate
    pre-norm    x ← x + f(LayerNorm(x))        a direct path from the output to the input; one more norm at the very end

Letters in the shapes: B batch, T length (Ts of the source, Tt of the target), H heads, D = d_model, V vocabulary.
A mask is boolean or holds 0 and 1, and broadcasts to the scores (B, H, Tq, Tk); true (1) means "may attend".
"""

import math

import torch
from attention import CausalAttention, CrossAttention, MultiHeadAttention, causal_mask
from positional_encoding import LearnedPositionalEmbedding, PositionalEncoding
from torch import nn

# ---------------------------------------------------------------------------------------------- the layers of 2017


class PositionwiseFeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 at each position alone (Vaswani et al. 2017, section 3.3, equation 2).

    Args:
        d_model: D.
        d_ff: the width inside, 4·D in the paper.
        dropout: the probability with which a number is dropped after the ReLU, in train mode; 0 drops nothing.

    Weights:
        w_1: Linear(D, d_ff).
        w_2: Linear(d_ff, D).
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.1) -> None:
        # student: w_1, w_2 and the dropout
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D)."""
        # student: w_1, ReLU, dropout, w_2
        hidden = self.w_1(x).relu()  # (B, T, d_ff)
        return self.w_2(self.dropout(hidden))


def _multi_head(d_model: int, num_heads: int, dropout: float) -> MultiHeadAttention:  # solution only
    """The paper's attention: d_k = d_v = D / H."""
    if d_model % num_heads != 0:
        raise ValueError(f"d_model must be divisible by num_heads, but {d_model} / {num_heads} leaves a rest")
    head_width = d_model // num_heads
    return MultiHeadAttention(num_heads, d_model, head_width, head_width, dropout)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in x ← LayerNorm(x + Dropout(f(x))) (Vaswani et al. 2017, section 3.1).

    Args:
        d_model: D.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        dropout: the probability of every dropout in the layer, in train mode; 0 drops nothing.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.1) -> None:
        # student: attention, feed-forward, a norm for each
        super().__init__()
        self.self_attention = _multi_head(d_model, num_heads, dropout)
        self.feed_forward = PositionwiseFeedForward(d_model, d_ff, dropout)
        self.norm_1 = nn.LayerNorm(d_model)
        self.norm_2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, D) -> (B, T, D).

        Args:
            mask: broadcasts to (B, H, T, T).
        """
        # student: both sub-layers: residual connection first, then the norm
        attended, _ = self.self_attention(x, x, x, mask)
        x = self.norm_1(x + self.dropout(attended))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the encoder's output, feed-forward; post-norm (Vaswani et al. 2017, 3.1).

    The layer does what its masks say: without a tgt_mask every position sees all others.

    Args:
        d_model: D.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        dropout: the probability of every dropout in the layer, in train mode; 0 drops nothing.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.1) -> None:
        # student: two attentions, feed-forward, three norms
        super().__init__()
        self.self_attention = _multi_head(d_model, num_heads, dropout)
        self.cross_attention = _multi_head(d_model, num_heads, dropout)
        self.feed_forward = PositionwiseFeedForward(d_model, d_ff, dropout)
        self.norm_1 = nn.LayerNorm(d_model)
        self.norm_2 = nn.LayerNorm(d_model)
        self.norm_3 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        tgt_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, Tt, D), memory (B, Ts, D) -> (B, Tt, D).

        Args:
            tgt_mask: broadcasts to (B, H, Tt, Tt).
            memory_mask: broadcasts to (B, H, Tt, Ts).
        """
        # student: three sub-layers, post-norm
        attended, _ = self.self_attention(x, x, x, tgt_mask)
        x = self.norm_1(x + self.dropout(attended))
        attended, _ = self.cross_attention(x, memory, memory, memory_mask)  # x asks, the source answers
        x = self.norm_2(x + self.dropout(attended))
        return self.norm_3(x + self.dropout(self.feed_forward(x)))


# ---------------------------------------------------------------------------------------------- the stacks of 2017


def _embedding(vocab_size: int, d_model: int) -> nn.Embedding:  # solution only
    """Embeddings that have about unit variance after the multiplication by √D: as large as the waves added to them."""
    embedding = nn.Embedding(vocab_size, d_model)
    nn.init.normal_(embedding.weight, std=d_model**-0.5)
    return embedding


class Encoder(nn.Module):
    """num_layers EncoderLayers over Embedding · √D + PositionalEncoding (Vaswani et al. 2017, sections 3.4 and 3.5).

    Args:
        vocab_size: V.
        num_layers: how many EncoderLayers.
        max_len: the longest sequence; more is a ValueError in forward.
        d_model, num_heads, d_ff, dropout: as those of EncoderLayer; the dropout also acts on the sum of embedding and positions.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_len: int = 5000,
        dropout: float = 0.1,
    ) -> None:
        # student: embedding, positions, layers
        super().__init__()
        self.d_model = d_model
        self.embedding = _embedding(vocab_size, d_model)
        self.position = PositionalEncoding(d_model, max_len, dropout)
        self.layers = nn.ModuleList(EncoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """ids (B, T) integers -> (B, T, D).

        Args:
            mask: broadcasts to (B, H, T, T).
        """
        # student: embed, scale, add positions; every layer gets the mask
        x = self.position(self.embedding(ids) * math.sqrt(self.d_model))  # (B, T, D)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Decoder(nn.Module):
    """num_layers DecoderLayers over Embedding · √D + PositionalEncoding; causal, whatever tgt_mask says.

    Args:
        vocab_size: V.
        num_layers: how many DecoderLayers.
        max_len: the longest sequence; more is a ValueError in forward.
        d_model, num_heads, d_ff, dropout: as those of DecoderLayer; the dropout also acts on the sum of embedding and positions.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_ff: int,
        max_len: int = 5000,
        dropout: float = 0.1,
    ) -> None:
        # student: embedding, positions, layers
        super().__init__()
        self.d_model = d_model
        self.embedding = _embedding(vocab_size, d_model)
        self.position = PositionalEncoding(d_model, max_len, dropout)
        self.layers = nn.ModuleList(DecoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))

    def forward(
        self,
        ids: torch.Tensor,
        memory: torch.Tensor,
        tgt_mask: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """ids (B, Tt) integers, memory (B, Ts, D) -> (B, Tt, D).

        A position attends to what both tgt_mask and the causal mask allow.

        Args:
            tgt_mask: broadcasts to (B, H, Tt, Tt).
            memory_mask: broadcasts to (B, H, Tt, Ts).
        """
        # student: join tgt_mask with the causal mask
        visible = causal_mask(ids.shape[1], device=ids.device)  # (Tt, Tt)
        if tgt_mask is not None:
            visible = visible & (tgt_mask != 0)  # the mask may hold 0 and 1 in any dtype

        x = self.position(self.embedding(ids) * math.sqrt(self.d_model))  # (B, Tt, D)
        for layer in self.layers:
            x = layer(x, memory, visible, memory_mask)
        return x


class Transformer(nn.Module):
    """The encoder-decoder of Vaswani et al. 2017. Padding of source and target is never attended to.

    Args:
        src_vocab_size, tgt_vocab_size: the vocabularies; nothing is shared between source, target and output.
        d_model: D.
        num_layers: of the encoder and of the decoder.
        num_heads: H.
        d_ff: the width inside the feed-forwards.
        max_len: the longest source or target.
        dropout: of all layers.
        pad_id: the token that fills short sequences up.
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        d_ff: int = 2048,
        max_len: int = 5000,
        dropout: float = 0.1,
        pad_id: int = 0,
    ) -> None:
        # student: an encoder, a decoder, and a Linear from D to the target vocabulary
        super().__init__()
        self.pad_id = pad_id
        self.encoder = Encoder(src_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.decoder = Decoder(tgt_vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout)
        self.output = nn.Linear(d_model, tgt_vocab_size)

    def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        """src (B, Ts), tgt (B, Tt) integers -> logits (B, Tt, V) of the token that follows each one of tgt."""
        # student: encode, then decode with the mask of the source's padding
        return self.decode(tgt, self.encode(src), src != self.pad_id)

    def encode(self, src: torch.Tensor) -> torch.Tensor:
        """src (B, Ts) -> memory (B, Ts, D)."""
        # student: the encoder, with the padding hidden
        return self.encoder(src, (src != self.pad_id)[:, None, None, :])

    def decode(self, tgt: torch.Tensor, memory: torch.Tensor, src_mask: torch.Tensor | None = None) -> torch.Tensor:
        """tgt (B, Tt), memory (B, Ts, D) -> logits (B, Tt, V).

        Args:
            src_mask: (B, Ts) or (B, 1, 1, Ts), true where the source may be attended to; None means everywhere.
        """
        # student: src_mask may have two dimensions; hide tgt's padding too
        if src_mask is not None and src_mask.dim() == 2:
            src_mask = src_mask[:, None, None, :]  # (B, 1, 1, Ts)
        tgt_mask = (tgt != self.pad_id)[:, None, None, :]  # (B, 1, 1, Tt); the decoder adds the causal mask
        return self.output(self.decoder(tgt, memory, tgt_mask, src_mask))


# ---------------------------------------------------------------------------------------------- GPT


def _gelu_network(d_model: int, d_ff: int, approximate: str) -> nn.Sequential:  # solution only
    """Linear, GELU ("tanh" in GPT, "none" means exact, as in BERT), Linear."""
    return nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(approximate), nn.Linear(d_ff, d_model))


def _start_like_transformers(module: nn.Module) -> None:  # solution only
    """N(0, 0.02) for matrices and embeddings, zero for biases; LayerNorm starts with ones and zeros anyway."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _refuse_other_sizes(**sizes: tuple[int, int]) -> None:  # solution only
    """ValueError for the first size, name=(ours, theirs), that differs."""
    for name, (ours, theirs) in sizes.items():
        if ours != theirs:
            raise ValueError(f"{name} is {ours} here, but {theirs} in the model to load")


class _GPTBlock(nn.Module):  # solution only
    """x ← x + Attention(LN(x)), then x ← x + FFN(LN(x))."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, num_heads, dropout)
        self.norm_2 = nn.LayerNorm(d_model)
        self.feed_forward = _gelu_network(d_model, d_ff, approximate="tanh")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(self.norm_1(x))
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm_2(x)))


class GPTModel(nn.Module):
    """GPT-2 (Radford et al. 2019): a pre-norm decoder that predicts the next token.

    Learned positions, GELU in its tanh form, a norm after the last block; the output Linear has no bias and its weight
    is the token embedding's. The start has a standard deviation of 0.02 and zero biases, and as in GPT-2 the
    2·num_layers matrices that write into the residual stream are divided by √(2·num_layers), so that its variance does
    not grow with the depth.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many blocks.
        num_heads: H.
        d_ff: the width inside the feed-forward; 4·D if None.
        max_len: the longest sequence, kept as attribute.
        dropout: of embeddings, attention weights and sub-layers.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 8,
        d_ff: int | None = None,
        max_len: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        # student: embeddings, blocks, a last norm, a Linear tied to the token embedding, and the start
        super().__init__()
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.max_len, self.num_heads, self.d_ff = max_len, num_heads, d_ff
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = LearnedPositionalEmbedding(d_model, max_len)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_GPTBlock(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token.weight  # one Parameter with two names: it gets the gradients of both uses

        self.apply(_start_like_transformers)
        for block in self.blocks:
            for last in (block.attention.proj, block.feed_forward[-1]):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        # student: token + position, the blocks, the last norm, the output
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        x = self.dropout(self.position(self.token(input_ids)))  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))

    def load_huggingface(self, model: nn.Module) -> "GPTModel":
        """Copies the weights and the layer-norm eps of a transformers.GPT2LMHeadModel.

        Nothing is shared with model afterwards. In eval mode the logits are then those of model.

        Returns:
            The GPTModel itself.

        Raises:
            ValueError: a size of model differs.
        """
        # student: refuse other sizes, then copy; GPT-2 keeps its matrices transposed
        config, source = model.config, model.transformer
        _refuse_other_sizes(
            vocab_size=(self.token.num_embeddings, config.vocab_size),
            d_model=(self.token.embedding_dim, config.n_embd),
            num_layers=(len(self.blocks), config.n_layer),
            num_heads=(self.num_heads, config.n_head),
            d_ff=(self.d_ff, 4 * config.n_embd if config.n_inner is None else config.n_inner),
            max_len=(self.max_len, config.n_positions),
        )
        with torch.no_grad():
            self.token.weight.copy_(source.wte.weight)
            self.position.embedding.weight.copy_(source.wpe.weight)
            for ours, theirs in zip(self.blocks, source.h, strict=True):
                _copy(ours.norm_1, theirs.ln_1)
                _copy_conv1d(ours.attention.qkv, theirs.attn.c_attn)  # both hold q, k, v in this order
                _copy_conv1d(ours.attention.proj, theirs.attn.c_proj)
                _copy(ours.norm_2, theirs.ln_2)
                _copy_conv1d(ours.feed_forward[0], theirs.mlp.c_fc)
                _copy_conv1d(ours.feed_forward[-1], theirs.mlp.c_proj)
            _copy(self.norm, source.ln_f)
        _set_eps(self, config.layer_norm_epsilon)
        return self


def _copy(ours: nn.Module, theirs: nn.Module) -> None:  # solution only
    """Weight and bias of a Linear or a LayerNorm."""
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)


def _copy_conv1d(ours: nn.Module, theirs: nn.Module) -> None:  # solution only
    """GPT-2's `Conv1D` computes x W + b: its weight is (in, out), where a Linear's is (out, in)."""
    ours.weight.copy_(theirs.weight.T)
    ours.bias.copy_(theirs.bias)


def _set_eps(module: nn.Module, eps: float) -> None:  # solution only
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


# ---------------------------------------------------------------------------------------------- BERT


class _BERTLayer(nn.Module):  # solution only
    """x ← LN(x + Attention(x)), then x ← LN(x + FFN(x)).

    The attention is lesson 1's CrossAttention of x with itself: it has the biases and the mask of the padding.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.attention = CrossAttention(d_model, num_heads, dropout)
        self.norm_1 = nn.LayerNorm(d_model, eps=1e-12)
        self.feed_forward = _gelu_network(d_model, d_ff, approximate="none")
        self.norm_2 = nn.LayerNorm(d_model, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        attended, _ = self.attention(x, x, attention_mask)
        x = self.norm_1(x + self.dropout(attended))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class BERTModel(nn.Module):
    """BERT's encoder (Devlin et al. 2018): every position sees every real one. No pooling, no head.

    Embeddings are LayerNorm(token + position + type); post-norm layers with exact GELU; layer-norm eps 1e-12.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers.
        num_heads: H.
        d_ff: the width inside the feed-forward.
        max_len: the longest sequence.
        dropout: of embeddings, attention weights and sub-layers.
        type_vocab_size: the number of token types (which of the sentences a token belongs to).

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        d_ff: int = 3072,
        max_len: int = 512,
        dropout: float = 0.1,
        type_vocab_size: int = 2,
    ) -> None:
        # student: three embeddings and their norm, the layers
        super().__init__()
        self.max_len, self.num_heads, self.d_ff = max_len, num_heads, d_ff
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = LearnedPositionalEmbedding(d_model, max_len)
        self.token_type = nn.Embedding(type_vocab_size, d_model)
        self.norm = nn.LayerNorm(d_model, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_BERTLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_layers))
        self.apply(_start_like_transformers)

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T) integers -> (B, T, D).

        Args:
            token_type_ids: (B, T) integers, 0 everywhere if None.
            attention_mask: (B, T), true (1) at real tokens; None means that all are real.

        Raises:
            ValueError: T is more than max_len.
        """
        # student: embeddings, norm, layers
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)

        x = self.position(self.token(input_ids)) + self.token_type(token_type_ids)  # (B, T, D)
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x

    def load_huggingface(self, model: nn.Module) -> "BERTModel":
        """Copies the weights and the layer-norm eps of a transformers.BertModel, without its pooler.

        Nothing is shared with model afterwards. In eval mode the outputs are then model's `.last_hidden_state`.

        Returns:
            The BERTModel itself.

        Raises:
            ValueError: a size of model differs.
        """
        # student: refuse other sizes, then copy, with the layer-norm eps
        config = model.config
        _refuse_other_sizes(
            vocab_size=(self.token.num_embeddings, config.vocab_size),
            d_model=(self.token.embedding_dim, config.hidden_size),
            num_layers=(len(self.layers), config.num_hidden_layers),
            num_heads=(self.num_heads, config.num_attention_heads),
            d_ff=(self.d_ff, config.intermediate_size),
            max_len=(self.max_len, config.max_position_embeddings),
            type_vocab_size=(self.token_type.num_embeddings, config.type_vocab_size),
        )
        with torch.no_grad():
            self.token.weight.copy_(model.embeddings.word_embeddings.weight)
            self.position.embedding.weight.copy_(model.embeddings.position_embeddings.weight)
            self.token_type.weight.copy_(model.embeddings.token_type_embeddings.weight)
            _copy(self.norm, model.embeddings.LayerNorm)
            for ours, theirs in zip(self.layers, model.encoder.layer, strict=True):
                attention, source = ours.attention, theirs.attention.self
                _copy(attention.q, source.query)
                attention.kv.weight.copy_(torch.cat([source.key.weight, source.value.weight]))
                attention.kv.bias.copy_(torch.cat([source.key.bias, source.value.bias]))
                _copy(attention.proj, theirs.attention.output.dense)
                _copy(ours.norm_1, theirs.attention.output.LayerNorm)
                _copy(ours.feed_forward[0], theirs.intermediate.dense)
                _copy(ours.feed_forward[-1], theirs.output.dense)
                _copy(ours.norm_2, theirs.output.LayerNorm)
        _set_eps(self, config.layer_norm_eps)
        return self
