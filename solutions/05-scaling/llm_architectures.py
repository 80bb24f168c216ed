"""Architectures: what the models after 2019 have changed about the Transformer of lesson 2, and why.

    GPTModel, BERTModel     lesson 2's, handed on: import them from `transformer`, so that this module has them too
    BERTForMaskedLM         an encoder that guesses hidden tokens    Devlin et al. 2018, "BERT"
    T5Model                 encoder and decoder, relative positions  Raffel et al. 2019, "Exploring the Limits of Transfer
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
import torch.nn.functional as F
from rope_encoding import rope_frequencies  # solution only
from torch import nn
from transformer import BERTModel as BERTModel  # solution only
from transformer import GPTModel as GPTModel  # solution only

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
        # student: eps and the weight
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> the shape and dtype of x.

        float16 and bfloat16 are computed in float32, and only the result is rounded: the square of 300 is no float16 any more.
        """
        # student: divide by the root of the mean square
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_square = wide.square().mean(dim=-1, keepdim=True)  # (..., 1)
        return (wide * (mean_square + self.eps).rsqrt() * self.weight).to(x.dtype)


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
        # student: gate, up, down
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> (..., D)."""
        # student: the gate decides how much of up passes
        return self.down(F.silu(self.gate(x)) * self.up(x))


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
        # student: a BERTModel and an output layer from D to V
        super().__init__()
        self.bert = BERTModel(vocab_size, d_model, num_layers, num_heads, d_ff, max_len, dropout, type_vocab_size)
        self.output = nn.Sequential(
            nn.Linear(d_model, d_model), nn.GELU(), nn.LayerNorm(d_model, eps=1e-12), nn.Linear(d_model, vocab_size)
        )

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
        # student: the states, then the output layer
        return self.output(self.bert(input_ids, token_type_ids, attention_mask))


# ---------------------------------------------------------------------------------------------- attention, for T5 and Llama


def _check_heads(d_model: int, num_heads: int) -> None:  # solution only
    if d_model % num_heads != 0:
        raise ValueError(f"d_model must be divisible by num_heads, but {d_model} / {num_heads} leaves a rest")


def _split(x: torch.Tensor, num_heads: int) -> torch.Tensor:  # solution only
    """(B, T, H · Dh) -> (B, H, T, Dh)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _weights(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:  # solution only
    """The softmax of scores (B, H, Tq, Tk) over the keys that are visible; zeros where none is."""
    nothing = ~visible.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~visible & ~nothing, -math.inf)
    return scores.softmax(dim=-1).masked_fill(nothing, 0.0)


def _causal(length: int, device: torch.device) -> torch.Tensor:  # solution only
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


# ---------------------------------------------------------------------------------------------- T5

BUCKETS, FARTHEST = 32, 128  # of the relative positions: how many, and from which distance on all are in the last one


def _buckets(queries: int, keys: int, both_sides: bool, device: torch.device) -> torch.Tensor:  # solution only
    """(Tq, Tk) the bucket of each distance: section 2.1 of the paper, in the form of its published code."""
    distance = (
        torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None]
    )  # > 0: the key comes later
    count = BUCKETS // 2 if both_sides else BUCKETS
    first = count * (distance > 0) if both_sides else torch.zeros_like(distance)
    distance = distance.abs() if both_sides else (-distance).clamp(min=0)

    near = count // 2  # each distance below has a bucket of its own; those beyond share theirs, in steps of a logarithm
    steps = (distance.clamp(min=1) / near).log() / math.log(FARTHEST / near) * (count - near)
    far = (near + steps.long()).clamp(max=count - 1)
    return first + torch.where(distance < near, distance, far)


class _T5Attention(nn.Module):  # solution only
    """softmax(q kᵀ + bias) v: the scores are not divided by √Dh, for which the start makes up."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = RMSNorm(d_model)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))

    def forward(
        self,
        x: torch.Tensor,
        visible: torch.Tensor,
        bias: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x ← x + Attention(norm(x)), which reads memory if there is one, as it is, and else norm(x)."""
        asked = self.norm(x)
        read = asked if memory is None else memory
        q, k, v = (_split(part, self.num_heads) for part in (self.q(asked), self.k(read), self.v(read)))
        scores = q @ k.mT  # (B, H, Tq, Tk)
        weights = _weights(scores if bias is None else scores + bias, visible)
        return x + self.o((weights @ v).transpose(1, 2).flatten(2))


