"""Architectures: what the models after 2019 have changed about the Transformer of lesson 2, and why.

    GPTModel, BERTModel     lesson 2's, handed on: import them from `transformer`, so that this module has them too
    BERTForMaskedLM         an encoder that guesses hidden tokens    Devlin et al. 2018, "BERT"
    T5Model                 encoder and decoder, relative positions  Raffel et al. 2020, "Exploring the Limits of Transfer
                                                                     Learning with a Unified Text-to-Text Transformer"
    LlamaModel              a decoder: RMSNorm, RoPE, grouped keys,  Touvron et al. 2023, "Llama 2"
                            SwiGLU
    MixtureOfExperts        a feed-forward of which each token uses  Jiang et al. 2024, "Mixtral of Experts"
                            a part

Letters in the shapes: B batch, T length (Tt of the target), H heads, D = d_model, Dh = D / H, V vocabulary, E experts.
A mask is boolean or holds 0 and 1; true (1) means "may be attended to".
"""

import math

import torch
from torch import nn
from transformer import BERTModel, GPTModel  # noqa: F401  (GPTModel is handed on)

SHORT_TYPES = (torch.float16, torch.bfloat16)


def _check_heads(d_model: int, num_heads: int) -> None:
    if num_heads < 1 or d_model % num_heads != 0:
        raise ValueError(f"d_model {d_model} is not divisible by num_heads {num_heads}")


def _check_length(name: str, ids: torch.Tensor, max_len: int) -> None:
    length = ids.shape[1]
    if length > max_len:
        raise ValueError(f"{name} has {length} tokens, more than max_len {max_len}")


# ---------------------------------------------------------------------------------------------- norm and feed-forward


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, "Root Mean Square Layer
    Normalization", equation 4).

    LayerNorm without the mean and without the bias: cheaper, and as good.

    Args:
        d_model: D.
        eps: added to the mean of the squares.

    Weights:
        weight: (D,), ones at the start.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> the shape and dtype of x.

        float16 and bfloat16 are computed in float32, and only the result is rounded: the square of 300 is no float16 any more.
        """
        wide = x.float() if x.dtype in SHORT_TYPES else x
        mean_square = (wide * wide).mean(dim=-1, keepdim=True)
        root = torch.sqrt(mean_square + self.eps)
        normed = wide / root
        scaled = normed * self.weight.to(wide.dtype)
        return scaled.to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, "GLU Variants Improve Transformer", equation 6; silu(z) = z · sigmoid(z)).

    Args:
        d_model: D.
        d_ff: the width inside. There are three matrices, so 8/3 · D has as many weights as an ordinary network of 4 · D.

    Weights:
        gate, up: Linear(D, d_ff) without bias.
        down: Linear(d_ff, D) without bias.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> (..., D)."""
        z = self.gate(x)
        openness = z * torch.sigmoid(z)
        passed = openness * self.up(x)
        return self.down(passed)


# ---------------------------------------------------------------------------------------------- BERT with a head


class BERTForMaskedLM(nn.Module):
    """BERTModel and an output layer that says at each position which token stands there (Devlin et al. 2018, section 3.1).

    Which form the output layer has is up to you: one Linear, or BERT's Linear, GELU, LayerNorm, Linear. It looks at each
    position's state alone, and drops nothing.

    Args:
        vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout, type_vocab_size: those of BERTModel.

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
        super().__init__()
        _check_heads(d_model, num_heads)
        self.max_len = max_len
        self.bert = BERTModel(
            vocab_size,
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_ff=d_ff,
            max_len=max_len,
            dropout=dropout,
            type_vocab_size=type_vocab_size,
        )
        self.output = nn.Linear(d_model, vocab_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token at each position: no softmax, no shift.

        Args:
            token_type_ids: (B, T) integers, 0 everywhere if None.
            attention_mask: (B, T), true (1) at real tokens; None means that all are real.

        Raises:
            ValueError: T is more than max_len.
        """
        _check_length("input_ids", input_ids, self.max_len)
        states = self.bert(input_ids, token_type_ids, attention_mask)
        return self.output(states)


