"""Hidden tests of tokenization: encode, decode, files and counts."""

import os
import unicodedata
from itertools import pairwise

import pytest
import regex

from tokenization_helpers import (
    CHAINS,
    GPT2,
    LETTERS,
    NEVER,
    SPECIAL,
    all_borders,
    any_vocab,
    cut,
    drawn,
    encoded,
    in_bytes,
    joined,
    joined_from_the_right,
    learn,
    merged,
    plain_words,
    pre_tokens,
    prose,
    random_words,
    tells,
    tokens_of,
    vocab_of,
    with_special_tokens,
    wrong_cuts,
    wrong_patterns,
)

ENCODE = pytest.mark.question("BPETokenizer.encode")
DECODE = pytest.mark.question("BPETokenizer.decode")
FILES = pytest.mark.question("encode_iterable, save and load")
COUNT = pytest.mark.question("count_tokens and truncate_to_context")


# ---------------------------------------------------------------------------------------------- texts


def tangled(rng):
    """Words in which many merges compete for a letter."""
    return " ".join(random_words(rng, "abcde", 80, 9) + random_words(rng, "ab", 30, 30))


# ---------------------------------------------------------------------------------------------- the mistakes


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
    texts = [plain_words(rng, 40), tangled(rng)]
    merges = learn(pre_tokens(texts[0]) + pre_tokens(texts[1]), 300)
    texts += ["a" * 201, "c" + "ba" * 100]  # pre-tokens far longer than any word
    vocab = vocab_of(merges, NEVER)
    found = ids_of(student, texts, vocab, merges, NEVER)

    def each(merged=merged):
        return lambda: [encoded(text, vocab, merges, merged=merged) for text in texts]

    check(found, each()(), mistakes={
        "encode takes the longest token that fits; it should carry out the merges": each(longest_match),
        "encode merges the leftmost pair that it knows; the merge that was learned first should come first": each(leftmost),
        "the merge that was learned last comes first; the one that was learned first should": each(lambda word, merges: first_possible(word, merges[::-1])),
        "only the first occurrence of a pair in a pre-token is merged; all should be merged": each(
            lambda word, merges: merged(word, merges, lambda word, pair: joined(word, pair, 1))
        ),
        "pairs are merged from right to left; they should be merged from left to right": each(lambda word, merges: merged(word, merges, joined_from_the_right)),
        "no merge is carried out": each(lambda word, merges: word),
        "the last merge is never carried out": each(lambda word, merges: merged(word, merges[:-1])),
    })  # fmt: skip


