"""What the hidden tests of tokenization share: texts, byte-pair encoding worked out in a few lines, and its known mistakes."""

from collections import Counter
from itertools import pairwise

import regex
import torch

from shared import shuffled

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTES = [bytes([byte]) for byte in range(256)]
WORDS = """the The there then one on and hand naïve Straße große привет мир мира 日本語 日本 안녕 नमस्ते مرحبا 🙂 🙂🙃 👩‍👩‍👧 don't
    can't we'll I've she'd it's I'm you're 'S DON'T 2024 20245 1st x=1 ٣٤ 2½ ٣٤! a_b ... ?! (so-called) aaaa aaa cafe\u0301""".split()
# Where pre-tokens are not the subject: what every pattern for words makes the same pre-tokens of, without runs.
PLAIN = "the then one on land lane hand thing other another bird word line shy Mr Zoe quick".split()
LETTERS = [*PLAIN, *"большой привет мир мира 日本語 日本 안녕 ßäöü".split()]
SPACES = [" ", " ", " ", " ", "  ", "\n", " \n", "\n\n    ", "\t", "\u00a0", ""]
# Some begin alike, two overlap, some mean something in a pattern.
SPECIAL = ["<|a|><|b|>", "<|a|>", "<|a|><|b|><|c|>", "[the]", "<s>", "s>>>", "o.e", "«日本»"]


NEVER = ["<|never|>"]  # where a tokenizer without special tokens is not the subject


# ---------------------------------------------------------------------------------------------- texts


def drawn(rng, items, count):
    return [items[i] for i in torch.randint(len(items), (count,), generator=rng)]


def prose(rng, count=0):
    """Every word once and `count` more, of which some are frequent and most are rare; with all kinds of space between."""
    rare = 1 / torch.arange(1.0, len(WORDS) + 1)
    words = shuffled(rng, WORDS)
    words += [words[i] for i in torch.multinomial(rare, max(count, 1), replacement=True, generator=rng)]
    return "".join(
        word + space for word, space in zip(shuffled(rng, words), drawn(rng, SPACES, len(words)), strict=True)
    )


def plain_words(rng, count=0, words=PLAIN):
    """Every word once and `count` more, the first ones most often, with one space between them."""
    often = 1 / torch.arange(1.0, len(words) + 1)
    more = [words[i] for i in torch.multinomial(often, max(count, 1), replacement=True, generator=rng)]
    return " ".join(shuffled(rng, [*words, *more]))


# Merges that never compete for a letter of a plain word: it does not matter in which order encode carries them out.
CHAINS = [(b"t", b"h"), (b"th", b"e"), (b"o", b"n"), (b"on", b"e"), (b"l", b"a"), (b"la", b"n"), (b"b", b"i")]


def all_borders(rng):
    """Every word, each with some space and two spaces behind it: every wrong pattern shows, and tidied line ends.

    All of it stands there twice, so that every pair occurs more than once.
    """
    text = "".join(word + shuffled(rng, SPACES)[0] + "  " for word in shuffled(rng, WORDS)) + "end\r\n\r\nend \n"
    return 2 * text + "."


def random_words(rng, letters, count, longest, shortest=1):
    """Words of random letters; of few letters they are full of runs and repetitions."""
    lengths = torch.randint(shortest, longest + 1, (count,), generator=rng).tolist()
    stream = iter(drawn(rng, letters, sum(lengths)))
    return ["".join(next(stream) for _ in range(length)) for length in lengths]


def without_runs(words):
    """The words with each letter only once where it stands several times in a row."""
    return [regex.sub(r"(.)\1+", r"\1", word) for word in words]


def with_special_tokens(rng, times=1):
    """Special tokens beside each other and beside plain words; each piece between them occurs `times` times or more."""
    hard = ["<|a|><|b|><|c|>", "<|a|><|b|>", "<s>>>>", "one <|a|> two", "there <s>", "one o.e[the]the <|b|>«日本»on "]
    words = [word + space for word, space in zip(drawn(rng, PLAIN, 60), drawn(rng, ["", " "], 60), strict=True)]
    return times * ("".join(shuffled(rng, 2 * hard + drawn(rng, SPECIAL, 20) + words)) + "<s>")


# ---------------------------------------------------------------------------------------------- the truth


