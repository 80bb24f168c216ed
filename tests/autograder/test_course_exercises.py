"""A lesson's own lab: its exercises are a module that the box grades, and the lab itself runs from top to bottom."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from nbgrader.preprocessors import ClearMarkScheme, ClearSolutions
from traitlets.config import Config

from autograder.author.samples import WRONG, load_samples
from autograder.errors import LessonError
from autograder.grade import Grader
from autograder.lesson import load
from autograder.notebooks.exercises import (
    BEGIN,
    EXERCISE,
    MODULE,
    NAME,
    STUB,
    cells_of,
    cleaned,
    exercises_of,
    lab_lesson,
    students_module,
    unread_cells,
    without_solution,
    written_in_lab,
)
from autograder.notebooks.lab import own_lab
from autograder.options import Asked
from autograder.submission import Submission

LESSON = load("00-fundamentals", ROOT)
LAB = lab_lesson(LESSON)
SAMPLES = load_samples(LAB, (WRONG,))
SEED = 7
SCHEME = "# ### BEGIN MARK SCHEME\n# it should\n# ### END MARK SCHEME\n"


@pytest.fixture(scope="module")
def grader():
    with Grader(LAB) as grader:
        yield grader


def graded(grader, module: str, tests=None):
    files = {f"{MODULE}.py": module.encode()}
    return grader.grade(Submission("ada", "", files), Asked(tests=tests, seed=SEED))


# ---------------------------------------------------------------------------------------------- points


@pytest.mark.slow
def test_the_solution_gets_all_points(grader):
    card = graded(grader, LAB.solved)

    assert [(row.test, row.message) for row in card.outcomes if row.status != "passed"] == []
    assert card.max_score == 20


def test_the_stub_gets_nothing(grader):
    card = graded(grader, LAB.unsolved)

    assert (card.score, {row.cause for row in card.outcomes}) == (0, {"unwritten"})


@pytest.mark.slow
def test_each_known_mistake_fails_its_test_and_is_named(grader):
    problems = {}
    for sample in SAMPLES:
        card = grader.grade(sample.submission(), Asked(tests=sample.expect.fails, seed=SEED))
        problems[sample.name] = sample.problems(card)

    assert len(problems) >= 6
    assert {name: found for name, found in problems.items() if found} == {}


@pytest.mark.slow
def test_a_cell_that_is_not_python_costs_its_own_question_only(grader):
    solved = exercises_of(LESSON)
    broken = {**solved, f"{EXERCISE}cosine-similarity": "def cosine_similarity(a, b)\n    return a @ b\n"}
    tests = ("test_the_cosine_is_the_product_of_directions", "test_weights_take_bits_by_eight_bytes_each")

    card = graded(grader, students_module(LESSON, broken), tests)

    cosine, weights = sorted(card.outcomes, key=lambda row: row.test)
    assert (cosine.points, weights.points) == (0, 1)
    assert "the cell is not Python: line 1" in cosine.message


# ---------------------------------------------------------------------------------------------- cells -> a module


def test_what_only_a_notebook_understands_is_left_out_of_the_module():
    cell = "%matplotlib inline\nimport torch\n\ndef f():\n    '''A docstring.'''\n    return 1\n\nprint(f(\n))\n!ls\n"

    assert cleaned(cell) == "import torch\n\ndef f():\n    '''A docstring.'''\n    return 1"


def test_a_cell_that_was_not_handed_in_is_the_released_one():
    assert students_module(LESSON, {}) == LAB.unsolved


def test_every_exercise_runs_on_its_own():
    for id, text in exercises_of(LESSON).items():
        names: dict = {}
        exec(compile(cleaned(text), id, "exec"), names)

        assert [name for name in names if name != "__builtins__"], id


def test_every_exercise_has_its_checks():
    marks = [cell.metadata for cell in cells_of(LESSON)]
    exercises = [each["exercise"] for each in marks if "exercise" in each]

    assert exercises == [each["checks"] for each in marks if "checks" in each]


def _graded():
    return [cell for cell in own_lab(LESSON).cells if cell.metadata.get("nbgrader", {}).get("grade")]


# ---------------------------------------------------------------------------------------------- the notebook


def test_the_cells_with_points_are_those_of_the_suite_and_the_written_questions():
    points = {cell.metadata["nbgrader"]["grade_id"]: cell.metadata["nbgrader"]["points"] for cell in _graded()}

    assert points == {
        "lab-count-tokens": 2, "lab-cosine-similarity": 3, "lab-attention-weights": 4, "lab-generate-from-a-prompt": 4,
        "lab-classify-sentiment": 3, "lab-memory-of-the-weights": 1, "lab-recent-messages": 3,
        "written-three-stages": 2, "written-not-good": 2, "written-fewer-bits": 2,
    }  # fmt: skip
    assert {each.id: each.points for each in written_in_lab(LESSON)} == {
        "three-stages": 2,
        "not-good": 2,
        "fewer-bits": 2,
    }


def test_the_lab_is_a_valid_notebook_without_outputs():
    lab = own_lab(LESSON)
    nbformat.validate(lab)

    assert [cell for cell in lab.cells if cell.get("outputs")] == []


def test_the_release_holds_no_solution_and_no_rubric():
    """By nbgrader's own steps, as settings.py sets them; what we cut is what it cuts."""
    lab = own_lab(LESSON)
    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    lab.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    for step in (ClearSolutions(config=config), ClearMarkScheme(enforce_metadata=False)):
        lab, _ = step.preprocess(lab, {})
    released = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell.source for cell in lab.cells}

    solved = exercises_of(LESSON)
    assert {id: released[id] for id in solved} == {id: without_solution(text) for id, text in solved.items()}
    text = "\n".join(cell.source for cell in lab.cells)
    assert "SOLUTION" not in text
    assert "For those who grade" not in text
    assert text.count("raise NotImplementedError") == len(solved) == 7


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('# %% exercise="A"\nx = 1\n', "put what students write between"),
        (f"# %%\n{BEGIN}\nx = 1\n### END SOLUTION\n", "has a solution and is not an exercise"),
        ('# %% exercize="A"\nx = 1\n', "has the mark 'exercize': there are exercise, checks, written, points"),
        (f'# %% [markdown] written="why"\n# Why?\n{SCHEME}', "the key 'points' is missing"),
        (f'# %% [markdown] written="Why" points=2\n# Why?\n{SCHEME}', "id: String should match pattern"),
        ('# %% [markdown] written="why" points=2\n# Why?\n', "'why' has 0 rubrics: put one between"),
        ('# %% written="why" points=2\n1\n', "write # %% .markdown. before its marks"),
    ],
)
def test_a_mark_that_does_not_fit_is_named(tmp_path, cell, said):
    lesson = LESSON.model_copy(update={"root": tmp_path})
    lesson.assignment.mkdir(parents=True)
    (lesson.assignment / "lab.py").write_text(cell)

    with pytest.raises(LessonError, match=said):
        cells_of(lesson)


