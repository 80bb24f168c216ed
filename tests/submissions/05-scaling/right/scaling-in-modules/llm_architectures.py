"""Architectures: what the models after 2019 have changed about the Transformer of lesson 2, and why.

    GPTModel, BERTModel     lesson 2's, handed on
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
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformer import BERTModel, GPTModel

__all__ = ["BERTForMaskedLM", "BERTModel", "GPTModel", "LlamaModel", "MixtureOfExperts", "RMSNorm", "SwiGLU", "T5Model"]

# ---------------------------------------------------------------------------------------------- checks


def require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} must be positive, not {size}")


def require_divisible(whole_name: str, whole: int, part_name: str, part: int) -> None:
    if whole % part:
        raise ValueError(f"{whole_name} ({whole}) is not divisible by {part_name} ({part})")


def require_short(name: str, ids: torch.Tensor, max_len: int) -> None:
    if ids.shape[-1] > max_len:
        raise ValueError(f"{name} has {ids.shape[-1]} tokens, more than max_len ({max_len})")


def require_mask_of(ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    if attention_mask is not None and attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(ids.shape)}")


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of this one are worked out: float32 for 16 bits."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


# ---------------------------------------------------------------------------------------------- norm and feed-forward


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, "Root Mean Square Layer
    Normalization", equation 4).

    Args:
        d_model: D.
        eps: added to the mean of the squares.

    Weights:
        weight: (D,), ones at the start.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        require_positive(d_model=d_model)
        if not eps >= 0:
            raise ValueError(f"eps must not be negative: {eps}")
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> the shape and dtype of x. 16 bits are computed in float32, and only the result is rounded."""
        inner = x.to(wide(x.dtype))
        scale = (inner.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (inner * scale * self.weight.to(inner.dtype)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, "GLU Variants Improve Transformer", equation 6; silu(z) = z · sigmoid(z)).

    Args:
        d_model: D.
        d_ff: the width inside.

    Weights:
        gate, up: Linear(D, d_ff) without bias.
        down: Linear(d_ff, D) without bias.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        require_positive(d_model=d_model, d_ff=d_ff)
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> (..., D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


# ---------------------------------------------------------------------------------------------- BERT with a head


class MaskedLMHead(nn.Sequential):
    """BERT's: Linear, GELU, LayerNorm, Linear. (..., D) -> (..., V)."""

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__(
            nn.Linear(d_model, d_model),
            nn.GELU(),
            nn.LayerNorm(d_model),
            nn.Linear(d_model, vocab_size),
        )


class BERTForMaskedLM(nn.Module):
    """BERTModel and an output layer that says at each position which token stands there (Devlin et al. 2018, section 3.1).

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
        require_positive(vocab_size=vocab_size, d_model=d_model, num_heads=num_heads, max_len=max_len)
        require_divisible("d_model", d_model, "num_heads", num_heads)
        super().__init__()
        self.max_len = max_len
        self.bert = BERTModel(vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout, type_vocab_size)
        self.head = MaskedLMHead(d_model, vocab_size)

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
        require_short("input_ids", input_ids, self.max_len)
        require_mask_of(input_ids, attention_mask)
        return self.head(self.bert(input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask))


# ---------------------------------------------------------------------------------------------- attention, for T5 and Llama


class HeadProjections(nn.Module):
    """The four matrices of an attention, without biases; keys and values may have fewer heads than queries.

    Args:
        d_model, num_heads: D, H.
        num_kv_heads: H if None.
    """

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = d_model // num_heads
        self.q = nn.Linear(d_model, self.num_heads * self.head_dim, bias=False)
        self.k = nn.Linear(d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(d_model, self.num_kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(self.num_heads * self.head_dim, d_model, bias=False)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, heads · Dh) -> (B, heads, T, Dh)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, T, Dh) -> (B, T, D), through the output matrix."""
        return self.o(x.transpose(1, 2).flatten(-2))


# ---------------------------------------------------------------------------------------------- T5

BUCKETS, FARTHEST = 32, 128  # of the relative positions: how many, and from which distance on all are in the last one


class RelativePositionBias(nn.Module):
    """A number for each head and each bucket of the distance, shared by the layers of a stack.

    Args:
        num_heads: H.
        bidirectional: half of the buckets are for keys that come later (encoder); else all are for the past (decoder).

    Weights:
        table: (32, H).
    """

    def __init__(self, num_heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.side = BUCKETS // 2 if bidirectional else BUCKETS
        self.table = nn.Parameter(torch.zeros(BUCKETS, num_heads))
        self.register_buffer("bucket_of", self._buckets(), persistent=False)

    def _buckets(self) -> torch.Tensor:
        """(129,): the bucket of each distance from 0 to 128, in float32, as transformers rounds."""
        distances, exact = torch.arange(FARTHEST + 1), self.side // 2
        ratio = distances.clamp(min=exact).to(torch.float32) / exact
        far = exact + (torch.log(ratio) / math.log(FARTHEST / exact) * (self.side - exact)).long()
        return torch.where(distances < exact, distances, far.clamp(max=self.side - 1))

    def forward(self, length: int) -> torch.Tensor:
        """(H, T, T): what is added to the scores, rows are queries."""
        places = torch.arange(length, device=self.table.device)
        relative = places - places[:, None]  # key - query
        if self.bidirectional:
            bucket = self.bucket_of[relative.abs().clamp(max=FARTHEST)] + self.side * (relative > 0)
        else:
            bucket = self.bucket_of[(-relative).clamp(0, FARTHEST)]
        return self.table[bucket].permute(2, 0, 1)


class T5Attention(HeadProjections):
    """Attention whose scores are not scaled."""

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor | None, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """x (B, Tq, D) attends to memory (B, Tk, D); bias (H, Tq, Tk), allowed broadcasts to (B, H, Tq, Tk)."""
        q, k, v = self.split(self.q(x)), self.split(self.k(memory)), self.split(self.v(memory))
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        if allowed is None:
            return self.merge(scores.softmax(-1) @ v)
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)  # finite: a row without a real token is even,
        weights = scores.softmax(-1).masked_fill(~allowed, 0.0)  # and then 0, not NaN
        return self.merge(weights @ v)


class T5FeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.wi = nn.Linear(d_model, d_ff, bias=False)
        self.wo = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wo(F.relu(self.wi(x)))


class T5EncoderLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.attention, self.attention_norm = T5Attention(d_model, num_heads), RMSNorm(d_model)
        self.feed_forward, self.feed_forward_norm = T5FeedForward(d_model, 4 * d_model), RMSNorm(d_model)

    def attend(self, x, bias, allowed):
        normed = self.attention_norm(x)
        return x + self.attention(normed, normed, bias, allowed)

    def feed(self, x):
        return x + self.feed_forward(self.feed_forward_norm(x))

    def forward(self, x, bias, allowed):
        return self.feed(self.attend(x, bias, allowed))


class T5DecoderLayer(T5EncoderLayer):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.cross, self.cross_norm = T5Attention(d_model, num_heads), RMSNorm(d_model)

    def forward(self, x, bias, allowed, memory, memory_allowed):
        x = self.attend(x, bias, allowed)
        x = x + self.cross(self.cross_norm(x), memory, None, memory_allowed)
        return self.feed(x)


class T5Stack(nn.Module):
    """Layers, their common table of positions, and a last norm."""

    def __init__(self, layer: type[T5EncoderLayer], d_model: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.positions = RelativePositionBias(num_heads, bidirectional=layer is T5EncoderLayer)
        self.layers = nn.ModuleList(layer(d_model, num_heads) for _ in range(num_layers))
        self.norm = RMSNorm(d_model)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor | None, *memory) -> torch.Tensor:
        bias = self.positions(x.shape[1])
        for layer in self.layers:
            x = layer(x, bias, allowed, *memory)
        return self.norm(x)


class T5Model(nn.Module):
    """T5 1.0 (Raffel et al. 2020, section 2.1), as `transformers`' T5ForConditionalGeneration with its first config.

    Both stacks are pre-norm with one more norm at their end, all of them RMSNorm, and no Linear has a bias. One embedding
    serves the encoder, the decoder and the output: logits = states · D^-0.5 · embeddingᵀ.

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
        require_positive(vocab_size=vocab_size, d_model=d_model, num_heads=num_heads, max_len=max_len)
        require_divisible("d_model", d_model, "num_heads", num_heads)
        super().__init__()
        self.d_model, self.max_len = d_model, max_len
        self.embedding = nn.Embedding(vocab_size, d_model)  # N(0, 1), as in T5
        self.encoder = T5Stack(T5EncoderLayer, d_model, num_layers, num_heads)
        self.decoder = T5Stack(T5DecoderLayer, d_model, num_layers, num_heads)
        self._start()

    def _start(self) -> None:
        """T5's start: the queries' makes up for the scores, which are not scaled."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if isinstance(module, RelativePositionBias):
                nn.init.normal_(module.table, std=self.d_model**-0.5)
        for module in self.modules():
            if isinstance(module, T5Attention):
                nn.init.normal_(module.q.weight, std=(self.d_model * module.head_dim) ** -0.5)

    def forward(
        self,
        input_ids: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T), target_ids (B, Tt) integers -> logits (B, Tt, V) of what follows each target.

        Args:
            target_ids: what the decoder reads. Without it the result is the encoder's states (B, T, D) after its last norm.
            attention_mask: (B, T), true (1) at real tokens of input_ids. None means that all are real.

        Raises:
            ValueError: T or Tt is more than max_len.
        """
        require_short("input_ids", input_ids, self.max_len)
        if target_ids is not None:
            require_short("target_ids", target_ids, self.max_len)
        require_mask_of(input_ids, attention_mask)
        real = None if attention_mask is None else attention_mask.to(input_ids.device).bool()[:, None, None, :]
        memory = self.encoder(self.embedding(input_ids.long()), real)
        if target_ids is None:
            return memory
        past = torch.ones(target_ids.shape[1], target_ids.shape[1], dtype=torch.bool, device=target_ids.device).tril()
        states = self.decoder(self.embedding(target_ids.long()), past, memory, real)
        return F.linear(states * self.d_model**-0.5, self.embedding.weight)


# ---------------------------------------------------------------------------------------------- Llama


class RotaryPositions:
    """The frequencies of rotary positions, and what follows from them. Pairs are (i, i + Dh / 2).

    They are no buffer on purpose: a model that is cast to 16 bits must keep them. Angles are worked out in the dtype of the
    frequencies, which is float64, or float32 where they come from `transformers`, which does so.
    """

    def __init__(self, frequencies: torch.Tensor, scaling: float = 1.0) -> None:
        self.frequencies, self.scaling = frequencies, scaling

    @classmethod
    def of_base(cls, head_dim: int, base: float) -> "RotaryPositions":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
        return cls(float(base) ** -exponents)

    def tables(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (T, Dh / 2) for like (B, T, D), in its dtype and on its device."""
        places = torch.arange(like.shape[1], dtype=self.frequencies.dtype, device="cpu")
        angles = torch.outer(places, self.frequencies)
        return (angles.cos() * self.scaling).to(like), (angles.sin() * self.scaling).to(like)

    @staticmethod
    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (B, heads, T, Dh), each pair turned by its angle."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class LlamaAttention(HeadProjections):
    """Causal attention in which neighbouring heads share keys and values."""

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q = RotaryPositions.turn(self.split(self.q(x)), cos, sin)
        k = RotaryPositions.turn(self.split(self.k(x)), cos, sin)
        v = self.split(self.v(x))
        shared = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))


class LlamaLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(d_model), LlamaAttention(d_model, num_heads, num_kv_heads)
        self.feed_forward_norm, self.feed_forward = RMSNorm(d_model), SwiGLU(d_model, d_ff)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.feed_forward_norm(x))


class LlamaModel(nn.Module):
    """Llama (Touvron et al. 2023, "Llama 2", section 2.2): a causal decoder that predicts the next token.

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
        require_positive(vocab_size=vocab_size, d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads)
        require_positive(d_ff=d_ff, max_len=max_len, rope_base=rope_base)
        require_divisible("d_model", d_model, "num_heads", num_heads)
        require_divisible("num_heads", num_heads, "num_kv_heads", num_kv_heads)
        head_dim = d_model // num_heads
        if head_dim % 2:
            raise ValueError(f"d_model / num_heads must be even for rotary positions, not {d_model} / {num_heads} = {head_dim}")
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim, self.max_len = num_heads, num_kv_heads, head_dim, max_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(LlamaLayer(d_model, num_heads, num_kv_heads, d_ff) for _ in range(num_layers))
        self.norm = RMSNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size, bias=False)
        self.rotary = RotaryPositions.of_base(head_dim, rope_base)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token that follows each one.

        Raises:
            ValueError: T is more than max_len.
        """
        require_short("input_ids", input_ids, self.max_len)
        x = self.embedding(input_ids.long())
        cos, sin = self.rotary.tables(x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.output(self.norm(x))

    def load_huggingface(self, model: nn.Module) -> "LlamaModel":
        """Copies the weights of a transformers.LlamaForCausalLM, with its rms_norm_eps and its rotary frequencies.

        Nothing is shared with model afterwards, weights keep their dtype and device, and model is not changed.

        Returns:
            The LlamaModel itself.

        Raises:
            ValueError: a shape of model differs (V, D, H, num_kv_heads, the width of a head or d_ff), its number of layers
                differs, it has biases, or its activation (hidden_act) is not silu. Then the LlamaModel is as it was before:
                all is checked before anything is copied.
        """
        source = HuggingFaceLlama(model)
        source.check(self)
        source.copy_to(self)
        return self


@dataclass(frozen=True)
class HuggingFaceLlama:
    """A transformers.LlamaForCausalLM as a source of weights: first `check`, then `copy_to`."""

    model: nn.Module

    OUTER = {"model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "output"}
    INNER = {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.q",
        "self_attn.k_proj": "attention.k",
        "self_attn.v_proj": "attention.v",
        "self_attn.o_proj": "attention.o",
        "post_attention_layernorm": "feed_forward_norm",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up",
        "mlp.down_proj": "feed_forward.down",
    }

    def names(self, num_layers: int) -> dict[str, str]:
        """Their name -> ours, of each weight."""
        pairs = dict(self.OUTER)
        for layer in range(num_layers):
            pairs |= {f"model.layers.{layer}.{old}": f"layers.{layer}.{new}" for old, new in self.INNER.items()}
        return {f"{old}.weight": f"{new}.weight" for old, new in pairs.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters(remove_duplicate=False))  # a tied head has its own name

    def check(self, ours: LlamaModel) -> None:
        try:
            config, rotary = self.model.config, self.model.model.rotary_emb
            frequencies, _ = rotary.inv_freq, rotary.attention_scaling
            heads, kv_heads, _ = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
            layers, activation = len(self.model.model.layers), config.hidden_act
        except AttributeError as error:
            raise ValueError(f"model is no transformers.LlamaForCausalLM: {error}") from error
        theirs = self.weights()
        self._same("num_layers", layers, len(ours.layers))
        self._same("num_heads", heads, ours.num_heads)
        self._same("num_kv_heads", kv_heads if kv_heads is not None else heads, ours.num_kv_heads)
        self._same("the width of a head", getattr(config, "head_dim", None) or config.hidden_size // heads, ours.head_dim)
        self._same("the number of rotary frequencies", frequencies.numel(), ours.head_dim // 2)
        if activation not in ("silu", "swish"):  # two names of one function
            raise ValueError(f"hidden_act of model must be silu, not {activation}")
        biases = [name for name in theirs if name.endswith("bias")]
        if biases:
            raise ValueError(f"model has biases, such as {biases[0]}")
        names, own = self.names(layers), dict(ours.named_parameters())
        if names.keys() != theirs.keys():
            raise ValueError(f"model is no plain Llama: {sorted(names.keys() ^ theirs.keys())[0]}")
        for old, new in names.items():
            self._same(f"the shape of {old}", tuple(theirs[old].shape), tuple(own[new].shape))
            if theirs[old].is_meta:
                raise ValueError(f"{old} of model has no data")

    @staticmethod
    def _same(what: str, theirs, ours) -> None:
        if theirs != ours:
            raise ValueError(f"{what} of model is {theirs}, here it is {ours}")

    def copy_to(self, ours: LlamaModel) -> None:
        theirs, own = self.weights(), dict(ours.named_parameters())
        with torch.no_grad():
            for old, new in self.names(len(ours.layers)).items():
                own[new].copy_(theirs[old])
        for module in ours.modules():
            if isinstance(module, RMSNorm):
                module.eps = float(self.model.config.rms_norm_eps)
        rotary = self.model.model.rotary_emb
        frequencies = rotary.inv_freq.detach().to("cpu", torch.float32).clone()
        ours.rotary = RotaryPositions(frequencies, float(rotary.attention_scaling))


# ---------------------------------------------------------------------------------------------- mixture of experts


class MixtureOfExperts(nn.Module):
    """A feed-forward of E experts, of which each token uses top_k (Jiang et al. 2024, section 2.1; Fedus et al. 2021,
    "Switch Transformers", section 2.2, for the loss).

        output = Σ over the top_k experts i of  w_i · expert_i(x),   w = their softmax probabilities, scaled to sum to 1

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
        require_positive(d_model=d_model, d_ff=d_ff, num_experts=num_experts)
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be from 1 to num_experts ({num_experts}), not {top_k}")
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(d_model, d_ff) for _ in range(num_experts))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., D) -> (output in the shape and dtype of x, load_balancing_loss without dimensions)."""
        tokens = x.reshape(-1, x.shape[-1])
        scores = self.router(tokens)
        probabilities = scores.softmax(-1, dtype=wide(scores.dtype))  # (tokens, E)
        best, chosen = probabilities.topk(self.top_k, dim=-1)
        shares = (best / best.sum(-1, keepdim=True)).to(x.dtype)

        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            if len(rows):
                result = expert(tokens[rows]) * shares[rows, places, None]
                output = output.index_add(0, rows, result.to(x.dtype))
        return output.reshape(x.shape), self._balance(probabilities, chosen)

    def _balance(self, probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """E · Σ f_i P_i; 0 without tokens."""
        count = max(1, len(chosen))
        calls = F.one_hot(chosen, self.num_experts).sum((0, 1)).to(probabilities.dtype)
        return self.num_experts * torch.dot(calls / count, probabilities.sum(0) / count)