# ---------------------------------------------------------------------------------------------- attention, for T5 and Llama


def _split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, T, H · Dh) -> (B, H, T, Dh)."""
    batch, length, width = x.shape
    head_dim = width // num_heads
    parts = x.reshape(batch, length, num_heads, head_dim)
    return parts.transpose(1, 2)


def _join_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, H, T, Dh) -> (B, T, H · Dh)."""
    batch, num_heads, length, head_dim = x.shape
    return x.transpose(1, 2).reshape(batch, length, num_heads * head_dim)


def _mix(scores: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """scores (B, H, Tq, Tk), v (B, H, Tk, Dh) -> (B, H, Tq, Dh). A query that may see nothing gets zeros, not NaN."""
    if allowed is None:
        return torch.softmax(scores, dim=-1) @ v
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(~allowed, lowest), dim=-1)
    weights = weights.masked_fill(~allowed, 0.0)
    return weights @ v


def _causal(length: int, device: torch.device) -> torch.Tensor:
    """(T, T) bool: key j <= query i."""
    positions = torch.arange(length, device=device)
    return positions[None, :] <= positions[:, None]


# ---------------------------------------------------------------------------------------------- T5

BUCKETS, FARTHEST = 32, 128  # of the relative positions: how many, and from which distance on all are in the last one


def _bucket_of_distance(distance: int, num_buckets: int) -> int:
    """The bucket of a distance >= 0 where num_buckets are for one side. In whole numbers, so that no logarithm is a hair too small.

    With near = num_buckets / 2 it is near + floor(near · ln(n / near) / ln(128 / near)): the largest k with
    n^near · near^k >= 128^k · near^near, and near.
    """
    near = num_buckets // 2
    if distance < near:
        return distance
    k = 0
    while near + k + 1 < num_buckets:
        following = k + 1
        if distance**near * near**following < FARTHEST**following * near**near:
            break
        k = following
    return near + k