@ENCODE
@pytest.mark.points(2)
def test_ids_are_looked_up_in_vocab(student, check, rng):
    """vocab says which id a token has: bytes and merges may have any ids; the order of merges is that of the list."""
    text = "\ufeff" + tangled(rng) + " " + plain_words(rng, 50, [*LETTERS, "ÄÖÜ", "ﬁ", "cafe\u0301"])
    merges = learn(pre_tokens(text), 200)
    vocab = any_vocab(rng, merges, NEVER)

    def probe(text, vocab, merges, special):
        tokenizer = inside.built(vocab, merges, special)
        ids, of_nothing = tokenizer.encode(text), tokenizer.encode("")
        found = ids[:]
        if type(ids) is list:
            ids.clear()
        return found, of_nothing, tokenizer.encode(text), inside.built(vocab, [], special).encode(text)

    found, of_nothing, again, by_bytes = student.run(probe, text, vocab, merges, NEVER)

    id_of = {token: id for id, token in vocab.items()}
    usual = encoded(text, vocab_of(merges), merges)
    by_id = sorted(merges, key=lambda pair: id_of[pair[0] + pair[1]])
    check.that(type(found) is list, "encode does not return a list")
    check(of_nothing, [], mistakes={"a space is put before the text; it should stay as it is": [id_of[b" "]]})
    check(found, encoded(text, vocab, merges), mistakes={
        "ids are taken for granted (bytes from 0, merges from 256); they should be looked up in vocab": usual,
        "a byte's value is taken for its id; it should be looked up in vocab": [
            id if id < 256 else id_of[b"".join(merges[id - 256])] for id in usual
        ],
        "a U+FEFF at the start is lost; it should stay, as a character like any other": encoded(text[1:], vocab, merges),
        **{
            f"the text is brought into the form {form} of Unicode; it should stay as it is": encoded(
                unicodedata.normalize(form, text), vocab, merges
            )
            for form in ("NFC", "NFKC", "NFD", "NFKD")
        },
        "the ids decide which merge comes first; the order of merges should decide": lambda: encoded(
            text, vocab, by_id, merged=first_possible
        ),
        "encode takes the longest token that fits; it should carry out the merges": lambda: encoded(
            text, vocab, merges, merged=longest_match
        ),
    })  # fmt: skip
    check(
        again,
        found,
        mistakes={
            "encode returns a list that it keeps, so that whoever changes it changes later results: return a copy": []
        },
    )
    check(by_bytes, encoded(text, vocab, []), mistakes={
        "one tokenizer returns the ids of another: keep what you remember on the object": encoded(text, vocab, merges),
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
    vocab = vocab_of(merges, NEVER)
    (found,) = ids_of(student, [text], vocab, merges, NEVER)

    def make(pattern, find=regex.findall):
        return encoded(text, vocab, merges, pattern=pattern, find=find)

    check(found, make(GPT2), mistakes=wrong_patterns(make))


@ENCODE
@pytest.mark.points(3)
def test_a_special_token_is_one_id(student, check, rng):
    """A special token in the text is one id: the leftmost match wins, and of several at one place the longest."""
    texts = [with_special_tokens(rng), *SPECIAL, "<|a|><|a|><|b|>", "there <s>", "the<s>re", " <s>\n"]
    texts += ["<|A|> o.E [The]"]  # none of these is one
    vocab = vocab_of(CHAINS, SPECIAL)
    found = ids_of(student, texts, vocab, CHAINS, SPECIAL)

    def make(cut):
        return [encoded(text, vocab, CHAINS, SPECIAL, cut=cut) for text in texts]

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
    """decode joins the bytes of all tokens before it makes text of them: a character may be in several tokens."""
    texts = [prose(rng, 60) + "<|a|> \x00\ufffd\r\n", "🙂", "", "<|a|><|b|>é", "\ufeff\n a mark of the byte order"]
    merges = learn(pre_tokens(prose(rng, 100)), 60)
    vocab = any_vocab(rng, merges, SPECIAL)
    lists = [encoded(text, vocab, merges, SPECIAL) for text in texts]
    found = texts_of(student, lists, vocab, merges, SPECIAL)

    def each(make):
        return ["".join(make(vocab[id]) for id in ids) for ids in lists]

    ordinary = [[vocab[id] for id in ids if vocab[id].decode(errors="ignore") not in SPECIAL] for ids in lists]
    check(found, texts, mistakes={
        "each token is decoded alone; the bytes of all should be joined first": each(lambda token: token.decode(errors="replace")),
        "each token is decoded alone, and half characters are lost": each(lambda token: token.decode(errors="ignore")),
        "each byte is taken for a character; the bytes should be decoded as UTF-8": each(lambda token: token.decode("latin-1")),
        "special tokens are lost": [b"".join(tokens).decode() for tokens in ordinary],
        "spaces are put between tokens": [b" ".join(vocab[id] for id in ids).decode(errors="replace") for ids in lists],
        "white space is stripped from the text": [text.strip() for text in texts],
        "a U+FEFF at the start is lost; it should stay, as a character like any other": [text.removeprefix("\ufeff") for text in texts],
    })  # fmt: skip


@DECODE
@pytest.mark.points(2)
def test_malformed_bytes_become_the_replacement_character(student, check, rng):
    """Bytes that are not valid UTF-8 become U+FFFD, and what is around them stays."""
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
        "malformed bytes are left out; they should become U+FFFD": [text.decode(errors="ignore") for text in texts],
        "malformed bytes are written as escapes; they should become U+FFFD": [t.decode(errors="backslashreplace") for t in texts],
        "malformed bytes become a question mark; they should become U+FFFD": [text.replace("\ufffd", "?") for text in right],
        "each byte is taken for a character; the bytes should be decoded as UTF-8": [text.decode("latin-1") for text in texts],
    })  # fmt: skip


@DECODE
@pytest.mark.points(1)
def test_an_unknown_id_is_refused(student, rng):
    """An id that is not in vocab is a ValueError: too high, negative, or in a gap."""

    def probe(ids, *parts):
        return inside.built(*parts).decode(ids)

    vocab = any_vocab(rng, [(b"o", b"n")])
    known = next(iter(vocab))
    student.accepts(probe, [id for id, token in vocab.items() if token.isascii()], vocab, [(b"o", b"n")])
    for ids in ([known, max(vocab) + 1], [-1, known], [known, min(vocab) + 1, known], [0]):
        unknown = next(id for id in ids if id != known)
        student.raises(ValueError, probe, ids, vocab, [(b"o", b"n")], says=("ids", unknown))
    student.raises(
        ValueError, probe, [-1], vocab_of([]), [], says=("ids", -1)
    )  # where a list as a table has a last entry


