"""Public tests of tokenization.py: small cases, worked out by hand. The hidden tests look at much more."""


def test_training_by_hand(student, check):
    """In "low low lower" l-o and o-w both occur three times, and (o, w) is the greater; then (l, ow) occurs most often."""

    def probe():
        from tokenization import BPETokenizer

        tokenizer = BPETokenizer.train("low\nlow\nlower", vocab_size=260, special_tokens=["<|end|>"])
        return [tuple(pair) for pair in tokenizer.merges], [tokenizer.vocab[id] for id in range(256, 260)]

    merges, tokens = student.run(probe)

    check(merges, [(b"o", b"w"), (b"l", b"ow"), (b"low", b"e")])
    check(tokens, [b"ow", b"low", b"lowe", b"<|end|>"])


def test_encoding_by_hand(student, check):
    """The merges t-h, th-e and space-the make one token of " the"; a special token is one id."""

    def probe():
        from tokenization import BPETokenizer

        vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"th", 257: b"the", 258: b" the"}
        merges = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
        tokenizer = BPETokenizer(vocab, merges, ["<|end|>"])
        return tokenizer.encode("the then the<|end|>the"), list(tokenizer.encode_iterable(["th", "e"]))

    ids, ids_of_two = student.run(probe)

    check(ids, [257, 258, 110, 258, 259, 257])  # 110 is the byte of "n"
    check(ids_of_two, [256, 101], mistakes={"the strings are joined; each should be encoded alone": [257]})


def test_decoding_by_hand(student, check):
    """Four tokens of one byte make one emoji; a byte that is not valid UTF-8 becomes U+FFFD; an unknown id is an error."""

    def probe(ids):
        from tokenization import BPETokenizer

        return BPETokenizer({byte: bytes([byte]) for byte in range(256)}, []).decode(ids)

    check(student.run(probe, [240, 159, 153, 130]), "🙂", mistakes={
        "each token is decoded alone; the bytes of all should be joined first": "\ufffd\ufffd\ufffd\ufffd",
    })  # fmt: skip
    check(student.run(probe, [104, 255, 105]), "h\ufffdi")
    student.raises(ValueError, probe, [104, 256], says="ids")


def test_a_saved_tokenizer_is_loaded_again(student, check):
    """load gives back what save wrote: 0xff alone is not text, so the file must hold bytes somehow."""

    def probe():
        import os
        import tempfile

        from tokenization import BPETokenizer

        vocab = {byte: bytes([byte]) for byte in range(256)} | {300: b"\xff ", 400: b"<|end|>"}
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            path = os.path.join(folder, "tokenizer")
            BPETokenizer(vocab, [(b"\xff", b" ")], ["<|end|>"]).save(path)
            files, loaded = os.listdir(folder), BPETokenizer.load(path)
        return files, loaded.vocab == vocab, [tuple(pair) for pair in loaded.merges], list(loaded.special_tokens)

    check(student.run(probe), (["tokenizer"], True, [(b"\xff", b" ")], ["<|end|>"]))


def test_truncation_by_hand(student, check):
    """With a token a byte, "né" is three tokens; two of them hold "n" and half of "é", which is dropped."""

    def probe(text, sizes):
        from tokenization import count_tokens, truncate_to_context

        class Bytes:
            def encode(self, text):
                return list(text.encode())

            def decode(self, ids):
                return bytes(ids).decode(errors="replace")

        return count_tokens(text, Bytes()), [truncate_to_context(text, Bytes(), size) for size in sizes]

    count, texts = student.run(probe, "né", [0, 1, 2, 3, 4])

    check(count, 3)
    check(
        texts,
        ["", "n", "n", "né", "né"],
        mistakes={"half a character stays as U+FFFD; it should be dropped": ["", "n", "n\ufffd", "né", "né"]},
    )
