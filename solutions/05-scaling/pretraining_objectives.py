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
from transformer import Encoder

IGNORED = -100  # a label that does not count


def _check_probability(mask_prob: float) -> None:  # solution only
    if not 0 <= mask_prob <= 1:
        raise ValueError(f"mask_prob must be from 0 to 1, not {mask_prob}")


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # solution only
    """The mean over the labels that count; logits (..., V), labels (...)."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED)


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
        ValueError: mask_prob is below 0 or above 1.
    """

    def __init__(self, model: nn.Module | None, vocab_size: int, mask_token_id: int, mask_prob: float = 0.15) -> None:
        # student: refuse a mask_prob that is not a probability, keep the rest
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
        is chosen becomes, by a draw of its own,

            mask_token_id                                     with probability 0.8
            an id drawn uniformly from 0, 1, …, V - 1         with probability 0.1; it may be the token itself or the mask
            what it is                                        with probability 0.1

        Args:
            input_ids: (T,), (B, T) or more dimensions, int64; not changed.
            generator: draws everything; torch's own if None.

        Returns:
            masked: input_ids with these changes. labels: the original ids at all chosen places, those that stay too, and
            -100 elsewhere. Both have the shape and the dtype of input_ids.
        """
        # student: one draw for who is chosen, one for what becomes of it, one for the random ids
        shape, device = input_ids.shape, input_ids.device
        chosen = torch.rand(shape, generator=generator, device=device) < self.mask_prob
        fate = torch.rand(shape, generator=generator, device=device)
        random_ids = torch.randint(self.vocab_size, shape, generator=generator, device=device, dtype=input_ids.dtype)

        masked = input_ids.masked_fill(chosen & (fate < 0.8), self.mask_token_id)
        masked = torch.where(chosen & (fate >= 0.9), random_ids, masked)
        labels = input_ids.masked_fill(~chosen, IGNORED)
        return masked, labels

    def compute_mlm_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy over the labels that are not -100, as torch.nn.functional.cross_entropy: NaN if all are.

        Args:
            logits: (..., V), also of one place: (V,).
            labels: (...) int64; not changed.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype; that of 16-bit logits
            may be float32.
        """
        # student: flatten all dimensions but the vocabulary
        return _cross_entropy(logits, labels)