HIDDEN = {
    "too long": ("a = 1\n" * 20_000, "more than 64 KB"),
    "too long in bytes": ("# " + "é" * 40_000, "more than 64 KB"),
    "an encoding": ("%magic\n1 + 1\n# coding: utf-7\n# +AAo-import os", "its encoding is utf-7"),
    **{
        f"U+{ord(mark):04X}": (f"# a comment{mark}import os", f"does not show (U+{ord(mark):04X})")
        for mark in "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    },
}


@pytest.mark.parametrize(("text", "said"), HIDDEN.values(), ids=HIDDEN)
def test_a_cell_that_is_not_what_a_notebook_shows_is_not_read(text, said):
    id, other, *_ = exercises_of(LESSON)

    module = students_module(LESSON, {id: text})

    assert said in module
    assert "import os" not in module
    assert "a = 1" not in module
    assert without_solution(exercises_of(LESSON)[other]).splitlines()[-1] in module
    (note,) = unread_cells(LESSON, {id: text})
    assert note.startswith(f"cell {id}: the cell")
    assert said in note


def test_line_ends_of_windows_are_read():
    id = next(iter(exercises_of(LESSON)))

    assert "\nb = 2" in students_module(LESSON, {id: "# -*- coding: utf-8 -*-\r\na = 1\r\nb = 2"})
    assert unread_cells(LESSON, {id: "a = 1\r\nb = 2"}) == ()


@pytest.mark.slow
def test_the_lab_runs_from_top_to_bottom_on_the_solutions(tmp_path):
    """As a program, without a network and without IPython, which it does not need."""
    (tmp_path / "grading").mkdir()
    (tmp_path / "grading" / "lab.py").write_bytes((ROOT / "autograder" / "notebooks" / "in_lab.py").read_bytes())
    code = [cell.source for cell in own_lab(LESSON).cells if cell.cell_type == "code"]
    (tmp_path / f"{NAME}.py").write_text("\n\n".join(code))
    known = os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(tmp_path)}

    run = subprocess.run(
        [sys.executable, f"{NAME}.py"], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=1500
    )

    assert run.returncode == 0, run.stderr[-2000:]
    assert re.search(r"after SFT:  Q: what does the horse like\? A: \w+\.\n", run.stdout)
    assert "lab.py, Recent messages: 3 points" in run.stdout
