"""Hidden tests of tokenization.py.

The truth is byte-pair encoding at its most naive, which needs no thought to be believed: `learn` counts every pair anew
for each merge, `merged` carries out every merge in turn, `cut` looks for special tokens at each character. Their arguments
turn them into the mistakes that are known. The library `tokenizers` confirms them in one test.
"""

import time
from collections import Counter
from itertools import pairwise

import pytest
import regex
import torch

INIT = pytest.mark.question("BPETokenizer")
TRAIN = pytest.mark.question("BPETokenizer.train")
SPEED = pytest.mark.question("Speed of training")
ENCODE = pytest.mark.question("BPETokenizer.encode")
DECODE = pytest.mark.question("BPETokenizer.decode")
FILES = pytest.mark.question("encode_iterable, save and load")
COUNT = pytest.mark.question("count_tokens and truncate_to_context")

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTES = [bytes([byte]) for byte in range(256)]
WORDS = """the The there then one on and hand naïve Straße große привет мир мира 日本語 日本 안녕 नमस्ते مرحبا 🙂 🙂🙃 👩‍👩‍👧 don't
    can't we'll I've she'd it's I'm you're 'S DON'T 2024 20245 1st x=1 ٣٤ 2½ ٣٤! a_b ... ?! (so-called) aaaa aaa cafe\u0301""".split()
SPACES = [" ", " ", " ", " ", "  ", "\n", " \n", "\n\n    ", "\t", "\u00a0", ""]
# Some begin alike, two overlap, some mean something in a pattern.
SPECIAL = ["<|a|><|b|>", "<|a|>", "<|a|><|b|><|c|>", "[the]", "<s>", "s>>>", "o.e", "«日本»"]

# ---------------------------------------------------------------------------------------------- texts


def shuffled(rng, items):
    return [items[i] for i in torch.randperm(len(items), generator=rng)]


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


def all_borders(rng):
    """Every word once, each with some space and two spaces behind it: every wrong pattern shows, and tidied line ends."""
    return "".join(word + shuffled(rng, SPACES)[0] + "  " for word in shuffled(rng, WORDS)) + "end\r\n\r\nend \n"


def random_words(rng, letters, count, longest):
    """Words of random letters; of few letters they are full of runs and repetitions."""
    lengths = torch.randint(1, longest + 1, (count,), generator=rng).tolist()
    stream = iter(drawn(rng, letters, sum(lengths)))
    return ["".join(next(stream) for _ in range(length)) for length in lengths]


def tangled(rng):
    """Words in which many merges compete for a letter."""
    return "\n".join(random_words(rng, "abcdé", 80, 9) + random_words(rng, "ab", 30, 30))


def with_special_tokens(rng):
    hard = [
        "<|a|><|b|><|c|>",
        "<|a|><|b|>",
        "<s>>>>",
        "one <|a|> two",
        "there  <s>",
        "one o.e[the]the <|b|>«日本»語",
    ] * 2
    return "".join(shuffled(rng, hard + drawn(rng, SPECIAL, 20) + drawn(rng, WORDS, 60) + drawn(rng, SPACES, 60)))


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
    return tuple(bytes([byte]) for byte in word.encode())


def pre_tokens(text, special=(), pattern=GPT2, cut=cut):
    """How often each pre-token occurs, as a tuple of its bytes."""
    pieces = [piece for piece, is_special in cut(text, special) if not is_special]
    return Counter(in_bytes(word) for piece in pieces for word in regex.findall(pattern, piece))


def joined(word, pair, most=10_000):
    """The word with the pair joined, from left to right, at most so often."""
    symbols, i = [], 0
    while i < len(word):
        both = most > 0 and word[i : i + 2] == pair
        symbols.append(b"".join(pair) if both else word[i])
        i, most = i + 1 + both, most - both
    return tuple(symbols)


def learn(words, merges, *, key=lambda pair, n, first, ids: (n, pair), least=1, neighbours=pairwise, joined=joined):
    """At most `merges` merges of the pre-tokens, each found by counting all pairs anew: that of the greatest key."""
    learned, ids = [], {token: id for id, token in enumerate(BYTES)}
    while len(learned) < merges:
        counts = Counter()
        for word, times in words.items():
            for pair in neighbours(word):
                counts[pair] += times
        first = {pair: place for place, pair in enumerate(counts)}
        best = max(counts, key=lambda pair: key(pair, counts[pair], first, ids), default=None)
        if best is None or counts[best] < least:
            break
        learned.append(best)
        ids[b"".join(best)] = len(ids)
        after = Counter()
        for word, times in words.items():
            after[joined(word, best)] += times
        words = after
    return learned


def tokens_of(merges):
    return BYTES + [left + right for left, right in merges]


def vocab_of(merges, special=()):
    return dict(enumerate(tokens_of(merges) + [token.encode() for token in special]))


def any_vocab(rng, merges, special=()):
    """The tokens of vocab_of with ids in no order, and with gaps."""
    tokens = list(vocab_of(merges, special).values())
    return dict(zip((3 * torch.randperm(len(tokens), generator=rng) + 5).tolist(), tokens, strict=True))


def merged(word, merges, joined=joined):
    for pair in merges:
        word = joined(word, pair)
    return word


def encoded(text, vocab, merges, special=(), *, cut=cut, merged=merged, pattern=GPT2):
    """The ids of a text, with every merge carried out in turn on every pre-token."""
    id_of, known, ids = {token: id for id, token in vocab.items()}, {}, []
    for piece, is_special in cut(text, special):
        for word in [] if is_special else regex.findall(pattern, piece):
            if word not in known:
                known[word] = [id_of[token] for token in merged(in_bytes(word), merges)]
            ids += known[word]
        ids += [id_of[piece.encode()]] if is_special else []
    return ids


