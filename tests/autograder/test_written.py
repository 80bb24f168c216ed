"""Answers in words without nbgrader: answers.md, the table for those who grade, and points that come back."""

import csv
import io
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console
from toy_answers import answered, answered_in, card_of, hand_in
from toy_course import LESSON, SOLUTION, write_toy_course
from typer.testing import CliRunner

from autograder import answers, cli, kept
from autograder.exports import render
from autograder.exports.table import one
from autograder.grade import Grader
from autograder.joining import join, merge
from autograder.lesson import load
from autograder.release import rehearse
from autograder.release.handout import handout_files
from autograder.scorecard import PENDING_PERSON, Scorecard
from autograder.submission import Submission, take_in, take_in_each


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    write_toy_course(root)
    return load(LESSON, root)


@pytest.fixture(scope="module")
def handed_out(toy):
    return answers.template(toy).decode()


# ---------------------------------------------------------------------------------------------- what students get


def test_the_handout_has_a_heading_for_each_question_and_no_rubric(toy):
    text = handout_files(toy)["answers.md"].decode()

    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Question diagonal (2 points)",
        "## Question cost (3 points)",
    ]
    assert "> Why is the diagonal\n> true?" in text
    assert "RUBRIC" not in text


# ---------------------------------------------------------------------------------------------- what comes back


def test_what_is_left_as_in_the_handout_is_not_answered(toy, handed_out):
    for text in (handed_out, handed_out.replace("\n", "\r\n\r\n"), answered(handed_out, " \u200b\t", ""), ""):
        assert answers.read(toy, text.encode()).texts == {}


def test_an_answer_is_what_stands_below_its_heading(toy, handed_out):
    text = answered(handed_out, "A position\n\n# may use itself", "T squared").replace("# Answers", "Ada\n# Answers")

    assert answers.read(toy, text.encode()).texts == {"diagonal": "A position\n\n# may use itself", "cost": "T squared"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_an_answer_is_read_in_any_encoding(toy, handed_out, encoding):
    content = answered(handed_out, "größer").encode(encoding)

    assert answers.read(toy, content).texts == {"diagonal": "größer"}


def test_nothing_is_lost_where_headings_are_gone_or_there_twice(toy, handed_out):
    gone = answered(handed_out, "one", "two").replace("## Question cost (3 points)\n", "")
    twice = f"{answered(handed_out, 'one')}\n## QUESTION Diagonal\nmore\n"

    assert "two" in answers.read(toy, gone.encode()).texts["cost"]
    assert answers.read(toy, twice.encode()).texts == {"diagonal": "one\n\n\nmore"}
    assert "all here" in answers.read(toy, b"all here").texts["cost"]
    assert "above" in answers.read(toy, f"above\n{handed_out}".encode()).texts["diagonal"]


def test_an_answer_is_printable_and_bounded(toy, handed_out):
    text = answered(handed_out, "red \x1b[31m \u202e \x00 end", "x" * 200_000)

    found = answers.read(toy, text.encode()).texts

    assert found["diagonal"] == "red ?[31m ? ? end"
    assert len(found["cost"]) < 32_000
    assert "200000 characters" in found["cost"]


def test_a_line_without_end_is_read_at_once(toy, handed_out):
    content = answered(handed_out, f"# question diagonal{' ' * 200_000}x").encode()

    began = time.process_time()
    found = answers.read(toy, content).texts

    assert time.process_time() - began < 5
    assert list(found) == ["diagonal"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("answers.md", None, "answers.md is missing from the submission"),
        ("answers.docx", b"PK", "found answers.docx, a Word document: save your answers as answers.md"),
        ("answers.md", b"x" * 1_000_000, "found answers.md, but it has more than 262144 bytes"),
        ("answers.md", b"", "not answered"),
        ("answers.md", b"\x00\x1b" * 100, "not answered"),
    ],
)
def test_what_is_not_answered_waits_outside_the_total_and_says_why(toy, tmp_path, name, content, said):
    card = card_of(toy, take_in(hand_in(tmp_path / "ada", content, name), toy))

    rows = [row for row in card.outcomes if row.is_written]

    assert [(row.status, row.points, row.max_points) for row in rows] == [
        (PENDING_PERSON, 0, 2),
        (PENDING_PERSON, 0, 3),
    ]
    assert {row.message.startswith("not answered") and said in row.message for row in rows} == {True}
    assert (card.score, card.max_score, card.pending_person_points) == (1, 1, 5)


def test_an_archive_that_cannot_be_read_leaves_the_answers_waiting(toy, tmp_path):
    path = tmp_path / "ada.zip"
    path.write_bytes(b"PK\3\4 and no more")

    rows = answers.rows(toy, take_in(path, toy).answers)

    assert {row.status for row in rows} == {PENDING_PERSON}
    assert {row.message.startswith("not answered: ada.zip") for row in rows} == {True}


def test_the_file_with_answers_counts_whatever_it_is_called(toy, tmp_path, handed_out):
    folder = hand_in(tmp_path / "ada", handed_out)
    (folder / "Answers (1).md").write_text(answered(handed_out, "mine"))

    work = take_in(folder, toy)

    assert work.answers.texts == {"diagonal": "mine"}
    assert work.notes == (
        "found Answers (1).md, which counts as answers.md",
        "Answers (1).md counts, not answers.md",
    )


