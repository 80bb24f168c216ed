"""Pretraining objectives: what a model is asked to predict, made of nothing but text.

    masked      15 % of the tokens are hidden, the model sees both sides     MLMTrainer               BERT
    causal      the next token, from those before it                         CLMTrainer               GPT
    spans       whole pieces are hidden, and told one after the other        SpanCorruptionTrainer    T5
    prefix      causal, but for a beginning that sees itself both ways       PrefixLanguageModel      UniLM

A label of -100 does not count: it is the ignore_index of torch.nn.functional.cross_entropy.

Letters in the shapes: B batch, T length, D = d_model, V vocabulary; n spans.
Everything is drawn from `generator` where one is given, from torch's own generator where none is.
"""

import torch
import torch.nn.functional as F
from torch import nn

IGNORED = -100  # a label that does not count


def _check_probability(mask_prob: float) -> None:
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob must be from 0 to 1, not {mask_prob}")


def _uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """Numbers from 0 to 1, drawn on the generator's own device, which may not be that of the ids."""
    where = device if generator is None else generator.device
    drawn = torch.rand(shape, generator=generator, device=where, dtype=torch.float64)
    return drawn.to(device)


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor, name: str) -> torch.Tensor:
    """The mean cross-entropy of logits (..., V) and labels (...), place by place."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"{name} of the shape {tuple(labels.shape)} do not fit logits of the shape {tuple(logits.shape)}")
    vocab_size = logits.shape[-1]
    rows = logits.reshape(-1, vocab_size)
    return F.cross_entropy(rows, labels.reshape(-1).long(), ignore_index=IGNORED)


# ---------------------------------------------------------------------------------------------- one token at a time


class MLMTrainer:
    """Masked language modeling (Devlin et al. 2018, "BERT", section 3.1).

    Were each chosen token hidden, the model would learn to look at nothing but the masks, which no text has later on. So
    some chosen tokens become a random one and some stay: every token might have to be predicted.

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
        mask_token_id: what a hidden token becomes; from 0 to V - 1.
        mask_prob: the probability with which a token is chosen.

    Raises:
        ValueError: mask_prob is not from 0 to 1.
    """

    def __init__(self, model: nn.Module | None, vocab_size: int, mask_token_id: int, mask_prob: float = 0.15) -> None:
        _check_probability(mask_prob)
        self.model = model
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.mask_prob = mask_prob

    def create_mlm_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model reads, and what it is to say.

        Each token is chosen with mask_prob, whatever it is, wherever it stands and whatever happens to others. One that
        is chosen becomes

            mask_token_id                                     with probability 0.8
            an id drawn uniformly from 0, 1, …, V - 1         with probability 0.1; it may be the token itself or the mask
            what it is                                        with probability 0.1

        Args:
            input_ids: (...) int64, of any shape; not changed.
            generator: draws everything; torch's own if None.

        Returns:
            masked: input_ids with these changes. labels: the original ids at all chosen places, those that stay too, and
            -100 elsewhere. Both have the shape and the dtype of input_ids.
        """
        shape = tuple(input_ids.shape)
        device = input_ids.device
        chosen = _uniform(shape, device, generator) < self.mask_prob
        fate = _uniform(shape, device, generator)
        where = device if generator is None else generator.device
        random_ids = torch.randint(0, self.vocab_size, shape, generator=generator, device=where)
        random_ids = random_ids.to(device=device, dtype=input_ids.dtype)

        becomes_mask = chosen & (fate < 0.8)
        becomes_random = chosen & (fate >= 0.8) & (fate < 0.9)
        masked = input_ids.clone()
        masked = masked.masked_fill(becomes_mask, self.mask_token_id)
        masked = torch.where(becomes_random, random_ids, masked)
        labels = input_ids.masked_fill(~chosen, IGNORED)
        return masked, labels

    def compute_mlm_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy over the labels that are not -100, as torch.nn.functional.cross_entropy.

        Args:
            logits: (..., V).
            labels: (...) int64.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype.
        """
        return _mean_loss(logits, labels, "labels")


class CLMTrainer:
    """Causal language modeling: each token is predicted from those before it (Radford et al. 2018, section 3.1).

    Every position is a training example: T - 1 of them in a text of T tokens, where masking makes 0.15·T.

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
    """

    def __init__(self, model: nn.Module | None, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size

    def create_clm_targets(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) -> inputs (B, T - 1), targets (B, T - 1): place t of the targets is token t + 1 of the text."""
        inputs = input_ids[..., :-1].clone()
        targets = input_ids[..., 1:].clone()
        return inputs, targets

    def compute_clm_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of logits (..., V) and targets (...), place by place: it does not shift.

        Targets of -100 do not count.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype.
        """
        return _mean_loss(logits, targets, "targets")


# ---------------------------------------------------------------------------------------------- spans


class SpanCorruptionTrainer:
    """Span corruption (Raffel et al. 2019, "T5", sections 3.1.4 and 3.3.4; SpanBERT, Joshi et al. 2019).

    A single hidden token can often be told from its neighbours; three in a row need more of the text. T5 draws the
    lengths of its spans; here all are equally long, so that all rows of a batch stay equally long too.

    Each row of T tokens has

        n = max(1, round(T · mask_prob / span_length))        spans; round is Python's, which takes x.5 to the even number

    of exactly span_length tokens, with at least one kept token between two. Their places are random: a span may begin
    wherever it and the others find room, the first and the last token included. Rows are drawn independently.
    If T < span_length, there is one span of all T tokens. If n spans do not find room, there are as many as do:
    (T + 1) // (span_length + 1).

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
        _check_probability(mask_prob)
        if not span_length >= 1:
            raise ValueError(f"span_length must be at least 1, not {span_length}")
        self.model = model
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.span_length = span_length
        self.mask_prob = mask_prob

    def _as_rows(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, T) or (T,) -> (B, T)."""
        if input_ids.dim() not in (1, 2):
            raise ValueError(f"input_ids must be (B, T) or (T,), not {tuple(input_ids.shape)}")
        if input_ids.shape[-1] < 1:
            raise ValueError(f"input_ids of the shape {tuple(input_ids.shape)} have no token")
        return input_ids[None] if input_ids.dim() == 1 else input_ids

    def _draw_starts(self, rows: torch.Tensor, generator: torch.Generator | None) -> tuple[torch.Tensor, int]:
        """rows (B, T) -> where the spans begin (B, n), from left to right, and how long each is."""
        batch, length = rows.shape
        if length < self.span_length:
            number, width = 1, length
        else:
            width = self.span_length
            wanted = max(1, round(length * self.mask_prob / width))
            room = (length + 1) // (width + 1)
            number = min(wanted, room)

        # The kept tokens have one gap more than there are of them; each span takes a gap of its own.
        kept = length - number * width
        lots = _uniform((batch, kept + 1), rows.device, generator)
        gaps = lots.topk(number, dim=1).indices.sort(dim=1).values  # (B, n): so many kept tokens stand before
        spans_before = torch.arange(number, device=rows.device)
        starts = gaps + spans_before * width
        return starts, width

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
        rows = self._as_rows(input_ids)
        starts, width = self._draw_starts(rows, generator)
        hidden = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        for offset in range(width):
            hidden.scatter_(1, starts + offset, True)
        corrupted = rows.masked_fill(hidden, self.mask_token_id)
        labels = rows.masked_fill(~hidden, IGNORED)
        return corrupted.reshape(input_ids.shape), labels.reshape(input_ids.shape)

    def create_sentinel_targets(
        self, input_ids: torch.Tensor, sentinel_start_id: int, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every span becomes one sentinel, and the targets say what stood there (T5, figure 2).

            text      Thank you for inviting me to your party last week
            inputs    Thank you <0> me to <1> week
            targets   <0> for inviting <1> your party last                  without T5's closing sentinel

        Span i from the left, counted from 0 in each row, becomes sentinel_start_id + i. With the spans of the targets in
        the place of the sentinels, the inputs are the text again.

        Args:
            input_ids: (B, T) or (T,) int64, T >= 1; not changed. It holds no sentinels.
            sentinel_start_id: the id of the first sentinel.
            generator: draws everything; torch's own if None.

        Returns:
            inputs (B, T - n·span_length + n), targets (B, n·(span_length + 1)), without the B if input_ids has none; in
            the dtype of input_ids.
        """
        rows = self._as_rows(input_ids)
        starts, width = self._draw_starts(rows, generator)
        batch, length = rows.shape
        number = starts.shape[1]
        numbers = torch.arange(number, dtype=rows.dtype, device=rows.device)
        sentinels = (sentinel_start_id + numbers).expand(batch, number)  # (B, n)

        # Inputs: a sentinel at the first place of each span; its other places go.
        with_sentinels = rows.scatter(1, starts, sentinels)
        stays = torch.ones(rows.shape, dtype=torch.bool, device=rows.device)
        for offset in range(1, width):
            stays.scatter_(1, starts + offset, False)
        inputs_length = length - number * width + number
        inputs = with_sentinels[stays].reshape(batch, inputs_length)

        # Targets: a column of sentinels, then the columns of what stood there, span by span.
        columns = [sentinels]
        for offset in range(width):
            columns.append(rows.gather(1, starts + offset))
        targets = torch.stack(columns, dim=2).reshape(batch, number * (width + 1))

        if input_ids.dim() == 1:
            return inputs[0], targets[0]
        return inputs, targets