# ---------------------------------------------------------------------------------------------- the mistakes


def not_overlapping(word):
    """Neighbours, without those that overlap an equal pair before them."""
    found, i = [], 0
    while i + 1 < len(word):
        found.append(word[i : i + 2])
        i += 2 if word[i : i + 2] == word[i + 1 : i + 3] else 1
    return found


def joined_from_the_right(word, pair):
    backwards = joined(tuple(token[::-1] for token in word[::-1]), tuple(token[::-1] for token in pair[::-1]))
    return tuple(token[::-1] for token in backwards[::-1])


def first_possible(word, merges):
    """What comes of merges in an order in which they were not learned: again and again the first that is possible."""
    while known := [pair for pair in pairwise(word) if pair in merges]:
        word = joined(word, min(known, key=merges.index))
    return word


def leftmost(word, merges):
    while known := [pair for pair in pairwise(word) if pair in merges]:
        word = joined(word, known[0], 1)
    return word


def longest_match(word, merges):
    tokens, text, found = set(tokens_of(merges)), b"".join(word), []
    while text:
        found.append(next(text[:n] for n in range(len(text), 0, -1) if text[:n] in tokens))
        text = text[len(found[-1]) :]
    return found


def learn_mistakes(words, count):
    """What students make of the merges of these pre-tokens."""

    def learned(**wrong):
        return lambda: learn(words, count, **wrong)

    def upside_down(token):  # opposite order; of two tokens of which one begins the other, the shorter is greater
        return *(255 - byte for byte in token), 256

    def tie(by):
        return learned(key=lambda pair, n, first, ids: (n, by(pair, first, ids)))

    return {
        "a tie goes to the smaller pair: it goes to the greater": tie(lambda pair, *_: [*map(upside_down, pair)]),
        "a tie goes to the pair that was seen first": tie(lambda pair, first, ids: -first[pair]),
        "a tie goes to the pair that was seen last": tie(lambda pair, first, ids: first[pair]),
        "a tie is decided by the joined bytes: compare (left bytes, right bytes)": tie(lambda pair, *_: (b"".join(pair), pair)),
        "a tie is decided by the ids of the tokens: compare their bytes": tie(lambda pair, first, ids: [*map(ids.get, pair)]),
        "in a tie a token counts as greater than one that it begins: the longer one is": tie(
            lambda pair, *_: [(*token, 256) for token in pair]
        ),
        "overlapping pairs count once: aaa holds (a, a) twice": learned(neighbours=not_overlapping),
        "pairs are merged from right to left": learned(joined=joined_from_the_right),
        "a pre-token counts once, however often it occurs": lambda: learn(Counter(list(words)), count),
        "training stops when no pair occurs twice: a pair that occurs once still merges": learned(least=2),
        "the least frequent pair merges first": learned(key=lambda pair, n, first, ids: (-n, pair)),
        "one merge too few is learned": lambda: learn(words, count)[: count - 1],
        "one merge too many is learned": lambda: learn(words, count + 1),
    }  # fmt: skip


def wrong_patterns(make):
    """What students make of the pre-tokens: make(pattern) is the result of a pattern."""
    patterns = {
        "contractions such as 'll are not pre-tokens of their own": GPT2.partition("|ll|ve|re)|")[2],
        "contractions in capitals are cut off too: the pattern knows small letters only": GPT2.replace(
            "(?:", "(?i:", 1
        ),
        "a word leaves the space before it alone: it takes one": GPT2.replace(" ?", ""),
        "white space leaves no space to the word behind it: \\s+(?!\\S) is missing": GPT2.replace(r"|\s+(?!\S)", ""),
        "numbers are cut every three digits": GPT2.replace(r"\p{N}+", r"\p{N}{1,3}"),
        "letters and digits make one pre-token": GPT2.replace(r" ?\p{L}+| ?\p{N}+", r" ?[\p{L}\p{N}]+"),
        "words are \\w+, which takes digits and _ for letters": r"'(?:[sdmt]|ll|ve|re)| ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+",
        "only ASCII letters are letters: use \\p{L}": GPT2.replace(r"\p{L}+", "[A-Za-z]+").replace(r"\p{L}", "A-Za-z"),
        "only 0 to 9 are digits: use \\p{N}": GPT2.replace(r"\p{N}+", "[0-9]+").replace(r"\p{N}", "0-9"),
        "pairs are joined across the borders of pre-tokens": r"(?s).+",
        "text is cut at spaces only": r" ?[^ ]+| +",
        "text is cut at white space, which is lost": r"\S+",
    }
    return {sentence: (lambda pattern=pattern: make(pattern)) for sentence, pattern in patterns.items()}


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
        "of special tokens at one place the first given wins: the longest does": first_given,
        "of special tokens at one place the shortest wins: the longest does": shortest,
        "the longest special token is split off first, wherever it is: the leftmost comes first": longest_anywhere,
        "special tokens are read as regular expressions: escape them": unescaped,
        "the text around a special token grows together": without,
        "special tokens are left out": lambda *given: [part for part in cut(*given) if not part[1]],
    }
    return {sentence: (lambda wrong=wrong: make(wrong)) for sentence, wrong in cuts.items()}


# ---------------------------------------------------------------------------------------------- BPETokenizer


