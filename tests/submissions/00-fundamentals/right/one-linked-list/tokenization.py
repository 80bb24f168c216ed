from __future__ import annotations

import heapq
import re
import struct
from pathlib import Path

import regex


class Pieces:
    """Cuts a text at its special tokens, and the rest into the bytes of pre-tokens."""

    words = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, special_tokens):
        if not all(special_tokens):
            raise ValueError(f"special_tokens must not be empty: {special_tokens}")
        self.special = list(dict.fromkeys(special_tokens))
        backwards = sorted(self.special, reverse=True)  # what begins like another and is longer sorts behind it
        self.pattern = re.compile("|".join(map(re.escape, backwards))) if self.special else None

    def __call__(self, text):
        start = 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            yield from self.cut(text[start : match.start()])
            yield match.group()
            start = match.end()
        yield from self.cut(text[start:])

    def cut(self, text):
        for match in self.words.finditer(text):
            yield match.group().encode()


class Descending:
    def __init__(self, count, pair):
        self.key = (count, pair)

    def __lt__(self, other):
        return self.key > other.key


class LinkedList:
    """All symbols of a text in one list; None parts the pre-tokens."""

    def __init__(self, words):
        self.symbols = [None]
        for word in words:
            self.symbols.extend(bytes([byte]) for byte in word)
            self.symbols.append(None)
        self.after = list(range(1, len(self.symbols) + 1))
        self.before = list(range(-1, len(self.symbols) - 1))
        self.positions = {}
        for i in range(len(self.symbols) - 1):
            self.note(i)
        self.heap = [Descending(len(where), pair) for pair, where in self.positions.items()]
        heapq.heapify(self.heap)

    def pair_at(self, i):
        a, b = self.symbols[i], self.symbols[self.after[i]]
        return None if a is None or b is None else (a, b)

    def note(self, i):
        pair = self.pair_at(i)
        if pair:
            self.positions.setdefault(pair, set()).add(i)
        return pair

    def forget(self, i):
        pair = self.pair_at(i)
        if pair:
            self.positions[pair].discard(i)
        return pair

    def best(self):
        while self.heap:
            count, pair = heapq.heappop(self.heap).key
            now = len(self.positions.get(pair, ()))
            if now and now == count:
                return pair
            if now:
                heapq.heappush(self.heap, Descending(now, pair))
        return None

    def merge(self, pair):
        new = pair[0] + pair[1]
        grown = set()
        for i in sorted(self.positions[pair]):
            if i not in self.positions[pair]:
                continue  # its first symbol was the second of the pair merged just before
            j = self.after[i]
            for k in (self.before[i], i, j):
                self.forget(k)
            self.symbols[i] = new
            self.after[i] = self.after[j]
            self.before[self.after[j]] = i
            grown |= {self.note(self.before[i]), self.note(i)}
        for other in grown - {None}:
            heapq.heappush(self.heap, Descending(len(self.positions[other]), other))
        del self.positions[pair]


class BPETokenizer:
    def __init__(self, vocab, merges, special_tokens=()):
        self.pieces = Pieces(special_tokens)
        self.special_tokens = self.pieces.special
        self.vocab, self.merges = dict(vocab), list(merges)
        free = max(vocab) + 1
        for token in self.special_tokens:
            if token.encode() not in self.vocab.values():
                self.vocab[free] = token.encode()
                free += 1
        self.ids = {token: i for i, token in self.vocab.items()}

    @classmethod
    def train(cls, text, vocab_size, special_tokens=()):
        pieces = Pieces(special_tokens)
        room = vocab_size - 256 - len(pieces.special)
        if room < 0:
            raise ValueError(f"vocab_size = {vocab_size} has no room for bytes and special tokens")
        chain = LinkedList(piece for piece in pieces(text) if isinstance(piece, bytes))
        vocab, merges = {i: bytes((i,)) for i in range(256)}, []
        while room > len(merges):
            pair = chain.best()
            if pair is None:
                break
            chain.merge(pair)
            vocab[256 + len(merges)] = b"".join(pair)
            merges.append(pair)
        return cls(vocab, merges, special_tokens)

    def encode(self, text):
        return [i for piece in self.pieces(text) for i in self._ids_of(piece)]

    def _ids_of(self, piece):
        if isinstance(piece, str):
            return [self.ids[piece.encode()]]
        symbols = [piece[i : i + 1] for i in range(len(piece))]
        for a, b in self.merges:
            i = 0
            while i < len(symbols) - 1:
                if symbols[i] == a and symbols[i + 1] == b:
                    symbols[i : i + 2] = [a + b]
                i += 1
        return [self.ids[symbol] for symbol in symbols]

    def decode(self, ids):
        data = bytearray()
        for i in ids:
            token = self.vocab.get(i)
            if token is None:
                raise ValueError(f"there is no token {i} (argument ids)")
            data += token
        return str(data, "utf-8", "replace")

    def encode_iterable(self, strings):
        for string in strings:
            for i in self.encode(string):
                yield i

    def save(self, path):
        texts = [token.encode() for token in self.special_tokens]
        out = struct.pack("<III", len(self.vocab), len(self.merges), len(texts))
        for i, token in self.vocab.items():
            out += struct.pack("<QI", i, len(token)) + token
        for text in [part for pair in self.merges for part in pair] + texts:
            out += struct.pack("<I", len(text)) + text
        Path(path).write_bytes(out)

    @classmethod
    def load(cls, path):
        data, here = Path(path).read_bytes(), 12

        def read(length):
            nonlocal here
            here += length
            return data[here - length : here]

        def text():
            return read(*struct.unpack("<I", read(4)))

        sizes = struct.unpack("<III", data[:12])
        vocab = {struct.unpack("<Q", read(8))[0]: text() for _ in range(sizes[0])}
        merges = [(text(), text()) for _ in range(sizes[1])]
        return cls(vocab, merges, [text().decode() for _ in range(sizes[2])])


def count_tokens(text, tokenizer):
    return len(list(tokenizer.encode(text)))


def truncate_to_context(text, tokenizer, max_tokens):
    if max_tokens < 0:
        raise ValueError(f"max_tokens is {max_tokens}, less than 0")
    ids = tokenizer.encode(text)
    if max_tokens >= len(ids):
        return text
    result = ""
    first, rest = tokenizer.decode(ids[:max_tokens]), tokenizer.decode(ids[max_tokens:])
    for a, b in zip(text, first):
        if a != b:
            break
        result += a
    if len(result) == len(first) and text[len(result) :] != rest:  # its last character goes on in the rest
        result = result[:-1]
    return result
