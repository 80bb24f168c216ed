"""A dataclass; a trainer class; regex with specials in one alternation; GPT-2's printable characters in a json file; save in sqlite-like zip."""

import json
import zipfile
from dataclasses import dataclass, field
from collections import Counter

import regex


def _bytes_to_unicode():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return dict(zip(bs, map(chr, cs)))


B2U = _bytes_to_unicode()
U2B = {u: b for b, u in B2U.items()}


def pretty(b):
    return "".join(B2U[x] for x in b)


def ugly(s):
    return bytes(U2B[c] for c in s)


GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def segments(text, specials):
    if not specials:
        return [(text, False)]
    rx = regex.compile("|".join(regex.escape(s) for s in sorted(specials, key=len)[::-1]))
    out, end = [], 0
    for m in rx.finditer(text):
        out.append((text[end : m.start()], False))
        out.append((m[0], True))
        end = m.end()
    out.append((text[end:], False))
    return out


@dataclass(eq=False)
class BPETokenizer:
    vocab: dict
    merges: list
    special_tokens: tuple = ()
    _enc: dict = field(init=False, repr=False)

    def __post_init__(self):
        self.vocab = {int(k): bytes(v) for k, v in self.vocab.items()}
        self.merges = [tuple(m) for m in self.merges]
        specials = {}
        for s in self.special_tokens:
            if s == "":
                raise ValueError("'' in special_tokens")
            specials[s] = None
        self.special_tokens = list(specials)
        self._enc = {v: k for k, v in self.vocab.items()}
        top = max(self.vocab)
        for s in self.special_tokens:
            if s.encode() not in self._enc:
                top += 1
                self.vocab[top] = s.encode()
                self._enc[s.encode()] = top
        self._rank = {}
        for i, m in enumerate(self.merges):
            self._rank[m] = i

    @staticmethod
    def train(text, vocab_size, special_tokens=()):
        return Trainer(vocab_size, special_tokens).run(text)

    def encode(self, text):
        ids = []
        for seg, special in segments(text, self.special_tokens):
            if special:
                ids += [self._enc[seg.encode()]]
            else:
                for w in regex.findall(GPT2, seg):
                    ids += self._encode_chunk(w.encode())
        return ids

    def _encode_chunk(self, data):
        cuts = list(range(len(data) + 1))  # borders of the symbols in the bytes
        while len(cuts) > 2:
            ranked = [
                (self._rank[p], i)
                for i in range(len(cuts) - 2)
                if (p := (data[cuts[i] : cuts[i + 1]], data[cuts[i + 1] : cuts[i + 2]])) in self._rank
            ]
            if not ranked:
                break
            del cuts[min(ranked)[1] + 1]
        return [self._enc[data[a:b]] for a, b in zip(cuts, cuts[1:])]

    def decode(self, ids):
        ids = list(ids)
        chunks = [self.vocab.get(i) for i in ids]
        if None in chunks:
            raise ValueError(f"ids[{chunks.index(None)}] = {ids[chunks.index(None)]} is unknown")
        return b"".join(chunks).decode("utf-8", errors="replace")

    def encode_iterable(self, strings):
        for line in strings:
            yield from iter(self.encode(line))

    def save(self, path):
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("vocab.json", json.dumps({pretty(v): k for k, v in self.vocab.items()}, ensure_ascii=False))
            z.writestr("merges.txt", "\n".join(f"{pretty(a)} {pretty(b)}" for a, b in self.merges))
            z.writestr("special.json", json.dumps(self.special_tokens))

    @classmethod
    def load(cls, path):
        with zipfile.ZipFile(path) as z:
            vocab = {v: ugly(k) for k, v in json.loads(z.read("vocab.json")).items()}
            merges = [tuple(map(ugly, line.split(" "))) for line in z.read("merges.txt").decode().split("\n") if line]
            return cls(vocab, merges, json.loads(z.read("special.json")))


class Trainer:
    def __init__(self, vocab_size, special_tokens):
        self.specials = list(dict.fromkeys(special_tokens))
        if not all(self.specials):
            raise ValueError("special_tokens must not be empty")
        self.n = vocab_size - 256 - len(self.specials)
        if self.n < 0:
            raise ValueError("vocab_size")

    def run(self, text):
        words = Counter()
        for seg, special in segments(text, self.specials):
            if special:
                continue
            for m in regex.finditer(GPT2, seg):
                words[m.group()] += 1
        self.words = [[pretty(bytes([b])) for b in w.encode()] for w in words]
        self.freq = [*words.values()]
        self.stats = {}
        self.idx = {}
        for k, w in enumerate(self.words):
            for i in range(1, len(w)):
                self.add((w[i - 1], w[i]), self.freq[k], k)
        merges = []
        while len(merges) < self.n:
            if not self.stats:
                break
            m = max(self.stats.values())
            pair = max([p for p in self.stats if self.stats[p] == m], key=lambda p: (ugly(p[0]), ugly(p[1])))
            merges.append(pair)
            for k in sorted(self.idx[pair]):
                self.replace(k, pair)
        merges = [(ugly(a), ugly(b)) for a, b in merges]
        vocab = {i: bytes([i]) for i in range(256)}
        for a, b in merges:
            vocab[len(vocab)] = a + b
        return BPETokenizer(vocab, merges, self.specials)

    def add(self, pair, n, k):
        self.stats[pair] = self.stats.get(pair, 0) + n
        if not self.stats[pair]:
            del self.stats[pair]
        self.idx.setdefault(pair, set()).add(k)

    def replace(self, k, pair):
        w, n = self.words[k], self.freq[k]
        i = 0
        while i < len(w) - 1:
            if w[i] == pair[0] and w[i + 1] == pair[1]:
                if i > 0:
                    self.add((w[i - 1], w[i]), -n, k)
                self.add(pair, -n, k)
                if i + 2 < len(w):
                    self.add((w[i + 1], w[i + 2]), -n, k)
                w[i : i + 2] = [w[i] + w[i + 1]]
                if i > 0:
                    self.add((w[i - 1], w[i]), n, k)
                if i + 1 < len(w):
                    self.add((w[i], w[i + 1]), n, k)
            i += 1


def count_tokens(text, tokenizer):
    return len(tokenizer.encode(text))


def truncate_to_context(text, tokenizer, max_tokens):
    if max_tokens < 0:
        raise ValueError(f"{max_tokens=}")
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text
    kept = tokenizer.decode(ids[:max_tokens])
    good = [k for k in range(len(kept) + 1) if text[:k] == kept[:k]]
    if max(good) == len(kept) and tokenizer.decode(ids[max_tokens:]).count("\ufffd") > text[len(kept) :].count("\ufffd"):
        good.pop()  # the other half of its last character is among those that follow
    return text[: max(good)]
