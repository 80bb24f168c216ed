"""Answers in words without nbgrader: answers.md, the table for those who grade, and points that come back."""

import csv
import io
import json
import os
from dataclasses import replace

import pytest
from toy_course import LESSON, SOLUTION, write_toy_course
from typer.testing import CliRunner

from autograder import answers, cli, kept, written
from autograder.errors import UsageError
from autograder.exports import render
from autograder.grade import Grader
from autograder.joining import join, merge
from autograder.lesson import load
from autograder.release.handout import handout_files
from autograder.scorecard import FAILED, PASSED, PENDING_PERSON, Digests, Outcome, Scorecard
from autograder.submission import take_in

PLACE = "Write your answer here, in place of this line."


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    write_toy_course(root)
    return load(LESSON, root)


@pytest.fixture(scope="module")
def handed_out(toy):
    return answers.template(toy).decode()


def answered(text, *those):
    for answer in those:
        text = text.replace(PLACE, answer, 1)
    return text


def hand_in(folder, content=None, name="answers.md"):
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text(SOLUTION)
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


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


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("answers.md", None, "answers.md is missing from the submission"),
        ("answers.docx", b"PK", "found answers.docx, a Word document: save your answers as answers.md"),
        ("answers.md", b"x" * 300_000, "found answers.md, but it has more than 262144 bytes"),
    ],
)
def test_what_cannot_be_taken_is_0_and_says_why(toy, tmp_path, name, content, said):
    work = take_in(hand_in(tmp_path / "ada", content, name), toy)

    rows = answers.rows(toy, work.answers)

    assert [(row.status, row.points, row.max_points) for row in rows] == [(FAILED, 0, 2), (FAILED, 0, 3)]
    assert said in rows[0].message


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


def card_of(toy, work, **more):
    test = Outcome("test_a", "toy", "Mask", "A test", PASSED, 1.0, 1.0)
    digests = Digests("p", work.digest, {"toy": "t", "written": toy.written_digest()})
    rows = (test, *answers.rows(toy, work.answers))
    return replace(Scorecard(toy.name, work.student, 1, rows, digests=digests, modules=("toy",)), **more)


def test_an_answer_waits_outside_the_total_and_is_not_scaled(toy, tmp_path, handed_out):
    card = card_of(toy, take_in(hand_in(tmp_path / "ada", answered(handed_out, "x")), toy), scale_to=10.0)

    assert (card.score, card.max_score, card.pending_person_points) == (10, 13, 2)
    assert Scorecard.from_json(card.to_json()) == card
    row, _ = (each for each in json.loads(render("gradescope", [card]))["tests"] if "Answer" in each["name"])
    assert row["output"] == "Not scored yet: a person reads this answer. Worth 2."
    assert "score" not in row


def test_points_outlive_another_grading_of_the_same_work(toy, tmp_path, handed_out):
    waits = card_of(toy, take_in(hand_in(tmp_path / "ada", answered(handed_out, "x")), toy))
    graded = replace(waits, outcomes=(waits.outcomes[0], answers.row("diagonal", 2, 1.5), waits.outcomes[2]))

    assert [join(graded, waits, "now").score, merge(waits, graded).score] == [2.5, 2.5]


# ---------------------------------------------------------------------------------------------- export and import


@pytest.fixture
def class_(toy, tmp_path, handed_out):
    """Three students' cards in results/, their answers in answers.csv."""
    texts = {"ada": ("=1+1", "@x"), "bob": ("-2", PLACE), "cyd": (PLACE, PLACE)}
    works = [
        take_in(hand_in(tmp_path / "in" / name, answered(handed_out, *those)), toy) for name, those in texts.items()
    ]
    for work in works:
        kept.keep(card_of(toy, work), tmp_path / "results")
    assert written.export(toy, works, tmp_path / "answers.csv") == 3
    return tmp_path


