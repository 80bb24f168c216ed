"""docs/architecture.md says of each file of the box in which process it runs, and its words are those of the code."""

import re

import pytest
from conftest import ROOT
from test_repository import definitions, imports_of, package_sources

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
BOX = ROOT / "autograder" / "box"
SOURCES = package_sources()


def rows(title: str) -> list[list[str]]:
    """The cells of each row of the table below a heading."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ][2:]


PLACES = [
    (file, process)
    for files, process in rows("Which file of the box runs where")
    for file in re.findall(r"`([^`]+)`", files)
]


def imported_by(start: str) -> set[str]:
    """All modules of the box that a module imports, and those that these import."""
    found, new = set(), {start}
    while new:
        found |= new
        new = {used for name in new for used in imports_of(name, SOURCES[name]) if used.startswith("box.")} - found
    return found


def file_of(module: str) -> str:
    return f"{module.removeprefix('box.').replace('.', '/')}.py"


def test_every_file_of_the_box_has_one_line():
    assert sorted(file for file, _ in PLACES) == sorted(path.relative_to(BOX).as_posix() for path in BOX.rglob("*.py"))


def test_what_runs_beyond_the_grader_is_what_the_zygote_imports():
    beyond = {file for file, process in PLACES if re.search(r"zygote|worker|test", process.partition("; without")[0])}

    assert beyond - {"inside/scan.py", "inside/reading.py"} == {
        file_of(module) for module in imported_by("box.zygote.loop")
    }


def test_what_is_the_graders_alone_is_called_so():
    for file, process in PLACES:
        if "__init__" not in file:
            assert re.match(r"(grader|zygote|worker|test|none when grading)\b", process), f"{file}: {process}"


@pytest.mark.parametrize(
    "word",
    [
        "slot",
        "team",
        "post",
        "session",
        "worker",
        "zygote",
        "channel",
        "member",
        "broker",
        "witness",
        "row",
        "case",
        "outcome",
        "budget",
        "clock",
    ],
)
def test_a_word_is_defined_by_what_there_is(word):
    [text] = [text for words, text in rows("Words") if word in words.split(", ")]
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)

    assert named
    assert [name for file, name in named if name not in definitions(ROOT / "autograder" / file)] == []


def test_all_words_name_what_there_is():
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", "".join(text for _, text in rows("Words")))

    assert len(named) > 20
    assert [(file, name) for file, name in named if name not in definitions(ROOT / "autograder" / file)] == []
