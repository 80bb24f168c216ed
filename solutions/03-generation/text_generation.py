"""Text generation: a language model gives a distribution of the next token, and this module makes text of it.

A model is any callable that maps ids (B, T) to logits (B, T, V); the last logits say what comes next. From there:

    filters        remove unlikely tokens                 filter_top_k, filter_top_p, filter_min_p
    penalty        makes what was said less likely        apply_repetition_penalty
    sampling       draws from what is left                sample_next_token
    search         looks for one likely sequence          greedy_search, beam_search
    speculation    asks a large model less often          speculative_sample
    generators     put the parts together                 GPTTextGenerator, HuggingFaceTextGenerator,
                                                          CreativeTextGenerator

`max_length` always counts the prompt. A prompt that leaves no room, and a max_length above the model's `max_len`, if
it has one, are a ValueError before the model is asked anything.

Letters in the shapes: B batch, T length, T0 length of the prompt, V vocabulary, K beams, N draft tokens of a round.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformer import GPTModel

# ---------------------------------------------------------------------------------------------- filters


def filter_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keeps the k greatest logits of each row (Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.1).

    Args:
        logits: (B, V).
        k: at least 1; if it is more than V all tokens stay.

    Returns:
        (B, V), with -inf where a token was removed. Tokens that tie with the k-th stay.

    Raises:
        ValueError: k is less than 1.
    """
    # student: find the k-th greatest of each row; what is less becomes -inf
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < kth, -torch.inf)


def filter_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Nucleus: the fewest most likely tokens whose probabilities reach p (Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration", equation 2). The token that crosses p stays, so there is always one.

    Args:
        logits: (B, V).
        p: more than 0 and at most 1.

    Returns:
        (B, V), with -inf where a token was removed.

    Raises:
        ValueError: p is outside (0, 1].
    """
    # student: sort, sum up the softmax, remove what comes after the token that crosses p
    if not 0 < p <= 1:
        raise ValueError(f"p must be more than 0 and at most 1, not {p}")
    if p == 1:
        return logits.clone()  # a sum of many probabilities may pass 1 before its last term, by rounding
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)  # (B, V) both
    mass_before = probs.cumsum(dim=-1) - probs  # of all tokens that are more likely
    removed = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, mass_before >= p)  # back in the ids' order
    return logits.masked_fill(removed, -torch.inf)


def filter_min_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keeps the tokens with at least p times the probability of the likeliest (Nguyen et al. 2024, "Turning Up the
    Heat: Min-p Sampling", section 3). A sure model leaves few tokens, an unsure one many.

    Args:
        logits: (B, V).
        p: from 0 to 1.

    Returns:
        (B, V), with -inf where a token was removed.

    Raises:
        ValueError: p is outside [0, 1].
    """
    # student: the threshold is p times the greatest probability of the row
    if not 0 <= p <= 1:
        raise ValueError(f"p must be from 0 to 1, not {p}")
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), -torch.inf)


