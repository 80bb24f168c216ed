"""Every handout has the same sections in the same order, so that whoever has read one finds their way in all."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from autograder.author.skeleton import new_lesson
from autograder.notebooks.cells import pieces_of

SECTIONS = [
    "Goals",
    "What you write",
    "Theory",
    "Activities",
    "Experiments",
    "Check your understanding",
    "What goes wrong",
    "Submit",
    "Since then",
    "Reading",
]
NOTEBOOK = 88  # characters in a line of a notebook in a window 1280 pixels wide, beside JupyterLab's list of files
HANDOUTS = sorted((ROOT / "assignments").glob("*/handout.md"))


def sections_of(handout: Path) -> dict[str, str]:
    """What stands under each heading of level 2, in order. A # in a block of code is not a heading."""
    text = re.sub(r"^(```+|~~~+).*?^\1\s*$", "", handout.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.split(r"^## +(.+?) *$", text, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def each_handout(function):
    return pytest.mark.parametrize("handout", HANDOUTS, ids=lambda path: path.parent.name)(function)


@each_handout
def test_a_handout_has_these_sections_in_this_order(handout):
    assert list(sections_of(handout)) == SECTIONS


@each_handout
def test_no_section_is_empty(handout):
    assert [name for name, text in sections_of(handout).items() if len(text.split()) < 10] == []


@each_handout
def test_a_handout_says_how_long_it_takes(handout):
    assert re.search(r"\d\S* hours?\b", sections_of(handout).get("What you write", ""))


@each_handout
def test_a_handout_has_one_title(handout):
    lines = re.sub(r"^```.*?^```", "", handout.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL).splitlines()

    assert [line for line in lines if line.startswith("# ")] == lines[:1]


@each_handout
def test_blocks_that_are_not_code_are_not_wider_than_a_notebook_shows(handout):
    """JupyterLab breaks longer lines, and drawings with them; code scrolls."""
    texts = "\n".join(piece.text for piece in pieces_of(handout.read_text("utf-8")) if not piece.is_code)
    blocks = re.findall(r"^(```+|~~~+)(.*?)^\1\s*$", texts, flags=re.MULTILINE | re.DOTALL)

    assert [line for _, text in blocks for line in text.splitlines() if len(line) > NOTEBOOK] == []


def test_a_new_lesson_has_these_sections_too(tmp_path):
    lesson = new_lesson(tmp_path, "10-row-scaling", ["rows"])

    assert list(sections_of(lesson.handout)) == SECTIONS


def test_the_lesson_of_the_authors_guide_has_them(tmp_path):
    guide = (ROOT / "docs" / "authors.md").read_text("utf-8")
    handout = tmp_path / "handout.md"
    handout.write_text(re.search(r"^````markdown\n# \S+/handout\.md\n(.*?)^````$", guide, re.M | re.S)[1], "utf-8")

    assert list(sections_of(handout)) == SECTIONS


def test_headings_in_code_and_of_other_levels_are_not_sections(tmp_path):
    handout = tmp_path / "handout.md"
    handout.write_text("# A\n\n## Goals\n\n```python\n## Theory\n```\n\n### Submit\n\n## Reading\n\nx\n", "utf-8")

    assert list(sections_of(handout)) == ["Goals", "Reading"]
