"""Pretraining objectives: what a model is asked to predict, made of nothing but text.

A label of -100 does not count: it is the ignore_index of torch.nn.functional.cross_entropy.
Letters in the shapes: B batch, T length, D = d_model, V vocabulary; n spans.
Everything is drawn from `generator` where one is given, from torch's own generator where none is.
"""

import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100  # a label that does not count


def _draw_device(ids: torch.Tensor, generator: torch.Generator | None) -> torch.device:
    """A generator draws on its own device only."""
    return ids.device if generator is None else generator.device


def _probability(mask_prob: float) -> None:
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob ({mask_prob}) is not from 0 to 1")


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy where labels are not -100, worked out in float32 at least, in the dtype of logits."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, logits.shape[-1])
    return F.cross_entropy(wide, labels.reshape(-1).long(), ignore_index=IGNORED).to(logits.dtype)


# ---------------------------------------------------------------------------------------------- one token at a time


class MLMTrainer:
    """Masked language modeling (Devlin et al. 2018, section 3.1).

    ValueError: mask_prob is not from 0 to 1, or mask_token_id not from 0 to V - 1.
    """

    def __init__(self, model: nn.Module | None, vocab_size: int, mask_token_id: int, mask_prob: float = 0.15) -> None:
        _probability(mask_prob)
        if not 0 <= mask_token_id < vocab_size:
            raise ValueError(f"mask_token_id ({mask_token_id}) is not from 0 to vocab_size - 1 ({vocab_size - 1})")
        self.model, self.vocab_size, self.mask_token_id, self.mask_prob = model, vocab_size, mask_token_id, mask_prob

    def create_mlm_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (...) -> masked, labels: of the chosen ones 80 % become the mask, 10 % a random id, 10 % stay."""
        like = {"size": input_ids.shape, "generator": generator, "device": _draw_device(input_ids, generator)}
        chosen, fate, other = (
            drawn.to(input_ids.device)
            for drawn in (torch.rand(**like) < self.mask_prob, torch.rand(**like), torch.randint(self.vocab_size, **like))
        )
        masked = input_ids.masked_fill(chosen & (fate < 0.8), self.mask_token_id)
        masked = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), other.to(input_ids.dtype), masked)
        return masked, input_ids.masked_fill(~chosen, IGNORED)

    def compute_mlm_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of logits (..., V) over the labels (...) that are not -100; NaN if there are none."""
        return _loss(logits, labels)


class CLMTrainer:
    """Causal language modeling: each token is predicted from those before it (Radford et al. 2018, section 3.1)."""

    def __init__(self, model: nn.Module | None, vocab_size: int) -> None:
        self.model, self.vocab_size = model, vocab_size

    def create_clm_targets(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) -> inputs (B, T - 1), targets (B, T - 1), which share no memory."""
        return input_ids[..., :-1].clone(), input_ids[..., 1:].clone()

    def compute_clm_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of logits (..., V) and targets (...), place by place: it does not shift."""
        return _loss(logits, targets)


# ---------------------------------------------------------------------------------------------- spans