def apply_repetition_penalty(logits: torch.Tensor, ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Makes the tokens that were there before less likely (after Keskar et al. 2019, "CTRL", section 4.1).

    CTRL divides the logits of these tokens by the penalty, which makes one with a negative logit likelier. The rule
    here is that of `transformers`: a positive logit is divided and a negative one multiplied, so that both go down. A
    token counts once, however often it occurs.

    Args:
        logits: (B, V).
        ids: (B, T), the tokens that were there before.
        penalty: more than 0; 1 changes nothing.

    Returns:
        (B, V).

    Raises:
        ValueError: penalty is not more than 0.
    """
    # student: divide positive logits, multiply negative ones
    if penalty <= 0:
        raise ValueError(f"penalty must be more than 0, not {penalty}")
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)  # (B, V)
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


# ---------------------------------------------------------------------------------------------- sampling


def sample_next_token(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draws a token for each row: first the temperature, then top-k, then top-p of what top-k has left.

    Args:
        logits: (B, V).
        temperature: what logits are divided by; less than 1 sharpens.
        top_k, top_p: as k and p of the filters; None switches a filter off.
        generator: a torch.Generator to draw from; torch's own if None.

    Returns:
        (B,) int64.

    Raises:
        ValueError: temperature is not more than 0, top_k is less than 1, or top_p is outside (0, 1].
    """
    # student: temperature, top-k, top-p, softmax, multinomial
    if temperature <= 0:
        raise ValueError(f"temperature must be more than 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p}")

    logits = logits / temperature
    if top_k is not None:
        logits = filter_top_k(logits, top_k)
    if top_p is not None:
        logits = filter_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


# ---------------------------------------------------------------------------------------------- search


def _check_lengths(prompt_length: int, max_length: int, max_len: int | None) -> None:  # solution only
    """Refuses what could only go wrong later. max_len: of the model, None if it has none."""
    if prompt_length >= max_length:
        raise ValueError(f"max_length={max_length} leaves no room: the prompt has {prompt_length} tokens")
    if max_len is not None and max_length > max_len:
        raise ValueError(f"max_length={max_length} is more than the model's max_len={max_len}")


def _max_len(model: Callable[[torch.Tensor], torch.Tensor]) -> int | None:  # solution only
    return getattr(model, "max_len", None)  # a plain function has none


def _decode(
    next_tokens: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, max_length: int, eos_id: int | None
) -> torch.Tensor:  # solution only
    """Appends next_tokens(ids) -> (B,) until all rows have ended: the loop of greedy search and of sampling."""
    ended = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)  # an eos in the prompt ends nothing
    while ids.shape[1] < max_length and not ended.all():
        tokens = next_tokens(ids)  # (B,)
        if eos_id is not None:
            tokens = tokens.masked_fill(ended, eos_id)
            ended = ended | (tokens == eos_id)
        ids = torch.cat([ids, tokens[:, None]], dim=1)
    return ids


@torch.no_grad()
def greedy_search(
    model: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, max_length: int, eos_id: int | None = None
) -> torch.Tensor:
    """The most likely token at each step.

    Args:
        model: ids (B, T) -> logits (B, T, V).
        ids: the prompts (B, T0).
        max_length: the longest result, prompt included.
        eos_id: a token that ends its row once it is generated; None means none does.

    Returns:
        (B, <= max_length), as wide as the longest row, shorter ones filled with eos_id.

    Raises:
        ValueError: T0 >= max_length, or max_length is more than model.max_len, if model has one.
    """
    # student: append the argmax of the last logits, again and again
    _check_lengths(ids.shape[1], max_length, _max_len(model))
    return _decode(lambda ids: model(ids)[:, -1].argmax(dim=-1), ids, max_length, eos_id)


def _pick(sequences: torch.Tensor, index: torch.Tensor) -> torch.Tensor:  # solution only
    """sequences (B, M, T), index (B, K) -> (B, K, T): the chosen sequences of each row."""
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[-1]))