@INIT
@pytest.mark.points(3)
def test_special_tokens_get_ids_behind_the_highest(student, check, rng):
    """Special tokens that vocab lacks get the next ids after the highest, in the order given, each once."""

    def probe(*parts):
        return inside.state(inside.built(*parts))["vocab"]

    vocab, new = any_vocab(rng, [(b"o", b"n")], ["<known>"]), ["<|z|>", "<|a|>", "ünï"]
    given = [new[0], "<known>", new[1], new[0], new[2], "<known>"]
    found = student.run(probe, vocab, [(b"o", b"n")], given)

    def with_ids(tokens, start=None):
        start = max(vocab) + 1 if start is None else start
        return vocab | {start + i: token.encode() for i, token in enumerate(tokens)}

    check(found, with_ids(new), mistakes={
        "a special token that vocab holds already gets a second id": with_ids([new[0], "<known>", *new[1:]]),
        "the special tokens are not in vocab": vocab,
        "special tokens get ids from len(vocab) on: the next id is the highest + 1": with_ids(new, len(vocab)),
        "special tokens are sorted: their ids follow the order given": with_ids(sorted(new)),
        "a special token that is given twice gets two ids": with_ids([new[0], new[1], new[0], new[2]]),
        "special tokens take the first ids, where other tokens are": with_ids(new, 0),
        "special tokens are text in vocab, where tokens are bytes": vocab
        | {max(vocab) + 1 + i: token for i, token in enumerate(new)},
    })  # fmt: skip


@INIT
@pytest.mark.points(1)
def test_the_parts_are_attributes(student, check, rng):
    """vocab, merges and special_tokens are attributes; a tokenizer needs no special tokens."""

    def probe(vocab, merges):
        from tokenization import BPETokenizer

        return inside.state(BPETokenizer(vocab, merges)), inside.state(BPETokenizer(vocab, merges, ("b", "<a>")))

    merges = [(b"t", b"h"), (b"th", b"e"), (b"\xc3", b"\xa9")]
    vocab = any_vocab(rng, merges)
    without, with_special = student.run(probe, vocab, merges)

    check(without, {"vocab": vocab, "merges": merges, "special_tokens": []})
    check(with_special, {"vocab": vocab | {max(vocab) + 1: b"<a>"}, "merges": merges, "special_tokens": ["b", "<a>"]})


@INIT
@pytest.mark.points(1)
def test_what_is_passed_is_not_changed(student, check, rng):
    """The constructor and train leave the vocab, merges and special tokens that they are given as they are."""

    def probe(vocab, merges, special):
        from tokenization import BPETokenizer

        BPETokenizer(vocab, merges, special)
        BPETokenizer.train("on and on", 256 + 5, special)
        return vocab, merges, special

    vocab, merges, special = any_vocab(rng, [(b"o", b"n")]), [(b"o", b"n")], ["<|z|>", "<|a|>", "<|z|>"]
    after = student.run(probe, vocab, merges, special)

    larger = vocab | {max(vocab) + 1: b"<|z|>", max(vocab) + 2: b"<|a|>"}
    check(after, (vocab, merges, special), mistakes={
        "the special tokens are added to the caller's vocab: make a copy": (larger, merges, special),
        "the caller's list of special tokens is changed": (vocab, merges, special[:2]),
    })  # fmt: skip


@INIT
@pytest.mark.points(1)
def test_an_empty_special_token_is_refused(student):
    """An empty special token is a ValueError, in the constructor and in train."""
    student.raises(ValueError, "tokenization.BPETokenizer", vocab_of([]), [], ["<a>", ""], says="special_tokens")
    student.raises(ValueError, "tokenization.BPETokenizer", vocab_of([]), [], ("",), says="special_tokens")
    student.raises(ValueError, "tokenization.BPETokenizer.train", "some text", 300, ["", "<a>"], says="special_tokens")


# ---------------------------------------------------------------------------------------------- BPETokenizer.train


def merges_learned(student, *args):
    def probe(*args):
        return inside.state(inside.trained(*args))["merges"]

    return student.run(probe, *args)


@TRAIN
@pytest.mark.points(3)
def test_the_most_frequent_pair_merges_first(student, check, rng):
    """Each merge is the pair that occurs most often after the merges before it."""
    text, count = prose(rng, 400), 90
    found = merges_learned(student, text, 256 + count)

    words = pre_tokens(text)
    characters = Counter({tuple(c.encode() for c in b"".join(word).decode()): n for word, n in words.items()})
    check(found, learn(words, count), mistakes=learn_mistakes(words, count) | {
        "pre-tokens are sequences of characters: they are sequences of UTF-8 bytes": lambda: learn(characters, count, key=lambda
            pair, n, first, ids: (n, pair)),
        "pairs are joined across the borders of pre-tokens": lambda: learn(pre_tokens(text, pattern=r"(?s).+"), count),
    })  # fmt: skip


@TRAIN
@pytest.mark.points(2)
def test_a_tie_goes_to_the_greater_pair(student, check, rng):
    """Of pairs that occur equally often the greater tuple of bytes merges first."""
    words = [
        "ab",
        "abx",
        "abxu",
        "az",
        "azé",
        "bcde",
        "bcdz",
        "Zé",
        "éZ",
        "zz",
    ]  # "ab" begins with "a", é is beyond ASCII
    text = " ".join(shuffled(rng, words)) + "\n" + "\n".join(shuffled(rng, words))
    found = merges_learned(student, text, 256 + 44)

    words = pre_tokens(text)
    check(found, learn(words, 44), mistakes=learn_mistakes(words, 44))


