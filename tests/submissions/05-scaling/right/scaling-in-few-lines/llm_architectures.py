"""Architectures: what the models after 2019 have changed about the Transformer of lesson 2, and why.

Letters in the shapes: B batch, T length (Tt of the target), H heads, D = d_model, Dh = D / H, V vocabulary, E experts.
A mask is boolean or holds 0 and 1; true (1) means "may be attended to".
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformer import BERTModel, GPTModel

__all__ = ["BERTForMaskedLM", "BERTModel", "GPTModel", "LlamaModel", "MixtureOfExperts", "RMSNorm", "SwiGLU", "T5Model"]


def _divides(name: str, part: int, whole_name: str, whole: int) -> None:
    if part < 1 or whole % part:
        raise ValueError(f"{whole_name} ({whole}) is not divisible by {name} ({part})")


def _fits(name: str, ids: torch.Tensor, max_len: int) -> None:
    if ids.shape[-1] > max_len:
        raise ValueError(f"{name} has a length of {ids.shape[-1]}, more than max_len ({max_len})")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _heads(x: torch.Tensor, width: int) -> torch.Tensor:
    """(B, T, H · width) -> (B, H, T, width)"""
    return x.unflatten(-1, (x.shape[-1] // width, width)).transpose(1, 2)


# ---------------------------------------------------------------------------------------------- norm and feed-forward


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> the shape and dtype of x; 16 bits are computed in float32, and only the result is rounded."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020, equation 6); gate, up and down have no bias."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = _linear(d_model, d_ff), _linear(d_model, d_ff), _linear(d_ff, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) -> (..., D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


# ---------------------------------------------------------------------------------------------- BERT with a head


class BERTForMaskedLM(nn.Module):
    """BERTModel and a Linear that says at each position which token stands there (Devlin et al. 2018, section 3.1).

    The arguments are those of BERTModel. ValueError: D is not divisible by H.
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
        _divides("num_heads", num_heads, "d_model", d_model)
        self.max_len = max_len
        self.bert = BERTModel(
            vocab_size, d_model, num_layers, num_heads, d_ff, max_len=max_len, dropout=dropout, type_vocab_size=type_vocab_size
        )
        self.output = nn.Linear(d_model, vocab_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, token_type_ids, attention_mask (B, T) -> logits (B, T, V). ValueError: T is more than max_len."""
        _fits("input_ids", input_ids, self.max_len)
        return self.output(self.bert(input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask))


# ---------------------------------------------------------------------------------------------- T5

BUCKETS, FARTHEST = 32, 128  # of the relative positions: how many, and from which distance on all are in the last one


def _buckets(distance: torch.Tensor, both_ways: bool) -> torch.Tensor:
    """The bucket of each distance (key - query), in float32 as in `transformers`."""
    h = BUCKETS // 2 if both_ways else BUCKETS
    n = distance.abs() if both_ways else (-distance).clamp(min=0)
    near = h // 2
    far = near + (torch.log(n.clamp(min=1).float() / near) / math.log(FARTHEST / near) * (h - near)).long()
    return torch.where(n < near, n, far.clamp(max=h - 1)) + (both_ways * h * (distance > 0)).long()


def _masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """scores, but -inf where mask is false: scaled_dot_product_attention gives 0 for a row without any key."""
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


class _T5Attention(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.width = d_model // num_heads
        self.q, self.k, self.v, self.o = (_linear(d_model, d_model) for _ in range(4))
        self.q.weight.data *= self.width**-0.5  # the scores are not divided

    def forward(self, x: torch.Tensor, source: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = (_heads(part, self.width) for part in (self.q(x), self.k(source), self.v(source)))
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).transpose(1, 2).flatten(2))


class _T5Stack(nn.Module):
    """Layers of self-attention, cross-attention (the decoder's) and feed-forward, with one table of positions."""

    def __init__(self, d_model: int, num_layers: int, num_heads: int, max_len: int, decoder: bool) -> None:
        super().__init__()
        self.decoder, self.max_len = decoder, max_len
        self.table = nn.Embedding(BUCKETS, num_heads)
        self.register_buffer("buckets", _buckets(torch.arange(1 - max_len, max_len), not decoder), persistent=False)

        def layer():
            parts = {"attention": _T5Attention(d_model, num_heads)}
            if decoder:
                parts["cross"] = _T5Attention(d_model, num_heads)
            parts["forward"] = nn.Sequential(_linear(d_model, 4 * d_model), nn.ReLU(), _linear(4 * d_model, d_model))
            norms = nn.ModuleList(RMSNorm(d_model) for _ in parts)
            return nn.ModuleList([norms, *parts.values()])

        self.layers = nn.ModuleList(layer() for _ in range(num_layers))
        self.norm = RMSNorm(d_model)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, states: torch.Tensor | None = None) -> torch.Tensor:
        """mask (B, 1, 1, T) of the input's tokens, states (B, T, D) of the encoder."""
        at = torch.arange(x.shape[1], device=x.device)
        bias = self.table(self.buckets[at - at[:, None] + self.max_len - 1]).permute(2, 0, 1)[None]
        bias = _masked(bias, at <= at[:, None] if self.decoder else mask)
        if self.decoder:
            across = _masked(bias.new_zeros(1, 1, 1, states.shape[1]), mask)
        for norms, attention, *cross, feed_forward in self.layers:
            normed = norms[0](x)
            x = x + attention(normed, normed, bias)
            if cross:
                x = x + cross[0](norms[1](x), states, across)
            x = x + feed_forward(norms[-1](x))
        return self.norm(x)


class T5Model(nn.Module):
    """T5 1.0 (Raffel et al. 2020, section 2.1), as `transformers`' T5ForConditionalGeneration with its first config.

    ValueError: D is not divisible by H.
    """

    def __init__(
        self, vocab_size: int, d_model: int = 768, num_layers: int = 12, num_heads: int = 12, max_len: int = 512
    ) -> None:
        super().__init__()
        _divides("num_heads", num_heads, "d_model", d_model)
        self.max_len = max_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.encoder = _T5Stack(d_model, num_layers, num_heads, max_len, decoder=False)
        self.decoder = _T5Stack(d_model, num_layers, num_heads, max_len, decoder=True)

    def forward(
        self,
        input_ids: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids (B, T), target_ids (B, Tt) -> logits (B, Tt, V); without target_ids the encoder's states (B, T, D).

        attention_mask (B, T) is true (1) at real tokens of input_ids. ValueError: T or Tt is more than max_len.
        """
        _fits("input_ids", input_ids, self.max_len)
        if target_ids is not None:
            _fits("target_ids", target_ids, self.max_len)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        states = self.encoder(self.embedding(input_ids.long()), mask)
        if target_ids is None:
            return states
        x = self.decoder(self.embedding(target_ids.long()), mask, states)
        return F.linear(x * x.shape[-1] ** -0.5, self.embedding.weight)


# ---------------------------------------------------------------------------------------------- Llama


class _LlamaAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.width, self.shared = d_model // num_heads, num_heads // num_kv_heads
        self.q, self.o = _linear(d_model, d_model), _linear(d_model, d_model)
        self.k, self.v = (_linear(d_model, num_kv_heads * self.width) for _ in range(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (_heads(part(x), self.width) for part in (self.q, self.k, self.v))
        q, k = (z * cos + torch.cat([-z[..., self.width // 2 :], z[..., : self.width // 2]], -1) * sin for z in (q, k))
        k, v = (z.repeat_interleave(self.shared, dim=1) for z in (k, v))  # heads 0 0 1 1
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class _LlamaLayer(nn.Module):
    """The names are those of `transformers`, without "_proj"."""

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, d_ff: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(d_model), RMSNorm(d_model)
        self.self_attn, self.mlp = _LlamaAttention(d_model, num_heads, num_kv_heads), SwiGLU(d_model, d_ff)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Llama (Touvron et al. 2023, section 2.2): a causal decoder with RMSNorm, RoPE, grouped keys and values, and SwiGLU.

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
        _divides("num_heads", num_heads, "d_model", d_model)
        _divides("num_kv_heads", num_kv_heads, "num_heads", num_heads)
        width = d_model // num_heads
        if width % 2:
            raise ValueError(f"d_model / num_heads ({d_model} / {num_heads} = {width}) is odd")
        self.max_len = max_len
        self.sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": width}
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(_LlamaLayer(d_model, num_heads, num_kv_heads, d_ff) for _ in range(num_layers))
        self.norm = RMSNorm(d_model)
        self.lm_head = _linear(d_model, vocab_size)
        # no buffer: model.half() would round it
        self.frequencies = rope_base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        self.rope_scale = 1.0

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) -> logits (B, T, V) of the token that follows each one. ValueError: T is more than max_len."""
        _fits("input_ids", input_ids, self.max_len)
        x = self.embed_tokens(input_ids.long())
        places = torch.arange(input_ids.shape[1], dtype=self.frequencies.dtype, device=x.device)
        angles = torch.outer(places, self.frequencies.to(x.device)).repeat(1, 2)
        cos, sin = ((f(angles) * self.rope_scale).to(x.dtype) for f in (torch.cos, torch.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))

    def load_huggingface(self, model: nn.Module) -> "LlamaModel":
        """Copies the weights of a transformers.LlamaForCausalLM, with its rms_norm_eps and its rotary frequencies.

        ValueError: a shape, the number of layers or of heads differs, it has biases, or hidden_act is not silu. Then nothing
        has changed: all is checked before anything is copied.
        """
        mine = dict(self.named_parameters())
        theirs = {  # a tied head counts as one of its own
            name.removeprefix("model.").replace("_proj.", "."): weight
            for name, weight in model.named_parameters(remove_duplicate=False)
        }
        if odd := sorted(mine.keys() ^ theirs.keys()):
            raise ValueError(f"model has other weights (layers or biases): {', '.join(odd[:4])}")
        for name, weight in mine.items():
            if weight.shape != theirs[name].shape:
                raise ValueError(f"{name} of model is {tuple(theirs[name].shape)}, not {tuple(weight.shape)}")
        config, rotary = model.config, model.model.rotary_emb
        heads = config.num_attention_heads
        found = {
            "num_heads": heads,
            "num_kv_heads": getattr(config, "num_key_value_heads", None) or heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        }
        if found != self.sizes or len(rotary.inv_freq) != len(self.frequencies):
            raise ValueError(f"model has {found} and {len(rotary.inv_freq)} rotary frequencies, not {self.sizes}")
        if config.hidden_act not in ("silu", "swish"):  # two names of one function
            raise ValueError(f"hidden_act of model is {config.hidden_act}, not silu")
        with torch.no_grad():
            for name, weight in mine.items():
                weight.copy_(theirs[name])
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.eps = config.rms_norm_eps
        # float32, in which transformers works out the angles
        self.frequencies = rotary.inv_freq.detach().float().cpu().clone()
        self.rope_scale = float(rotary.attention_scaling)
        return self


# ---------------------------------------------------------------------------------------------- mixture of experts


class MixtureOfExperts(nn.Module):
    """A feed-forward of E experts, of which each token uses top_k (Jiang et al. 2024, section 2.1).

    ValueError: top_k is less than 1 or more than E.
    """

    def __init__(self, d_model: int, d_ff: int, num_experts: int, top_k: int = 2) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k ({top_k}) is not from 1 to num_experts ({num_experts})")
        self.top_k = top_k
        self.router = _linear(d_model, num_experts)
        self.experts = nn.ModuleList(SwiGLU(d_model, d_ff) for _ in range(num_experts))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (..., D) -> (output like x, E · Σ_i f_i P_i: calls of expert i a token times the mean of its probability)."""
        tokens = x.reshape(-1, x.shape[-1])
        probs = F.softmax(self.router(tokens), dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        weights, chosen = probs.topk(self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        output = torch.zeros_like(tokens, dtype=probs.dtype)
        for i, expert in enumerate(self.experts):
            rows, slots = (chosen == i).nonzero(as_tuple=True)
            if len(rows):
                output = output.index_add(0, rows, (expert(tokens[rows]) * weights[rows, slots, None]).to(output.dtype))
        count = max(len(tokens), 1)
        calls = chosen.flatten().bincount(minlength=len(self.experts)) / count
        balance = len(self.experts) * (calls.to(probs.dtype) * probs.sum(0) / count).sum()
        return output.to(x.dtype).reshape(x.shape), balance
