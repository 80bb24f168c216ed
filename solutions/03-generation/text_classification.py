"""Transformers that read: a label for a text, a label for each of its tokens, the span that answers a question.

All of them are an encoder and one linear layer (Devlin et al. 2018, "BERT", section 4 and figure 4):

    input_ids (B, T) → encoder → states (B, T, D) ┬ mean over the real tokens (B, D) → Linear → a text's logits (B, C)
                                                  ├ Linear → the logits of each token (B, T, C) → decode_bio → entities
                                                  └ Linear(D, 2) → start and end logits (T,) → best_answer_span

Sentences of a batch differ in length, so the short ones are filled up on the right. What stands there must change nothing.
It can get in at two places: the attention, where real tokens would look at it, and the mean, where it would be counted.

Letters in the shapes: B batch, T length, D = d_model, C = num_classes.
"""

import torch
from torch import nn
from transformer import Encoder


def _real_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:  # solution only
    """(B, T) booleans, true at real tokens, whatever dtype the mask has."""
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    return attention_mask != 0


class TransformerClassifier(nn.Module):
    """A label for a whole text: encoder, mean over the real tokens, linear layer.

    The mean is taken where BERT takes its [CLS] token: it needs no special token, and all tokens learn from the start.

    Args:
        vocab_size: the number of tokens.
        d_model: D. ValueError if a layer's D is not divisible by num_heads.
        num_layers: layers of the encoder. With 0 the text is a bag of embeddings: the baseline to beat.
        num_heads: heads of each layer's attention.
        num_classes: C.
        max_len: the longest text.
        dropout: the probability of every dropout, in train mode; 0 drops nothing.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        num_classes: int = 2,
        max_len: int = 512,
        dropout: float = 0.1,
    ) -> None:
        # student: an encoder of your choice, and a Linear from D to the classes
        super().__init__()
        self.encoder = Encoder(vocab_size, d_model, num_layers, num_heads, 4 * d_model, max_len, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, C), not probabilities.

        attention_mask: (B, T), boolean or 0 and 1 of any dtype, true at real tokens. Padding is on the right: neither what
        stands there nor how much of it changes the logits. None means that all tokens are real, whatever their ids.

        Raises:
            ValueError: T is greater than max_len.
        """
        # student: encode with the padding hidden, then the mean over the real tokens, then the head
        real = _real_tokens(input_ids, attention_mask)  # (B, T)
        states = self.encoder(input_ids, real[:, None, None, :])  # (B, T, D); the mask is the same for all queries

        # The padding's own states are not zero: they have to leave the sum as well as the count.
        total = states.masked_fill(~real[..., None], 0.0).sum(dim=1)  # (B, D)
        count = real.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1); a text without tokens gets a mean of 0, not NaN
        return self.head(self.dropout(total / count))


class TokenClassifier(nn.Module):
    """A label for each token, as for named entities: encoder and a linear layer at every position alone.

    The arguments are TransformerClassifier's.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        num_classes: int = 2,
        max_len: int = 512,
        dropout: float = 0.1,
    ) -> None:
        # student: the same parts as in TransformerClassifier
        super().__init__()
        self.encoder = Encoder(vocab_size, d_model, num_layers, num_heads, 4 * d_model, max_len, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, C) of each token.

        attention_mask: as in TransformerClassifier. What the logits are at padded places does not matter.

        Raises:
            ValueError: T is greater than max_len.
        """
        # student: encode with the padding hidden; the head works on the states as they are
        real = _real_tokens(input_ids, attention_mask)  # (B, T)
        states = self.encoder(input_ids, real[:, None, None, :])  # (B, T, D)
        return self.head(self.dropout(states))


def decode_bio(tags: list[int], labels: list[str]) -> list[tuple[str, int, int]]:
    """The entities that a sequence of tags marks, in their order (IOB2; Tjong Kim Sang & Veenstra 1999, "Representing Text
    Chunks").

    B-X begins an entity of type X, I-X continues it, O is outside of all. A model may also produce sequences that no
    one would write: an I-X that continues no X, after an O or inside another type, starts an entity.

    Args:
        tags: the ids of T tags.
        labels: labels[id] is "O", "B-X" or "I-X" for some type X, in any order.

    Returns:
        (type, start, end) of each entity, the end exclusive: tags[start:end] are its tags.
    """
    # student: walk through the tags and remember which entity is open
    entities = []
    open_type, start = None, 0
    for t, tag in enumerate(tags):
        prefix, _, kind = labels[tag].partition("-")  # at the first "-": a type may have one, too
        if prefix == "I" and kind == open_type:
            continue
        if open_type is not None:
            entities.append((open_type, start, t))
        open_type, start = (None, t) if prefix == "O" else (kind, t)
    if open_type is not None:  # nothing comes after the last tag to close it
        entities.append((open_type, start, len(tags)))
    return entities


def best_answer_span(start_logits: torch.Tensor, end_logits: torch.Tensor, max_answer_length: int) -> tuple[int, int]:
    """The span with the greatest start_logits[start] + end_logits[end] (Devlin et al. 2018, section 4.2).

    The best start and the best end, each on its own, often do not form a span: the end may be before the start.

    Args:
        start_logits, end_logits: (T,); -inf where an answer may not start or end.
        max_answer_length: how many tokens a span may have, at least 1.

    Returns:
        (start, end), Python ints, the end inclusive: start <= end < start + max_answer_length. The first of equals.
    """
    # student: the best start + end among the pairs that are spans
    if max_answer_length < 1:
        raise ValueError(f"max_answer_length must be at least 1, not {max_answer_length}")
    T = start_logits.shape[0]
    scores = start_logits[:, None] + end_logits[None, :]  # (T, T): a row a start, a column an end
    place = torch.arange(T, device=scores.device)
    length = place[None, :] - place[:, None] + 1  # (T, T)
    allowed = (length >= 1) & (length <= max_answer_length)
    best = scores.masked_fill(~allowed, -torch.inf).argmax()  # over all pairs, row after row
    start, end = divmod(int(best), T)
    return start, end
