"""Answers in words to those who grade, and points back: every row is checked, and no answer touches another's."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from toy_answers import PLACE, answered, answered_in, card_of, hand_in, table_of
from toy_course import LESSON, write_toy_course
from typer.testing import CliRunner

from autograder import answers, cli, kept, written
from autograder.errors import UsageError
from autograder.lesson import load
from autograder.scorecard import FAILED
from autograder.submission import take_in


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    write_toy_course(root)
    return load(LESSON, root)


@pytest.fixture(scope="module")
def handed_out(toy):
    return answers.template(toy).decode()


# ---------------------------------------------------------------------------------------------- export and import


@pytest.fixture
def class_(toy, tmp_path, handed_out):
    """Three students' cards in results/, their answers in answers.csv: three of them, and three that are not there."""
    texts = {"ada": ("=1+1", "@x"), "bob": ("-2", PLACE), "cyd": (PLACE, PLACE)}
    works = [
        take_in(hand_in(tmp_path / "in" / name, answered(handed_out, *those)), toy) for name, those in texts.items()
    ]
    for work in works:
        kept.keep(card_of(toy, work), tmp_path / "results")
    assert written.export(toy, works, tmp_path / "answers.csv") == 6
    return tmp_path


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
    none = "(not answered)"

    assert [line["question"] for line in lines] == ["diagonal"] * 3 + ["cost"] * 3
    assert [line["answer"] == none for line in lines] == [False, False, True, False, True, True]
    assert {line["answer"] for line in lines} == {"'=1+1", "'-2", "'@x", none}
    assert not {"ada", "bob", "cyd"} & set(" ".join(map(str, lines)).split("'"))
    assert lines == sorted(lines, key=lambda line: (line["question"] == "cost", line["answer"] == none, line["key"]))
    assert os.stat(class_ / "answers.key.json").st_mode & 0o077 == 0


def test_a_table_that_may_hold_points_is_not_written_over(class_, toy):
    with pytest.raises(UsageError, match=r"answers.csv is there already"):
        written.export(toy, [], class_ / "answers.csv")


@pytest.mark.parametrize(("delimiter", "points"), [(",", "1.5"), (";", "1,5"), ("\t", " 1.5 ")])
def test_points_and_comments_come_back(class_, delimiter, points):
    lines = [{**line, "points": points, "comment": "Nearly: ü"} for line in answered_in(class_)]

    done = fill_in(class_, lines, delimiter)

    assert (done.graded, done.problems) == (3, [])
    assert scores(class_) == {"ada": (4, 6, 0), "bob": (2.5, 3, 3), "cyd": (1, 1, 5)}
    row = kept.read(class_ / "results/ada/scorecard.json").outcomes[1]
    assert (row.status, row.message, row.detail) == (FAILED, "Nearly: ü", "=1+1")


def test_what_is_not_answered_is_0_only_when_a_person_says_so(class_):
    lines = [{**line, "points": "0" if line["answer"] == "(not answered)" else "1"} for line in table_of(class_)]

    assert fill_in(class_, lines).graded == 6
    assert scores(class_) == {"ada": (3, 6, 0), "bob": (2, 6, 0), "cyd": (1, 6, 0)}
    row = kept.read(class_ / "results/cyd/scorecard.json").outcomes[1]
    assert (row.status, row.points, row.message) == (FAILED, 0, "not answered")


def test_rows_without_points_wait_and_later_ones_join(class_):
    first, *others = table_of(class_)

    assert (fill_in(class_, [{**first, "points": "2"}, *others]).waiting, scores(class_)["cyd"]) == (5, (1, 1, 5))
    again = fill_in(class_, [{**first, "points": "1"}, *({**line, "points": "0"} for line in others)])

    assert (again.graded, again.changed) == (6, 1)
    assert len(list((class_ / "results").rglob("earlier-1.json"))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "nobody"}, "the key is unknown"),
        ({"question": "cost"}, "the key is of the question 'diagonal': sort whole rows"),
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

    assert [said in problem and "answers.csv, row 2, line 2" in problem for problem in done.problems] == [True]
    assert scores(class_) == before


def test_the_command_says_what_to_correct_and_ends_with_2(class_):
    before = scores(class_)
    table = class_ / "answers.csv"
    table.write_text("key,points\n" + "".join(f"nobody{number},1\n" for number in range(100)))

    done = CliRunner().invoke(cli.app, ["written", "import", str(table), "--results", str(class_ / "results")])

    assert (done.exit_code, done.output.count("error:")) == (2, 20)
    assert "nothing was imported: correct what follows, then import again" in done.output
    assert "and 80 more" in done.output
    assert scores(class_) == before


def test_a_row_that_is_there_twice_is_named(class_):
    lines = [{**line, "points": "1"} for line in table_of(class_)]

    done = fill_in(class_, [*lines, lines[0]])

    assert "row 8" in done.problems[0]
    assert "the same key is in" in done.problems[0]


def test_points_beside_the_wrong_key_are_refused(toy, tmp_path, handed_out):
    texts = {name: f"The answer of a student, in words: {name * 3}\nwith a second line" for name in ("ada", "bob")}
    works = [take_in(hand_in(tmp_path / "in" / name, answered(handed_out, text)), toy) for name, text in texts.items()]
    for work in works:
        kept.keep(card_of(toy, work), tmp_path / "results")
    written.export(toy, works, tmp_path / "answers.csv")
    one, two, *_ = table_of(tmp_path)

    swapped = fill_in(tmp_path, [{**one, "key": two["key"], "points": "1"}, {**two, "key": one["key"], "points": "2"}])

    assert ["the key is of another answer" in problem for problem in swapped.problems] == [True, True]
    assert "row 3, line 5 " in swapped.problems[1]
    assert fill_in(tmp_path, [{**one, "points": "1", "answer": "as a spreadsheet spoilt it"}, two]).problems == []


