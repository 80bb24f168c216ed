"""Text to tokens and back: byte-level byte-pair encoding.

A language model sees integers. There are two extremes: one integer per character (long sequences, and always a character
that was never seen) and one integer per word (a huge vocabulary, and always a word that was never seen). Between them is
byte-pair encoding: start from the 256 bytes, and again and again give the most frequent pair of neighbours an integer of
its own. Frequent words end up as one token, rare ones as a few, and since every text is bytes, no text is out of vocabulary.

    text -> special tokens split off -> pre-tokens (words, numbers, …) -> UTF-8 bytes -> merges -> ids

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units" (the algorithm);
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (bytes, and the pattern of pre-tokens).
"""

import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import regex

# GPT-2's pre-tokens: contractions, words, numbers and other signs, each with at most one space before it; white space.
# A merge never crosses the border of a pre-token, so "dog." and "dog!" share their token for "dog".
PRE_TOKEN = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

Pair = tuple[bytes, bytes]


class BPETokenizer:
    """Byte-level byte-pair encoding, as in GPT-2.

    Args:
        vocab: id -> bytes of the token. All 256 single bytes are among the tokens; the ids may have any order and gaps.
        merges: pairs of tokens in the order in which they were learned; the joined bytes of each are in vocab.
        special_tokens: texts that are one token wherever they occur, such as "<|endoftext|>".

    Attributes:
        vocab: id -> bytes, special tokens included. A special token whose bytes are in the given vocab keeps that id; each
            other gets the next id after the highest, in the order given.
        merges: as given.
        special_tokens: as given, without repetitions.

    Raises:
        ValueError: a special token is the empty string.
    """

    def __init__(self, vocab: dict[int, bytes], merges: list[Pair], special_tokens: Sequence[str] = ()) -> None:
        # TODO(student): keep copies, give ids to the special tokens, and prepare what encode looks up
        raise NotImplementedError("BPETokenizer.__init__ is not implemented yet")

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Sequence[str] = ()) -> "BPETokenizer":
        """Learns merges from a text. Sennrich et al. 2016, algorithm 1.

        While there is room in the vocabulary, the pair of neighbours that occurs most often becomes a token. Pairs are
        counted within pre-tokens, at every position ("aaa" holds (a, a) twice); of equally frequent pairs the greater
        tuple (left bytes, right bytes) wins; its occurrences are merged from left to right. A pair that occurs once still
        merges. Training stops early when no pre-token has two symbols.

        Special tokens in the text are split off first (see `encode`): no merge ever contains a piece of one.

        Args:
            text: what to learn from.
            vocab_size: how many tokens there may be: 256 bytes, merges and special tokens.
            special_tokens: as in the class.

        Returns:
            A tokenizer with ids 0..255 for the bytes, then the merges in the order learned, then the special tokens.

        Raises:
            ValueError: vocab_size is below 256 + the number of special tokens; a special token is empty.
        """
        # TODO(student): count the pairs once, then update only the counts that a merge changes
        raise NotImplementedError("BPETokenizer.train is not implemented yet")

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Special tokens are split off first: from left to right the leftmost one wins, and of several that start at one
        place the longest. What is between them is cut into pre-tokens; in each pre-token the merges are carried out in
        the order in which they were learned, and within a merge from left to right.

        Args:
            text: any string.

        Returns:
            The ids, special tokens included; [] for the empty text.
        """
        # TODO(student): split, then merge each pre-token in the order of the merges
        raise NotImplementedError("BPETokenizer.encode is not implemented yet")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any iterable of ids. A token may be part of a character; malformed UTF-8 becomes U+FFFD.

        Args:
            ids: token ids; a generator is read once.

        Raises:
            ValueError: an id is not in vocab.
        """
        # TODO(student): join the bytes of all tokens before you decode them
        raise NotImplementedError("BPETokenizer.decode is not implemented yet")

    def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
        """Yields the ids of each string in turn, as `encode` gives them, for texts that are too large for memory."""
        # TODO(student): a generator; keep nothing
        raise NotImplementedError("BPETokenizer.encode_iterable is not implemented yet")

    def save(self, path: str) -> None:
        """Writes the tokenizer to one file, in a format that `load` reads."""
        # TODO(student): one file at exactly this path; tokens are bytes, not always text
        raise NotImplementedError("BPETokenizer.save is not implemented yet")

    @classmethod
    def load(cls, path: str) -> "BPETokenizer":
        """The tokenizer that `save` wrote to path."""
        # TODO(student): the inverse of save; mind the types
        raise NotImplementedError("BPETokenizer.load is not implemented yet")


def count_tokens(text: str, tokenizer: Any) -> int:
    """How many tokens a text takes.

    Args:
        text: any string.
        tokenizer: any object with `encode`.
    """
    # TODO(student): what a text costs is the number of its ids
    raise NotImplementedError("count_tokens is not implemented yet")


def truncate_to_context(text: str, tokenizer: Any, max_tokens: int) -> str:
    """The beginning of a text that its first max_tokens tokens hold.

    Args:
        text: what is cut. A text of at most max_tokens tokens comes back unchanged.
        tokenizer: any object with `encode` and `decode`.
        max_tokens: the size of the context; 0 gives "".

    Returns:
        A prefix of text: where the last token kept ends within a character, that character is dropped. The text may
        hold U+FFFD itself, as a character like any other.

    Raises:
        ValueError: max_tokens is negative.
    """
    # TODO(student): cut the ids, not the characters
    raise NotImplementedError("truncate_to_context is not implemented yet")
