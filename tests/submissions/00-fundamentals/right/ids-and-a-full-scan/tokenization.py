import collections
import itertools
import pickle

import regex

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def parts(text, specials):
    """Yields (text, False) and (special token, True)."""
    begin = here = 0
    while here < len(text):
        longest = ""
        for special in specials:
            if len(special) > len(longest) and text.startswith(special, here):
                longest = special
        if not longest:
            here += 1
            continue
        if begin < here:
            yield text[begin:here], False
        yield longest, True
        here += len(longest)
        begin = here
    if begin < len(text):
        yield text[begin:], False


def replace(word, pair, new):
    out = []
    for symbol in word:
        out.append(symbol)
        while len(out) >= 2 and (out[-2], out[-1]) == pair:
            out[-2:] = [new]
    return tuple(out)


class BPETokenizer:
    def __init__(self, vocab, merges, special_tokens=()):
        specials = []
        for token in special_tokens:
            if not token:
                raise ValueError("special_tokens: an empty token ''")
            if token not in specials:
                specials.append(token)
        vocab = {**vocab}
        known = set(vocab.values())
        following = itertools.count(max(vocab) + 1)
        for token in specials:
            if token.encode() not in known:
                vocab[next(following)] = token.encode()
        self.vocab, self.merges, self.special_tokens = vocab, merges, tuple(specials)
        self.to_id = {value: key for key, value in vocab.items()}
        self.table = {}
        for a, b in merges:
            self.table[self.to_id[a], self.to_id[b]] = (len(self.table), self.to_id[a + b])

    @staticmethod
    def train(text, vocab_size, special_tokens=()):
        specials = list(dict.fromkeys(special_tokens))
        if "" in specials:
            raise ValueError("special_tokens has an empty string")
        if vocab_size < 256 + len(specials):
            raise ValueError(f"vocab_size {vocab_size} is too small")
        times = collections.Counter()
        for part, special in parts(text, specials):
            if not special:
                times.update(m.group().encode() for m in regex.finditer(PATTERN, part))
        words, weights = [tuple(word) for word in times], list(times.values())
        vocab = {i: bytes([i]) for i in range(256)}
        counts, places = collections.defaultdict(int), collections.defaultdict(collections.Counter)
        for i, word in enumerate(words):
            for pair in zip(word, word[1:]):
                counts[pair] += weights[i]
                places[pair][i] += 1
        merges = []
        for new in range(256, vocab_size - len(specials)):
            if not counts:
                break
            best = max(counts, key=lambda pair: (counts[pair], vocab[pair[0]], vocab[pair[1]]))
            merges.append((vocab[best[0]], vocab[best[1]]))
            vocab[new] = vocab[best[0]] + vocab[best[1]]
            for i in list(places[best]):
                before, after = words[i], replace(words[i], best, new)
                for pair in zip(before, before[1:]):
                    counts[pair] -= weights[i]
                    places[pair][i] -= 1
                    if not places[pair][i]:
                        del places[pair][i]
                    if not counts[pair]:
                        del counts[pair], places[pair]
                for pair in zip(after, after[1:]):
                    counts[pair] += weights[i]
                    places[pair][i] += 1
                words[i] = after
        return BPETokenizer(vocab, merges, specials)

    def encode_word(self, word):
        ids = tuple(self.to_id[bytes([b])] for b in word.encode())
        while len(ids) > 1:
            rank, pair = min((self.table.get(pair, (float("inf"),))[0], pair) for pair in zip(ids, ids[1:]))
            if pair not in self.table:
                break
            ids = replace(ids, pair, self.table[pair][1])
        return ids

    def encode(self, text):
        ids = []
        for part, special in parts(text, self.special_tokens):
            if special:
                ids.append(self.to_id[part.encode()])
            else:
                for word in regex.findall(PATTERN, part):
                    ids.extend(self.encode_word(word))
        return ids

    def decode(self, ids):
        try:
            return b"".join([self.vocab[i] for i in ids]).decode(errors="replace")
        except KeyError as error:
            raise ValueError(f"ids: unknown id {error}") from None

    def encode_iterable(self, strings):
        return itertools.chain.from_iterable(map(self.encode, strings))

    def save(self, path):
        with open(path, "wb") as file:
            pickle.dump((self.vocab, self.merges, self.special_tokens), file)

    @staticmethod
    def load(path):
        with open(path, "rb") as file:
            return BPETokenizer(*pickle.load(file))


def count_tokens(text, tokenizer):
    return sum(1 for _ in tokenizer.encode(text))


def truncate_to_context(text, tokenizer, max_tokens):
    if max_tokens < 0:
        raise ValueError(f"max_tokens must not be negative: {max_tokens}")
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text
    kept = tokenizer.decode(ids[:max_tokens])
    if kept + tokenizer.decode(ids[max_tokens:]) != text:  # the cut is within a character, or something is lost
        kept = kept[:-1]
    while not text.startswith(kept):
        kept = kept[:-1]
    return kept
