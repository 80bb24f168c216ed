"""A small lab through nbgrader's own commands: what its solution cells get in the gradebook and in the joined scorecards."""

import textwrap

import nbformat
import pytest
from nbgrader.api import Gradebook
from toy_course import LESSON, SOLUTION, build, command, submit, write_toy_course

from autograder.notebooks.exercises import EXERCISE, NAME
from autograder.scorecard import Scorecard

pytestmark = pytest.mark.slow
LAB = """
    # %% [markdown]
    # # Lab

    # %%
    from grading.lab import hidden_tests

    # %% exercise="Double"
    def double(x: int) -> int:
        ### BEGIN SOLUTION
        return 2 * x
        ### END SOLUTION


    # %% checks="Double"
    assert double(0) == 0
    # %% [markdown] written="why" points=2
    # Why?
    #
    # ### BEGIN MARK SCHEME
    # SECRET-RUBRIC
    # ### END MARK SCHEME
"""
SUITE = '''
    import pytest


    @pytest.mark.points(3)
    @pytest.mark.question("Double")
    def test_a_number_is_doubled(student, check):
        """Twice the number."""
        check(student.call("lab.double", 4), 8, mistakes={"the number is squared; it should be doubled": 16})
'''
RIGHT = "%matplotlib inline\ndef double(x):\n    return x + x\n\nprint(not_here)\n"
WRONG = "def double(x):\n    return x**2\n"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("labs")
    root.chmod(0o755)
    write_toy_course(root)
    files = {f"assignments/{LESSON}/lab.py": LAB, f"tests/lessons/{LESSON}-lab/test_lab.py": SUITE}
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(textwrap.dedent(text).lstrip("\n"))
    course = build(root)
    for student, cell in {"ada": RIGHT, "bob": WRONG, "cyd": None}.items():
        _solve(submit(course, student, SOLUTION) / f"{NAME}.ipynb", cell)
    command(course, "nbgrader", "autograde", LESSON)
    command(course, "nbgrader", "export", "--exporter=autograder.notebooks.export.Scorecards", "--to=results")
    return course


def _solve(path, source):
    lab = nbformat.read(path, as_version=4)
    for cell in lab.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == f"{EXERCISE}double" and source is not None:
            cell.source = source
    nbformat.write(lab, path)


def test_the_release_holds_no_solution_and_no_rubric(course):
    text = (course / "release" / LESSON / f"{NAME}.ipynb").read_text()

    assert "exercise is not implemented yet" in text
    assert [secret for secret in ("2 * x", "SOLUTION", "SECRET-RUBRIC") if secret in text] == []


def test_the_gradebook_has_what_the_hidden_suite_says(course):
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        scores = {
            (name, grade.name): grade.auto_score
            for name in ("ada", "bob", "cyd")
            for notebook in gradebook.find_submission(LESSON, name).notebooks
            for grade in notebook.grades
            if grade.name in ("lab-double", "toy-mask")
        }

    assert {name: scores[name, "lab-double"] for name in ("ada", "bob", "cyd")} == {"ada": 3, "bob": 0, "cyd": 0}
    assert {scores[name, "toy-mask"] for name in ("ada", "bob", "cyd")} == {3}


def test_the_joined_scorecard_has_the_rows_of_both(course):
    cards = {name: _card(course, name) for name in ("ada", "bob")}

    rows = {name: {row.test: row for row in card.outcomes}["test_a_number_is_doubled"] for name, card in cards.items()}
    assert (rows["ada"].points, rows["bob"].mistake) == (3, "the number is squared; it should be doubled")
    assert {row.module for row in cards["ada"].outcomes} >= {"toy", "lab"}


def _card(course, student):
    return Scorecard.from_json((course / "results" / LESSON / student / "scorecard.json").read_text())
