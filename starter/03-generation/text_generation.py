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
    # TODO(student): find the k-th greatest of each row; what is less becomes -inf
    raise NotImplementedError("filter_top_k is not implemented yet")


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
    # TODO(student): sort, sum up the softmax, remove what comes after the token that crosses p
    raise NotImplementedError("filter_top_p is not implemented yet")


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
    # TODO(student): the threshold is p times the greatest probability of the row
    raise NotImplementedError("filter_min_p is not implemented yet")


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
    # TODO(student): divide positive logits, multiply negative ones
    raise NotImplementedError("apply_repetition_penalty is not implemented yet")


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
    # TODO(student): temperature, top-k, top-p, softmax, multinomial
    raise NotImplementedError("sample_next_token is not implemented yet")


# ---------------------------------------------------------------------------------------------- search


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
    # TODO(student): append the argmax of the last logits, again and again
    raise NotImplementedError("greedy_search is not implemented yet")


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
    # TODO(student): keep the best num_beams beams; finished ones go to a list of their own
    raise NotImplementedError("beam_search is not implemented yet")


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
    # TODO(student): the draft proposes, one call of the target judges, the first rejected token is drawn from (p - q)⁺
    raise NotImplementedError("speculative_sample is not implemented yet")


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
        # TODO(student): self.model
        raise NotImplementedError("GPTTextGenerator.__init__ is not implemented yet")

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
        # TODO(student): sample_next_token in a loop, in eval mode; every module gets its own mode back
        raise NotImplementedError("GPTTextGenerator.generate is not implemented yet")


class HuggingFaceTextGenerator:
    """A pretrained model of `transformers` with its tokenizer.

    Strings that it returns hold the prompt, and no special tokens such as <|endoftext|>.

    Args:
        model_name: a name on the Hugging Face hub, or a local folder.
    """

    def __init__(self, model_name: str = "gpt2") -> None:
        # TODO(student): AutoTokenizer and AutoModelForCausalLM, in eval mode
        raise NotImplementedError("HuggingFaceTextGenerator.__init__ is not implemented yet")

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
        # TODO(student): generate with do_sample=True; switch its default top_k=50 off
        raise NotImplementedError("HuggingFaceTextGenerator.generate_text is not implemented yet")

    def generate_with_beam_search(self, prompt: str, max_length: int = 50, num_beams: int = 5) -> list[str]:
        """The best beam, as a list of one string. Arguments and errors as in generate_text."""
        # TODO(student): do_sample=False, num_beams
        raise NotImplementedError("HuggingFaceTextGenerator.generate_with_beam_search is not implemented yet")


class CreativeTextGenerator:
    """Text under conditions, from a model that was trained for nothing of the kind.

    The texts start with the prompt and have len(encode(text)) <= max_length. What a model says need not be text: bytes
    may not be UTF-8, and a text may be encoded in other tokens, and more, than those it was decoded from.

    Args:
        model: ids (1, T) -> logits (1, T, V); it is called as it is.
        tokenizer: has encode(str) -> list[int] and decode(ids) -> str. None means that the UTF-8 bytes of a text are ids.
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor], tokenizer: Any = None) -> None:
        # TODO(student): keep both
        raise NotImplementedError("CreativeTextGenerator.__init__ is not implemented yet")

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
        # TODO(student): the model continues style and prompt; the text is prompt and continuation, cut until it fits
        raise NotImplementedError("CreativeTextGenerator.generate_with_style_transfer is not implemented yet")

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
        # TODO(student): reserve room for the phrases that the prompt lacks; generate before each one and after the last
        raise NotImplementedError("CreativeTextGenerator.generate_with_constraints is not implemented yet")
