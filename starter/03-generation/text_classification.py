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
        # TODO(student): an encoder of your choice, and a Linear from D to the classes
        raise NotImplementedError("TransformerClassifier.__init__ is not implemented yet")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, C), not probabilities.

        attention_mask: (B, T), boolean or 0 and 1 of any dtype, true at real tokens. Padding is on the right: neither what
        stands there nor how much of it changes the logits. None means that all tokens are real, whatever their ids.

        Raises:
            ValueError: T is greater than max_len.
        """
        # TODO(student): encode with the padding hidden, then the mean over the real tokens, then the head
        raise NotImplementedError("TransformerClassifier.forward is not implemented yet")


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
        # TODO(student): the same parts as in TransformerClassifier
        raise NotImplementedError("TokenClassifier.__init__ is not implemented yet")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, C) of each token.

        attention_mask: as in TransformerClassifier. What the logits are at padded places does not matter.

        Raises:
            ValueError: T is greater than max_len.
        """
        # TODO(student): encode with the padding hidden; the head works on the states as they are
        raise NotImplementedError("TokenClassifier.forward is not implemented yet")


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
    # TODO(student): walk through the tags and remember which entity is open
    raise NotImplementedError("decode_bio is not implemented yet")


def best_answer_span(start_logits: torch.Tensor, end_logits: torch.Tensor, max_answer_length: int) -> tuple[int, int]:
    """The span with the greatest start_logits[start] + end_logits[end] (Devlin et al. 2018, section 4.2).

    The best start and the best end, each on its own, often do not form a span: the end may be before the start.

    Args:
        start_logits, end_logits: (T,); -inf where an answer may not start or end.
        max_answer_length: how many tokens a span may have, at least 1.

    Returns:
        (start, end), Python ints, the end inclusive: start <= end < start + max_answer_length. The first of equals.
    """
    # TODO(student): the best start + end among the pairs that are spans
    raise NotImplementedError("best_answer_span is not implemented yet")
