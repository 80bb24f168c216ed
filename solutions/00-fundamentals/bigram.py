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
    # student: shift by one, wrap nothing
    return ids[..., :-1], ids[..., 1:]


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
        # student: an empty table of counts
        if smoothing < 0:
            raise ValueError(f"smoothing={smoothing} is negative")
        self.vocab_size = vocab_size
        self.smoothing = smoothing
        self._count = torch.zeros(vocab_size, vocab_size, dtype=torch.int64)  # (V, V): row a, column b

    def fit(self, ids: torch.Tensor) -> "BigramLanguageModel":
        """Counts the pairs of neighbours in ids; whatever was counted before is forgotten.

        Args:
            ids: (T,) token ids.

        Returns:
            The model itself.

        Raises:
            ValueError: an id is outside [0, V).
        """
        # student: count each pair of neighbours, from zero
        self._check(ids, "ids")
        first, second = training_pairs(ids)
        V = self.vocab_size
        # Each pair is one number below V², so that counting pairs is counting numbers.
        pair = (first * V + second).reshape(-1).cpu()
        self._count = torch.bincount(pair, minlength=V * V).reshape(V, V)
        return self

    def next_token_probabilities(self, token: int) -> torch.Tensor:
        """p(b | token) for every b. Without any count and smoothing the row is uniform.

        Args:
            token: a.

        Returns:
            (V,), in the default dtype.

        Raises:
            ValueError: token is outside [0, V).
        """
        # student: the formula; a uniform row for 0 / 0
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token={token} is outside [0, {self.vocab_size})")
        return self._rows(token).to(torch.get_default_dtype())

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
        # student: draw from the row of the last token, append, repeat
        self._check(prompt, "prompt")
        if prompt.numel() == 0:
            raise ValueError("prompt is empty: it needs a token to start from")
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={max_new_tokens} is negative")
        device = prompt.device if generator is None else generator.device
        token, new = int(prompt[-1]), []
        for _ in range(max_new_tokens):
            probabilities = self._rows(token).to(device)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
            new.append(token)
        return torch.cat([prompt, torch.tensor(new, dtype=prompt.dtype, device=prompt.device)])

    def perplexity(self, ids: torch.Tensor) -> float:
        """exp(-1 / (T - 1) · Σ log p(ids[t + 1] | ids[t])) for ids (T,): how many tokens the model wavers between.

        The uniform model has V, and a model that is always sure and right has 1. A text with a transition of probability
        0 has inf.

        Raises:
            ValueError: ids has fewer than two tokens, or tokens outside [0, V).
        """
        # student: average logarithms, never multiply probabilities
        self._check(ids, "ids")
        if ids.numel() < 2:
            raise ValueError(f"ids has {ids.numel()} tokens: a transition takes two")
        first, second = (tokens.cpu() for tokens in training_pairs(ids))
        p = self._rows(slice(None))[first, second]  # (T - 1,): of the transitions that happened
        # A sum of logarithms: the product of a few hundred probabilities would be 0 in floating point.
        return (-p.log().mean()).exp().item()  # log 0 = -inf makes it inf

    def _rows(self, tokens: int | slice) -> torch.Tensor:  # solution only
        """p(· | token) in float64: (V,) for one token, (V, V) for the slice of all."""
        weights = self._count[tokens].double() + self.smoothing
        total = weights.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, weights / total, 1 / self.vocab_size)  # 0 / 0 where nothing was counted

    def _check(self, ids: torch.Tensor, name: str) -> None:  # solution only
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.numel():
            raise ValueError(f"{name} holds {int(outside[0])}, which is outside [0, {self.vocab_size})")
