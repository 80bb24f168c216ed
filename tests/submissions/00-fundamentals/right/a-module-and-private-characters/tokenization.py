"""str.replace on words whose symbols are private characters; specials with str.find; base64 json, atomic save."""

import base64
import json
import os
from collections import Counter, defaultdict

import regex as re

GPT2 = re.compile(r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def ch(i):
    return chr(i if i < 0xD800 else i + 0x800)


def num(c):
    return ord(c) if ord(c) < 0xD800 else ord(c) - 0x800


def chop(text, specials):
    while text:
        hits = [(text.find(s), -len(s), s) for s in specials if s in text]
        if not hits:
            break
        at, _, s = min(hits)
        yield None, text[:at]
        yield s, ""
        text = text[at + len(s) :]
    yield None, text


class BPETokenizer:
    def __init__(self, vocab, merges, special_tokens=()):
        if any(s == "" for s in special_tokens):
            raise ValueError("special_tokens may not contain ''")
        self.special_tokens = tuple(sorted(set(special_tokens), key=list(special_tokens).index))
        self.vocab = vocab.copy()
        self.merges = tuple(merges)
        for s in self.special_tokens:
            if s.encode() not in self.vocab.values():
                self.vocab[max(self.vocab) + 1] = s.encode()
        self._inv = {v: k for k, v in self.vocab.items()}
        self._ranks = dict(zip(self.merges, range(len(self.merges))))
        self._cache = {}

    @classmethod
    def train(cls, text, vocab_size, special_tokens=(), *, progress=False):
        specials = list(dict.fromkeys(special_tokens))
        if "" in specials:
            raise ValueError("special_tokens may not contain ''")
        if vocab_size < 256 + len(specials):
            raise ValueError("vocab_size too small")
        freq = Counter()
        for s, t in chop(text, specials):
            if s is None:
                freq.update(GPT2.findall(t))
        words = [w.encode().decode("latin-1") for w in freq]
        n = list(freq.values())
        vocab = [bytes([i]) for i in range(256)]
        counts, where = Counter(), defaultdict(set)
        for i, w in enumerate(words):
            for j in range(len(w) - 1):
                counts[w[j : j + 2]] += n[i]
                where[w[j : j + 2]].add(i)
        merges = []
        while len(vocab) < vocab_size - len(specials) and counts:
            top = max(counts.values())
            best = max((p for p, c in counts.items() if c == top), key=lambda p: (vocab[num(p[0])], vocab[num(p[1])]))
            new = ch(len(vocab))
            a, b = vocab[num(best[0])], vocab[num(best[1])]
            merges.append((a, b))
            vocab.append(a + b)
            for i in where[best].copy():
                old = words[i]
                words[i] = old.replace(best, new)
                for j in range(len(old) - 1):
                    counts[old[j : j + 2]] -= n[i]
                    where[old[j : j + 2]].discard(i)
                w = words[i]
                for j in range(len(w) - 1):
                    counts[w[j : j + 2]] += n[i]
                    where[w[j : j + 2]].add(i)
                for j in range(len(old) - 1):
                    if counts.get(old[j : j + 2], 1) <= 0:
                        del counts[old[j : j + 2]]
        return cls(dict(enumerate(vocab)), merges, specials)

    def _bpe(self, word):
        if word in self._cache:
            return self._cache[word]
        parts = [bytes([b]) for b in word.encode()]
        while len(parts) > 1:
            ranks = [self._ranks.get(p, 1 << 60) for p in zip(parts, parts[1:])]
            i = ranks.index(min(ranks))
            if ranks[i] == 1 << 60:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        self._cache[word] = tuple(self._inv[p] for p in parts)
        return self._cache[word]

    def encode(self, text):
        out = []
        for s, t in chop(text, self.special_tokens):
            if s is not None:
                out.append(self._inv[s.encode()])
            for w in GPT2.findall(t):
                out.extend(self._bpe(w))
        return out

    def decode(self, ids):
        out = b""
        for i in ids:
            try:
                out += self.vocab[i]
            except KeyError:
                raise ValueError(f"ids: unknown id {i}")
        return out.decode("utf-8", "replace")

    def encode_iterable(self, strings):
        return (i for s in strings for i in self.encode(s))

    def save(self, path):
        b = lambda x: base64.b64encode(x).decode()
        tmp = path + ".tmp"
        with open(tmp, "w") as f:
            json.dump(
                [
                    {str(k): b(v) for k, v in self.vocab.items()},
                    [[b(x), b(y)] for x, y in self.merges],
                    list(self.special_tokens),
                ],
                f,
                indent=1,
            )
        os.replace(tmp, path)

    @classmethod
    def load(cls, path):
        d = base64.b64decode
        v, m, s = json.loads(open(path).read())
        return cls({int(k): d(x) for k, x in v.items()}, [(d(x), d(y)) for x, y in m], s)


def count_tokens(text, tokenizer):
    n = 0
    for _ in tokenizer.encode(text):
        n += 1
    return n


def truncate_to_context(text, tokenizer, max_tokens):
    if max_tokens < 0:
        raise ValueError("max_tokens < 0")
    if max_tokens == 0:
        return ""
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text
    first, second = (tokenizer.decode(part) for part in (ids[:max_tokens], ids[max_tokens:]))
    cut = len(first + second) - len(tokenizer.decode(ids))  # each half of a character makes at least one U+FFFD
    return os.path.commonprefix([text, first[:-1] if cut > 0 else first])