@torch.no_grad()
def beam_search(
    model: Callable[[torch.Tensor], torch.Tensor],
    ids: torch.Tensor,
    num_beams: int,
    max_length: int,
    eos_id: int | None = None,
    length_penalty: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps the num_beams likeliest beginnings of each row, one token longer at each step (Graves 2012, "Sequence
    Transduction with Recurrent Neural Networks"). Dividing by a power of the length is one of the ways that Wu et al.
    2016, "GNMT", section 7, compare; the one that they choose in the end is another.

    A step, as in `transformers`' generate(num_beams=…, early_stopping=False):

    1. Take the best 2 · num_beams of all num_beams · V ways to go on, by log-likelihood.
    2. Those among the best num_beams that end, with eos or at max_length, are finished: log-likelihood of their
       generated tokens, eos included, / their number ** length_penalty. The num_beams best finished ones are kept.
    3. The best num_beams that do not end go on.
    4. A row is done when it has num_beams finished ones and its best beam, with its likelihood / its number of tokens
       so far ** length_penalty, is not better than the worst of them.

    Args:
        model, ids, max_length, eos_id: as in greedy_search.
        num_beams: K, at least 1.
        length_penalty: the power of the length by which log-likelihoods are divided.

    Returns:
        The best finished sequence of each row: ids (B, <= max_length), as wide as the longest of them and filled up with
        eos_id, and their scores (B,).

    Raises:
        ValueError: num_beams is less than 1; and as in greedy_search.
    """
    # student: keep the best num_beams beams; finished ones go to a list of their own
    _check_lengths(ids.shape[1], max_length, _max_len(model))
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, not {num_beams}")
    rows, prompt_length = ids.shape
    filler = 0 if eos_id is None else eos_id

    beams = ids[:, None].expand(rows, num_beams, prompt_length)  # (B, K, T)
    scores = ids.new_zeros(rows, num_beams, dtype=torch.float32)  # log-likelihoods (B, K)
    scores[:, 1:] = -torch.inf  # all beams of a row are still the same: only the first one counts
    finished = ids.new_full((rows, num_beams, max_length), filler)  # (B, K, max_length), the best first
    finished_scores = torch.full_like(scores, -torch.inf)  # (B, K)
    done = ids.new_zeros(rows, dtype=torch.bool)

    for length in range(prompt_length + 1, max_length + 1):
        # 1. The best 2K of the K · V ways to go on: at most K of them end, so at least K are left to go on.
        log_probs = model(beams.reshape(rows * num_beams, -1))[:, -1].float().log_softmax(dim=-1)  # (B·K, V)
        vocab_size = log_probs.shape[-1]
        totals = scores[..., None] + log_probs.view(rows, num_beams, vocab_size)  # (B, K, V)
        best, places = totals.flatten(1).topk(min(2 * num_beams, num_beams * vocab_size), dim=-1)  # (B, 2K)
        tokens = places % vocab_size
        candidates = torch.cat([_pick(beams, places // vocab_size), tokens[..., None]], dim=-1)  # (B, 2K, T)
        ends = torch.zeros_like(tokens, dtype=torch.bool) if eos_id is None else tokens == eos_id
        if length == max_length:
            ends = torch.ones_like(ends)

        # 2. Those among the best K that end compete with those that ended before.
        size = (length - prompt_length) ** length_penalty
        new = ends.clone()
        new[:, num_beams:] = False
        new[done] = False
        new_scores = (best / size).masked_fill(~new, -torch.inf)
        finished_scores, chosen = torch.cat([finished_scores, new_scores], dim=1).topk(num_beams, dim=-1)
        filled = nn.functional.pad(candidates, (0, max_length - length), value=filler)  # (B, 2K, max_length)
        finished = _pick(torch.cat([finished, filled], dim=1), chosen)

        # 3. The best K that do not end go on.
        scores, chosen = best.masked_fill(ends, -torch.inf).topk(num_beams, dim=-1)
        beams = _pick(candidates, chosen)

        # 4. finished_scores[:, -1] is -inf as long as fewer than K have finished.
        done = done | (scores[:, 0] / size <= finished_scores[:, -1])
        if done.all():
            break

    best_ids = finished[:, 0]  # (B, max_length)
    if eos_id is None:
        return best_ids, finished_scores[:, 0]
    generated_eos = best_ids[:, prompt_length:] == eos_id  # an eos in the prompt ends nothing
    tokens_before = (generated_eos.cumsum(dim=1) == 0).sum(dim=1)  # (B,)
    width = min(prompt_length + int(tokens_before.max()) + 1, max_length)
    return best_ids[:, :width], finished_scores[:, 0]


# ---------------------------------------------------------------------------------------------- speculation


class SpeculativeStats(NamedTuple):
    """What happened in speculative_sample.

    Attributes:
        accepted: accepted / proposed draft tokens; 0.0 if there was no room to propose any.
    """

    accepted: float


@torch.no_grad()
def speculative_sample(
    target: Callable[[torch.Tensor], torch.Tensor],
    draft: Callable[[torch.Tensor], torch.Tensor],
    ids: torch.Tensor,
    max_length: int,
    num_draft_tokens: int = 4,
    generator: torch.Generator | None = None,
    return_stats: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, SpeculativeStats]:
    """Samples from target with fewer calls of it (Leviathan et al. 2023, "Fast Inference from Transformers via
    Speculative Decoding", algorithm 1). The result is distributed as if each token were drawn from target's softmax.

    A round: draft generates num_draft_tokens tokens with probabilities q, target gives p at all of them in one call.
    A token x is accepted with probability min(1, p(x) / q(x)). The first one that is not is replaced by a draw from
    max(0, p - q), normalized, and what follows it is dropped. If all are accepted, target's last p gives one more.

    Args:
        target, draft: ids (B, T) -> logits (B, T, V).
        ids: the prompts (B, T0).
        max_length: the length of the result, prompt included.
        num_draft_tokens: at least 1.
        generator: a torch.Generator for everything that is drawn.
        return_stats: whether SpeculativeStats are returned too.

    Returns:
        ids (B, max_length); with return_stats=True a pair of them and SpeculativeStats.

    Raises:
        ValueError: num_draft_tokens is less than 1, T0 >= max_length, or max_length is more than the max_len of a model
            that has one.
    """
    # student: the draft proposes, one call of the target judges, the first rejected token is drawn from (p - q)⁺
    for model in (target, draft):
        _check_lengths(ids.shape[1], max_length, _max_len(model))
    if num_draft_tokens < 1:
        raise ValueError(f"num_draft_tokens must be at least 1, not {num_draft_tokens}")

    accepted = proposed = 0
    while ids.shape[1] < max_length:
        room = max_length - ids.shape[1]
        drafted, q = _propose(draft, ids, min(num_draft_tokens, room - 1), generator)  # the target adds one itself
        p = target(drafted)[:, ids.shape[1] - 1 :].softmax(dim=-1)  # (B, N + 1, V), the last: after all draft tokens
        tokens = drafted[:, ids.shape[1] :]  # (B, N)
        counts = _count_accepted(tokens, p, q, generator)  # (B,)
        ids = _go_on(ids, tokens, counts, p, q, generator)
        accepted += int(counts.sum())
        proposed += tokens.numel()
    if return_stats:
        return ids, SpeculativeStats(accepted / max(proposed, 1))
    return ids


def _propose(
    draft: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, count: int, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor | float]:  # solution only
    """ids with count tokens of the draft (B, T + N), and the probabilities they were drawn with (B, N + 1, V).

    The last of them are zeros: where nothing was proposed, max(0, p - q) is p.
    """
    q = []
    for _ in range(count):
        q.append(draft(ids)[:, -1].softmax(dim=-1))  # (B, V)
        ids = torch.cat([ids, torch.multinomial(q[-1], 1, generator=generator)], dim=1)
    if not q:
        return ids, 0.0
    return ids, torch.stack([*q, torch.zeros_like(q[-1])], dim=1)


def _count_accepted(
    tokens: torch.Tensor, p: torch.Tensor, q: torch.Tensor | float, generator: torch.Generator | None
) -> torch.Tensor:  # solution only
    """How many tokens (B, N) each row accepts before it rejects one: (B,)."""
    if tokens.shape[1] == 0:
        return tokens.new_zeros(tokens.shape[0])
    p_of_token = p[:, :-1].gather(-1, tokens[..., None]).squeeze(-1)  # (B, N)
    q_of_token = q[:, :-1].gather(-1, tokens[..., None]).squeeze(-1)  # more than 0: it was drawn from q
    chance = torch.rand(tokens.shape, dtype=p.dtype, device=p.device, generator=generator)
    return (chance < p_of_token / q_of_token).long().cumprod(dim=1).sum(dim=1)


def _go_on(
    ids: torch.Tensor,
    tokens: torch.Tensor,
    counts: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor | float,
    generator: torch.Generator | None,
) -> torch.Tensor:  # solution only
    """ids with the tokens that all rows have accepted and one more each: (B, T + pace + 1).

    The batch stays rectangular by going at the pace of the row that accepted the fewest. The one token more is new in
    the rows that stopped there; the others have accepted the draft's. What they accepted beyond it is forgotten. That
    does not bias the result: the pace comes from the other rows, and what is drawn anew has the target's distribution.
    """
    pace = int(counts.min())
    surplus = (p - q).clamp(min=0)[:, pace]  # (B, V)
    empty = surplus.sum(dim=-1, keepdim=True) == 0  # p and q are the same up to rounding
    surplus = torch.where(empty, p[:, pace], surplus)
    new = torch.multinomial(surplus, 1, generator=generator)  # (B, 1); multinomial normalizes
    if pace < tokens.shape[1]:
        new = torch.where(counts[:, None] == pace, new, tokens[:, pace : pace + 1])
    return torch.cat([ids, tokens[:, :pace], new], dim=1)


# ---------------------------------------------------------------------------------------------- generators


class GPTTextGenerator(nn.Module):
    """A GPTModel of lesson 2 that generates.

    Args:
        vocab_size: V.
        d_model, num_layers, num_heads, max_len: of the model.

    Attributes:
        model: the GPTModel.
    """

    def __init__(
        self, vocab_size: int, d_model: int = 512, num_layers: int = 6, num_heads: int = 8, max_len: int = 1024
    ) -> None:
        # student: self.model
        super().__init__()
        self.model = GPTModel(vocab_size, d_model, num_layers, num_heads, max_len=max_len)

    @torch.no_grad()
    def generate(
        self,
        prompt: torch.Tensor,
        max_length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_id: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Samples a continuation of each row, in eval mode; afterwards every module is in the mode it was in.

        Args:
            prompt: (B, T0).
            max_length: the longest result, prompt included.
            temperature, top_k, top_p, generator: as in sample_next_token.
            eos_id: a token that ends its row once it is generated; None means none does.

        Returns:
            (B, <= max_length), as wide as the longest row, shorter ones filled with eos_id.

        Raises:
            ValueError: T0 >= max_length, or max_length is more than the model's max_len.
        """
        # student: sample_next_token in a loop, in eval mode; every module gets its own mode back
        _check_lengths(prompt.shape[1], max_length, self.model.max_len)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            return _decode(
                lambda ids: sample_next_token(self.model(ids)[:, -1], temperature, top_k, top_p, generator),
                prompt,
                max_length,
                eos_id,
            )
        finally:
            for module, training in modes.items():
                module.training = training  # not module.train(training), which would set the modules inside too


class HuggingFaceTextGenerator:
    """A pretrained model of `transformers` with its tokenizer.

    Strings that it returns hold the prompt, and no special tokens such as <|endoftext|>.

    Args:
        model_name: a name on the Hugging Face hub, or a local folder.
    """

    def __init__(self, model_name: str = "gpt2") -> None:
        # student: AutoTokenizer and AutoModelForCausalLM, in eval mode
        from transformers import AutoModelForCausalLM, AutoTokenizer  # here, since importing them takes seconds

        self.tokenizer = AutoTokenizer.from_pretrained(model_name)
        self.model = AutoModelForCausalLM.from_pretrained(model_name).eval()

    def generate_text(
        self, prompt: str, max_length: int = 50, temperature: float = 1.0, num_return_sequences: int = 1
    ) -> list[str]:
        """Samples from the model's full distribution.

        Args:
            prompt: any string.
            max_length: in tokens, prompt included.
            temperature: as in sample_next_token.
            num_return_sequences: how many strings.

        Returns:
            A list of num_return_sequences strings.

        Raises:
            ValueError: temperature is not more than 0, or the prompt has max_length tokens or more.
        """
        # student: generate with do_sample=True; switch its default top_k=50 off
        if temperature <= 0:
            raise ValueError(f"temperature must be more than 0, not {temperature}")
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        return self._generate(prompt, max_length, **how, num_return_sequences=num_return_sequences)

    def generate_with_beam_search(self, prompt: str, max_length: int = 50, num_beams: int = 5) -> list[str]:
        """The best beam, as a list of one string. Arguments and errors as in generate_text."""
        # student: do_sample=False, num_beams
        return self._generate(prompt, max_length, do_sample=False, num_beams=num_beams)

    def _generate(self, prompt: str, max_length: int, **how: Any) -> list[str]:  # solution only
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        max_len = getattr(self.model.config, "max_position_embeddings", None)
        _check_lengths(inputs["input_ids"].shape[1], max_length, max_len)
        padding = self.tokenizer.eos_token_id  # GPT-2 has no token for padding
        ids = self.model.generate(**inputs, max_length=max_length, pad_token_id=padding, **how)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class CreativeTextGenerator:
    """Text under conditions, from a model that was trained for nothing of the kind.

    The texts start with the prompt and have len(encode(text)) <= max_length. What a model says need not be text: bytes
    may not be UTF-8, and a text may be encoded in other tokens, and more, than those it was decoded from.

    Args:
        model: ids (1, T) -> logits (1, T, V); it is called as it is.
        tokenizer: has encode(str) -> list[int] and decode(ids) -> str. None means that the UTF-8 bytes of a text are ids.
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor], tokenizer: Any = None) -> None:
        # student: keep both
        self.model = model
        self.tokenizer = tokenizer

    def generate_with_style_transfer(self, prompt: str, style: str, max_length: int) -> str:
        """Continues the prompt after the style, which the text does not hold.

        The model sees the style as context before each token: where the context is longer than the model's max_len, what
        follows the style is cut, and never the style.

        Args:
            prompt, style: any strings.
            max_length: tokens of the text; the style does not count.

        Raises:
            ValueError: the prompt has max_length tokens or more, or max_length is more than the model's max_len.
        """
        # student: the model continues style and prompt; the text is prompt and continuation, cut until it fits
        room = self._room(prompt, max_length)
        return self._fitted(prompt, [self._continued(style + " " + prompt, room, style)], [], "", max_length)

    def generate_with_constraints(self, prompt: str, constraints: list[str], max_length: int) -> str:
        """Continues the prompt to a text that holds every phrase of constraints.

        Args:
            prompt: any string.
            constraints: the phrases, a list of strings.
            max_length: tokens of the text.

        Raises:
            ValueError: the prompt and the phrases that it lacks are together longer than max_length, the prompt has
                max_length tokens or more, or max_length is more than the model's max_len.
        """
        # student: reserve room for the phrases that the prompt lacks; generate before each one and after the last
        phrases = [phrase for phrase in dict.fromkeys(constraints) if phrase not in prompt]
        room = self._room(prompt, max_length) - sum(len(self._encode(phrase)) for phrase in phrases)
        if room < 0:
            raise ValueError(f"max_length={max_length} is too short for the prompt and the phrases of constraints")

        share = max(room - len(phrases), 0) // (len(phrases) + 1)  # with a blank before each phrase
        text, parts = prompt, []
        for phrase in [*phrases, ""]:
            parts.append(self._continued(text, share))  # the model goes on from the phrases before
            text = f"{text}{self._decode(parts[-1])} {phrase}"
        for blank in (" ", ""):
            fitted = self._fitted(prompt, parts, phrases, blank, max_length)
            if fitted is not None:
                return fitted
        raise ValueError(f"max_length={max_length} is too short for the prompt and the phrases of constraints")

    def _room(self, prompt: str, max_length: int) -> int:  # solution only
        """How many tokens may follow the prompt."""
        prompt_length = len(self._encode(prompt))
        _check_lengths(prompt_length, max_length, _max_len(self.model))
        return max_length - prompt_length

    @torch.no_grad()
    def _continued(self, context: str, count: int, beginning: str = "") -> list[int]:  # solution only
        """count ids that the model says after the context; of a long one it sees this beginning and the end."""
        ids = torch.tensor([self._encode(context or " ")], device=self._device())  # (1, T)
        start, window = ids.shape[1], getattr(self.model, "max_len", ids.shape[1] + count)
        kept = min(len(self._encode(beginning)), window - 1)
        for _ in range(count):
            cut = max(0, ids.shape[1] - window)
            seen = torch.cat([ids[:, :kept], ids[:, kept + cut :]], dim=1)
            logits = self.model(seen)[:, -1]  # (1, V)
            if self.tokenizer is None:
                logits = logits[:, :256]
            ids = torch.cat([ids, sample_next_token(logits, top_p=0.9)[:, None]], dim=1)
        return ids[0, start:].tolist()

    def _fitted(
        self, prompt: str, parts: list[list[int]], phrases: list[str], blank: str, max_length: int
    ) -> str | None:  # solution only
        """Prompt, part, phrase, part, …; the parts lose their last tokens until it fits. None if it never does."""
        parts = [list(part) for part in parts]
        while True:
            texts = [self._decode(part) for part in parts]
            text = prompt + texts[0]
            for phrase, said in zip(phrases, texts[1:], strict=True):
                text += blank + phrase + said
            if len(self._encode(text)) <= max_length:
                return text
            longest = max(parts, key=len)
            if not longest:
                return None
            longest.pop()

    def _encode(self, text: str) -> list[int]:  # solution only
        return list(text.encode()) if self.tokenizer is None else list(self.tokenizer.encode(text))

    def _decode(self, ids: list[int]) -> str:  # solution only
        """Bytes that are not UTF-8 are left out: the sign that usually replaces one is three bytes long."""
        return bytes(ids).decode(errors="ignore") if self.tokenizer is None else self.tokenizer.decode(ids)

    def _device(self) -> torch.device:  # solution only
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((parameter.device for parameter in parameters), torch.device("cpu"))