class _T5FeedForward(nn.Module):  # solution only
    """x ← x + W_o ReLU(W_i norm(x))."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.wi = nn.Linear(d_model, 4 * d_model, bias=False)
        self.wo = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.wo(self.wi(self.norm(x)).relu())


class _T5Layer(nn.Module):  # solution only
    """Self-attention, in the decoder attention to the encoder's states, feed-forward."""

    def __init__(self, d_model: int, num_heads: int, decoder: bool) -> None:
        super().__init__()
        self.attention = _T5Attention(d_model, num_heads)
        self.cross = _T5Attention(d_model, num_heads) if decoder else None
        self.feed_forward = _T5FeedForward(d_model)

    def forward(
        self,
        x: torch.Tensor,
        visible: torch.Tensor,
        bias: torch.Tensor,
        memory: torch.Tensor | None = None,
        memory_visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.attention(x, visible, bias)
        if self.cross is not None:
            x = self.cross(x, memory_visible, memory=memory)  # no positions: the states know where they stand
        return self.feed_forward(x)


class T5Model(nn.Module):
    """T5 1.0 (Raffel et al. 2019, section 2.1), as `transformers`' T5ForConditionalGeneration with its first config.

    Both stacks are pre-norm with one more norm at their end, all of them RMSNorm with an eps of 1e-6, and no Linear has a
    bias. One embedding serves the encoder, the decoder and the output: logits = states · D^-0.5 · embeddingᵀ. The embedding
    is not scaled, nor are the scores. There is no dropout. Feed-forward: W_o ReLU(W_i x), 4·D wide.

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
        # student: one embedding, two stacks, a table of buckets and a last norm for each
        super().__init__()
        _check_heads(d_model, num_heads)
        self.d_model, self.max_len = d_model, max_len
        self.token = nn.Embedding(vocab_size, d_model)
        self.encoder = nn.ModuleList(_T5Layer(d_model, num_heads, decoder=False) for _ in range(num_layers))
        self.decoder = nn.ModuleList(_T5Layer(d_model, num_heads, decoder=True) for _ in range(num_layers))
        self.encoder_bias, self.decoder_bias = nn.Embedding(BUCKETS, num_heads), nn.Embedding(BUCKETS, num_heads)
        self.encoder_norm, self.decoder_norm = RMSNorm(d_model), RMSNorm(d_model)
        self._start(d_model // num_heads)

    def _start(self, head_width: int) -> None:  # solution only
        """As in the published code: q starts smaller by √Dh, instead of a division of the scores."""
        for name, weight in self.named_parameters():
            if "bias" in name:
                nn.init.normal_(weight, std=self.d_model**-0.5)
            elif weight.dim() > 1 and weight is not self.token.weight:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * (head_width**-0.5 if ".q." in name else 1.0))

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
                nor by the decoder. None means that all are real. What the encoder's states are at the others is open. Of an
                input that is hidden altogether the decoder gets nothing: attention to nothing is 0, and neither the logits
                nor a gradient are NaN.

        Raises:
            ValueError: T or Tt is more than max_len.
        """
        # student: the encoder, then the decoder, then the embedding once more
        for name, ids in (("input_ids", input_ids), ("target_ids", target_ids)):
            if ids is not None and ids.shape[1] > self.max_len:
                raise ValueError(f"{name} has {ids.shape[1]} positions, more than max_len={self.max_len}")

        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = (real != 0)[:, None, None, :]  # (B, 1, 1, T)
        states = self._encode(input_ids, real)
        if target_ids is None:
            return states
        return self._decode(target_ids, states, real) * self.d_model**-0.5 @ self.token.weight.T

    def _encode(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:  # solution only
        length = ids.shape[1]
        bias = self.encoder_bias(_buckets(length, length, True, ids.device)).permute(2, 0, 1)  # (H, T, T)
        x = self.token(ids)
        for layer in self.encoder:
            x = layer(x, real, bias)
        return self.encoder_norm(x)

    def _decode(self, ids: torch.Tensor, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:  # solution only
        length = ids.shape[1]
        bias = self.decoder_bias(_buckets(length, length, False, ids.device)).permute(2, 0, 1)  # (H, Tt, Tt)
        x = self.token(ids)
        for layer in self.decoder:
            x = layer(x, _causal(length, ids.device), bias, states, real)
        return self.decoder_norm(x)


# ---------------------------------------------------------------------------------------------- Llama


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:  # solution only
    """Turns the pairs (0, Dh/2), (1, Dh/2 + 1), … of x (B, H, T, Dh), as `transformers` does; cos, sin (T, Dh/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class _LlamaAttention(nn.Module):  # solution only
    """Causal, with turned queries and keys; H / Hkv heads read the same keys and values."""

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        width = d_model // num_heads
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, num_kv_heads * width, bias=False)
        self.v = nn.Linear(d_model, num_kv_heads * width, bias=False)
        self.o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q = _turn(_split(self.q(x), self.num_heads), cos, sin)  # (B, H, T, Dh)
        k = _turn(_split(self.k(x), self.num_kv_heads), cos, sin)  # (B, Hkv, T, Dh)
        v = _split(self.v(x), self.num_kv_heads)
        group = self.num_heads // self.num_kv_heads
        k, v = (part.repeat_interleave(group, dim=1) for part in (k, v))  # 0, 0, 1, 1, …: neighbours share
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        weights = _weights(scores, _causal(x.shape[1], x.device))
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class _LlamaLayer(nn.Module):  # solution only
    """x ← x + Attention(norm(x)), then x ← x + SwiGLU(norm(x))."""

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = RMSNorm(d_model), RMSNorm(d_model)
        self.attention = _LlamaAttention(d_model, num_heads, num_kv_heads)
        self.feed_forward = SwiGLU(d_model, d_ff)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_1(x), cos, sin)
        return x + self.feed_forward(self.norm_2(x))


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
        # student: the sizes are checked; embedding, layers, a last norm, a Linear; cosines and sines of all positions
        super().__init__()
        _check_heads(d_model, num_heads)
        if num_heads % num_kv_heads != 0:
            raise ValueError(f"num_heads={num_heads} must be divisible by num_kv_heads={num_kv_heads}")
        self.max_len, self.num_heads = max_len, num_heads
        self.token = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(_LlamaLayer(d_model, num_heads, num_kv_heads, d_ff) for _ in range(num_layers))
        self.norm = RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

        cos, sin = self._tables(rope_frequencies(d_model // num_heads, rope_base))  # a ValueError for an odd width
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _tables(
        self, frequencies: torch.Tensor, factor: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:  # solution only
        """cos and sin (max_len, Dh/2) of all angles, in float32, as `transformers` does it."""
        angles = torch.arange(self.max_len, dtype=torch.float32)[:, None] * frequencies.cpu().float()
        return angles.cos() * factor, angles.sin() * factor

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V) of the token that follows each one.

        Raises:
            ValueError: T is more than max_len.
        """
        # student: the embedding, the layers, the last norm, the output
        length = input_ids.shape[1]
        if length > self.max_len:
            raise ValueError(f"input_ids has {length} positions, more than max_len={self.max_len}")
        x = self.token(input_ids)  # (B, T, D)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return self.lm_head(self.norm(x))

    def load_huggingface(self, model: nn.Module) -> "LlamaModel":
        """Copies the weights of a transformers.LlamaForCausalLM, with its rms_norm_eps and its rotary frequencies.

        The logits are then those of model, to 1e-4. The frequencies are those that model has worked out for its kind of
        rotary positions (`model.model.rotary_emb.inv_freq`), whatever rope_base is here; cosines and sines are multiplied by its
        `attention_scaling`, which is not 1 for YaRN. A head that is tied to the embedding is copied like any other: here the
        two stay apart. max_len stays, and need not be model's. Nothing is shared with model afterwards, weights keep their
        dtype and device, a 16-bit LlamaModel runs on in 16 bits, and model is not changed, nor are the modes of either. Of a
        model that was loaded before nothing is left.

        Returns:
            The LlamaModel itself.

        Raises:
            ValueError: a shape of model differs (V, D, H, num_kv_heads, the width of a head or d_ff), its number of layers
                differs, it has biases, or its activation (hidden_act) is not silu. Then the LlamaModel is as it was before:
                all is checked before anything is copied.
        """
        # student: compare all shapes first, then copy
        self._refuse(model)
        rotary = model.model.rotary_emb
        with torch.no_grad():
            for _, ours, theirs in self._pairs(model):
                ours.copy_(theirs)
        for part in self.modules():
            if isinstance(part, RMSNorm):
                part.eps = model.config.rms_norm_eps
        cos, sin = self._tables(rotary.inv_freq, rotary.attention_scaling)
        self.cos, self.sin = cos.to(self.cos), sin.to(self.sin)
        return self

    def _refuse(self, model: nn.Module) -> None:  # solution only
        """ValueError if a part of model does not fit."""
        config = model.config
        layers = len(model.model.layers)
        if layers != len(self.layers):
            raise ValueError(f"num_layers is {len(self.layers)} here, but {layers} in the model to load")
        heads = config.num_attention_heads  # no matrix shows by its shape into how many heads it is cut
        if heads != self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads} here, but {heads} in the model to load")
        if config.hidden_act not in ("silu", "swish"):
            raise ValueError(f"the model to load has hidden_act={config.hidden_act!r}; here it is silu")
        biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
        if biases:
            raise ValueError(f"the model to load has biases, for which there is no place: {biases}")
        for name, ours, theirs in self._pairs(model):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(ours.shape)} here, but {tuple(theirs.shape)} in the model"
                )

    def _pairs(self, model: nn.Module) -> list[tuple[str, nn.Parameter, nn.Parameter]]:  # solution only
        """(the name of what it is, our parameter, theirs) of all parameters."""
        pairs = [
            ("the embedding", self.token, model.model.embed_tokens),
            ("the last norm", self.norm, model.model.norm),
            ("the output", self.lm_head, model.lm_head),
        ]
        for ours, theirs in zip(self.layers, model.model.layers, strict=True):
            pairs += [
                ("norm_1", ours.norm_1, theirs.input_layernorm),
                ("q", ours.attention.q, theirs.self_attn.q_proj),
                ("k", ours.attention.k, theirs.self_attn.k_proj),
                ("v", ours.attention.v, theirs.self_attn.v_proj),
                ("o", ours.attention.o, theirs.self_attn.o_proj),
                ("norm_2", ours.norm_2, theirs.post_attention_layernorm),
                ("gate", ours.feed_forward.gate, theirs.mlp.gate_proj),
                ("up", ours.feed_forward.up, theirs.mlp.up_proj),
                ("down", ours.feed_forward.down, theirs.mlp.down_proj),
            ]
        return [(name, ours.weight, theirs.weight) for name, ours, theirs in pairs]


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
        # student: the router and the experts
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be from 1 to num_experts={num_experts}, not {top_k}")
        self.top_k = top_k
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(d_model, d_ff) for _ in range(num_experts))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., D) -> (output in the shape and dtype of x, under autocast too, load_balancing_loss).

        The loss is a tensor without dimensions: E · Σ_i f_i P_i, where f_i is the number of tokens that chose expert i,
        divided by the number of all tokens, and P_i the mean of its probability over all tokens, before the scaling. It is
        top_k if both are even. Its gradient goes through P: f counts, and has none. It is the same in train and in eval
        mode, and counts this x alone, not earlier ones.
        """
        # student: probabilities, the best experts, each expert's tokens; then the loss
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        probs = self.router(tokens).softmax(dim=-1)  # (N, E)
        weights, chosen = probs.topk(self.top_k, dim=-1)  # (N, top_k)
        weights = weights / weights.sum(dim=-1, keepdim=True)

        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, place = (chosen == number).nonzero(as_tuple=True)  # who chose it, and as which of its experts
            part = weights[rows, place, None] * expert(tokens[rows])
            output = output.index_add(0, rows, part.to(output.dtype))

        experts = len(self.experts)
        share = F.one_hot(chosen, experts).sum(dim=(0, 1)).to(probs.dtype) / len(tokens)  # f
        loss = experts * (share * probs.mean(dim=0)).sum()
        return output.view(x.shape), loss