class CLMTrainer:
    """Causal language modeling: each token is predicted from those before it (Radford et al. 2018, section 3.1).

    Every position is a training example: T - 1 of them in a text of T tokens, where masking makes 0.15·T.

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
    """

    def __init__(self, model: nn.Module | None, vocab_size: int) -> None:
        # student: keep both
        self.model = model
        self.vocab_size = vocab_size

    def create_clm_targets(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids (B, T) -> inputs (B, T - 1), targets (B, T - 1): place t of the targets is token t + 1 of the text.

        No id stands for padding: 0 is a token like others.
        """
        # student: all but the last, all but the first
        return input_ids[:, :-1], input_ids[:, 1:]

    def compute_clm_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy of logits (..., V) and targets (...), place by place: it does not shift.

        Targets of -100 do not count; if all are -100, the loss is NaN, as torch.nn.functional.cross_entropy has it. The
        targets are not changed.

        Returns:
            A tensor without dimensions, through which gradients flow to the logits, in their dtype; that of 16-bit logits
            may be float32.
        """
        # student: create_clm_targets has shifted already
        return _cross_entropy(logits, targets)


# ---------------------------------------------------------------------------------------------- spans


class SpanCorruptionTrainer:
    """Span corruption (Raffel et al. 2019, "T5", sections 3.1.4 and 3.3.4; SpanBERT, Joshi et al. 2019).

    A single hidden token can often be told from its neighbours; three in a row need more of the text. T5 draws the
    lengths of its spans; here all are equally long, so that all rows of a batch stay equally long too.

    Each row of T tokens has

        n = max(1, round(T · mask_prob / span_length))        spans; round is Python's, which takes x.5 to the even number

    of exactly span_length tokens, with at least one kept token between two. Their places are random: every way in which
    all of them find room is possible, those with a span at the first or at the last token too. Rows are drawn independently.
    If T < span_length, there is one span of all T tokens. If n spans do not find room, there are as many as do:
    (T + 1) // (span_length + 1).

    Args:
        model: stored as attribute `model` and not touched; may be None.
        vocab_size: V.
        mask_token_id: what the tokens of a span become in `create_span_targets`.
        span_length: tokens in a span.
        mask_prob: about which share of the tokens is hidden.

    Raises:
        ValueError: mask_prob is below 0 or above 1, or span_length is below 1.
    """

    def __init__(
        self,
        model: nn.Module | None,
        vocab_size: int,
        mask_token_id: int,
        span_length: int = 3,
        mask_prob: float = 0.15,
    ) -> None:
        # student: refuse what cannot be, keep the rest
        _check_probability(mask_prob)
        if span_length < 1:
            raise ValueError(f"span_length must be at least 1, not {span_length}")
        self.model = model
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id
        self.span_length = span_length
        self.mask_prob = mask_prob

    def _draw(self, ids: torch.Tensor, generator: torch.Generator | None) -> tuple[torch.Tensor, int]:  # solution only
        """ids (B, T) -> where the spans begin (B, n), from left to right, and how long they are.

        With kept tokens k between them, spans stand in the k + 1 gaps before, between and behind these, no two in
        one gap: so a choice of n gaps is a choice of places, and all are equally likely.
        """
        rows, length = ids.shape
        width = min(self.span_length, length)
        room = (length + 1) // (width + 1)
        count = min(max(1, round(length * self.mask_prob / self.span_length)), room)
        kept = length - count * width
        lots = torch.rand(rows, kept + 1, generator=generator, device=ids.device)
        gaps = lots.topk(count).indices.sort().values  # (B, n): how many kept tokens stand before each span
        return gaps + width * torch.arange(count, device=ids.device), width

    def create_span_targets(
        self, input_ids: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every token of a span becomes mask_token_id: nothing moves. A token that is mask_token_id already is one like others.

        Args:
            input_ids: (B, T) or (T,) int64, T >= 1; not changed.
            generator: draws everything; torch's own if None.

        Returns:
            corrupted: input_ids with the spans hidden. labels: the original ids there, and -100 elsewhere. Both have the
            shape and the dtype of input_ids.
        """
        # student: draw where the spans begin, then fill
        ids = input_ids.reshape(-1, input_ids.shape[-1])  # (B, T)
        starts, width = self._draw(ids, generator)
        hidden = _inside(starts, width, ids.shape[1]).reshape(input_ids.shape)
        return input_ids.masked_fill(hidden, self.mask_token_id), input_ids.masked_fill(~hidden, IGNORED)

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
            input_ids: (B, T) or (T,) int64, T >= 1; not changed. It holds no sentinels; mask_token_id is a token like others.
            sentinel_start_id: the id of the first sentinel.
            generator: draws everything; torch's own if None.

        Returns:
            inputs (B, T - n·s + n), targets (B, n·(s + 1)), where s is span_length, or T if that is less; without the B if
            input_ids has none; in the dtype of input_ids.
        """
        # student: keep what is not hidden, and the first place of each span for its sentinel
        ids = input_ids.reshape(-1, input_ids.shape[-1])  # (B, T)
        starts, width = self._draw(ids, generator)
        rows, count = starts.shape
        numbers = torch.arange(count, device=ids.device, dtype=ids.dtype)
        sentinels = (sentinel_start_id + numbers).expand(rows, -1)  # (B, n)

        left_out = _inside(starts + 1, width - 1, ids.shape[1])  # (B, T): all of a span but its first token
        inputs = ids.scatter(1, starts, sentinels)[~left_out].view(rows, -1)

        places = starts[..., None] + torch.arange(width, device=ids.device)  # (B, n, span_length)
        spans = ids.gather(1, places.flatten(1)).view(rows, count, width)
        targets = torch.cat([sentinels[..., None], spans], dim=2).flatten(1)

        batch = input_ids.shape[:-1]
        return inputs.reshape(*batch, inputs.shape[1]), targets.reshape(*batch, targets.shape[1])


def _inside(starts: torch.Tensor, width: int, length: int) -> torch.Tensor:  # solution only
    """(B, T) bool: which places are within `width` from one of the starts (B, n)."""
    offset = torch.arange(length, device=starts.device) - starts[..., None]  # (B, n, T)
    return ((offset >= 0) & (offset < width)).any(dim=1)


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
    # student: what a causal model sees, or the prefix
    if prefix_length < 0:
        raise ValueError(f"prefix_length must be 0 or more, not {prefix_length}")
    position = torch.arange(length)
    return (position <= position[:, None]) | (position < prefix_length)


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
        # student: lesson 2's Encoder takes a mask; after it comes a Linear to the vocabulary
        super().__init__()
        if prefix_length < 0:
            raise ValueError(f"prefix_length must be 0 or more, not {prefix_length}")
        self.prefix_length = prefix_length
        self.max_len = 1024
        self.encoder = Encoder(vocab_size, d_model, num_layers, num_heads, 4 * d_model, self.max_len)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V), before any softmax. The model's mode stays as it is.

        Raises:
            ValueError: T is more than max_len.
        """
        # student: the mask of this length, on the device of input_ids
        mask = prefix_mask(input_ids.shape[1], self.prefix_length).to(input_ids.device)  # (T, T)
        return self.output(self.encoder(input_ids, mask))
