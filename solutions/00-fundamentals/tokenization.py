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
        # student: keep copies, give ids to the special tokens, and prepare what encode looks up
        self.vocab = dict(vocab)
        self.merges = [tuple(pair) for pair in merges]
        self.special_tokens = _distinct(special_tokens)

        self._id_of = {token: id for id, token in self.vocab.items()}
        for text in self.special_tokens:
            token = text.encode("utf-8")
            if token not in self._id_of:
                self._id_of[token] = max(self.vocab, default=-1) + 1
                self.vocab[self._id_of[token]] = token
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}

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
        # student: count the pairs once, then update only the counts that a merge changes
        special_tokens = _distinct(special_tokens)
        num_merges = vocab_size - 256 - len(special_tokens)
        if num_merges < 0:
            raise ValueError(f"vocab_size={vocab_size} is less than 256 bytes + {len(special_tokens)} special tokens")

        # A word that occurs a thousand times is worked on once, and counts a thousand times.
        frequency = Counter(_pre_tokens(text, special_tokens))
        pairs = _PairCounts([_bytes_of(word) for word in frequency], list(frequency.values()))
        merges = []
        while len(merges) < num_merges and (pair := pairs.most_frequent()) is not None:
            pairs.merge(pair)
            merges.append(pair)

        tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
        return cls(dict(enumerate(tokens)), merges, special_tokens)

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
        # student: split, then merge each pre-token in the order of the merges
        ids = []
        for piece, is_special in _split(text, self.special_tokens):
            if is_special:
                ids.append(self._id_of[piece.encode("utf-8")])
                continue
            for word in PRE_TOKEN.findall(piece):
                ids += [self._id_of[token] for token in self._merged(_bytes_of(word))]
        return ids

    def _merged(self, symbols: list[bytes]) -> list[bytes]:  # solution only
        """The symbols of one pre-token after all merges: again and again the merge that was learned first."""
        while True:
            known = [pair for pair in pairwise(symbols) if pair in self._rank]
            if not known:
                return symbols
            symbols = _merge(symbols, min(known, key=self._rank.__getitem__))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any iterable of ids. A token may be part of a character; malformed UTF-8 becomes U+FFFD.

        Args:
            ids: token ids; a generator is read once.

        Raises:
            ValueError: an id is not in vocab.
        """
        # student: join the bytes of all tokens before you decode them
        tokens = []
        for id in ids:
            if id not in self.vocab:
                raise ValueError(f"ids holds {id}, which is not in the vocabulary")
            tokens.append(self.vocab[id])
        return b"".join(tokens).decode("utf-8", errors="replace")

    def encode_iterable(self, strings: Iterable[str]) -> Iterator[int]:
        """Yields the ids of each string in turn, as `encode` gives them, for texts that are too large for memory."""
        # student: a generator; keep nothing
        for string in strings:
            yield from self.encode(string)

    def save(self, path: str) -> None:
        """Writes the tokenizer to one file, in a format that `load` reads."""
        # student: one file at exactly this path; tokens are bytes, not always text
        content = {
            "vocab": {id: token.hex() for id, token in self.vocab.items()},
            "merges": [[left.hex(), right.hex()] for left, right in self.merges],
            "special_tokens": self.special_tokens,
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)

    @classmethod
    def load(cls, path: str) -> "BPETokenizer":
        """The tokenizer that `save` wrote to path."""
        # student: the inverse of save; mind the types
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        vocab = {int(id): bytes.fromhex(token) for id, token in content["vocab"].items()}  # JSON's keys are strings
        merges = [(bytes.fromhex(left), bytes.fromhex(right)) for left, right in content["merges"]]
        return cls(vocab, merges, content["special_tokens"])


def count_tokens(text: str, tokenizer: Any) -> int:
    """How many tokens a text takes.

    Args:
        text: any string.
        tokenizer: any object with `encode`.
    """
    # student: what a text costs is the number of its ids
    return len(tokenizer.encode(text))


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
    # student: cut the ids, not the characters
    if max_tokens < 0:
        raise ValueError(f"max_tokens={max_tokens} is negative")
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text
    decoded = tokenizer.decode(ids[:max_tokens])
    rest = tokenizer.decode(ids[max_tokens:])
    # Half a character decodes to U+FFFD, and so does half of a U+FFFD: what tells is that two halves are two characters.
    if len(decoded) + len(rest) > len(tokenizer.decode(ids)):
        decoded = decoded[:-1]
    return os.path.commonprefix([text, decoded])  # a tokenizer may also lose something, such as capitals


def _distinct(special_tokens: Sequence[str]) -> list[str]:  # solution only
    """The special tokens in the order given, each once."""
    if "" in special_tokens:
        raise ValueError(f"special_tokens={special_tokens!r} holds an empty string, which would be everywhere")
    return list(dict.fromkeys(special_tokens))


def _split(text: str, special_tokens: Sequence[str]) -> Iterator[tuple[str, bool]]:  # solution only
    """(piece, whether it is a special token), in the order of the text; pieces may be empty."""
    if not special_tokens:
        yield text, False
        return
    # A regular expression takes the first alternative that fits, so the longest has to come first.
    longest_first = sorted(special_tokens, key=len, reverse=True)
    pattern = "(" + "|".join(map(regex.escape, longest_first)) + ")"
    for i, piece in enumerate(regex.split(pattern, text)):  # the pieces at odd places are the separators
        yield piece, i % 2 == 1


def _pre_tokens(text: str, special_tokens: Sequence[str]) -> Iterator[str]:  # solution only
    """The pre-tokens of a text, without the special tokens, one at a time."""
    for piece, is_special in _split(text, special_tokens):
        if not is_special:
            for match in PRE_TOKEN.finditer(piece):
                yield match.group()


def _bytes_of(word: str) -> list[bytes]:  # solution only
    return [bytes([byte]) for byte in word.encode("utf-8")]


def _merge(symbols: list[bytes], pair: Pair) -> list[bytes]:  # solution only
    """The symbols with every occurrence of the pair joined, from left to right."""
    left, right = pair
    merged, i = [], 0
    while i < len(symbols):
        if symbols[i] == left and i + 1 < len(symbols) and symbols[i + 1] == right:
            merged.append(left + right)
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


class _Candidate:  # solution only
    """An entry of the heap: a pair, and how often it occurred when the entry was made. The best compares as smallest."""

    __slots__ = ("count", "pair")

    def __init__(self, count: int, pair: Pair) -> None:
        self.count, self.pair = count, pair

    def __lt__(self, other: "_Candidate") -> bool:
        return (self.count, self.pair) > (other.count, other.pair)


class _PairCounts:  # solution only
    """How often each pair occurs, kept up to date while pairs are merged.

    Counting again for each merge costs O(merges · text). A merge changes only the words that hold the pair, so those are
    remembered for each pair, and the best pair comes off a heap. The heap is lazy: an entry whose count is out of date
    is thrown away when it surfaces, since an entry with the right count was pushed when the count changed.
    """

    def __init__(self, words: list[list[bytes]], frequency: list[int]) -> None:
        self._words, self._frequency = words, frequency
        self._count = Counter()
        self._words_with = defaultdict(set)  # pair -> indices of words that hold it, or held it once
        for index in range(len(words)):
            self._add(index, sign=+1)
        self._heap = [_Candidate(count, pair) for pair, count in self._count.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """The pair to merge next, or None if no word has two symbols."""
        while self._heap:
            best = heapq.heappop(self._heap)
            if self._count[best.pair] == best.count:
                return best.pair
        return None

    def merge(self, pair: Pair) -> None:
        changed = set()
        for index in self._words_with.pop(pair):
            changed |= self._add(index, sign=-1)
            self._words[index] = _merge(self._words[index], pair)
            changed |= self._add(index, sign=+1)
        for other in changed:
            if self._count[other] > 0:
                heapq.heappush(self._heap, _Candidate(self._count[other], other))
            else:
                del self._count[other]

    def _add(self, index: int, sign: int) -> set[Pair]:
        """Adds a word's pairs to the counts, or takes them out again; returns them."""
        for pair in pairwise(self._words[index]):
            self._count[pair] += sign * self._frequency[index]
            if sign > 0:
                self._words_with[pair].add(index)
        return set(pairwise(self._words[index]))