@DECODE
@pytest.mark.points(1)
def test_decode_takes_any_iterable(student, check, rng):
    """decode takes ids from any iterable: a list, a tuple, a generator, a range, the keys of a dict."""

    def probe(vocab, ids):
        tokenizer = inside.built(vocab, [])
        forms = [ids, tuple(ids), (id for id in ids), iter(ids), range(97, 100), dict.fromkeys([104, 105]), iter([])]
        return [tokenizer.decode(form) for form in forms]

    text = plain_words(rng)
    found = student.run(probe, vocab_of([]), list(text.encode()))

    check(found, [text] * 4 + ["abc", "hi", ""], mistakes={
        "ids are read twice; a generator can be read only once": [text, text, "", "", "abc", "hi", ""],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- encode_iterable, save, load


@FILES
@pytest.mark.points(2)
def test_encode_iterable_yields_the_ids_of_each_string(student, check, rng):
    """encode_iterable yields the ids of each string in turn, as encode gives them: nothing joins across strings."""
    parts = any_vocab(rng, CHAINS, SPECIAL), CHAINS, SPECIAL
    strings = ["the", "re", "", " ", " then", "<|a", "|>", "<|a|>", "<|b|>", "é", "a line\n", "\n", " a line \t"]
    strings += drawn(rng, [*LETTERS, " "], 60)

    def probe(parts, strings):
        tokenizer = inside.built(*parts)
        lists = list(tokenizer.encode_iterable(strings)), list(tokenizer.encode_iterable(s for s in strings))
        return lists, [tokenizer.encode(string) for string in strings]

    found, own = student.run(probe, parts, strings)

    apart = [encoded(string, *parts) for string in strings]
    if all(isinstance(ids, list) for ids in own) and tells(sum(own, [])):
        apart = own  # what encode makes of a string is not the subject
    without_ends = [encoded(string.rstrip("\n"), *parts) for string in strings]
    stripped = [encoded(string.strip(), *parts) for string in strings]
    check(found, (sum(apart, []),) * 2, mistakes={
        "line ends are stripped from the strings": (sum(without_ends, []),) * 2,
        "white space is stripped from the strings": (sum(stripped, []),) * 2,
        "the strings are joined; each should be encoded alone": (encoded("".join(strings), *parts),) * 2,
        "the strings are joined with spaces; each should be encoded alone": (encoded(" ".join(strings), *parts),) * 2,
        "the strings are joined with newlines; each should be encoded alone": (encoded("\n".join(strings), *parts),) * 2,
        "a list of ids is yielded for each string; the ids should be yielded one by one": (apart,) * 2,
    })  # fmt: skip


@FILES
@pytest.mark.points(2)
def test_encode_iterable_reads_no_further_than_it_must(student, check):
    """encode_iterable is an iterator that works with any number of strings, since it keeps none of them."""

    def probe(vocab, special):
        def strings():
            for _ in range(5000):
                read.append(1)
                yield "abc"

        read = []
        tokenizer = inside.built(vocab, [], special)
        ids, own = tokenizer.encode_iterable(strings()), tokenizer.encode("abc")
        return [next(ids) for _ in range(4)] if hasattr(ids, "__next__") else None, len(read) < 5000, own

    *found, own = student.run(probe, vocab_of([], NEVER), NEVER)

    right = [*own, *own][:4] if tells(own) else [97, 98, 99, 97]
    check(found, [right, True], mistakes={
        "encode_iterable does not return an iterator; it should yield ids one by one": [None, False],
        "encode_iterable reads all strings before it yields an id; it should read one at a time": [right, False],
    })  # fmt: skip


@FILES
@pytest.mark.points(3)
def test_load_gives_back_what_was_saved(student, check, rng):
    """load gives back vocab, merges and special tokens, whatever bytes they hold, from the one file at exactly that path."""

    def save(parts, path=None):
        path = path or inside.path_in_an_empty_folder("a tokenizer.v2")
        inside.built(*parts).save(path)
        return path, inside.names_beside(path)

    def load(path):
        from tokenization import BPETokenizer

        return inside.state_as_pairs(BPETokenizer.load(path))

    def content_of(path):
        with open(path, "rb") as file:
            return file.read()

    def load_content(content):
        from tokenization import BPETokenizer

        path = inside.path_in_an_empty_folder("a copy")
        with open(path, "wb") as file:
            file.write(content)
        return inside.state_as_pairs(BPETokenizer.load(path))

    def use(path, parts, text, ids):
        from tokenization import BPETokenizer

        return [
            (tokenizer.encode(text), tokenizer.decode(ids))
            for tokenizer in (BPETokenizer.load(path), inside.built(*parts))
        ]

    special = [*SPECIAL, " <pad>\n", "a\nb", '"quoted" \\n', " ", "\t", "<known>"]
    text = "\n".join([plain_words(rng, 40, LETTERS), *special, "\n\r \n"])
    merges = learn(pre_tokens(prose(rng, 200)), 150) + [(b"\n", b"\r"), (b"\xff", b"\x00"), (b"\r", b" ")]
    merges += [(b"-" * 2**i,) * 2 for i in range(9)]  # up to a token of 512 bytes
    vocab = any_vocab(rng, merges, ["<known>"])
    other = vocab_of([(b"o", b"n")], ["<other>"]), [(b"o", b"n")], ["<other>"]
    path, names = student.run(save, (vocab, merges, special))
    check.that(len(names) <= 1, "save writes more than one file; it should write one")
    check(names, ["a tokenizer.v2"], otherwise="save writes to another path; it should write to exactly the one given")
    other_path, _ = student.run(save, other)
    content = student.run(content_of, path)
    states = [student.run(load, path), student.run(load, other_path)]
    student.run(save, (vocab, merges, special), other_path)  # a file that is there is replaced
    states += [student.run(load, other_path)]
    bare = {"vocab": vocab_of([]), "merges": [], "special_tokens": []}
    without = student.run(load, student.run(save, tuple(bare.values()))[0])

    new = [token for token in special if token not in ("<known>", " ", "\t")]
    full = vocab | {max(vocab) + 1 + i: token.encode() for i, token in enumerate(new)}
    first = {"vocab": full, "merges": merges, "special_tokens": special}
    second = dict(zip(first, other, strict=True))

    def damaged(key, make):
        return lambda: [{**item, key: make(item[key])} for item in (first, second, first)]

    def as_text(vocab):
        return {id: token.decode(errors="replace") for id, token in vocab.items()}

    check(states, [first, second, first], mistakes={
        "the ids come back as strings; they should be ints": damaged("vocab", lambda vocab: {str(id): vocab[id] for id in vocab}),
        "the tokens come back as text; they should be bytes": damaged("vocab", as_text),
        "tokens that are not valid UTF-8 are damaged": damaged(
            "vocab", lambda vocab: {id: token.encode() for id, token in as_text(vocab).items()}
        ),
        "the special tokens are lost": damaged("special_tokens", lambda special: []),
        "the merges are lost": damaged("merges", lambda merges: []),
        "a file that exists already is not replaced; it should be": [first, second, second],
        "load returns the tokenizer that was saved last; it should return that of the path": [second, second, first],
    })  # fmt: skip
    ids = encoded(text, full, merges, special)
    (found_ids, found_text), (own_ids, own_text) = student.run(use, path, (vocab, merges, special), text, ids)
    check(found_ids, own_ids if tells(own_ids) else ids)
    check(found_text, own_text if isinstance(own_text, str) and own_text else text)
    check(without, bare)
    # Rank 1 has a folder of its own and none of this process's memory: nothing is there but the content of the file.
    elsewhere = student.on(ranks=2).run(load_content, content)[1]
    check(
        elsewhere,
        first,
        otherwise="load needs more than the file that save wrote; all of the tokenizer should be in it",
    )


# ---------------------------------------------------------------------------------------------- count_tokens, truncate_to_context


@COUNT
@pytest.mark.points(1)
def test_count_tokens_counts_the_ids(student, check, rng):
    """count_tokens is the number of ids that the tokenizer gives, whatever tokenizer that is."""
    text = " \n" + prose(rng, 50) + "<|a|> \n"
    parts = vocab_of(CHAINS, SPECIAL), CHAINS, SPECIAL

    def probe(parts, text):
        from tokenization import count_tokens

        tokenizers = inside.built(*parts), inside.ByteTokenizer(), inside.LowerCaseTokenizer()
        counts = [count_tokens(text, tokenizer) for tokenizer in tokenizers] + [count_tokens("", tokenizers[0])]
        return counts, tokenizers[0].encode(text)

    found, own = student.run(probe, parts, text)

    lists = own if tells(own) else encoded(text, *parts), text.encode(), text.lower()
    check(found, [*map(len, lists), 0], mistakes={
        "words are counted; tokens should be counted": [len(text.split())] * 3 + [0],
        "characters are counted; tokens should be counted": [len(text)] * 3 + [0],
        "bytes are counted; tokens should be counted": [len(text.encode())] * 3 + [0],
        "white space around the text is not counted; it should be": [
            *map(len, (encoded(text.strip(), *parts), text.strip().encode(), text.strip())), 0
        ],
        "a token that occurs several times is counted once; it should be counted each time": [*(len(set(ids)) for ids in lists), 0],
    })  # fmt: skip


@COUNT
@pytest.mark.points(2)
def test_truncation_keeps_the_first_tokens(student, check, rng):
    """truncate_to_context keeps the first max_tokens tokens, and drops a character that is cut in half."""
    texts = [" \na\ufffdé🙂\ufffd\u0301" + prose(rng) + " é\ufffd日本 \n", "té", "o🙂", "éo", "a lot of tokens"]
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
        "half a character stays as U+FFFD; it should be dropped": each(lambda row, n, text: kept(row, n, "replace")),
        "U+FFFD is stripped from the end, where the text itself may have it": fitting_or(lambda text: text.rstrip("\ufffd")),
        "U+FFFD is removed everywhere, where the text itself may have it": fitting_or(lambda text: text.replace("\ufffd", "")),
        "characters are cut; tokens should be cut": each(lambda row, n, text: text[:n]),
        "the last tokens are kept; the first should be kept": each(
            lambda row, n, text: b"".join(row[max(len(row) - n, 0) :]).decode(errors="ignore")
        ),
        "one token too few is kept": each(lambda row, n, text: text if n >= len(row) else kept(row, max(n - 1, 0))),
        "the whole token that ends within a character is dropped; only that character should be dropped": each(whole_tokens),
    })  # fmt: skip