# ---------------------------------------------------------------------------------------------- prefix


def prefix_mask(length: int, prefix_length: int) -> torch.Tensor:
    """The mask of a prefix language model (Raffel et al. 2019, figure 4, right; Dong et al. 2019, "UniLM").

    Position i may attend to j if j <= i, as in a causal model, or if j < prefix_length: all positions see all of the
    prefix, which so sees itself in both directions.

    Args:
        length: T.
        prefix_length: 0 gives the causal mask; length or more gives True everywhere.

    Returns:
        (T, T) bool; True means "may attend", rows are queries.

    Raises:
        ValueError: prefix_length is negative.
    """
    if prefix_length < 0:
        raise ValueError(f"prefix_length must not be negative, but is {prefix_length}")
    positions = torch.arange(length)
    queries = positions[:, None]
    keys = positions[None, :]
    is_past = keys <= queries
    is_prefix = keys < prefix_length
    return is_past | is_prefix


class _MaskedLayer(nn.Module):
    """Attention under a mask, then a feed-forward; each behind a norm, each added to what came in."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        self.ff_norm = nn.LayerNorm(d_model)
        self.wide = nn.Linear(d_model, 4 * d_model)
        self.narrow = nn.Linear(4 * d_model, d_model)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, d_model = x.shape
        return x.reshape(batch, length, self.num_heads, d_model // self.num_heads).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(x)
        q = self._heads(self.query(normed))
        k = self._heads(self.key(normed))
        v = self._heads(self.value(normed))
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~mask, float("-inf"))  # each position sees itself at least
        weights = torch.softmax(scores, dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        normed = self.ff_norm(x)
        return x + self.narrow(F.gelu(self.wide(normed)))


class PrefixLanguageModel(nn.Module):
    """A language model that reads its first prefix_length tokens in both directions, and goes on causally.

    It is lesson 2's Encoder with another mask; the form of layers, positions and output is up to you. The order of the
    tokens counts, those of the prefix among them.

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
        super().__init__()
        if num_heads < 1 or d_model % num_heads != 0:
            raise ValueError(f"d_model {d_model} is not divisible by num_heads {num_heads}")
        if prefix_length < 0:
            raise ValueError(f"prefix_length must not be negative, but is {prefix_length}")
        self.prefix_length = prefix_length
        self.max_len = 1024
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_MaskedLayer(d_model, num_heads))
        self.last_norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        length = input_ids.shape[1]
        if length > self.max_len:
            raise ValueError(f"input_ids has {length} tokens, more than max_len {self.max_len}")
        device = input_ids.device
        mask = prefix_mask(length, self.prefix_length).to(device)
        places = torch.arange(length, device=device)
        x = self.tokens(input_ids) + self.positions(places)
        for layer in self.layers:
            x = layer(x, mask)
        return self.output(self.last_norm(x))