def test_answers_belong_to_the_work_and_an_empty_file_does_not(toy, tmp_path, handed_out):
    without, empty, full = (
        take_in(hand_in(tmp_path / name, text), toy)
        for name, text in (("a", None), ("b", handed_out), ("c", answered(handed_out, "x")))
    )

    assert without.digest == empty.digest != full.digest


# ---------------------------------------------------------------------------------------------- cards


def test_an_answer_waits_outside_the_total_and_is_not_scaled(toy, tmp_path, handed_out):
    card = card_of(toy, take_in(hand_in(tmp_path / "ada", answered(handed_out, "x")), toy), scale_to=10.0)

    assert (card.score, card.max_score, card.pending_person_points) == (10, 10, 5)
    assert Scorecard.from_json(card.to_json()) == card
    row, _ = (each for each in json.loads(render("gradescope", [card]))["tests"] if "Answer" in each["name"])
    assert row["output"] == "Not scored yet: waits for a person. Worth 2."
    assert "score" not in row


def test_every_export_shows_what_is_not_answered_as_what_it_is(toy, tmp_path, handed_out):
    card = card_of(toy, take_in(hand_in(tmp_path / "ada", answered(handed_out, "x")), toy))

    graded = json.loads(render("gradescope", [card]))
    by_name = json.loads(render("otter", [card]))
    (line,) = csv.DictReader(io.StringIO(render("csv", [card]), newline=""))

    assert [(row["output"], "score" in row) for row in graded["tests"][1:]] == [
        ("Not scored yet: waits for a person. Worth 2.", False),
        ("Not scored yet: not answered. Worth 3.", False),
    ]
    assert (graded["score"], "Answers worth 5 have not been graded" in graded["output"]) == (1, True)
    cost = by_name["written.cost"]
    assert (cost["possible"], cost["test_case_results"][0]["message"]) == (0, "not answered")
    assert (line["score"], line["max_score"], line["pending_person_points"]) == ("1.0", "1.0", "5.0")
    assert (line["pending_person"], line["failed"], line["written: Answers"]) == ("2", "0", "")
    assert "not answered" in shown(one(card))


def shown(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return " ".join(console.file.getvalue().split())


def test_points_outlive_another_grading_of_the_same_work(toy, tmp_path, handed_out):
    waits = card_of(toy, take_in(hand_in(tmp_path / "ada", answered(handed_out, "x")), toy))
    graded = replace(waits, outcomes=(waits.outcomes[0], answers.row("diagonal", 2, 1.5, ""), waits.outcomes[2]))

    assert [join(graded, waits, "now").score, merge(waits, graded).score] == [2.5, 2.5]


# ---------------------------------------------------------------------------------------------- all of it


def test_from_a_class_to_its_totals(toy, tmp_path, handed_out, monkeypatch):
    monkeypatch.setenv("AUTOGRADER_ROOT", str(toy.root))
    hand_in(tmp_path / "in" / "ada", answered(handed_out, "a position may use itself"))
    hand_in(tmp_path / "in" / "bob", handed_out)
    with Grader(toy) as grader:
        for name in ("ada", "bob"):
            kept.keep(grader.grade(take_in(tmp_path / "in" / name, toy)), tmp_path / "results")

    said = run("written", "export", tmp_path / "in", "--each", "--lesson", LESSON, "--out", tmp_path / "answers.csv")
    (line,) = answered_in(tmp_path)
    (tmp_path / "answers.csv").write_text(f"key,points,comment\n{line['key']},1,half of it\n")
    run("written", "import", tmp_path / "answers.csv", "--results", tmp_path / "results")

    ada, bob = (kept.read(tmp_path / "results" / name / "scorecard.json") for name in ("ada", "bob"))
    assert "4 rows of 2 submissions" in said
    assert "answers: 1; not answered, which wait until you give them points: 3" in said
    assert (ada.score - bob.score, ada.max_score - bob.max_score) == (1, 2)
    assert (ada.pending_person_points, bob.pending_person_points) == (3, 5)
    assert bob.score == bob.max_score  # right code alone has all of it
    assert [row.status for row in bob.outcomes if row.is_written] == [PENDING_PERSON, PENDING_PERSON]


def test_showpieces_without_answers_are_as_they_were(toy):
    solution = Submission("solution", "", {"toy.py": SOLUTION.encode()})

    assert rehearse.surprises(LESSON, "solution", card_of(toy, solution)) == []


def test_loose_answers_belong_to_no_student(toy, tmp_path):
    hand_in(tmp_path / "in" / "ada")
    (tmp_path / "in" / "answers.md").write_text("whose?")
    (tmp_path / "in" / "doejane_12345_67890_answers-1.md").write_text("mine")
    (tmp_path / "in" / "doejane_12345_67891_toy.py").write_text(SOLUTION)

    found = take_in_each(tmp_path / "in", toy)

    assert [source.student for source in found.sources] == ["ada", "doejane"]
    assert "put it into a folder with that name" in dict(found.named)["answers.md"]
    assert "mine" in take_in(found.sources[1], toy).answers.texts["cost"]


def run(*arguments):
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())
