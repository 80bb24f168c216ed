"""The table of published bugs in docs/proof.md is what the samples say: each row's sample, test and name are there."""

import re

from conftest import ROOT, all_lessons, all_samples

from autograder.author.samples import WRONG

SAMPLES = {(lesson.name, sample.name): sample for lesson in all_lessons() for sample in all_samples(lesson, (WRONG,))}
MODULES = {(lesson.name, module) for lesson in all_lessons() for module in lesson.modules}
NOT_NAMED, LEFT_OPEN = "not named", "left open"


def rows() -> list[list[str]]:
    """[lesson, module, bug, sample, caught by, named as] of each row."""
    section = (
        (ROOT / "docs" / "proof.md").read_text("utf-8").partition("\n## Published bugs\n")[2].partition("\n## ")[0]
    )
    lines = re.findall(r"^\| (\d\d-.*) \|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_every_row_has_all_its_cells():
    found = rows()

    assert found
    assert [row for row in found if len(row) != 6 or not all(row[:3] + row[4:])] == []
    assert [row for row in found if (row[0], row[1]) not in MODULES] == []


def test_every_bug_is_a_sample_that_is_caught_and_named_as_the_table_says():
    wrong = []
    for lesson, module, bug, name, test, named in rows():
        sample = SAMPLES.get((lesson, name))
        says = None if sample is None else (sample.modules, sample.expect.fails[0], sample.expect.mistake or NOT_NAMED)
        if test != LEFT_OPEN and says != ((module,), test, named):
            wrong.append((bug, name, says))

    assert wrong == []


def test_what_is_left_open_has_no_sample_and_everything_else_has_one():
    assert [row for row in rows() if (row[4] == LEFT_OPEN) != (row[3] == "")] == []


def test_no_sample_stands_for_two_bugs():
    named = [(row[0], row[3]) for row in rows() if row[3]]

    assert sorted(named) == sorted(set(named))


def test_the_counts_above_the_table_are_right():
    found = rows()
    caught = [row for row in found if row[4] != LEFT_OPEN]
    unnamed = [row for row in caught if row[5] == NOT_NAMED]

    text = (ROOT / "docs" / "proof.md").read_text("utf-8")
    assert f"{len(caught)} of {len(found)} are caught, {len(caught) - len(unnamed)} by name" in text