def table_of(folder):
    text = (folder / "answers.csv").read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def fill_in(folder, lines, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, written.COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(lines)
    (folder / "answers.csv").write_bytes(text.getvalue().encode("utf-8-sig"))
    return written.read_back([folder / "answers.csv"], folder / "results")


def scores(folder):
    cards = {path.parent.name: kept.read(path) for path in kept.below([folder / "results"])}
    return {name: (card.score, card.max_score, card.pending_person_points) for name, card in cards.items()}


def test_a_row_an_answer_by_question_without_names_or_formulas(class_):
    lines = table_of(class_)

    assert [line["question"] for line in lines] == ["diagonal", "diagonal", "cost"]
    assert {line["answer"] for line in lines} == {"'=1+1", "'-2", "'@x"}
    assert not {"ada", "bob", "cyd"} & set(" ".join(map(str, lines)).split("'"))
    assert lines == sorted(lines, key=lambda line: (line["question"] == "cost", line["key"]))
    assert os.stat(class_ / "answers.key.json").st_mode & 0o077 == 0


def test_a_table_that_may_hold_points_is_not_written_over(class_, toy):
    with pytest.raises(UsageError, match=r"answers.csv is there already"):
        written.export(toy, [], class_ / "answers.csv")


@pytest.mark.parametrize(("delimiter", "points"), [(",", "1.5"), (";", "1,5"), ("\t", " 1.5 ")])
def test_points_and_comments_come_back(class_, delimiter, points):
    lines = [{**line, "points": points, "comment": "Nearly: ü"} for line in table_of(class_)]

    done = fill_in(class_, lines, delimiter)

    assert (done.graded, done.problems) == (3, [])
    assert scores(class_) == {"ada": (4, 6, 0), "bob": (2.5, 6, 0), "cyd": (1, 6, 0)}
    row = kept.read(class_ / "results/ada/scorecard.json").outcomes[1]
    assert (row.status, row.message, row.detail) == (FAILED, "Nearly: ü", "=1+1")


def test_rows_without_points_wait_and_later_ones_join(class_):
    first, *others = table_of(class_)

    assert (fill_in(class_, [{**first, "points": "2"}, *others]).waiting, scores(class_)["cyd"]) == (2, (1, 6, 0))
    again = fill_in(class_, [{**first, "points": "1"}, *({**line, "points": "0"} for line in others)])

    assert (again.graded, again.changed) == (3, 1)
    assert len(list((class_ / "results").rglob("earlier-1.json"))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "nobody"}, "the key is unknown"),
        ({"points": "3"}, "the points are 3: give 0 to 2"),
        ({"points": "-1"}, "the points are -1: give 0 to 2"),
        ({"points": "two"}, "the points are 'two', which is not a number"),
        ({"points": "nan"}, "which is not a number"),
        ({"points": "1.234"}, "give at most two decimals"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(class_, change, said):
    first, *others = table_of(class_)
    before = scores(class_)

    done = fill_in(class_, [{**first, **change}, *({**line, "points": "1"} for line in others)])

    assert [said in problem and "answers.csv, row 2" in problem for problem in done.problems] == [True]
    assert scores(class_) == before


def test_a_row_that_is_there_twice_is_named(class_):
    lines = [{**line, "points": "1"} for line in table_of(class_)]

    done = fill_in(class_, [*lines, lines[0]])

    assert "row 5" in done.problems[0]
    assert "the same key is in" in done.problems[0]


def test_points_are_for_what_was_read(class_, toy, tmp_path, handed_out):
    work = take_in(hand_in(tmp_path / "new" / "ada", answered(handed_out, "changed", "@x")), toy)
    kept.keep(card_of(toy, work), class_ / "results")

    done = fill_in(class_, [{**line, "points": "1"} for line in table_of(class_)])

    assert ["does not hold the answer that was exported" in problem for problem in done.problems] == [True]


def test_what_is_not_the_table_is_refused_in_a_sentence(class_):
    table = class_ / "answers.csv"
    for content, said in (
        (b"\xff\xfe", "is not UTF-8"),
        (b"a,b\n1,2\n", "has 0 columns 'key'"),
        (b"", "0 columns 'key'"),
    ):
        table.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            written.read_back([table], class_ / "results")


# ---------------------------------------------------------------------------------------------- all of it


def test_from_a_class_to_its_totals(toy, tmp_path, handed_out, monkeypatch):
    monkeypatch.setenv("AUTOGRADER_ROOT", str(toy.root))
    hand_in(tmp_path / "in" / "ada", answered(handed_out, "a position may use itself"))
    hand_in(tmp_path / "in" / "bob", handed_out)
    with Grader(toy) as grader:
        for name in ("ada", "bob"):
            kept.keep(grader.grade(take_in(tmp_path / "in" / name, toy)), tmp_path / "results")

    said = run("written", "export", tmp_path / "in", "--each", "--lesson", LESSON, "--out", tmp_path / "answers.csv")
    (line,) = table_of(tmp_path)
    (tmp_path / "answers.csv").write_text(f"key,points,comment\n{line['key']},1,half of it\n")
    run("written", "import", tmp_path / "answers.csv", "--results", tmp_path / "results")

    ada, bob = (kept.read(tmp_path / "results" / name / "scorecard.json") for name in ("ada", "bob"))
    assert "1 answers of 2 submissions" in said
    assert ada.max_score == bob.max_score
    assert (ada.score - bob.score, ada.pending_person_points) == (1, 0)
    assert [row.status for row in bob.outcomes if row.is_written] == [FAILED, FAILED]
    assert PENDING_PERSON not in [row.status for row in ada.outcomes]


def run(*arguments):
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())
