"""The control: a suite as courses publish it, in the process of the tokenizer that it tests."""

import tokenization

TEXT = "a cat sat on the mat"
MERGES = [(b"a", b"t"), (b" ", b"c"), (b" c", b"at")]


def tokenizer():
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256 + i: b"".join(pair) for i, pair in enumerate(MERGES)}
    return tokenization.BPETokenizer(vocab, MERGES)


def test_ids():
    assert tokenizer().encode("a cat") == [97, 258]


def test_there_and_back():
    made = tokenizer()
    assert made.decode(made.encode(TEXT)) == TEXT


def test_saved_and_loaded(tmp_path):
    made = tokenizer()
    made.save(str(tmp_path / "tokenizer"))
    assert tokenization.BPETokenizer.load(str(tmp_path / "tokenizer")).encode("a cat") == [97, 258]
