"""nbgrader's whole cycle on a small lesson, with its own commands, and five students in a gradebook that it made itself."""

import csv
import json
import os
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from toy_course import LESSON, SOLUTION, WRONG, build, command, lab_of, submit, write_toy_course

from autograder.scorecard import Scorecard

pytestmark = pytest.mark.slow
ANSWERS = {"diagonal": "A position may use itself.", "cost": "T squared."}
MANUAL = {"diagonal": 1.5, "cost": 3.0}

LOOK = """
import os
def look(path):
    try:
        print("REACHED", path, os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()[:4000])
    except Exception as error:
        print("refused", type(error).__name__)
for path in {paths!r}:
    look(path)
for name in os.listdir("."):
    if name not in {known!r}:
        look(name)
"""
WRITE = """
for path in {paths!r}:
    try:
        open(path, "ab").write(b"REACHED")
        print("REACHED", path)
    except Exception as error:
        print("refused", type(error).__name__)
"""
LEAVE = """
import socket, subprocess, sys
try:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
except Exception as error:
    print("refused", type(error).__name__)
for family in (socket.AF_INET, socket.AF_UNIX):
    try:
        socket.socket(family)
        print("REACHED a socket")
    except OSError as error:
        print("refused", type(error).__name__)
"""
PATCH = """
import builtins, sys, torch
import grading.lab
torch.allclose = torch.equal = lambda *_, **__: True
grading.lab.hidden_tests = lambda *_: 99
hidden_tests = grading.lab.hidden_tests
open("toy.py", "w").write("raise SystemExit")
print("4.0 of 4.0 points")
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course folder after autograding, manual grading, feedback and export."""
    root = tmp_path_factory.mktemp("course")
    root.chmod(0o755)
    write_toy_course(root)
    course = build(root)
    with (course / "nbgrader_config.py").open("a") as config:
        config.write("c.ConfinedExecute.timeout = 900  # on a machine that is busy\n")
    submit(course, "ada-right", SOLUTION, ANSWERS)
    submit(course, "bob-wrong", WRONG, ANSWERS | {"cost": "YOUR ANSWER HERE"})
    submit(course, "cyd-stub")
    _hostile(course, root)
    submit(course, "eve-crash", SOLUTION, ANSWERS, ["import os\nos._exit(1)"])
    before = _contents(course / "source")
    (course / "log.txt").write_text(command(course, "nbgrader", "autograde", LESSON))
    assert _contents(course / "source") == before
    _grade_by_hand(course)
    command(course, "nbgrader", "generate_feedback", LESSON)
    command(course, "nbgrader", "export")
    command(course, "nbgrader", "export", "--exporter=autograder.notebooks.export.Scorecards", "--to=results")
    return course


def _hostile(course: Path, root: Path) -> None:
    """Its module is wrong; its notebook tries all else."""
    secrets = [course, course / "source" / LESSON / f"{LESSON}.ipynb", course / "gradebook.db"]
    secrets += [course / "submitted" / "ada-right" / LESSON / "toy.py", course / "nbgrader_config.py"]
    secrets += [root / "tests" / "lessons" / LESSON / "test_toy.py", root / "solutions" / LESSON / "toy.py"]
    paths = [str(path) for path in secrets]
    known = sorted(path.name for path in (course / "release" / LESSON).iterdir())
    code = [LOOK.format(paths=paths, known=known), WRITE.format(paths=paths[1:]), LEAVE, PATCH]
    folder = submit(course, "dan-hostile", WRONG, {"diagonal": "<script>alert(1)</script>"}, code)
    (folder / "link.py").symlink_to(course / "submitted" / "ada-right" / LESSON / "toy.py")
    (folder / "link.txt").symlink_to(root / "solutions" / LESSON / "toy.py")
    lab = json.loads((folder / f"{LESSON}.ipynb").read_text())
    marks = [cell["metadata"]["nbgrader"] for cell in lab["cells"] if "nbgrader" in cell["metadata"]]
    hidden = [each for each in marks if each["grade_id"].startswith("toy-")]
    hidden[0]["points"] = 1000
    hidden[1].update(solution=True, locked=False, grade_id="renamed")
    lab["metadata"]["kernelspec"]["name"] = "bash"
    (folder / f"{LESSON}.ipynb").write_text(json.dumps(lab))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _grade_by_hand(course: Path) -> None:
    """As the formgrader does it: for whoever needs it."""
    with gradebook_of(course) as gradebook:
        for submission in gradebook.assignment_submissions(LESSON):
            for grade in submission.notebooks[0].grades:
                if grade.needs_manual_grade and submission.student_id != "eve-crash":
                    grade.manual_score = MANUAL[grade.name.removeprefix("written-")]
                    grade.needs_manual_grade = False
        gradebook.db.commit()