@TRAIN
@pytest.mark.points(3)
@pytest.mark.parametrize(
    ("letters", "count", "longest"), [("a", 12, 40), ("ab", 14, 24), ("abc", 40, 12), ("abcdefé", 90, 9)]
)
def test_counts_stay_right_where_pairs_repeat_and_overlap(student, check, rng, letters, count, longest):
    """Counts stay right to the last merge in words full of runs and repetitions; pairs count at every position."""
    text = "\n".join(drawn(rng, random_words(rng, letters, count, longest), 3 * count))
    found = merges_learned(student, text, 4000)

    words = pre_tokens(text)
    check(found, learn(words, 4000), mistakes=learn_mistakes(words, 4000))


@TRAIN
@pytest.mark.points(2)
def test_training_stops_where_nothing_is_left_to_merge(student, check):
    """A pair that occurs once still merges; training stops early when no pre-token has two symbols."""
    texts = ["low lower!", "é", "a b c", "", "<e>"]
    found = [merges_learned(student, text, 5000, ["<e>"]) for text in texts]

    check(found, [learn(pre_tokens(text, ["<e>"]), 5000) for text in texts], mistakes={
        "training stops when no pair occurs twice: a pair that occurs once still merges": [
            learn(pre_tokens(text, ["<e>"]), 5000, least=2) for text in texts
        ],
    })  # fmt: skip


@TRAIN
@pytest.mark.points(2)
@pytest.mark.parametrize("vocab_size", [290, 5000])
def test_ids_are_bytes_then_merges_then_special_tokens(student, check, rng, vocab_size):
    """Ids 0..255 are the bytes, then come the merges in order, then the special tokens; vocab_size counts all of them."""
    text = " ".join(random_words(rng, "abcdé", 30, 8))
    special = shuffled(rng, ["<|b|>", "<|a|>", "ß"])

    def probe(text, vocab_size, special):
        tokenizer = inside.trained(text, vocab_size, special)
        return inside.state(tokenizer)["vocab"], tokenizer.encode(text + special[0])

    found, ids = student.run(probe, text, vocab_size, special + special[:1])

    room = vocab_size - 256 - len(special)
    all_merges = learn(pre_tokens(text, special), vocab_size)
    merges, special_bytes = all_merges[:room], [token.encode() for token in special]
    check(found, vocab_of(merges, special), mistakes={
        "vocab_size does not count the special tokens": vocab_of(all_merges[: room + len(special)], special),
        "a special token that is given twice counts twice in vocab_size": vocab_of(merges[: room - 1], special),
        "vocab_size does not count the bytes": vocab_of(all_merges[: vocab_size - len(special)], special),
        "the special tokens come first": dict(enumerate(special_bytes + tokens_of(merges))),
        "the special tokens come before the merges": dict(enumerate(BYTES + special_bytes + tokens_of(merges)[256:])),
        "the special tokens are not in vocab": vocab_of(merges),
        "special tokens get the last ids of vocab_size, behind a gap": vocab_of(merges)
        | dict(enumerate(special_bytes, start=256 + room)),
    })  # fmt: skip
    check(ids, encoded(text + special[0], vocab_of(merges, special), merges, special))


@TRAIN
@pytest.mark.points(3)
def test_pre_tokens_are_those_of_gpt2(student, check, rng):
    """Text is cut into GPT-2's pre-tokens: contractions, words, numbers, other signs, white space."""
    text = all_borders(rng)
    found = merges_learned(student, text, 4000)

    def make(pattern):
        return learn(pre_tokens(text, pattern=pattern), 4000)

    check(found, make(GPT2), mistakes=wrong_patterns(make))


@TRAIN
@pytest.mark.points(3)
def test_special_tokens_are_split_off_before_training(student, check, rng):
    """Special tokens in the text are split off first and never merge with their neighbours."""
    text = with_special_tokens(rng)
    found = merges_learned(student, text, 4000, SPECIAL)

    def make(cut):
        return learn(pre_tokens(text, SPECIAL, cut=cut), 4000)

    check(found, make(cut), mistakes=wrong_cuts(make))


@TRAIN
@pytest.mark.points(1)
def test_a_vocabulary_without_room_is_refused(student, check):
    """vocab_size below 256 + the number of distinct special tokens is a ValueError; at that size nothing is merged."""

    def probe(vocab_size, special):
        return inside.state(inside.trained("a text, a text", vocab_size, special))["merges"]

    for vocab_size, special in ((255, []), (257, ["<a>", "<b>"]), (0, [])):
        student.raises(ValueError, probe, vocab_size, special, says="vocab_size")
    check([student.run(probe, 256, []), student.run(probe, 258, ["<a>", "<b>", "<a>"])], [[], []])


@SPEED
@pytest.mark.points(4)
def test_a_merge_does_not_count_all_pairs_anew(student, check, rng):
    """Counts are kept up to date: a merge takes far less time than counting every pair of the text.

    All merges happen in a few frequent numbers, beside 15,000 words that no merge touches: a merge costs next to nothing
    unless it goes through all words. The clock is the grader's and its unit is what one count of all pairs takes in this
    process, so nothing that the student's code measures is believed and the machine's speed cancels out. An index of
    pairs takes 0.05 units a merge or less, counting anew 0.7 to 3; looking through all words for the pair takes 0.1 to
    0.5 and is fast enough for the contract. A machine that is busy gives two more tries.
    """
    rare = random_words(rng, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 15_000, 13)
    numbers = random_words(rng, "0123456789", 60, 12)

    def probe(rare, numbers, merges):
        text = "\n".join([rare] + [number for number in numbers for _ in range(150)])
        return inside.state(inside.trained(text, 256 + merges))["merges"]

    def timed(work, *args):
        start = time.perf_counter()
        return work(*args), time.perf_counter() - start

    def count_all_pairs():
        counts = Counter()
        for word in words:
            for pair in pairwise(word):
                counts[pair] += 1

    def units_a_merge():
        units = [timed(count_all_pairs)[1] for _ in range(3)]
        few, least = timed(student.on(timeout=25).run, probe, "\n".join(rare), numbers, 1)
        many, most = timed(student.on(timeout=25).run, probe, "\n".join(rare), numbers, 101)
        units += [timed(count_all_pairs)[1] for _ in range(3)]
        check((few, many), (truth[:1], truth))
        return (most - least) / 100 / min(units)

    words = [in_bytes(word) for word in rare]
    truth = learn(Counter(map(in_bytes, numbers)), 101)
    fast = any(units_a_merge() < 0.55 for _ in range(3))
    check(
        fast, True, mistakes={"each merge counts all pairs anew, or takes as long: keep the counts up to date": False}
    )


