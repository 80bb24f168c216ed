"""Files in another encoding than UTF-8 are refused, by name: what a person reads is what Python runs."""

import pytest

from autograder.intake.kinds import trouble_with_encoding
from autograder.submission import take_in

HIDDEN = b"# coding: utf_7\n# a comment +AAo-HIDDEN = 1\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (HIDDEN, "utf_7"),
        (b"#!/usr/bin/env python\r# -*- coding: latin-1 -*-\rx = 1\r", "latin-1"),
        (b"\n# vim: set fileencoding=cp1252 :\n", "cp1252"),
        (b"\x0c  # coding=rot13\n", "rot13"),
        (b"#" + b" " * 200_000 + b"coding:\tpunycode\n", "punycode"),
        (b"\xef\xbb\xbf# coding: utf_16\n", "utf_16"),
        (b"# coding: ascii\nname = '\xc3\xa4'\n", "ascii"),
        ("x = 'ä'\n".encode("latin-1"), "not UTF-8 (line 1)"),
        ("x = 1\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_another_encoding_is_refused_by_its_name(content, encoding):
    why = trouble_with_encoding(content)

    assert encoding in why
    assert "save it as UTF-8" in why


@pytest.mark.parametrize(
    "content",
    [
        b"",
        "x = 'ä'\n".encode(),
        "\ufeff# -*- coding: UTF_8 -*-\nx = 'ä'\n".encode(),
        b"# -*- coding: utf-8-unix -*-\n",
        b"# coding: ascii\nx = 1\n",
        b"x = 1\n# coding: utf_7\n",
        b"\n\n# coding: utf_7\n",
        b"'''\n# coding: utf_7\n'''\n",
    ],
)
def test_utf8_is_taken(content):
    assert trouble_with_encoding(content) == ""
    compile(content, "file.py", "exec")


def test_a_module_in_another_encoding_is_not_graded_and_says_why(tmp_path):
    (tmp_path / "toy.py").write_bytes(HIDDEN)

    taken = take_in(tmp_path, ("toy",))

    assert "toy.py" not in taken.files
    assert taken.missing["toy"].startswith(
        "toy.py cannot be used: its encoding is utf_7, as its first lines say: save it"
    )


def test_a_helper_in_another_encoding_says_so_to_who_imports_it(tmp_path):
    (tmp_path / "toy.py").write_bytes(b"import helper\n")
    (tmp_path / "helper.py").write_bytes(HIDDEN)

    taken = take_in(tmp_path, ("toy",))

    assert any(note.startswith("helper.py cannot be used: its encoding is utf_7") for note in taken.notes)
    with pytest.raises(SyntaxError, match=r"helper.py cannot be used: its encoding is utf_7"):
        exec(compile(taken.files["helper.py"], "helper.py", "exec"))
