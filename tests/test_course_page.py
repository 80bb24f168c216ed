"""What the course page says is true: its lessons, the tests and activities that its checklist names, the cell for Colab."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, all_lessons

from autograder.lesson import Lesson, load
from autograder.release.handout import build_handout, handout_files

PATH = ROOT / "assignments" / "README.md"
if not PATH.exists():
    pytest.skip("this course has no such page", allow_module_level=True)
PAGE = PATH.read_text("utf-8")
LESSONS = all_lessons()


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the table that follows a heading, or bold words, without its head."""
    table = re.search(r"\n((?:\|[^\n]*\n)+)", PAGE.partition(heading)[2])[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def each_row(heading, lesson_at=0):
    rows = [row for row in rows_under(heading) if re.match(r"\d\d-", row[lesson_at])]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row[lesson_at])


def row_of(lesson: Lesson) -> list[str]:
    modules = ", ".join(f"`{module}`" for module in lesson.modules)
    return [f"{lesson.name}: {lesson.title}", lesson.hours, modules, ", ".join(lesson.uses)]


def test_the_table_lists_all_lessons_in_their_order():
    assert rows_under("## The lessons") == [row_of(lesson) for lesson in LESSONS]


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
@pytest.mark.parametrize("part", ["**Theory**", "**Code**", "**Practice**", "## A plan by weeks"])
def test_each_part_of_the_checklist_and_the_plan_speaks_of_each_lesson(part, lesson):
    text = PAGE.partition(part)[2]
    text = re.split(r"\n(?:\*\*|## )", text)[0]

    assert lesson in text


@each_row("**Code**")
def test_each_word_that_chooses_tests_chooses_public_ones(row):
    lesson = load(row[0], ROOT)
    text = "".join(lesson.public_test(module).read_text("utf-8") for module in lesson.modules)
    names = re.findall(r"^def (test_\w+)", text, re.MULTILINE)

    words = row[1].strip("`").split(" or ")

    assert [word for word in words if not any(word in name for name in names)] == []


@each_row("**Practice**")
def test_an_activity_that_it_names_exists(row):
    headings = re.findall(r"^### \d+\. (.+)$", load(row[0], ROOT).handout.read_text("utf-8"), re.MULTILINE)

    assert row[1] in headings


@pytest.mark.parametrize("lesson", [lesson.name for lesson in LESSONS])
def test_it_is_in_every_handout(lesson):
    assert handout_files(load(lesson, ROOT))["COURSE.md"].decode() == PAGE


def test_a_course_without_a_page_has_handouts_without_it(tmp_path):
    for folder in ("assignments", "solutions", "starter", "tests/lessons"):
        shutil.copytree(ROOT / folder / "00-fundamentals", tmp_path / folder / "00-fundamentals")

    files = handout_files(load("00-fundamentals", tmp_path))

    assert "COURSE.md" not in files
    assert "README.md" in files


def test_the_cell_for_colab_runs_the_tests_of_a_handout(tmp_path):
    """Here, of course, and not there: what the page says of it."""
    lesson = load("00-fundamentals", ROOT)
    build_handout(lesson, tmp_path)
    cell = re.search(r"```python\n(lesson = .*?)```", PAGE, re.DOTALL)[1]
    command = f'print(__import__("subprocess").run([{sys.executable!r}, "-m", "pytest"], capture_output=True, text=True).stdout)'
    assert cell.count("!python -m pytest") == 1  # the one line that is not Python

    code = cell.replace("!python -m pytest", command)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert "tokenization: 0 of" in done.stdout
    with zipfile.ZipFile(tmp_path / "00-fundamentals-handout.zip") as archive:
        assert "00-fundamentals/COURSE.md" in archive.namelist()