# ---------------------------------------------------------------------------------------------- BPETokenizer.encode


def ids_of(student, texts, *parts):
    def probe(texts, parts):
        tokenizer = inside.built(*parts)
        return [tokenizer.encode(text) for text in texts]

    return student.run(probe, texts, parts)


@ENCODE
@pytest.mark.points(3)
def test_merges_are_carried_out_in_the_order_learned(student, check, rng):
    """In each pre-token the merges are carried out in the order in which they were learned, from left to right."""
    texts = [prose(rng, 40), tangled(rng)]
    merges = learn(pre_tokens(texts[0]) + pre_tokens(texts[1]), 300)
    vocab = vocab_of(merges)
    found = ids_of(student, texts, vocab, merges)

    def each(merged=merged):
        return lambda: [encoded(text, vocab, merges, merged=merged) for text in texts]

    check(found, each()(), mistakes={
        "encode takes the longest token that fits: it carries out merges": each(longest_match),
        "encode merges the leftmost pair that it knows: the merge that was learned first comes first": each(leftmost),
        "the merge that was learned last comes first": each(lambda word, merges: first_possible(word, merges[::-1])),
        "only the first occurrence of a pair in a pre-token is merged": each(
            lambda word, merges: merged(word, merges, lambda word, pair: joined(word, pair, 1))
        ),
        "pairs are merged from right to left": each(lambda word, merges: merged(word, merges, joined_from_the_right)),
        "no merge is carried out": each(lambda word, merges: word),
        "the last merge is never carried out": each(lambda word, merges: merged(word, merges[:-1])),
    })  # fmt: skip


@ENCODE
@pytest.mark.points(2)
def test_ids_are_looked_up_in_vocab(student, check, rng):
    """vocab says which id a token has: bytes and merges may have any ids; the order of merges is that of the list."""
    text = tangled(rng) + prose(rng, 50)
    merges = learn(pre_tokens(text), 200)
    vocab = any_vocab(rng, merges)

    def probe(text, vocab, merges):
        tokenizer = inside.built(vocab, merges)
        ids, of_nothing = tokenizer.encode(text), tokenizer.encode("")
        found = ids[:]
        if type(ids) is list:
            ids.clear()
        return found, of_nothing, tokenizer.encode(text), inside.built(vocab, []).encode(text)

    found, of_nothing, again, by_bytes = student.run(probe, text, vocab, merges)

    id_of = {token: id for id, token in vocab.items()}
    usual = encoded(text, vocab_of(merges), merges)
    by_id = sorted(merges, key=lambda pair: id_of[pair[0] + pair[1]])
    assert type(found) is list, "encode gives no list"
    check(of_nothing, [])
    check(found, encoded(text, vocab, merges), mistakes={
        "ids are taken for granted (bytes from 0, merges from 256): vocab says which they are": usual,
        "a byte's value is taken for its id: vocab says which it is": [
            id if id < 256 else id_of[b"".join(merges[id - 256])] for id in usual
        ],
        "the ids decide which merge comes first: the order of merges does": lambda: encoded(
            text, vocab, by_id, merged=first_possible
        ),
        "encode takes the longest token that fits: it carries out merges": lambda: encoded(
            text, vocab, merges, merged=longest_match
        ),
    })  # fmt: skip
    check(again, found, mistakes={"encode gives out the list that it keeps: whoever changes the list, changes it": []})
    check(by_bytes, encoded(text, vocab, []), mistakes={
        "the ids of one tokenizer are given out by another: keep what you remember on the object": found,
    })  # fmt: skip


@ENCODE
@pytest.mark.points(2)
def test_no_merge_crosses_the_border_of_a_pre_token(student, check, rng):
    """Text is cut into GPT-2's pre-tokens first: no merge joins two of them."""
    text = all_borders(rng)
    merges = learn(pre_tokens(text), 5000)  # each pre-token becomes one token, and then each two that are neighbours
    words = [word.encode() for word in regex.findall(GPT2, text)]
    known = {left + right for left, right in merges}
    merges += {left + right: (left, right) for left, right in pairwise(words) if left + right not in known}.values()
    vocab = vocab_of(merges)
    (found,) = ids_of(student, [text], vocab, merges)

    def make(pattern):
        return encoded(text, vocab, merges, pattern=pattern)

    check(found, make(GPT2), mistakes=wrong_patterns(make))