def cut(text, special, choose=lambda found: max(found, key=len)):
    """(piece, whether it is a special token): looks for one at each character, from left to right."""
    pieces, start, i = [], 0, 0
    while i < len(text):
        found = [token for token in special if text.startswith(token, i)]
        if found:
            pieces += [(text[start:i], False), (choose(found), True)]
            start = i = i + len(choose(found))
        else:
            i += 1
    return [*pieces, (text[start:], False)]


def in_bytes(word):
    return tuple(bytes([byte]) for byte in (word.encode() if isinstance(word, str) else word))


def find_in_bytes(pattern, text):
    """The pre-tokens, as bytes, of a pattern that is matched against bytes, each taken for a character."""
    return [word.encode("latin-1") for word in regex.findall(pattern, text.encode().decode("latin-1"))]


def pre_tokens(text, special=(), pattern=GPT2, cut=cut, find=regex.findall):
    """How often each pre-token occurs, as a tuple of its bytes."""
    pieces = [piece for piece, is_special in cut(text, special) if not is_special]
    return Counter(in_bytes(word) for piece in pieces for word in find(pattern, piece))


def joined(word, pair, most=10_000):
    """The word with the pair joined, from left to right, at most so often."""
    if pair[0] not in word:  # so it is for most words
        return word
    symbols, i = [], 0
    while i < len(word):
        both = most > 0 and word[i : i + 2] == pair
        symbols.append(b"".join(pair) if both else word[i])
        i, most = i + 1 + both, most - both
    return tuple(symbols)


def learn(
    words,
    merges,
    *,
    follow=(),
    key=lambda pair, n, first, ids: (n, pair),
    least=1,
    neighbours=pairwise,
    joined=joined,
):
    """At most `merges` merges of the pre-tokens, each found by counting all pairs anew: that of the greatest key.

    follow: merges that a student's tokenizer has learned. Where one of them is as frequent as the best at its turn, it is
    taken: so what is compared is everything but the order of ties, which has a test of its own.
    """
    learned, ids = [], {token: id for id, token in enumerate(BYTES)}
    while len(learned) < merges:
        counts = Counter()
        for word, times in words.items():
            for pair in neighbours(word):
                counts[pair] += times
        first = {pair: place for place, pair in enumerate(counts)}
        keys = {pair: key(pair, n, first, ids) for pair, n in counts.items()}
        best = max(keys, key=keys.__getitem__, default=None)
        turn = follow[len(learned)] if len(learned) < len(follow) else None
        best = turn if turn in keys and keys[turn][0] == keys[best][0] else best
        if best is None or counts[best] < least:
            break
        learned.append(best)
        ids[b"".join(best)] = len(ids)
        after = Counter()
        for word, times in words.items():
            after[joined(word, best)] += times
        words = after
    return learned


def pairs_in(merges):
    """A student's merges, or [] where they are not a list of pairs of bytes."""
    fine = isinstance(merges, list) and all(
        isinstance(pair, tuple) and [*map(type, pair)] == [bytes, bytes] for pair in merges
    )
    return merges if fine else []


def are_cut_at(words, merges):
    """Whether merges that went on to the end were learned from these pre-tokens, in whatever order: each pre-token has
    become one token, and no token reaches beyond a pre-token."""
    tokens, whole = {b"".join(pair) for pair in pairs_in(merges)}, [b"".join(word) for word in words]
    is_one = all(len(word) == 1 or word in tokens for word in whole)
    return is_one and all(any(token in word for word in whole) for token in tokens)


def tokens_of(merges):
    return BYTES + [left + right for left, right in merges]


def vocab_of(merges, special=()):
    return dict(enumerate(tokens_of(merges) + [token.encode() for token in special]))


def any_vocab(rng, merges, special=()):
    """The tokens of vocab_of with ids in no order, and with gaps."""
    tokens = list(vocab_of(merges, special).values())
    return dict(zip((3 * torch.randperm(len(tokens), generator=rng) + 5).tolist(), tokens, strict=True))


def tells(ids):
    """Whether ids that a student's own encode gave are something to compare with: ints, and not all the same."""
    return isinstance(ids, list) and all(type(id) is int for id in ids) and len(set(ids)) > 1


def merged(word, merges, joined=joined):
    for pair in merges:
        word = joined(word, pair)
    return word


