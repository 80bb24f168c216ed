"""What lies in a results folder may be anything, and a terminal may know ASCII only: a sentence says so, and the rest goes on."""

import json
import os
import subprocess
import sys

import pytest
from conftest import write_lesson
from packing import zipped

from autograder import cli, kept
from autograder.scorecard import FAILED, PASSED, Digests, Outcome, Scorecard

ROWS = (
    Outcome("test_a", "toy", "Maß", "Größe – ✓", PASSED, 1, 1),
    Outcome("test_b", "toy", "Maß", "数", FAILED, 0, 1, "é ≠ e", cause="syntax"),
)


def card(student="ada", **more):
    return Scorecard("99-toy", student, 1, ROWS, digests=Digests("p", "x", {"toy": "s"}), **more)


def changed(**fields):
    return json.dumps({**json.loads(card().to_json()), **fields})


def with_row(**fields):
    return changed(outcomes=[{**json.loads(card().to_json())["outcomes"][0], **fields}])


DIGESTS = {"package": "p", "submission": "x", "modules": {"toy": "s"}, "prerequisites": "reference"}
MEASURED = {"seconds": 1, "student_cpu_seconds": 1, "student_peak_mb": 1}
ROW = json.loads(card().to_json())["outcomes"][0]
ODD = {
    "nothing": "",
    "no json": "{",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "other json": '{"name": "settings"}',
    "deep": "[" * 100_000,
    "not utf-8": b"\xff\xfe{",
    "NaN": with_row(points=float("nan")),
    "infinity": with_row(max_points=float("inf")),
    "negative": with_row(points=-1),
    "points as text": with_row(points="1"),
    "points as truth": with_row(points=True),
    "a strange status": with_row(status="won"),
    "a title that is a list": with_row(title=[]),
    "a row that is a text": changed(outcomes=["x"]),
    "rows that are none": changed(outcomes=None),
    "a row too much": with_row(extra=1),
    "a student that is a number": changed(student=7),
    "a student that is a list": changed(student=["ada"]),
    "evidence that is none": changed(evidence=[1]),
    "digests that are a list": changed(digests=[]),
    "a digest that is none": changed(digests={**DIGESTS, "package": None}),
    "digests of modules that are a list": changed(digests={**DIGESTS, "modules": ["toy"]}),
    "measurements that are a text": changed(measurements="long"),
    "a measurement that is a text": changed(measurements={**MEASURED, "seconds": "3"}),
    "a measurement below zero": changed(measurements={**MEASURED, "seconds": -3}),
    "a format that is a text": changed(format="1"),
    "a format that is a truth": changed(format=True),
    "a format of zero": changed(format=0),
    "a scale that is a text": changed(scale_to="10"),
    "notes that are a text": changed(notes="left out"),
    "more points than a float": changed(outcomes=[ROW | {"points": 10**400, "max_points": 10**400}]),
    "points that add up to infinity": changed(
        outcomes=[ROW | {"points": 1e308, "max_points": 1e308, "test": name} for name in "ab"]
    ),
    "1000 of 1 points": with_row(points=1000),
    "an infinite scale": changed(scale_to=1e300),
    "an environment without end": changed(environment=json.loads('{"a":' * 600 + "1" + "}" * 600)),
    "a list without end": changed(environment={"a": json.loads("[" * 600 + "]" * 600)}),
    "a seed that is a list": changed(seed=["x"]),
    "a seed that is huge": changed(seed=10**400),
    "an absolute path": changed(student="/abs"),
    "a path that leads out": changed(student="../.."),
    "the folder above": changed(student=".."),
    "a path of Windows": changed(student="..\\x"),
    "a drive of Windows": changed(student="c:x"),
    "no name": changed(student=""),
    "a name without end": changed(student="x" * 300),
    "a name with a zero": changed(student="a\0/b"),
    "a key of a terminal": changed(**{"\x1b]0;PWNED\x07": 1}),
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ada", "bob"):
        kept.keep(card(name), tmp_path / "out")
    (tmp_path / "out" / "eve").mkdir()
    return tmp_path / "out"


def autograder(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["autograder", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_bad_card_is_named_and_the_others_are_exported(results, monkeypatch, capsys, odd):
    (results / "eve" / "scorecard.json").write_bytes(odd if isinstance(odd, bytes) else odd.encode())

    code = autograder(monkeypatch, "export", "out", "--format", "csv")

    out, err = capsys.readouterr()
    assert code == 2
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == ["ada", "bob"]
    assert err.startswith("error: out/eve/scorecard.json is not a scorecard")
    assert len(err.splitlines()) == 1
    assert err.strip().isprintable()


@pytest.mark.parametrize("student", ["/abs", "../..", "../other/x"])
def test_a_merge_writes_nothing_outside_its_folder(results, monkeypatch, tmp_path, student):
    student = student.replace("/abs", str(tmp_path / "abs"))
    (results / "eve" / "scorecard.json").write_text(changed(student=student))

    assert autograder(monkeypatch, "merge", "out", "out", "--out", "new/er/merged") == 2

    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["er"]
    assert [path.name for path in (tmp_path / "new" / "er").iterdir()] == ["merged"]
    assert sorted(path.name for path in (tmp_path / "new" / "er" / "merged").iterdir()) == ["ada", "bob"]


def test_what_a_card_holds_does_not_reach_a_terminal(results, monkeypatch, capsys):
    escape = "\x1b]0;PWNED\x07"
    for name in ("ada", "eve"):
        modules = {f"{escape}{name}": "s"}
        (results / name / "scorecard.json").write_text(
            changed(student=name, digests={**DIGESTS, "modules": modules}, environment={escape: {escape: escape}})
        )

    assert autograder(monkeypatch, "export", "out", "--format", "csv") == 2

    out, err = capsys.readouterr()
    assert "of more than one suite" in " ".join(out.split())
    assert "\x1b" not in out + err
    assert escape not in str(kept.read(results / "eve" / "scorecard.json"))


def test_the_name_of_a_folder_in_an_archive_does_not_reach_a_terminal(tmp_path, monkeypatch, capsys):
    write_lesson(tmp_path)
    monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path))
    names = ["\x1b]0;PWNED\x07\x1b[31malice/toy.py", "bob/toy.py"]
    (tmp_path / "work.zip").write_bytes(zipped({name: f"x = {name!r}".encode() for name in names}))

    assert autograder(monkeypatch, "grade", tmp_path / "work.zip", "--lesson", "99", "--out", tmp_path / "o") == 2

    out = capsys.readouterr().out
    assert "holds the work of several students" in " ".join(out.split())
    assert "\x1b]" not in out
    assert "\x07" not in out


def test_more_than_it_is_worth_stays_where_a_person_gave_it():
    row = Outcome("why", "written", "Answers", "Answer", PASSED, 3, 2)
    extra = Scorecard("99-toy", "ada", 1, (*ROWS, row))

    assert Scorecard.from_json(extra.to_json()) == extra


@pytest.mark.parametrize("name", ["scorecard.json", "=x", "a b", "partial.json", "ünï", "100%", "[red]"])
def test_odd_names_of_students_break_no_export(results, monkeypatch, capsys, name):
    kept.keep(card(name), results)

    assert autograder(monkeypatch, "export", "out", "--format", "csv") == 0
    students = [line.split(",")[0].removeprefix("'") for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(students) == sorted(["ada", "bob", name])
    for each in ("gradescope", "otter"):
        assert autograder(monkeypatch, "export", "out", "--format", each) == 0
        assert name in json.loads(capsys.readouterr().out)


def test_out_is_written_whole_or_not_at_all(results, monkeypatch, tmp_path):
    assert autograder(monkeypatch, "export", "out", "--format", "csv", "--out", "new/scores.csv") == 0
    assert (tmp_path / "new" / "scores.csv").read_bytes().startswith(b"\xef\xbb\xbfstudent,")
    (results / "bob" / "scorecard.json").write_text(card("ada").to_json())
    before = (tmp_path / "new" / "scores.csv").read_bytes()

    assert autograder(monkeypatch, "export", "out", "--format", "csv", "--out", "new/scores.csv") == 2

    assert (tmp_path / "new" / "scores.csv").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.csv"]


def test_a_file_beside_a_bad_card_is_written_too(results, monkeypatch, tmp_path):
    (results / "eve" / "scorecard.json").write_text("{}")

    assert autograder(monkeypatch, "export", "out", "--format", "csv", "--out", "scores.csv") == 2

    assert (tmp_path / "scores.csv").read_text("utf-8-sig").count("\n") == 3


def test_a_student_of_two_cards_is_named(results, monkeypatch, capsys):
    (results / "bob" / "scorecard.json").write_text(card("ada").to_json())

    assert autograder(monkeypatch, "export", "out", "--format", "csv") == 2
    assert "two scorecards of 'ada'" in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------------------------------------- without UTF-8

SHOW = """
import sys
from autograder import cli, kept
from autograder.exports import table
from pathlib import Path
cards = [kept.read(path) for path in kept.below([Path("out")])]
sys.argv = ["autograder", "export", "n\\xf6where", "--format", "csv"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 2, end.code
for shown in (table.many(cards), table.one(cards[0], True), table.one(cards[0])):
    cli.console.print(shown)
sys.argv = ["autograder", "export", "out", "--format", "csv"]
cli.main()
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
)
def test_a_terminal_without_utf_8_gets_no_traceback(results, tmp_path, environment):
    kept.keep(card("José 李"), results)

    run = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr.decode(errors="replace")
    assert b"Traceback" not in run.stdout + run.stderr
    assert "José 李".encode() in run.stdout[run.stdout.index(b"\xef\xbb\xbf") :], "the export is UTF-8 all the same"


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}],
)
def test_a_class_is_graded_where_nothing_knows_utf_8(tmp_path, environment):
    write_lesson(tmp_path)
    for name, text in (("José", "def causal_mask(length):\n    raise ValueError('größe 数')\n"), ("李", "")):
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "toy.py").write_text(text, "utf-8")
    command = "from autograder.cli import main; main()"
    arguments = ["grade", "class", "--each", "--lesson", "99", "--out", "out", "--processes", "1"]

    run = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        env={**os.environ, "AUTOGRADER_ROOT": str(tmp_path), **environment},
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert run.returncode == 0, (run.stdout + run.stderr).decode(errors="replace")
    assert b"Traceback" not in run.stdout + run.stderr
    assert len(kept.below([tmp_path / "out"])) == 2