class SpanCorruptionTrainer:
    """Span corruption (Raffel et al. 2019, sections 3.1.4 and 3.3.4; SpanBERT, Joshi et al. 2019) with spans of one length.

    ValueError: mask_prob is not from 0 to 1, or span_length is below 1.
    """

    def __init__(
        self,
        model: nn.Module | None,
        vocab_size: int,
        mask_token_id: int,
        span_length: int = 3,
        mask_prob: float = 0.15,
    ) -> None:
        _probability(mask_prob)
        if span_length < 1:
            raise ValueError(f"span_length ({span_length}) is below 1")
        self.model, self.vocab_size, self.mask_token_id = model, vocab_size, mask_token_id
        self.span_length, self.mask_prob = span_length, mask_prob

    def _places(self, ids: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """ids (B, T) -> (B, n, span_length): where the tokens of the spans are, from left to right.

        Of the k kept tokens' k + 1 gaps, n different ones have a span; before span i are i others.
        """
        rows, length = ids.shape
        if length < 1:
            raise ValueError(f"input_ids {tuple(ids.shape)} has no tokens")
        width = min(self.span_length, length)
        n = min(max(1, round(length * self.mask_prob / self.span_length)), (length + 1) // (width + 1))
        noise = torch.rand(rows, length - n * width + 1, generator=generator, device=_draw_device(ids, generator))
        gaps = noise.topk(n).indices.sort().values.to(ids.device)
        starts = gaps + width * torch.arange(n, device=ids.device)
        return starts[..., None] + torch.arange(width, device=ids.device)

    def create_span_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) or (T,) -> corrupted, labels: the tokens of the spans are the mask; elsewhere labels are -100."""
        ids = input_ids.reshape(-1, input_ids.shape[-1]) if input_ids.dim() == 1 else input_ids
        hidden = torch.zeros_like(ids, dtype=torch.bool).scatter(1, self._places(ids, generator).flatten(1), True)
        hidden = hidden.view(input_ids.shape)
        return input_ids.masked_fill(hidden, self.mask_token_id), input_ids.masked_fill(~hidden, IGNORED)

    def create_sentinel_targets(
        self, input_ids: torch.Tensor, sentinel_start_id: int, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) or (T,) -> inputs (B, T - n·w + n) with a sentinel for each span of w tokens, targets (B, n·(w + 1))."""
        ids = input_ids[None] if input_ids.dim() == 1 else input_ids
        places = self._places(ids, generator)
        rows, n, width = places.shape
        starts = places[..., 0]
        sentinels = (sentinel_start_id + torch.arange(n, device=ids.device)).to(ids.dtype).expand(rows, n)
        kept = torch.ones_like(ids, dtype=torch.bool).scatter(1, places.flatten(1), False).scatter(1, starts, True)
        inputs = ids.scatter(1, starts, sentinels)[kept].view(rows, ids.shape[1] - n * width + n)
        spans = ids.gather(1, places.flatten(1)).view(rows, n, width)
        targets = torch.cat([sentinels[..., None], spans], dim=-1).flatten(1)
        return (inputs[0], targets[0]) if input_ids.dim() == 1 else (inputs, targets)


# ---------------------------------------------------------------------------------------------- prefix


def prefix_mask(length: int, prefix_length: int) -> torch.Tensor:
    """(T, T) bool, rows are queries: j <= i or j < prefix_length. ValueError: prefix_length is negative."""
    for name, value in (("length", length), ("prefix_length", prefix_length)):
        if value < 0:
            raise ValueError(f"{name} ({value}) is negative")
    at = torch.arange(length)
    return (at <= at[:, None]) | (at < prefix_length)


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward, 4·D wide, without dropout."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.qkv, self.out = nn.LayerNorm(d_model), nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class PrefixLanguageModel(nn.Module):
    """A language model that reads its first prefix_length tokens in both directions, and goes on causally.

    ValueError: D is not divisible by H, or prefix_length is negative.
    """

    def __init__(
        self, vocab_size: int, d_model: int, num_layers: int, num_heads: int = 16, prefix_length: int = 64
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) is not divisible by num_heads ({num_heads})")
        if prefix_length < 0:
            raise ValueError(f"prefix_length ({prefix_length}) is negative")
        self.prefix_length, self.max_len = prefix_length, 1024
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, num_heads) for _ in range(num_layers))
        self.output = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V). ValueError: T is more than max_len."""
        length = input_ids.shape[1]
        if length > self.max_len:
            raise ValueError(f"input_ids has a length of {length}, more than max_len ({self.max_len})")
        mask = prefix_mask(length, self.prefix_length).to(input_ids.device)
        x = self.tokens(input_ids.long()) + self.positions.weight[:length]
        for layer in self.layers:
            x = layer(x, mask)
        return self.output(x)