@COUNT
@pytest.mark.points(1)
def test_half_of_a_replacement_character_is_dropped_too(student, check, rng):
    """U+FFFD in the text is a character like any other: the whole of it is kept, half of it is dropped."""
    texts = ["a\ufffdb", "\ufffd", "\ufffd\ufffd", "é\ufffd🙂\ufffd", "".join(drawn(rng, "ab\ufffd", 12)) + "\ufffd."]

    def probe(texts):
        from tokenization import truncate_to_context

        tokenizer = inside.PlainByteTokenizer()
        return [[truncate_to_context(text, tokenizer, n) for n in range(len(text.encode()) + 1)] for text in texts]

    found = student.run(probe, texts)

    def each(make):
        return [[make(text, text.encode()[:n], n) for n in range(len(text.encode()) + 1)] for text in texts]

    def kept(text, part, n):
        return part.decode(errors="ignore")

    def fitting_or(make):
        return lambda text, part, n: text if n == len(text.encode()) else make(text, part, n)

    check(found, each(kept), mistakes={
        "half of a U+FFFD of the text is kept as the whole character; it should be dropped": each(
            lambda text, part, n: os.path.commonprefix([text, part.decode(errors="replace")])
        ),
        "half a character stays as U+FFFD; it should be dropped": each(lambda text, part, n: part.decode(errors="replace")),
        "a whole U+FFFD of the text is dropped": each(
            fitting_or(lambda text, part, n: part.decode(errors="replace").removesuffix("\ufffd"))
        ),
        "U+FFFD is stripped from the end, where the text itself may have it": each(
            fitting_or(lambda text, part, n: part.decode(errors="replace").rstrip("\ufffd"))
        ),
        "U+FFFD is removed everywhere, where the text itself may have it": each(
            fitting_or(lambda text, part, n: part.decode(errors="ignore").replace("\ufffd", ""))
        ),
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
        "a text that fits goes through the tokenizer; it should be returned unchanged": [["ab cd", "ab cd", ""]] * 2,
        "a text of exactly max_tokens tokens goes through the tokenizer; it fits, and should be returned unchanged": [["Ab Cd", "ab cd", ""], ["ab cd", "ab cd", ""]],
        "max_tokens = 0 gives the whole text; it should give an empty text": [["Ab Cd"] * 3, ["ab cd"] * 3],
    })  # fmt: skip


@COUNT
@pytest.mark.points(1)
def test_a_negative_context_is_refused(student):
    """max_tokens below 0 is a ValueError, also for an empty text."""

    def probe(text, max_tokens):
        from tokenization import truncate_to_context

        return truncate_to_context(text, inside.ByteTokenizer(), max_tokens)

    student.accepts(probe, "some text", 0)
    student.accepts(probe, "", 0)
    for text, max_tokens in (("some text", -1), ("some text", -100), ("", -1)):
        student.raises(ValueError, probe, text, max_tokens, says=("max_tokens", max_tokens))