class _T5Attention(nn.Module):
    """x (B, Tq, D) looks at source (B, Tk, D). Scores are not scaled."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        head_dim = d_model // num_heads
        nn.init.normal_(self.query.weight, std=(d_model * head_dim) ** -0.5)  # in place of the division of the scores
        nn.init.normal_(self.key.weight, std=d_model**-0.5)
        nn.init.normal_(self.value.weight, std=d_model**-0.5)
        nn.init.normal_(self.out.weight, std=d_model**-0.5)

    def forward(
        self, x: torch.Tensor, source: torch.Tensor, bias: torch.Tensor | None, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        q = _split_heads(self.query(x), self.num_heads)
        k = _split_heads(self.key(source), self.num_heads)
        v = _split_heads(self.value(source), self.num_heads)
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        mixed = _mix(scores, v, allowed)
        return self.out(_join_heads(mixed))


class _T5FeedForward(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        d_ff = 4 * d_model
        self.wide = nn.Linear(d_model, d_ff, bias=False)
        self.narrow = nn.Linear(d_ff, d_model, bias=False)
        nn.init.normal_(self.wide.weight, std=d_model**-0.5)
        nn.init.normal_(self.narrow.weight, std=d_ff**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(torch.relu(self.wide(x)))


class _T5Layer(nn.Module):
    """Self-attention, in the decoder cross-attention, feed-forward: each behind a norm, each added to what came in."""

    def __init__(self, d_model: int, num_heads: int, is_decoder: bool) -> None:
        super().__init__()
        self.self_norm = RMSNorm(d_model)
        self.self_attention = _T5Attention(d_model, num_heads)
        self.is_decoder = is_decoder
        if is_decoder:
            self.cross_norm = RMSNorm(d_model)
            self.cross_attention = _T5Attention(d_model, num_heads)
        self.ff_norm = RMSNorm(d_model)
        self.feed_forward = _T5FeedForward(d_model)

    def forward(
        self,
        x: torch.Tensor,
        bias: torch.Tensor,
        allowed: torch.Tensor | None,
        memory: torch.Tensor | None,
        memory_allowed: torch.Tensor | None,
    ) -> torch.Tensor:
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, normed, bias, allowed)
        if self.is_decoder:
            normed = self.cross_norm(x)
            x = x + self.cross_attention(normed, memory, None, memory_allowed)
        normed = self.ff_norm(x)
        return x + self.feed_forward(normed)


class _T5Stack(nn.Module):
    """The layers of the encoder or of the decoder, their table of positions, and the last norm."""

    def __init__(self, d_model: int, num_layers: int, num_heads: int, is_decoder: bool) -> None:
        super().__init__()
        self.is_decoder = is_decoder
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_T5Layer(d_model, num_heads, is_decoder))
        self.table = nn.Embedding(BUCKETS, num_heads)
        nn.init.normal_(self.table.weight, std=d_model**-0.5)
        self.last_norm = RMSNorm(d_model)

        # The bucket of each distance key - query from -128 to 128, at the place distance + 128.
        buckets = []
        for distance in range(-FARTHEST, FARTHEST + 1):
            if is_decoder:
                back = max(-distance, 0)
                bucket = _bucket_of_distance(back, BUCKETS)
            else:
                half = BUCKETS // 2
                bucket = _bucket_of_distance(abs(distance), half)
                if distance > 0:
                    bucket = half + bucket
            buckets.append(bucket)
        self.register_buffer("buckets", torch.tensor(buckets), persistent=False)

    def position_bias(self, length: int, device: torch.device) -> torch.Tensor:
        """(1, H, T, T): what is added to the score of a query (row) and a key (column)."""
        positions = torch.arange(length, device=device)
        distances = positions[None, :] - positions[:, None]
        places = distances.clamp(-FARTHEST, FARTHEST) + FARTHEST
        numbers = self.table(self.buckets[places])  # (T, T, H)
        return numbers.permute(2, 0, 1)[None]

    def forward(
        self,
        x: torch.Tensor,
        allowed: torch.Tensor | None,
        memory: torch.Tensor | None = None,
        memory_allowed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        bias = self.position_bias(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, bias, allowed, memory, memory_allowed)
        return self.last_norm(x)


class T5Model(nn.Module):
    """T5 1.0 (Raffel et al. 2020, section 2.1), as `transformers`' T5ForConditionalGeneration with its first config.

    Both stacks are pre-norm with one more norm at their end, all of them RMSNorm, and no Linear has a bias. One embedding
    serves the encoder, the decoder and the output: logits = states · D^-0.5 · embeddingᵀ. The embedding is not scaled, nor
    are the scores. There is no dropout. Feed-forward: W_o ReLU(W_i x), 4·D wide.

    Positions are known by what is added to the scores alone: a number for each head and each of 32 buckets of the distance
    (key - query). The encoder has a table (32, H), the decoder another; all layers of a stack share it, and there is none in
    the cross-attention. In the encoder 16 buckets are for keys that come later and 16 for the others; in the decoder all 32
    are for the past. The nearer half of them has one distance each, the others grow by a logarithm up to a distance of 128,
    from which on all share the last one, as in `transformers`' `_relative_position_bucket`.

    How the parts are called, and how the weights start, is up to you.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: of the encoder and of the decoder.
        num_heads: H.
        max_len: the longest input or target.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self, vocab_size: int, d_model: int = 768, num_layers: int = 12, num_heads: int = 12, max_len: int = 512
    ) -> None:
        super().__init__()
        _check_heads(d_model, num_heads)
        self.d_model = d_model
        self.max_len = max_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.encoder = _T5Stack(d_model, num_layers, num_heads, is_decoder=False)
        self.decoder = _T5Stack(d_model, num_layers, num_heads, is_decoder=True)

    def forward(
        self,
        input_ids: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T), target_ids (B, Tt) integers -> logits (B, Tt, V) of what follows each target.

        Args:
            target_ids: what the decoder reads. It is not shifted here: whoever trains begins it with a start token. The
                decoder is causal. Without target_ids the result is the encoder's states (B, T, D) after its last norm.
            attention_mask: (B, T), true (1) at real tokens of input_ids: the others are attended to neither in the encoder
                nor by the decoder. None means that all are real. What the encoder's states are at the others is open.

        Raises:
            ValueError: T or Tt is more than max_len.
        """
        _check_length("input_ids", input_ids, self.max_len)
        if target_ids is not None:
            _check_length("target_ids", target_ids, self.max_len)
        real = None
        if attention_mask is not None:
            real = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T), for all heads and queries
        states = self.encoder(self.embedding(input_ids), real)
        if target_ids is None:
            return states
        past = _causal(target_ids.shape[1], target_ids.device)
        decoded = self.decoder(self.embedding(target_ids), past, states, real)
        scaled = decoded * self.d_model**-0.5
        return scaled @ self.embedding.weight.T


# ---------------------------------------------------------------------------------------------- Llama


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x (B, H, T, Dh), cos and sin (T, Dh / 2): number i of the first half and number i of the second are a pair."""
    half = x.shape[-1] // 2
    first = x[..., :half]
    second = x[..., half:]
    new_first = first * cos - second * sin
    new_second = second * cos + first * sin
    return torch.cat([new_first, new_second], dim=-1)