def gradebook_of(course: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{course / 'gradebook.db'}")


def auto_scores(course: Path, student: str) -> dict[str, float | None]:
    with gradebook_of(course) as gradebook:
        return {
            grade.name: grade.auto_score for grade in gradebook.find_submission(LESSON, student).notebooks[0].grades
        }


def printed(course: Path, student: str) -> str:
    """All that a student's notebook wrote when it was graded."""
    cells = lab_of(course / "autograded" / student / LESSON).cells
    return "\n".join(json.dumps(cell.get("outputs", [])) for cell in cells)


def pages_of(course: Path, student: str) -> str:
    """What is shown of it to those who grade, and to the student."""
    names = (
        course / "autograded" / student / LESSON / f"{LESSON}.ipynb",
        course / "feedback" / student / LESSON / f"{LESSON}.html",
    )
    return "\n".join(path.read_text() for path in names)


# ---------------------------------------------------------------------------------------------- points


@pytest.mark.parametrize(
    ("student", "mask", "arguments"),
    [
        ("ada-right", 3, 1),
        ("bob-wrong", 1, 1),
        ("cyd-stub", 0, 0),
        ("dan-hostile", 1, 1),
        ("eve-crash", 3, 1),
    ],
)
def test_points_are_what_the_hidden_tests_say_of_the_module(course, student, mask, arguments):
    scores = auto_scores(course, student)

    assert (scores["toy-mask"], scores["toy-arguments"], scores["public-toy"]) == (mask, arguments, 0)


def test_an_answer_that_was_not_given_is_zero_and_needs_nobody(course):
    assert auto_scores(course, "cyd-stub")["written-cost"] == 0
    assert auto_scores(course, "ada-right")["written-cost"] is None


def test_the_formgraders_own_queries_show_the_same_totals(course):
    with gradebook_of(course) as gradebook:
        assignments = {each["student"]: each for each in gradebook.submission_dicts(LESSON)}
        notebooks = {each["student"]: each for each in gradebook.notebook_submission_dicts(LESSON, LESSON)}

    expected = {"ada-right": 8.5, "bob-wrong": 3.5, "cyd-stub": 0, "dan-hostile": 3.5, "eve-crash": 4}
    assert {name: each["score"] for name, each in assignments.items()} == expected
    assert {name: each["score"] for name, each in notebooks.items()} == expected
    assert {each["max_score"] for each in assignments.values()} == {9}
    assert {name for name, each in assignments.items() if each["needs_manual_grade"]} == {"eve-crash"}


def test_nbgraders_export_has_the_same_totals(course):
    rows = list(csv.DictReader((course / "grades.csv").open()))

    assert {row["student_id"]: float(row["score"]) for row in rows} == {
        "ada-right": 8.5, "bob-wrong": 3.5, "cyd-stub": 0, "dan-hostile": 3.5, "eve-crash": 4,
    }  # fmt: skip


def test_notebook_and_modules_are_in_one_scorecard(course):
    cards = {
        path.parent.name: Scorecard.from_json(path.read_text()) for path in (course / "results").rglob("scorecard.json")
    }

    assert {name: (card.score, card.max_score) for name, card in cards.items()} == {
        "ada-right": (8.5, 9), "bob-wrong": (3.5, 9), "cyd-stub": (0, 9), "dan-hostile": (3.5, 9), "eve-crash": (4, 4),
    }  # fmt: skip
    assert cards["eve-crash"].pending_person_points == 5
    assert {row.module for row in cards["ada-right"].outcomes} == {"toy", "written"}


def test_our_own_export_takes_the_joined_scorecards(course):
    text = command(course, "autograder", "export", "results", "--format", "csv")

    rows = {row["student"]: row for row in csv.DictReader(text.removeprefix("\ufeff").splitlines())}
    assert rows["ada-right"]["score"] == "8.5"
    assert rows["bob-wrong"]["written: Answers"] == "1.5"


# ---------------------------------------------------------------------------------------------- what a student reads


def test_feedback_names_the_mistake(course):
    page = (course / "feedback" / "bob-wrong" / LESSON / f"{LESSON}.html").read_text()

    assert "the mask is transposed: it shows the future" in page


def test_no_student_reads_a_rubric_or_a_hidden_test(course):
    pages = [path.read_text() for path in (course / "feedback").rglob("*.html")]
    pages += [path.read_text() for path in (course / "release").rglob("*") if path.is_file()]

    assert [text for text in pages if "SECRET-RUBRIC" in text or "test_the_mask_has_rows" in text] == []
    assert "SECRET-RUBRIC" in (course / "autograded" / "ada-right" / LESSON / f"{LESSON}.ipynb").read_text()


def test_a_notebook_that_ends_its_kernel_says_where(course):
    cells = lab_of(course / "autograded" / "eve-crash" / LESSON).cells
    ended = next(cell for cell in cells if "os._exit" in cell.source)

    assert "The notebook stopped here" in ended.outputs[-1].text


# ---------------------------------------------------------------------------------------------- what a hostile one reaches


def test_a_hostile_notebook_reaches_nothing(course):
    text = printed(course, "dan-hostile")

    assert "REACHED" not in text
    assert text.count("refused") >= 7 + 6 + 2


def test_what_a_link_leads_to_is_nowhere(course):
    assert not list((course / "autograded" / "dan-hostile").rglob("link*"))
    assert "link.txt" in (course / "log.txt").read_text()


def test_what_a_student_writes_runs_in_no_browser(course):
    assert "<script>alert(1)" not in pages_of(course, "dan-hostile")


def test_marks_of_cells_are_those_of_the_release(course):
    marks = [cell.metadata.get("nbgrader", {}) for cell in lab_of(course / "autograded" / "dan-hostile" / LESSON).cells]

    assert {each["grade_id"]: each["points"] for each in marks if each.get("grade")} == {
        "public-toy": 0, "toy-mask": 3, "toy-arguments": 1, "written-diagonal": 2, "written-cost": 3,
    }  # fmt: skip


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_nothing_of_a_notebook_is_left(course):
    """Neither a process, nor a folder: a keeper that has not ended yet ends within its five seconds."""
    import tempfile
    import time

    for _ in range(100):
        left = list(Path(tempfile.gettempdir()).glob("autograder-kernel-*"))
        if not left:
            break
        time.sleep(0.2)
    assert left == []


# ---------------------------------------------------------------------------------------------- before it is handed in


@pytest.mark.parametrize(("module", "verdict"), [(SOLUTION, "Success!"), (None, "VALIDATION FAILED ON 1 CELL(S)")])
def test_nbgraders_validation_says_whether_the_public_tests_pass(course, tmp_path, module, verdict):
    """As a student runs it: where nothing of the course's configuration is."""
    folder = submit(course, "fay-validates", module, ANSWERS)
    own = tmp_path / LESSON
    folder.rename(own)
    folder.parent.rmdir()

    said = command(
        own, "nbgrader", "validate", "--Execute.timeout=900", "--Execute.startup_timeout=300", f"{LESSON}.ipynb"
    )

    assert verdict in said