def test_points_are_for_what_was_read(class_, toy, tmp_path, handed_out):
    work = take_in(hand_in(tmp_path / "new" / "ada", answered(handed_out, "changed", "@x")), toy)
    kept.keep(card_of(toy, work), class_ / "results")

    done = fill_in(class_, [{**line, "points": "1"} for line in table_of(class_)])

    assert ["does not hold the answer that was exported" in problem for problem in done.problems] == [True]


def test_what_is_not_the_table_is_refused_in_a_sentence(class_):
    table = class_ / "answers.csv"
    before = scores(class_)
    for content, said in (
        (b"key,points\n\xff\xfe", "answers.csv, line 2: it is not UTF-8: save the table as"),
        (b"PK\3\4 an .xlsx", "answers.csv is a spreadsheet's own file, not CSV: save the table as"),
        (b'key,points\n"a,1\n', "answers.csv, line 2: it is not CSV"),
        (b"key,points\n" + b"x" * (1 << 21), "answers.csv, line 2: it is not CSV"),
        (b"key,points\na,1,and more\n", "answers.csv, row 2, line 2: it has 3 cells and the first row 2"),
        (b"a,b\n1,2\n", "has 0 columns 'key'"),
        (b"", "0 columns 'key'"),
    ):
        table.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            written.read_back([table], class_ / "results")
    assert scores(class_) == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"lesson": 1, "answers": {}}', '{"lesson": "x", "answers": {"a": 1}}']
)
def test_a_key_that_was_changed_is_refused_in_a_sentence(class_, content):
    (class_ / "answers.key.json").write_text(content)

    with pytest.raises(UsageError, match="answers.key.json is not a key that"):
        written.read_back([class_ / "answers.csv"], class_ / "results")


def test_another_students_broken_card_keeps_no_row_out(class_):
    (class_ / "results" / "bob" / "scorecard.json").write_text("{")
    adas = [line for line in answered_in(class_) if line["answer"] in ("'=1+1", "'@x")]
    bobs = [line for line in answered_in(class_) if line["answer"] == "'-2"]

    assert fill_in(class_, [{**line, "points": "1"} for line in bobs]).problems[0].count("is not a scorecard") == 1
    assert fill_in(class_, [{**line, "points": "1"} for line in adas]).graded == 2


def test_cards_are_written_all_or_none(class_, monkeypatch):
    """The disk is full at the second card."""
    fill_in(class_, [{**line, "points": "1"} for line in answered_in(class_)])
    before = {path: path.read_bytes() for path in class_.rglob("*") if path.is_file() and path.name != "answers.csv"}
    whole = Path.write_bytes

    def full(path, content):
        if path.name.startswith(".scorecard.json") and path.parent.name == "bob":
            raise OSError(28, "No space left on device")
        return whole(path, content)

    lines = [{**line, "points": "0"} for line in answered_in(class_)]
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="bob/scorecard.json cannot be written: No space left"):
        fill_in(class_, lines)

    monkeypatch.undo()
    assert {
        path: path.read_bytes() for path in class_.rglob("*") if path.is_file() and path.name != "answers.csv"
    } == before


HOSTILE = {
    "commas": 'a, "b", c; d\te',
    "lines": "one\r\ntwo\rthree\n\n,four",
    "formula": '=cmd|" /C calc"!A0',
    "quotes": '"""",,"\n"',
    "control": "\x00\x07\x1b[2J\x9b31m\u202e and a word",
    "long": "many words, " * 2000,
    "unlike": "# %% [[written]]\n## Question nothing (2 points)\n> quoted",
}


def test_one_answer_never_touches_another(toy, tmp_path, handed_out):
    texts = {**HOSTILE, "honest": "It may use itself.", "latin": "größer als früher".encode("cp1252")}
    halves = handed_out.encode().split(PLACE.encode(), 1)
    for name, text in texts.items():
        content = halves[0] + (text if isinstance(text, bytes) else text.encode()) + halves[1]
        hand_in(tmp_path / "in" / name, content)
    works = [take_in(path, toy) for path in sorted((tmp_path / "in").iterdir())]
    for work in works:
        kept.keep(card_of(toy, work), tmp_path / "results")
    written.export(toy, works, tmp_path / "answers.csv")

    lines = table_of(tmp_path)
    whose = json.loads((tmp_path / "answers.key.json").read_text())["answers"]
    points = {name: f"{number / 10:g}" for number, name in enumerate(texts)}
    done = fill_in(tmp_path, [{**line, "points": points[whose[line["key"]]["student"]]} for line in lines])

    assert len(lines) == 2 * len(texts)
    assert not any(line["answer"].startswith(("=", "+", "-", "@", "\t")) for line in lines)
    assert all(line["answer"].replace("\n", "").replace("\t", "").isprintable() for line in lines)
    assert (done.problems, done.graded) == ([], 2 * len(texts))
    for number, name in enumerate(texts):
        assert scores(tmp_path)[name] == (round(1 + 2 * number / 10, 2), 6, 0)