@ENCODE
@pytest.mark.points(3)
def test_a_special_token_is_one_id(student, check, rng):
    """A special token in the text is one id: the leftmost match wins, and of several at one place the longest."""
    texts = [with_special_tokens(rng), *SPECIAL, "<|a|><|a|><|b|>", "there  <s>", "the<s>re"]
    merges = learn(pre_tokens(prose(rng, 200) + texts[0]), 300)
    vocab = any_vocab(rng, merges, SPECIAL)
    found = ids_of(student, texts, vocab, merges, SPECIAL)

    def make(cut):
        return [encoded(text, vocab, merges, SPECIAL, cut=cut) for text in texts]

    check(found, make(cut), mistakes=wrong_cuts(make))


@ENCODE
@pytest.mark.points(2)
def test_encode_agrees_with_the_library_tokenizers(student, check, rng):
    """encode gives the ids that the library tokenizers gives for the same vocabulary; decode gives the text back."""
    import tokenizers  # agrees with the lesson in everything but how training decides ties

    special = ["<|a|>", "<|a|><|b|>", "[the]", "o.e"]
    # Behind the words is what a text loses if it is tidied up: line ends, letters in two parts, a mark of the byte order.
    text = (
        with_special_tokens(rng) + prose(rng, 100) + tangled(rng) + "Two\r\nlines\rre\u0301sume\u0301 \ufb01x \ufeff\0 "
    )
    merges = learn(pre_tokens(text, special), 300)
    vocab = any_vocab(rng, merges, special)

    def probe(text, parts):
        tokenizer = inside.built(*parts)
        return tokenizer.encode(text), tokenizer.decode(tokenizer.encode(text))

    found = student.run(probe, text, (vocab, merges, special))

    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these bytes GPT-2's files write as that letter
    hidden = [byte for byte in range(256) if byte not in shown]  # and these as the letters from 256 on
    letter = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    spelled = {token: "".join(letter[byte] for byte in token) for token in vocab.values()}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(
        {spelled[token]: id for id, token in vocab.items()}, [(spelled[left], spelled[right]) for left, right in merges]
    ))  # fmt: skip
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    check(found, (library.encode(text).ids, text))


# ---------------------------------------------------------------------------------------------- BPETokenizer.decode


def texts_of(student, lists, *parts):
    def probe(lists, parts):
        tokenizer = inside.built(*parts)
        return [tokenizer.decode(ids) for ids in lists]

    return student.run(probe, lists, parts)


@DECODE
@pytest.mark.points(2)
def test_decode_joins_the_bytes_of_all_tokens(student, check, rng):
    """decode joins the bytes of all tokens before it makes text of them: a character may lie in several tokens."""
    texts = [prose(rng, 60) + "<|a|> \x00\ufffd\r\n", "🙂", "", "<|a|><|b|>é"]
    merges = learn(pre_tokens(prose(rng, 100)), 60)
    vocab = any_vocab(rng, merges, SPECIAL)
    lists = [encoded(text, vocab, merges, SPECIAL) for text in texts]
    found = texts_of(student, lists, vocab, merges, SPECIAL)

    def each(make):
        return ["".join(make(vocab[id]) for id in ids) for ids in lists]

    ordinary = [[vocab[id] for id in ids if vocab[id].decode(errors="ignore") not in SPECIAL] for ids in lists]
    check(found, texts, mistakes={
        "each token is decoded alone: join the bytes first": each(lambda token: token.decode(errors="replace")),
        "each token is decoded alone, and half characters are lost": each(lambda token: token.decode(errors="ignore")),
        "each byte is taken for a character": each(lambda token: token.decode("latin-1")),
        "special tokens are lost": [b"".join(tokens).decode() for tokens in ordinary],
        "spaces are put between tokens": [b" ".join(vocab[id] for id in ids).decode(errors="replace") for ids in lists],
        "white space is stripped from the text": [text.strip() for text in texts],
    })  # fmt: skip


@DECODE
@pytest.mark.points(2)
def test_malformed_bytes_become_the_replacement_character(student, check, rng):
    """Bytes that are no UTF-8 become U+FFFD, and what is around them stays."""
    texts = [
        b"\xff",
        b"a\x80b",
        b"caf\xc3",
        b"\xc3x\xa9",
        b"ok \xf8 \xe9\xff fin",
        "é".encode() + b"\xbf!",
        b"\xc0\xfe",
    ]
    vocab = any_vocab(rng, [])
    id_of = {token: id for id, token in vocab.items()}
    found = texts_of(student, [[id_of[bytes([byte])] for byte in text] for text in texts], vocab, [])

    right = [text.decode(errors="replace") for text in texts]
    check(found, right, mistakes={
        "malformed bytes are left out: they become U+FFFD": [text.decode(errors="ignore") for text in texts],
        "malformed bytes are written as escapes: they become U+FFFD": [t.decode(errors="backslashreplace") for t in texts],
        "malformed bytes become a question mark: they become U+FFFD": [text.replace("\ufffd", "?") for text in right],
        "each byte is taken for a character": [text.decode("latin-1") for text in texts],
    })  # fmt: skip


@DECODE
@pytest.mark.points(1)
def test_an_unknown_id_is_refused(student, rng):
    """An id that is not in vocab is a ValueError: too high, negative, or in a gap."""

    def probe(ids, *parts):
        return inside.built(*parts).decode(ids)

    vocab = any_vocab(rng, [(b"o", b"n")])
    known = next(iter(vocab))
    for ids in ([known, max(vocab) + 1], [-1, known], [known, min(vocab) + 1, known], [0]):
        student.raises(ValueError, probe, ids, vocab, [(b"o", b"n")], says="ids")
    student.raises(ValueError, probe, [-1], vocab_of([]), [], says="ids")  # where a list as a table has a last entry


