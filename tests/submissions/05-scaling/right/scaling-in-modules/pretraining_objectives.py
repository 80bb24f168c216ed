"""Pretraining objectives: what a model is asked to predict, made of nothing but text.

    masked      15 % of the tokens are hidden, the model sees both sides     MLMTrainer               BERT
    causal      the next token, from those before it                         CLMTrainer               GPT
    spans       whole pieces are hidden, and told one after the other        SpanCorruptionTrainer    T5
    prefix      causal, but for a beginning that sees itself both ways       PrefixLanguageModel      UniLM

A label of -100 does not count: it is the ignore_index of torch.nn.functional.cross_entropy.

Letters in the shapes: B batch, T length, D = d_model, V vocabulary; n spans.
Everything is drawn from `generator` where one is given, from torch's own generator where none is.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100  # a label that does not count


# ---------------------------------------------------------------------------------------------- common parts


@dataclass(frozen=True)
class Dice:
    """Draws from one generator, torch's own if None, and puts what is drawn on one device."""

    generator: torch.Generator | None
    device: torch.device

    @property
    def _where(self) -> dict:
        return {
            "generator": self.generator,
            "device": self.device if self.generator is None else self.generator.device,
        }

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.rand(shape, dtype=dtype, **self._where).to(self.device)

    def integers(self, end: int, shape: tuple[int, ...]) -> torch.Tensor:
        """From 0 to end - 1."""
        return torch.randint(end, shape, dtype=torch.int64, **self._where).to(self.device)


class ObjectiveTrainer:
    """What all objectives share: a model that is kept, a vocabulary, and a loss place by place."""

    def __init__(self, model: nn.Module | None, vocab_size: int) -> None:
        if not vocab_size > 0:
            raise ValueError(f"vocab_size must be positive, not {vocab_size}")
        self.model, self.vocab_size = model, vocab_size

    @staticmethod
    def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (..., V), labels (...) -> the mean cross-entropy over the labels that count."""
        if logits.shape[:-1] != labels.shape:
            raise ValueError(f"logits {tuple(logits.shape)} do not match labels {tuple(labels.shape)}")
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long(), ignore_index=IGNORED)

    @staticmethod
    def require_probability(mask_prob: float) -> None:
        if not 0 <= mask_prob <= 1:
            raise ValueError(f"mask_prob must be from 0 to 1, not {mask_prob}")

    @staticmethod
    def labels_at(chosen: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORED))


# ---------------------------------------------------------------------------------------------- one token at a time


class MLMTrainer(ObjectiveTrainer):
    """Masked language modeling (Devlin et al. 2018, "BERT", section 3.1).

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
        mask_token_id: what a hidden token becomes; from 0 to V - 1.
        mask_prob: the probability with which a token is chosen.

    Raises:
        ValueError: mask_prob is not from 0 to 1, or mask_token_id not from 0 to V - 1.
    """

    MASKED, RANDOM = 0.8, 0.1  # what becomes of a chosen token; else it stays

    def __init__(self, model: nn.Module | None, vocab_size: int, mask_token_id: int, mask_prob: float = 0.15) -> None:
        super().__init__(model, vocab_size)
        self.require_probability(mask_prob)
        if not 0 <= mask_token_id < vocab_size:
            raise ValueError(f"mask_token_id must be from 0 to {vocab_size - 1}, not {mask_token_id}")
        self.mask_token_id, self.mask_prob = mask_token_id, mask_prob

    def create_mlm_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model reads, and what it is to say.

        Args:
            input_ids: (...) int64, of any shape; not changed.
            generator: draws everything; torch's own if None.

        Returns:
            masked: input_ids with these changes. labels: the original ids at all chosen places, those that stay too, and
            -100 elsewhere. Both have the shape and the dtype of input_ids.
        """
        dice, shape = Dice(generator, input_ids.device), tuple(input_ids.shape)
        chosen = dice.uniform(shape, torch.float64) < self.mask_prob
        fate = dice.uniform(shape, torch.float64)
        others = dice.integers(self.vocab_size, shape).to(input_ids.dtype)
        hidden = chosen & (fate < self.MASKED)
        changed = chosen & ~hidden & (fate < self.MASKED + self.RANDOM)
        masked = torch.where(changed, others, input_ids).masked_fill(hidden, self.mask_token_id)
        return masked, self.labels_at(chosen, input_ids)

    def compute_mlm_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy over the labels that are not -100, as torch.nn.functional.cross_entropy.

        Args:
            logits: (..., V).
            labels: (...) int64.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype.
        """
        return self.mean_loss(logits, labels)


class CLMTrainer(ObjectiveTrainer):
    """Causal language modeling: each token is predicted from those before it (Radford et al. 2018, section 3.1).

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
    """

    def create_clm_targets(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) -> inputs (B, T - 1), targets (B, T - 1): place t of the targets is token t + 1 of the text."""
        return input_ids[..., :-1].clone(), input_ids[..., 1:].clone()

    def compute_clm_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of logits (..., V) and targets (...), place by place: it does not shift.

        Targets of -100 do not count.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype.
        """
        return self.mean_loss(logits, targets)


# ---------------------------------------------------------------------------------------------- spans


@dataclass(frozen=True)
class SpanPlan:
    """How many spans a row of `length` tokens has, and how long they are."""

    length: int
    count: int
    width: int

    @classmethod
    def of(cls, length: int, span_length: int, mask_prob: float) -> "SpanPlan":
        if length < span_length:
            return cls(length, 1, length)
        wanted = max(1, round(length * mask_prob / span_length))
        return cls(length, min(wanted, (length + 1) // (span_length + 1)), span_length)

    @property
    def kept(self) -> int:
        return self.length - self.count * self.width

    def draw(self, rows: int, dice: Dice) -> "Spans":
        """Each row's spans stand in `count` different ones of the kept + 1 gaps, all choices equally likely."""
        gaps = dice.uniform((rows, self.kept + 1), torch.float64).topk(self.count, dim=1).indices.sort(dim=1).values
        return Spans(self, gaps + self.width * torch.arange(self.count, device=dice.device))