def encoded(text, vocab, merges, special=(), *, cut=cut, merged=merged, pattern=GPT2, find=regex.findall):
    """The ids of a text, with every merge carried out in turn on every pre-token."""
    id_of, known, ids = {token: id for id, token in vocab.items()}, {}, []
    for piece, is_special in cut(text, special):
        for word in [] if is_special else find(pattern, piece):
            if word not in known:
                known[word] = [id_of[token] for token in merged(in_bytes(word), merges)]
            ids += known[word]
        ids += [id_of[piece.encode()]] if is_special else []
    return ids


# ---------------------------------------------------------------------------------------------- the mistakes


def joined_from_the_right(word, pair):
    backwards = joined(tuple(token[::-1] for token in word[::-1]), tuple(token[::-1] for token in pair[::-1]))
    return tuple(token[::-1] for token in backwards[::-1])


def wrong_patterns(make):
    """What students make of the pre-tokens: make(pattern), or make(pattern, find), is the result of a pattern."""
    patterns = {
        "contractions such as 'll are not cut off; they should be pre-tokens of their own": GPT2.partition(
            "|ll|ve|re)|"
        )[2],
        "contractions in capitals are cut off too; the pattern should know small letters only": GPT2.replace(
            "(?:", "(?i:", 1
        ),
        "a word does not take the space before it; it should take one space": GPT2.replace(" ?", ""),
        "white space takes the last space before a word; \\s+(?!\\S) should leave it to the word": GPT2.replace(
            r"|\s+(?!\S)", ""
        ),
        "numbers are cut every three digits; they should stay whole": GPT2.replace(r"\p{N}+", r"\p{N}{1,3}"),
        "letters and digits make one pre-token; they should be pre-tokens of their own": GPT2.replace(
            r" ?\p{L}+| ?\p{N}+", r" ?[\p{L}\p{N}]+"
        ),
        "words are \\w+, which takes digits and _ for letters": r"'(?:[sdmt]|ll|ve|re)| ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+",
        "only ASCII letters count as letters: use \\p{L}": GPT2.replace(r"\p{L}+", "[A-Za-z]+").replace(
            r"\p{L}", "A-Za-z"
        ),
        "only 0 to 9 count as digits: use \\p{N}": GPT2.replace(r"\p{N}+", "[0-9]+").replace(r"\p{N}", "0-9"),
        "pairs are joined across the borders of pre-tokens": r"(?s).+",
        "text is cut at spaces only": r" ?[^ ]+| +",
        "text is cut at white space, which is lost; white space should be in pre-tokens too": r"\S+",
    }
    in_bytes = "the pattern is matched against bytes; it should be matched against characters"
    return {in_bytes: lambda: make(GPT2, find_in_bytes)} | {
        sentence: (lambda pattern=pattern: make(pattern)) for sentence, pattern in patterns.items()
    }


def wrong_cuts(make):
    """What students make of special tokens: make(cut) is the result of a way to cut."""

    def unescaped(text, special):
        pattern = "(" + "|".join(sorted(special, key=len, reverse=True)) + ")"
        return [(piece, piece in special) for piece in regex.split(pattern, text)]

    def longest_anywhere(text, special):
        pieces = [(text, False)]
        for token in sorted(special, key=len, reverse=True):
            pieces = [part for piece, done in pieces for part in ([(piece, True)] if done else cut(piece, [token]))]
        return pieces

    def without(text, special):
        return [("".join(piece for piece, is_special in cut(text, special) if not is_special), False)]

    def first_given(text, special):
        return cut(text, special, choose=lambda found: found[0])

    def shortest(text, special):
        return cut(text, special, choose=lambda found: min(found, key=len))

    cuts = {
        "special tokens are not split off": lambda text, special: [(text, False)],
        "of special tokens at one place the first given wins; the longest should win": first_given,
        "of special tokens at one place the shortest wins; the longest should win": shortest,
        "the longest special token is split off first, wherever it is; the leftmost should come first": longest_anywhere,
        "special tokens are read as regular expressions: escape them": unescaped,
        "the text before a special token is joined with the text after it": without,
        "special tokens are left out": lambda *given: [part for part in cut(*given) if not part[1]],
    }
    return {sentence: (lambda wrong=wrong: make(wrong)) for sentence, wrong in cuts.items()}