@DECODE
@pytest.mark.points(1)
def test_decode_takes_any_iterable(student, check, rng):
    """decode takes ids from any iterable: a list, a tuple, a generator, a range, the keys of a dict."""

    def probe(vocab, ids):
        tokenizer = inside.built(vocab, [])
        forms = [ids, tuple(ids), (id for id in ids), iter(ids), range(97, 100), dict.fromkeys([104, 105]), iter([])]
        return [tokenizer.decode(form) for form in forms]

    text = prose(rng)
    found = student.run(probe, vocab_of([]), list(text.encode()))

    check(found, [text] * 4 + ["abc", "hi", ""], mistakes={
        "ids are gone through twice: a generator can be read only once": [text, text, "", "", "abc", "hi", ""],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- encode_iterable, save, load


@FILES
@pytest.mark.points(2)
def test_encode_iterable_yields_the_ids_of_each_string(student, check, rng):
    """encode_iterable yields the ids of each string in turn, as encode gives them: nothing joins across strings."""
    merges = learn(pre_tokens(prose(rng, 100)), 100)
    parts = any_vocab(rng, merges, SPECIAL), merges, SPECIAL
    strings = ["the", "re", "", " ", " then", "<|a", "|>", "<|a|>", "<|b|>", "é"] + drawn(rng, WORDS + SPACES, 60)

    def probe(parts, strings):
        tokenizer = inside.built(*parts)
        return list(tokenizer.encode_iterable(strings)), list(tokenizer.encode_iterable(s for s in strings))

    found = student.run(probe, parts, strings)

    apart = [encoded(string, *parts) for string in strings]
    check(found, (sum(apart, []),) * 2, mistakes={
        "the strings are joined: each is encoded alone": (encoded("".join(strings), *parts),) * 2,
        "the strings are joined with spaces: each is encoded alone": (encoded(" ".join(strings), *parts),) * 2,
        "the strings are joined with newlines: each is encoded alone": (encoded("\n".join(strings), *parts),) * 2,
        "a list of ids is yielded for each string: yield the ids": (apart,) * 2,
    })  # fmt: skip


@FILES
@pytest.mark.points(2)
def test_encode_iterable_reads_no_further_than_it_must(student, check):
    """encode_iterable is an iterator that works with any number of strings, since it keeps none of them."""

    def probe(vocab):
        def strings():
            for _ in range(5000):
                read.append(1)
                yield "abc"

        read = []
        ids = inside.built(vocab, []).encode_iterable(strings())
        return [next(ids) for _ in range(4)] if hasattr(ids, "__next__") else None, len(read) < 5000

    found = student.run(probe, vocab_of([]))

    check(found, ([97, 98, 99, 97], True), mistakes={
        "encode_iterable gives no iterator, but something that is finished": (None, False),
        "encode_iterable reads all strings before it yields an id": ([97, 98, 99, 97], False),
    })  # fmt: skip


@FILES
@pytest.mark.points(3)
def test_load_gives_back_what_was_saved(student, check, rng):
    """load gives back vocab, merges and special tokens, whatever bytes they hold, from the one file at exactly that path."""

    def save(parts, path=None):
        path = path or inside.path_in_an_empty_folder("a tokenizer.v2")
        inside.built(*parts).save(path)
        return path, inside.names_beside(path)

    def load(path, text=""):
        from tokenization import BPETokenizer

        tokenizer = BPETokenizer.load(path)
        return inside.state(tokenizer), tokenizer.encode(text), tokenizer.decode(tokenizer.encode(text))

    special = [*SPECIAL, "a\nb", '"quoted" \\n', " ", "\t", "<known>"]
    text = "\n".join([prose(rng, 40), *special, "\n\r \n"])
    merges = learn(pre_tokens(prose(rng, 200)), 150) + [(b"\n", b"\r"), (b"\xff", b"\x00"), (b"\r", b" ")]
    vocab = any_vocab(rng, merges, ["<known>"])
    other = vocab_of([(b"o", b"n")], ["<other>"]), [(b"o", b"n")], ["<other>"]
    path, names = student.run(save, (vocab, merges, special))
    check(names, ["a tokenizer.v2"], mistakes={
        "save writes more than one file": names if len(names) > 1 else None,
        "save writes to another path: it is exactly the one given": names,
    })  # fmt: skip
    other_path, _ = student.run(save, other)
    states = [student.run(load, path)[0], student.run(load, other_path)[0]]
    student.run(save, (vocab, merges, special), other_path)  # a file that is there is replaced
    states += [student.run(load, other_path)[0]]

    new = [token for token in special if token not in ("<known>", " ", "\t")]
    full = vocab | {max(vocab) + 1 + i: token.encode() for i, token in enumerate(new)}
    first = {"vocab": full, "merges": merges, "special_tokens": special}
    second = dict(zip(first, other, strict=True))

    def damaged(key, make):
        return lambda: [{**item, key: make(item[key])} for item in (first, second, first)]

    def as_text(vocab):
        return {id: token.decode(errors="replace") for id, token in vocab.items()}

    check(states, [first, second, first], mistakes={
        "the ids come back as strings": damaged("vocab", lambda vocab: {str(id): vocab[id] for id in vocab}),
        "the tokens come back as text: they are bytes": damaged("vocab", as_text),
        "tokens that are no UTF-8 are damaged": damaged(
            "vocab", lambda vocab: {id: token.encode() for id, token in as_text(vocab).items()}
        ),
        "the special tokens are lost": damaged("special_tokens", lambda special: []),
        "the merges are lost": damaged("merges", lambda merges: []),
        "a file that is there is not replaced": [first, second, second],
        "load gives the tokenizer that was saved last, not that of the path": [second, second, first],
    })  # fmt: skip
    check(student.run(load, path, text)[1:], (encoded(text, full, merges, special), text))


# ---------------------------------------------------------------------------------------------- count_tokens, truncate_to_context


@COUNT
@pytest.mark.points(1)
def test_count_tokens_counts_the_ids(student, check, rng):
    """count_tokens is the number of ids that the tokenizer gives, whatever tokenizer that is."""
    text = prose(rng, 50) + "<|a|>"
    merges = learn(pre_tokens(text), 80)
    parts = vocab_of(merges, SPECIAL), merges, SPECIAL

    def probe(parts, text):
        from tokenization import count_tokens

        tokenizers = inside.built(*parts), inside.ByteTokenizer(), inside.LowerCaseTokenizer()
        return [count_tokens(text, tokenizer) for tokenizer in tokenizers] + [count_tokens("", tokenizers[0])]

    found = student.run(probe, parts, text)

    lists = encoded(text, *parts), text.encode(), text.lower()
    check(found, [*map(len, lists), 0], mistakes={
        "words are counted, not tokens": [len(text.split())] * 3 + [0],
        "characters are counted, not tokens": [len(text)] * 3 + [0],
        "bytes are counted, not tokens": [len(text.encode())] * 3 + [0],
        "different tokens are counted once": [*(len(set(ids)) for ids in lists), 0],
    })  # fmt: skip


@COUNT
@pytest.mark.points(3)
def test_truncation_keeps_the_first_tokens(student, check, rng):
    """truncate_to_context keeps the first max_tokens tokens, and drops a character that is cut in half."""
    texts = ["a\ufffdé🙂\ufffd\u0301" + prose(rng) + " é\ufffd日本", "té", "o🙂", "éo", "a lot of tokens"]
    merges = [(b"t", b"\xc3"), (b"o", b"\xf0"), (b"o\xf0", b"\x9f"), (b"\xa9", b"o"), (b"l", b"o"), (b" ", b"t")]
    vocab = vocab_of(merges)

    def probe(parts, texts):
        from tokenization import truncate_to_context

        tokenizers = [inside.ByteTokenizer()] + [inside.built(*parts)] * (len(texts) - 1)
        return [
            [truncate_to_context(text, tokenizer, n) for n in range(len(tokenizer.encode(text)) + 2)]
            for text, tokenizer in zip(texts, tokenizers, strict=True)
        ]

    found = student.run(probe, (vocab, merges), texts)

    tokens = [[token for c in texts[0] for token in ([c.encode()] if c == "\ufffd" else in_bytes(c))]]
    tokens += [[vocab[id] for id in encoded(text, vocab, merges)] for text in texts[1:]]
    rows = list(zip(tokens, texts, strict=True))

    def each(make):
        return lambda: [[make(row, n, text) for n in range(len(row) + 2)] for row, text in rows]

    def kept(row, n, errors="ignore"):
        return b"".join(row[:n]).decode(errors=errors)

    def whole_tokens(row, n, text):
        return next(kept(row, m) for m in range(n, -1, -1) if text.startswith(kept(row, m, "replace")))

    def fitting_or(make):
        return each(lambda row, n, text: text if n >= len(row) else make(kept(row, n, "replace")))

    check(found, each(lambda row, n, text: kept(row, n))(), mistakes={
        "half a character stays as U+FFFD": each(lambda row, n, text: kept(row, n, "replace")),
        "U+FFFD is stripped from the end, where the text itself may have it": fitting_or(lambda text: text.rstrip("\ufffd")),
        "U+FFFD is removed everywhere, where the text itself may have it": fitting_or(lambda text: text.replace("\ufffd", "")),
        "characters are cut, not tokens": each(lambda row, n, text: text[:n]),
        "the last tokens are kept, not the first": each(
            lambda row, n, text: b"".join(row[max(len(row) - n, 0) :]).decode(errors="ignore")
        ),
        "one token too few is kept": each(lambda row, n, text: text if n >= len(row) else kept(row, max(n - 1, 0))),
        "the whole token that ends within a character is dropped: drop only that character": each(whole_tokens),
    })  # fmt: skip


@COUNT
@pytest.mark.points(2)
def test_a_text_that_fits_comes_back_unchanged(student, check):
    """A text that fits is given back unchanged, even if the tokenizer loses something; '' for 0."""

    def probe(texts, sizes):
        from tokenization import truncate_to_context

        return [[truncate_to_context(text, inside.LowerCaseTokenizer(), n) for n in sizes] for text in texts]

    found = student.run(probe, ["Ab Cd", "ab cd"], [9, 5, 0])

    check(found, [["Ab Cd", "Ab Cd", ""], ["ab cd", "ab cd", ""]], mistakes={
        "a text that fits goes through the tokenizer: give it back unchanged": [["ab cd", "ab cd", ""]] * 2,
        "a text of exactly max_tokens tokens goes through the tokenizer: it fits": [["Ab Cd", "ab cd", ""], ["ab cd", "ab cd", ""]],
        "max_tokens = 0 gives the whole text": [["Ab Cd"] * 3, ["ab cd"] * 3],
    })  # fmt: skip


@COUNT
@pytest.mark.points(1)
def test_a_negative_context_is_refused(student):
    """max_tokens below 0 is a ValueError, also for an empty text."""

    def probe(text, max_tokens):
        from tokenization import truncate_to_context

        return truncate_to_context(text, inside.ByteTokenizer(), max_tokens)

    for text, max_tokens in (("some text", -1), ("some text", -100), ("", -1)):
        student.raises(ValueError, probe, text, max_tokens, says="max_tokens")