@dataclass(frozen=True)
class Spans:
    """Places of spans in a batch: starts (B, n), ascending."""

    plan: SpanPlan
    starts: torch.Tensor

    @property
    def places(self) -> torch.Tensor:
        """(B, n · width): of all hidden tokens, from the left."""
        offsets = torch.arange(self.plan.width, device=self.starts.device)
        return (self.starts[:, :, None] + offsets).flatten(1)

    @property
    def hidden(self) -> torch.Tensor:
        """(B, T) bool."""
        nothing = torch.zeros(len(self.starts), self.plan.length, dtype=torch.bool, device=self.starts.device)
        return nothing.scatter(1, self.places, True)


class SpanCorruptionTrainer(ObjectiveTrainer):
    """Span corruption (Raffel et al. 2019, "T5", sections 3.1.4 and 3.3.4; SpanBERT, Joshi et al. 2019).

    Each row of T tokens has

        n = max(1, round(T · mask_prob / span_length))        spans; round is Python's, which takes x.5 to the even number

    of exactly span_length tokens, with at least one kept token between two. If T < span_length, there is one span of all T
    tokens. If n spans do not find room, there are as many as do: (T + 1) // (span_length + 1).

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
        mask_token_id: what the tokens of a span become in `create_span_targets`.
        span_length: tokens in a span.
        mask_prob: about which share of the tokens is hidden.

    Raises:
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
        super().__init__(model, vocab_size)
        self.require_probability(mask_prob)
        if not span_length >= 1:
            raise ValueError(f"span_length must be 1 or more, not {span_length}")
        self.mask_token_id, self.span_length, self.mask_prob = mask_token_id, span_length, mask_prob

    def create_span_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every token of a span becomes mask_token_id: nothing moves.

        Args:
            input_ids: (B, T) or (T,) int64, T >= 1; not changed.
            generator: draws everything; torch's own if None.

        Returns:
            corrupted: input_ids with the spans hidden. labels: the original ids there, and -100 elsewhere. Both have the
            shape and the dtype of input_ids.
        """
        hidden = self._draw(input_ids, generator).hidden.reshape(input_ids.shape)
        return input_ids.masked_fill(hidden, self.mask_token_id), self.labels_at(hidden, input_ids)

    def create_sentinel_targets(
        self, input_ids: torch.Tensor, sentinel_start_id: int, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every span becomes one sentinel, and the targets say what stood there (T5, figure 2).

        Args:
            input_ids: (B, T) or (T,) int64, T >= 1; not changed. It holds no sentinels.
            sentinel_start_id: the id of the first sentinel.
            generator: draws everything; torch's own if None.

        Returns:
            inputs (B, T - n·span_length + n), targets (B, n·(span_length + 1)), without the B if input_ids has none; in
            the dtype of input_ids.
        """
        spans = self._draw(input_ids, generator)
        rows, (count, width) = input_ids.reshape(-1, spans.plan.length), (spans.plan.count, spans.plan.width)
        sentinels = sentinel_start_id + torch.arange(count, dtype=rows.dtype, device=rows.device).expand(len(rows), count)

        stays = (~spans.hidden).scatter(1, spans.starts, True)
        inputs = rows.scatter(1, spans.starts, sentinels)[stays].reshape(len(rows), spans.plan.kept + count)
        pieces = rows.gather(1, spans.places).reshape(len(rows), count, width)
        targets = torch.cat([sentinels[:, :, None], pieces], dim=2).flatten(1)

        lead = input_ids.shape[:-1]
        return inputs.reshape(*lead, inputs.shape[1]), targets.reshape(*lead, targets.shape[1])

    def _draw(self, input_ids: torch.Tensor, generator: torch.Generator | None) -> Spans:
        if input_ids.dim() not in (1, 2) or input_ids.shape[-1] < 1:
            raise ValueError(f"input_ids must be (B, T) or (T,) with T >= 1, not {tuple(input_ids.shape)}")
        plan = SpanPlan.of(input_ids.shape[-1], self.span_length, self.mask_prob)
        rows = input_ids.shape[0] if input_ids.dim() == 2 else 1
        return plan.draw(rows, Dice(generator, input_ids.device))


# ---------------------------------------------------------------------------------------------- prefix


def prefix_mask(length: int, prefix_length: int) -> torch.Tensor:
    """The mask of a prefix language model (Raffel et al. 2019, figure 4, right; Dong et al. 2019, "UniLM").

    Args:
        length: T.
        prefix_length: 0 gives the causal mask; length or more gives True everywhere.

    Returns:
        (T, T) bool; True means "may attend", rows are queries.

    Raises:
        ValueError: prefix_length is negative.
    """
    for name, number in (("length", length), ("prefix_length", prefix_length)):
        if number < 0:
            raise ValueError(f"{name} must not be negative: {number}")
    places = torch.arange(length)
    return (places <= places[:, None]) | (places < prefix_length)


class MaskedSelfAttention(nn.Module):
    """Attention of H heads; mask (T, T), True where a query (row) may attend."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2))


class PrefixLayer(nn.Module):
    """A pre-norm layer of attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(d_model), MaskedSelfAttention(d_model, num_heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feed_forward(x)


class PrefixLanguageModel(nn.Module):
    """A language model that reads its first prefix_length tokens in both directions, and goes on causally.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers, each with weights of its own.
        num_heads: H.
        prefix_length: how many tokens are the prefix. A shorter text is all prefix: it is seen in both directions.

    Attributes:
        max_len: the longest text, at least 1024.

    Raises:
        ValueError: D is not divisible by H, or prefix_length is negative.
    """

    def __init__(
        self, vocab_size: int, d_model: int, num_layers: int, num_heads: int = 16, prefix_length: int = 64
    ) -> None:
        for name, size in (("vocab_size", vocab_size), ("d_model", d_model), ("num_heads", num_heads)):
            if not size > 0:
                raise ValueError(f"{name} must be positive, not {size}")
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) is not divisible by num_heads ({num_heads})")
        if prefix_length < 0:
            raise ValueError(f"prefix_length must not be negative: {prefix_length}")
        super().__init__()
        self.prefix_length, self.max_len = prefix_length, 1024
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.places = nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList(PrefixLayer(d_model, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        length = input_ids.shape[-1]
        if length > self.max_len:
            raise ValueError(f"input_ids has {length} tokens, more than max_len ({self.max_len})")
        mask = prefix_mask(length, self.prefix_length).to(input_ids.device)
        x = self.tokens(input_ids.long()) + self.places(torch.arange(length, device=input_ids.device))
        for layer in self.layers:
            x = layer(x, mask)
        return self.output(self.norm(x))
