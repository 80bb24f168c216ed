"""What a lab is made of, and what must not be in it."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, all_lessons
from toy_course import LESSON, write_toy_course

from autograder.errors import LessonError
from autograder.lesson import load
from autograder.notebooks.cells import pieces_of, starts_ranks
from autograder.notebooks.course import build_course, source_files
from autograder.notebooks.lab import handout_lab, hidden_cells
from autograder.questions import question_text, questions_of

LESSONS = all_lessons()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    write_toy_course(root)
    return load(LESSON, root)


# ---------------------------------------------------------------------------------------------- from a handout


def test_each_heading_begins_a_piece_and_each_python_block_is_code():
    text = "# A\n\none\n\n```python\nx = 1  # not a heading\n```\n\ntwo\n\n## B\n\n```\n# no heading either\n```\n"

    pieces = [(piece.heading, piece.is_code, piece.starts, piece.text) for piece in pieces_of(text)]

    assert pieces == [
        ("A", False, True, "# A\n\none"),
        ("A", True, False, "x = 1  # not a heading"),
        ("A", False, False, "two"),
        ("B", False, True, "## B\n\n```\n# no heading either\n```"),
    ]


def test_questions_go_over_several_lines_and_lists():
    text = "## Check your understanding\n\n**A**\n\n1. one\n   more\n2. two\n\n**B**\n\n3. three\n\n## Next\n\n4. no\n"

    assert questions_of(text) == {1: "one\nmore", 2: "two", 3: "three"}


def test_a_question_that_the_handout_does_not_have_is_named():
    with pytest.raises(LessonError, match="lesson.toml asks question 4 .* has 1 questions"):
        question_text(4, "## Check your understanding\n\n1. one\n", "lesson.toml")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_nothing_of_a_handout_is_lost(lesson):
    text = lesson.handout.read_text("utf-8")
    kept = "\n".join(piece.text for piece in pieces_of(text))

    wanted = [line for line in text.splitlines() if line.strip() and not line.startswith("```")]
    assert [line for line in wanted if line not in kept] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_question_of_a_handout_is_found(lesson):
    numbers = list(questions_of(lesson.handout.read_text("utf-8")))

    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 5


# ---------------------------------------------------------------------------------------------- the notebook


def marks(lab) -> dict:
    return {cell.metadata.nbgrader["grade_id"]: cell for cell in lab.cells if "nbgrader" in cell.metadata}


def test_a_lab_has_the_modules_before_the_activities_and_the_answers_behind_the_questions(toy):
    lab = handout_lab(toy)

    titles = [cell.source.splitlines()[0] for cell in lab.cells if cell.cell_type == "markdown"]
    assert titles[2:5] == ["## Your modules", "### `toy.py`", "## Activities"]
    assert list(marks(lab)) == [
        "setup", "public-toy", "toy-mask", "toy-arguments",
        "question-diagonal", "written-diagonal", "question-cost", "written-cost",
    ]  # fmt: skip
    assert titles[-1] == "## Submit"


def test_a_question_is_the_handouts_or_its_own_text(toy):
    cells = marks(handout_lab(toy))

    assert cells["question-diagonal"].source.startswith("**Question (2 points).** Why is the diagonal\ntrue?")
    assert cells["question-cost"].source.startswith("**Question (3 points).** What does attention cost")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_block_that_is_saved_has_the_name_that_the_handout_says(lesson):
    text = lesson.handout.read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(cell.source for cell in handout_lab(lesson).cells)

    written = re.findall(r"^%%writefile (.+)", code, re.MULTILINE)
    assert len(written) == len(set(written)) == sum(map(starts_ranks, blocks))
    assert {name for name in written if not name.startswith("activity_")} == set(re.findall(r"Save as `(.+?)`", text))


def test_the_points_of_cells_are_those_of_the_hidden_suite(toy):
    assert {cell.id: cell.points for cell in hidden_cells(toy)} == {"toy-mask": 3, "toy-arguments": 1}


def test_a_lab_is_a_valid_notebook_without_outputs_and_always_the_same(toy):
    lab = handout_lab(toy)
    nbformat.validate(lab)

    assert [cell for cell in lab.cells if cell.get("outputs")] == []
    assert nbformat.writes(lab) == nbformat.writes(handout_lab(toy))


def test_a_rubric_with_nbgraders_own_marks_is_refused(toy):
    rubric = toy.written[0].model_copy(update={"rubric": "### END MARK SCHEME"})
    lesson = toy.model_copy(update={"written": (rubric,)})

    with pytest.raises(LessonError, match="'diagonal' holds 'MARK SCHEME'"):
        handout_lab(lesson)


def test_two_questions_of_one_id_are_refused(tmp_path):
    write_toy_course(tmp_path)
    path = tmp_path / "assignments" / LESSON / "lesson.toml"
    path.write_text(path.read_text().replace('"cost"', '"diagonal"'))

    with pytest.raises(LessonError, match="two questions have the id 'diagonal'"):
        load(LESSON, tmp_path)


# ---------------------------------------------------------------------------------------------- the course folder


def test_what_is_in_a_course_folder_stays_and_its_source_is_renewed(toy, tmp_path):
    build_course([toy], tmp_path)
    (tmp_path / "gradebook.db").write_text("grades")
    (tmp_path / "nbgrader_config.py").write_text("# mine")
    (tmp_path / "source" / LESSON / "old.py").write_text("")

    build_course([toy], tmp_path)

    assert (tmp_path / "gradebook.db").read_text() == "grades"
    assert (tmp_path / "nbgrader_config.py").read_text() == "# mine"
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == [LESSON]
    assert not (tmp_path / "source" / LESSON / "old.py").exists()


def test_a_lab_of_the_lessons_own_is_a_notebook_beside_it(toy):
    own = toy.assignment / "lab.py"
    own.write_text("# %% [markdown]\n# # Lab\n\n# %%\nprint(1)\n")
    try:
        lab = nbformat.reads(source_files(toy)["LLM_Interactive_Lab.ipynb"].decode(), as_version=4)
    finally:
        own.unlink()

    assert [cell.source for cell in lab.cells] == ["# Lab", "print(1)"]


def test_what_a_lab_calls_imports_nothing_of_ours():
    source = (ROOT / "autograder" / "notebooks" / "in_lab.py").read_text()
    imported = {
        alias.name if isinstance(node, ast.Import) else "." * node.level + (node.module or "")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    assert imported == {"os", "subprocess", "sys", "pathlib"}


# ---------------------------------------------------------------------------------------------- secrets


def statements(nodes) -> set[str]:
    """Statements in one spelling, without docstrings and what ends a stub."""
    found = set()
    for node in nodes:
        for each in ast.walk(node):
            if isinstance(each, ast.stmt) and not _says_nothing(each):
                found.add(ast.unparse(each))
    return found


def _says_nothing(statement):
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom)


def bodies(path: Path, mark: str) -> dict[str, set[str]]:
    """Name -> statements, of each function of a file in whose text the mark is."""
    text = path.read_text("utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return {
        f"{path.name}:{node.lineno} {node.name}": statements(node.body)
        for node in functions
        if mark in (ast.get_source_segment(text, node) or "")
    }


def code_of(files: dict[str, bytes]) -> set[str]:
    """The statements of all Python that is released: modules, and the code cells of notebooks."""
    texts = [content.decode() for name, content in files.items() if name.endswith(".py")]
    for name, content in files.items():
        if name.endswith(".ipynb"):
            cells = nbformat.reads(content.decode(), as_version=4).cells
            lines = [
                "\n".join(line for line in cell.source.splitlines() if line[:1] not in "%!")
                for cell in cells
                if cell.cell_type == "code"
            ]
            texts += lines
    return set().union(*(statements([ast.parse(text)]) for text in texts))


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_no_body_of_a_marked_function_and_no_hidden_test_is_released(lesson):
    released = code_of(source_files(lesson))
    starters = set().union(*(statements([ast.parse(text)]) for text in lesson.starter_files().values()))
    hidden = {}
    for module in lesson.modules:
        solution = bodies(lesson.solution / f"{module}.py", "# student:")
        hidden |= {name: body - starters for name, body in solution.items()}
        for path in lesson.hidden_tests(module):
            hidden |= bodies(path, "def test_")

    assert len([body for body in hidden.values() if body]) > 10
    assert [name for name, body in hidden.items() if body and body <= released] == []