class _LlamaAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = d_model // num_heads
        kv_width = num_kv_heads * self.head_dim
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, kv_width, bias=False)
        self.value = nn.Linear(d_model, kv_width, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        q = _rotate(_split_heads(self.query(x), self.num_heads), cos, sin)
        k = _rotate(_split_heads(self.key(x), self.num_kv_heads), cos, sin)
        v = _split_heads(self.value(x), self.num_kv_heads)
        group = self.num_heads // self.num_kv_heads
        read_by = torch.tensor([head // group for head in range(self.num_heads)], device=x.device)
        k = k.index_select(1, read_by)
        v = v.index_select(1, read_by)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(self.head_dim)
        mixed = _mix(scores, v, allowed)
        return self.out(_join_heads(mixed))


class _LlamaLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d_model)
        self.attention = _LlamaAttention(d_model, num_heads, num_kv_heads)
        self.ff_norm = RMSNorm(d_model)
        self.feed_forward = SwiGLU(d_model, d_ff)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, allowed)
        return x + self.feed_forward(self.ff_norm(x))


class LlamaModel(nn.Module):
    """Llama (Touvron et al. 2023, "Llama 2", section 2.2): a causal decoder that predicts the next token.

    Pre-norm layers: grouped-query attention (Ainslie et al. 2023) with rotary positions (lesson 2's RoPE: theta_i =
    rope_base^(-2i / Dh)), SwiGLU, RMSNorm with an eps of 1e-6, and one more norm at the end. No Linear has a bias, there is no
    dropout, and the output has a weight of its own, not the token embedding's. Head h reads the keys and values of head
    h // (H / num_kv_heads).

    How the parts are called, and how the weights start, is up to you.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers.
        num_heads: H.
        num_kv_heads: the number of heads that keys and values have; it divides H.
        d_ff: the width inside SwiGLU.
        max_len: the longest sequence.
        rope_base: the base of the rotary frequencies.

    Raises:
        ValueError: D is not divisible by H, H is not divisible by num_kv_heads, or Dh is odd.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        d_ff: int,
        max_len: int = 2048,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        _check_heads(d_model, num_heads)
        if num_kv_heads < 1 or num_heads % num_kv_heads != 0:
            raise ValueError(f"num_heads {num_heads} is not divisible by num_kv_heads {num_kv_heads}")
        head_dim = d_model // num_heads
        if head_dim % 2 != 0:
            raise ValueError(f"d_model {d_model} / num_heads {num_heads} is {head_dim}: rotary positions need an even number")
        self.d_model = d_model
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.max_len = max_len

        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_LlamaLayer(d_model, num_heads, num_kv_heads, d_ff))
        self.last_norm = RMSNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size, bias=False)

        # No buffer: model.half() would round it. The angles are worked out in the forward pass, for its dtype.
        self.frequencies = [rope_base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        self.rotary_scaling = 1.0

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token that follows each one.

        Raises:
            ValueError: T is more than max_len.
        """
        _check_length("input_ids", input_ids, self.max_len)
        length = input_ids.shape[1]
        device = input_ids.device
        x = self.embedding(input_ids)

        angle_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        frequencies = torch.tensor(self.frequencies, dtype=angle_dtype, device=device)
        positions = torch.arange(length, dtype=angle_dtype, device=device)
        angles = positions[:, None] * frequencies[None, :]  # (T, Dh / 2)
        cos = (angles.cos() * self.rotary_scaling).to(x.dtype)
        sin = (angles.sin() * self.rotary_scaling).to(x.dtype)

        allowed = _causal(length, device)
        for layer in self.layers:
            x = layer(x, cos, sin, allowed)
        return self.output(self.last_norm(x))

    def load_huggingface(self, model: nn.Module) -> "LlamaModel":
        """Copies the weights of a transformers.LlamaForCausalLM, with its rms_norm_eps and its rotary frequencies.

        The logits are then those of model, to 1e-4. The frequencies are those that model has worked out for its kind of
        rotary positions (`model.model.rotary_emb.inv_freq`), whatever rope_base is here; cosines and sines are multiplied by its
        `attention_scaling`, which is not 1 for YaRN. A head that is tied to the embedding is copied like any other. max_len
        stays, and need not be model's. Nothing is shared with model afterwards, weights keep their dtype and device, and
        model is not changed.

        Returns:
            The LlamaModel itself.

        Raises:
            ValueError: a shape of model differs (V, D, H, num_kv_heads, the width of a head or d_ff), its number of layers
                differs, it has biases, or its activation (hidden_act) is not silu. Then the LlamaModel is as it was before:
                all is checked before anything is copied.
        """
        # 1. Which name there belongs to which weight here, and which norms belong together.
        pairs = {
            "model.embed_tokens.weight": self.embedding.weight,
            "model.norm.weight": self.last_norm.weight,
            "lm_head.weight": self.output.weight,
        }
        norms = {"model.norm": self.last_norm}
        for number, layer in enumerate(self.layers):
            there = f"model.layers.{number}"
            pairs[f"{there}.self_attn.q_proj.weight"] = layer.attention.query.weight
            pairs[f"{there}.self_attn.k_proj.weight"] = layer.attention.key.weight
            pairs[f"{there}.self_attn.v_proj.weight"] = layer.attention.value.weight
            pairs[f"{there}.self_attn.o_proj.weight"] = layer.attention.out.weight
            pairs[f"{there}.mlp.gate_proj.weight"] = layer.feed_forward.gate.weight
            pairs[f"{there}.mlp.up_proj.weight"] = layer.feed_forward.up.weight
            pairs[f"{there}.mlp.down_proj.weight"] = layer.feed_forward.down.weight
            pairs[f"{there}.input_layernorm.weight"] = layer.attention_norm.weight
            pairs[f"{there}.post_attention_layernorm.weight"] = layer.ff_norm.weight
            norms[f"{there}.input_layernorm"] = layer.attention_norm
            norms[f"{there}.post_attention_layernorm"] = layer.ff_norm

        # 2. All checks.
        config = getattr(model, "config", None)
        if config is None or not hasattr(getattr(model, "model", None), "rotary_emb"):
            raise ValueError(f"model is no LlamaForCausalLM, but {type(model).__name__}")
        there_heads = config.num_attention_heads
        there_kv_heads = getattr(config, "num_key_value_heads", None) or there_heads
        there_head_dim = getattr(config, "head_dim", None) or config.hidden_size // there_heads
        sizes = {
            "hidden_size": (config.hidden_size, self.d_model),
            "num_hidden_layers": (len(model.model.layers), len(self.layers)),
            "num_attention_heads": (there_heads, self.num_heads),
            "num_key_value_heads": (there_kv_heads, self.num_kv_heads),
            "head_dim": (there_head_dim, self.head_dim),
        }
        for name, (theirs, ours) in sizes.items():
            if theirs != ours:
                raise ValueError(f"{name} of model is {theirs}, here it is {ours}")
        if config.hidden_act not in ("silu", "swish"):  # two names of one function
            raise ValueError(f"hidden_act of model is {config.hidden_act}, not silu")
        weights = model.state_dict()
        for name in weights:
            if name not in pairs and not name.endswith("inv_freq"):
                kind = "a bias" if name.endswith(".bias") else "a weight"
                raise ValueError(f"model has {kind} that a Llama here has not: {name}")
        for name, ours in pairs.items():
            if name not in weights:
                raise ValueError(f"model has no {name}")
            if weights[name].shape != ours.shape:
                raise ValueError(f"{name} of model is {tuple(weights[name].shape)}, here it is {tuple(ours.shape)}")
        rotary = model.model.rotary_emb
        frequencies = [float(value) for value in rotary.inv_freq.detach().flatten().tolist()]
        if len(frequencies) != self.head_dim // 2:
            raise ValueError(f"model has {len(frequencies)} rotary frequencies (inv_freq), here there are {self.head_dim // 2}")
        rotary_scaling = float(getattr(rotary, "attention_scaling", 1.0))
        epsilons = {}
        for name in norms:
            norm = model.get_submodule(name)
            epsilons[name] = float(getattr(norm, "variance_epsilon", config.rms_norm_eps))

        # 3. All copies.
        with torch.no_grad():
            for name, ours in pairs.items():
                ours.copy_(weights[name])
        for name, norm in norms.items():
            norm.eps = epsilons[name]
        self.frequencies = frequencies
        self.rotary_scaling = rotary_scaling
        return self


# ---------------------------------------------------------------------------------------------- mixture of experts


class MixtureOfExperts(nn.Module):
    """A feed-forward of E experts, of which each token uses top_k (Jiang et al. 2024, section 2.1; Fedus et al. 2021,
    "Switch Transformers", section 2.2, for the loss).

        output = Σ over the top_k experts i of  w_i · expert_i(x),   w = their softmax probabilities, scaled to sum to 1

    The softmax is over all experts. An expert works on the tokens that chose it and on no others: so E experts cost as
    much as top_k of them. There is no limit to the number of tokens an expert gets.

    Args:
        d_model: D.
        d_ff: the width inside each expert.
        num_experts: E.
        top_k: how many experts a token uses.

    Weights:
        router: Linear(D, E) without bias.
        experts: ModuleList of E SwiGLU.

    Raises:
        ValueError: top_k is less than 1 or more than E.
    """

    def __init__(self, d_model: int, d_ff: int, num_experts: int, top_k: int = 2) -> None:
        super().__init__()
        if top_k < 1 or top_k > num_experts:
            raise ValueError(f"top_k must be from 1 to num_experts {num_experts}, not {top_k}")
        self.num_experts = num_experts
        self.top_k = top_k
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList()
        for _ in range(num_experts):
            self.experts.append(SwiGLU(d_model, d_ff))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., D) -> (output in the shape and dtype of x, load_balancing_loss).

        The loss is a tensor without dimensions: E · Σ_i f_i P_i, where f_i is the number of tokens that chose expert i,
        divided by the number of all tokens, and P_i the mean of its probability over all tokens, before the scaling. It is
        top_k if both are even. Its gradient goes through P: f counts, and has none.
        """
        tokens = x.reshape(-1, x.shape[-1])  # (n, D)
        num_tokens = tokens.shape[0]
        scores = self.router(tokens)
        if scores.dtype in SHORT_TYPES:
            scores = scores.float()
        probabilities = torch.softmax(scores, dim=-1)  # (n, E)
        best, chosen = probabilities.topk(self.top_k, dim=-1)  # both (n, top_k)
        shares = best / best.sum(dim=-1, keepdim=True)

        output = torch.zeros_like(tokens)
        calls = []
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.nonzero(chosen == number, as_tuple=True)
            calls.append(len(rows))
            if len(rows) == 0:
                continue
            answer = expert(tokens[rows])
            weighted = answer * shares[rows, ranks][:, None]
            output = output.index_add(0, rows, weighted.to(output.dtype))

        divisor = max(num_tokens, 1)
        f = torch.tensor(calls, dtype=probabilities.dtype, device=x.device) / divisor
        P = probabilities.sum(dim=0) / divisor
        load_balancing_loss = self.num_experts * (f * P).sum()
        return output.reshape(x.shape), load_balancing_loss
