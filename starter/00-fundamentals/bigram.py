"""The smallest language model: the next token depends on the current one, and on nothing else.

A language model gives a probability to each next token. A bigram model (Shannon 1948, "A Mathematical Theory of
Communication", section 3) reads it off a table of counts, so training is counting and no gradient is needed. Everything
around the table is what large models do too: inputs and targets that are shifted by one, sampling one token at a time,
and perplexity as the measure of quality.

Sizes: B batch, T length, V = vocab_size.
"""

import torch


def training_pairs(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of next-token prediction: targets[..., t] is the token that follows inputs[..., t].

    Args:
        ids: (T,) or (B, T) token ids.

    Returns:
        inputs and targets, each (T - 1,) or (B, T - 1), in the dtype of ids.
    """
    # TODO(student): shift by one, wrap nothing
    raise NotImplementedError("training_pairs is not implemented yet")


class BigramLanguageModel:
    """Next-token probabilities from counted pairs, with additive smoothing.

        p(b | a) = (count(a, b) + s) / (count(a) + s · V)

    count(a, b) is how often b follows a, count(a) how often anything follows a. Without smoothing (s = 0) a pair that
    was never seen is impossible, and one such pair makes a text infinitely perplexing; s = 1 is Laplace's rule.
    Chen and Goodman 1999, "An Empirical Study of Smoothing Techniques for Language Modeling", compares better ones.

    Args:
        vocab_size: V.
        smoothing: s, at least 0.

    Raises:
        ValueError: smoothing is negative. Every method refuses token ids outside [0, V) with a ValueError.
    """

    def __init__(self, vocab_size: int, smoothing: float = 1.0) -> None:
        # TODO(student): an empty table of counts
        raise NotImplementedError("BigramLanguageModel.__init__ is not implemented yet")

    def fit(self, ids: torch.Tensor) -> "BigramLanguageModel":
        """Counts the pairs of neighbours in ids; whatever was counted before is forgotten.

        Args:
            ids: (T,) token ids.

        Returns:
            The model itself.

        Raises:
            ValueError: an id is outside [0, V).
        """
        # TODO(student): count each pair of neighbours, from zero
        raise NotImplementedError("BigramLanguageModel.fit is not implemented yet")

    def next_token_probabilities(self, token: int) -> torch.Tensor:
        """p(b | token) for every b. Without any count and smoothing the row is uniform.

        Args:
            token: a.

        Returns:
            (V,), in the default dtype.

        Raises:
            ValueError: token is outside [0, V).
        """
        # TODO(student): the formula; a uniform row for 0 / 0
        raise NotImplementedError("BigramLanguageModel.next_token_probabilities is not implemented yet")

    def generate(
        self, prompt: torch.Tensor, max_new_tokens: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Continues a prompt: each new token is drawn from the probabilities that follow the token before it.

        Args:
            prompt: (T,) int64, at least one id.
            max_new_tokens: how many tokens are drawn, N.
            generator: where the randomness comes from; torch's global generator if None.

        Returns:
            (T + N,) int64 on the prompt's device: the prompt and the new tokens.

        Raises:
            ValueError: the prompt is empty or has ids outside [0, V); max_new_tokens is negative.
        """
        # TODO(student): draw from the row of the last token, append, repeat
        raise NotImplementedError("BigramLanguageModel.generate is not implemented yet")

    def perplexity(self, ids: torch.Tensor) -> float:
        """exp(-1 / (T - 1) · Σ log p(ids[t + 1] | ids[t])) for ids (T,): how many tokens the model wavers between.

        The uniform model has V, and a model that is always sure and right has 1. A text with a transition of probability
        0 has inf.

        Raises:
            ValueError: ids has fewer than two tokens, or tokens outside [0, V).
        """
        # TODO(student): average logarithms, never multiply probabilities
        raise NotImplementedError("BigramLanguageModel.perplexity is not implemented yet")
