"""The command: results on disk, exit codes 0, 1 and 2, messages that name the file."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
from conftest import TOY_SOLUTION, TOY_SUITE, write_lesson

from autograder import cli
from autograder.scorecard import OUR_ERROR, PASSED, Outcome, Scorecard


@pytest.fixture
def root(tmp_path, monkeypatch, graders_share_a_box):
    write_lesson(tmp_path)
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION).replace(".tril()", ".triu()"))
    monkeypatch.setenv("AUTOGRADER_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def autograder(monkeypatch, capsys):
    """Runs the command and returns (exit code, what it printed)."""

    def run(*args):
        monkeypatch.setattr("sys.argv", ["autograder", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, " ".join(capsys.readouterr().out.split())

    return run


def test_torch_is_not_imported_to_read_what_is_asked():
    """It takes more than a second, of each command, and again in the process that only holds a pool."""
    command = "import sys, autograder.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


HERS = """
import pathlib
pathlib.Path("imported").touch()
"""


@pytest.mark.parametrize(
    "what", ["grade . --lesson 99-toy", "grade .. --each --lesson 99-toy", "written export . --lesson 99-toy"]
)
def test_a_submission_does_not_bring_its_own_hidden_tests(root, autograder, monkeypatch, what):
    """Somebody hands in the whole course, and who grades stands in it: hidden tests run in the grader."""
    hers = root / "class" / "eve"
    write_lesson(hers, suite=HERS)
    monkeypatch.chdir(hers)
    monkeypatch.delenv("AUTOGRADER_ROOT")

    code, said = autograder(*what.split(), "--out", root / "out")

    assert (code, f"{hers}werefound" in said.replace(" ", "")) == (2, True), said  # a terminal breaks long paths
    assert not (hers / "imported").exists()
    monkeypatch.setenv("AUTOGRADER_ROOT", str(root))
    autograder("grade", ".", "--lesson", "99-toy", "--out", root / "out")
    monkeypatch.delenv("AUTOGRADER_ROOT")
    code, said = autograder("replay", root / "out" / "eve" / "scorecard.json", "--test", "test_the_past_is_seen")
    assert (code, "set AUTOGRADER_ROOT" in said) == (2, True)


def test_grade_writes_a_scorecard_and_exits_0_whatever_the_score(root, autograder):
    code, said = autograder("grade", "ada", "--lesson", "99-toy", "--out", "out")

    card = json.loads((root / "out" / "ada" / "scorecard.json").read_text())
    assert code == 0
    assert "the mask is transposed" in said
    assert (card["lesson"], card["student"], card["score"], card["max_score"]) == ("99-toy", "ada", 2, 4)
    assert {"pending_gpu_points", "seed", "environment", "layers", "student_output"} <= set(card)
    assert {
        "test",
        "module",
        "question",
        "title",
        "status",
        "points",
        "max_points",
        "message",
        "mistake",
        "seconds",
    } <= set(card["outcomes"][0])


def test_what_was_left_out_is_said_below_the_table(root, autograder):
    (root / "ada" / "link.py").symlink_to("toy.py")
    (root / "bob").mkdir()
    (root / "bob" / "toy.py").write_text("")

    _, one = autograder("grade", "ada", "--lesson", "99-toy", "--out", "out")
    (root / "class").mkdir()
    for name in ("ada", "bob"):
        (root / name).rename(root / "class" / name)
    _, many = autograder("grade", "class", "--each", "--lesson", "99-toy", "--out", "out", "--processes", "1")

    assert "left out link.py" in one
    assert "left out link.py" not in many, "it holds of one student only"


def test_scorecards_are_read_back_as_they_were(root, autograder):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")
    text = (root / "out" / "ada" / "scorecard.json").read_text()

    assert Scorecard.from_json(text).to_json() == text


def test_a_broken_hidden_test_exits_1(root, autograder):
    suite = TOY_SUITE.replace('student.call("toy.causal_mask", length)', "undefined")
    write_lesson(root, suite=suite)

    code, said = autograder("grade", "ada", "--lesson", "99", "--out", "out")

    assert code == 1
    assert "grader error" in said
    assert "undefined" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["grade", "nobody", "--lesson", "99", "--out", "out"], "nobody"),
        (["grade", "ada", "--lesson", "12", "--out", "out"], "no lesson '12'"),
        (["grade", "ada", "--lesson", "99", "--out", "out", "--module", "nix"], "no module 'nix'"),
        (["replay", "nothing.json", "--test", "test_x"], "nothing.json is not a scorecard"),
        (["export", "ada", "--format", "csv"], "no scorecard.json below ada"),
    ],
)
def test_wrong_use_exits_2_and_says_what_was_wrong(root, autograder, args, words):
    code, said = autograder(*args)

    assert code == 2
    assert words in said


def test_each_grades_a_folder_of_submissions(root, autograder):
    work = root / "class"
    for name, text in (("ada", TOY_SOLUTION), ("bob", "def f(:"), ("eve", "raise SystemExit")):
        (work / name).mkdir(parents=True)
        (work / name / "toy.py").write_text(textwrap.dedent(text))
    (work / "zoe.zip").write_bytes(b"no zip")

    code, said = autograder("grade", work, "--each", "--lesson", "99", "--out", "out", "--processes", 2)

    scores = {
        path.parent.name: json.loads(path.read_text())["score"] for path in (root / "out").rglob("scorecard.json")
    }
    assert code == 0
    assert scores == {"ada": 4, "bob": 0, "eve": 0, "zoe": 0}
    assert "4/4" in said


def test_what_failed_is_shown_and_with_all_every_test(root, autograder):
    _, short = autograder("grade", "ada", "--lesson", "99-toy", "--out", "out", "--seed", "1")
    _, whole = autograder("grade", "ada", "--lesson", "99-toy", "--out", "out", "--seed", "1", "--all")

    assert "The mask has rows." not in short
    assert "The mask has rows." in whole


@pytest.fixture
def class_of_two(root):
    for name in ("ada", "bob"):
        (root / "class" / name).mkdir(parents=True)
        (root / "class" / name / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION) + f"# {name}")
    return root / "class"


def test_a_class_without_each_is_refused(class_of_two, root, autograder):
    code, said = autograder("grade", class_of_two, "--lesson", "99", "--out", "out")

    assert (code, "--each" in said) == (2, True)
    assert not (root / "out").exists()


def test_one_submission_with_each_is_refused(root, autograder):
    code, said = autograder("grade", "ada", "--each", "--lesson", "99", "--out", "out")

    assert (code, "without --each" in said) == (2, True)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_out_folder_that_cannot_be_written_is_noticed_before_grading(
    class_of_two, root, autograder, monkeypatch, out, each
):
    (root / "file").write_text("")
    monkeypatch.setattr(cli.grading, "run", lambda *_, **__: pytest.fail("it was graded"))

    work = [class_of_two, "--each"] if each else ["ada"]
    code, said = autograder("grade", *work, "--lesson", "99", "--out", out)

    assert (code, "cannot be written" in said) == (2, True)


@pytest.mark.parametrize(
    "command",
    [
        ["merge", "out/ada/scorecard.json", "out/ada/scorecard.json", "--out", "file/x"],
        ["export", "out", "--format", "csv", "--out", "file/x/scores.csv"],
        ["export", "out", "--format", "csv", "--out", "out"],
        ["handouts", "--out", "file"],
        ["zips", "--out", "file"],
        ["rehearse", "--out", "file"],
    ],
)
def test_no_command_ends_in_a_traceback_where_it_cannot_write(root, autograder, command):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")
    (root / "file").write_text("")

    code, said = autograder(*command)

    assert code == 2
    assert "error:" in said


def test_a_second_lesson_does_not_overwrite_the_first_ones_card(root, autograder):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")
    before = (root / "out" / "ada" / "scorecard.json").read_text()
    for part in ("assignments", "solutions", "tests/lessons"):
        (root / part / "98-other").symlink_to(root / part / "99-toy")

    code, said = autograder("grade", "ada", "--lesson", "98", "--out", "out")

    assert (code, "is of 99-toy" in said) == (2, True)
    assert (root / "out" / "ada" / "scorecard.json").read_text() == before


def two_modules(root):
    """The lesson with a second module, and ada's work on it."""
    toml = root / "assignments" / "99-toy" / "lesson.toml"
    toml.write_text('title = "Toy"\nmodules = ["toy", "other"]\n')
    for old, new in (("solutions/99-toy/toy.py", "other.py"), ("tests/lessons/99-toy/test_toy.py", "test_other.py")):
        (root / old).with_name(new).write_text((root / old).read_text().replace("toy.", "other."))
    (root / "ada" / "other.py").write_text(textwrap.dedent(TOY_SOLUTION))


def test_a_module_graded_again_joins_the_card_and_replays_with_its_own_inputs(root, autograder):
    two_modules(root)
    autograder("grade", "ada", "--lesson", "99", "--out", "out", "--seed", "5")
    _, said = autograder("grade", "ada", "--lesson", "99", "--out", "out", "--seed", "6", "--module", "toy")

    card = Scorecard.from_json((root / "out" / "ada" / "scorecard.json").read_text())
    assert (card.score, card.max_score, card.partial) == (6, 8, "")
    assert "joined on" in said
    assert {(row.module, card.seed_of(row)) for row in card.outcomes} == {("toy", 6), ("other", 5)}
    code, _ = autograder("replay", "out/ada/scorecard.json", "--test", "test_the_past_is_seen")
    assert code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["replay", "out/ada/scorecard.json", "--test", "test_the_past_is_sen"],
            "did you mean 'test_the_past_is_seen'?",
        ),
        (["grade", "ada", "--lesson", "99-tou", "--out", "out"], "did you mean '99-toy'?"),
        (["grade", "ada", "--lesson", "99", "--out", "out", "--module", "tyo"], "did you mean 'toy'?"),
        (["mutants", "99", "--module", "tyo"], "did you mean 'toy'?"),
        (["replay", "out/ada/scorecard.json", "--test", "test_the_m"], "did you mean 'test_the_mask_has_rows'?"),
        (["export", "out", "--format", "gradscope"], "did you mean 'gradescope'?"),
        (["grade", "ada", "--lesson", "99", "--out", "out", "--prerequisites", "onw"], "did you mean 'own'?"),
    ],
)
def test_a_mistyped_name_suggests_the_nearest(root, autograder, args, words):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")

    code, said = autograder(*args)

    assert (code, words in said) == (2, True), said


def test_merge_takes_whole_folders(class_of_two, root, autograder):
    for out in ("one", "two"):
        autograder("grade", class_of_two, "--each", "--lesson", "99", "--out", out, "--processes", "1")
    (root / "two" / "bob" / "scorecard.json").unlink()

    code, said = autograder("merge", "one", "two", "--out", "both")

    assert (code, "bob is only in one" in said) == (0, True)
    assert sorted(path.parent.name for path in (root / "both").rglob("scorecard.json")) == ["ada", "bob"]


def test_two_submissions_of_one_name_are_told_apart(root, autograder):
    (root / "class" / "ada").mkdir(parents=True)
    (root / "class" / "ada.zip").write_bytes(b"")

    code, _ = autograder("grade", "class", "--each", "--lesson", "99", "--out", "out")

    cards = {path.parent.name: json.loads(path.read_text()) for path in (root / "out").glob("*/scorecard.json")}
    assert code == 0
    assert set(cards) == {"ada-1", "ada-2"}
    assert "ada.zip, is called ada-2" in cards["ada-2"]["notes"][0]


def test_what_is_nobodys_submission_is_named(root, autograder):
    (root / "class" / "ada").mkdir(parents=True)
    (root / "class" / "grades.csv").write_text("ada,1")
    (root / "class" / ".DS_Store").write_bytes(b"")

    code, said = autograder("grade", "class", "--each", "--lesson", "99", "--out", "out")

    assert code == 0
    assert "not graded: grades.csv: by its name it is the instructor's" in said
    assert "DS_Store" not in said


@pytest.mark.parametrize("where", [[], ["--in-process"]])
def test_replay_runs_one_test_again(root, autograder, where):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")

    code, said = autograder("replay", "out/ada/scorecard.json", "--test", "test_the_past_is_seen", *where)

    assert code == 0
    assert "the mask is transposed" in said
    assert "test_a_bad_length" not in said


def test_one_test_is_graded_and_the_card_says_that_it_is_not_whole(root, autograder):
    code, said = autograder("grade", "ada", "--lesson", "99", "--out", "out", "--test", "test_the_mask_has_rows")

    card = Scorecard.from_json((root / "out" / "ada" / "scorecard.json").read_text())
    assert (code, [row.test for row in card.outcomes]) == (0, ["test_the_mask_has_rows"])
    assert (card.score, card.max_score, card.ungraded) == (1, 1, ("toy",))
    assert card.partial.startswith("only some tests")
    assert "only some tests" in said


def test_one_test_of_a_whole_grading_replaces_one_row_and_never_the_card(root, autograder):
    autograder("grade", "ada", "--lesson", "99", "--out", "out", "--seed", "5")
    one = ["grade", "ada", "--lesson", "99", "--out", "out", "--seed", "6", "--test", "test_the_mask_has_rows"]
    _, said = autograder(*one)

    card = Scorecard.from_json((root / "out" / "ada" / "scorecard.json").read_text())
    assert (card.score, card.max_score, card.partial) == (2, 4, "")
    assert {row.test: card.seed_of(row) for row in card.outcomes} == {
        "test_the_past_is_seen": 5, "test_a_bad_length_is_refused": 5, "test_the_mask_has_rows": 6
    }  # fmt: skip
    assert "1 test of toy is of this grading, 2 of toy of an earlier one" in said

    suite = root / "tests" / "lessons" / "99-toy" / "test_toy.py"
    suite.write_text(suite.read_text() + "\n# another suite\n")
    _, said = autograder(*one)
    assert "was left as it is: only some tests" in said
    assert Scorecard.from_json((root / "out" / "ada" / "scorecard.json").read_text()) == card
    assert (root / "out" / "ada" / "partial.json").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["test_the_past_is_sen"], "99-toy has no test 'test_the_past_is_sen' among its 3; did you mean 'test_the_past_is_seen' or"),
        (["test_the"], "did you mean 'test_the_past_is_seen' or 'test_the_mask_has_rows'?"),
        (["test_the_mask_has_rows", "xyz"], "99-toy has no test 'xyz' among its 3"),
    ],
)  # fmt: skip
def test_a_test_that_the_lesson_does_not_have_is_named_with_those_that_are_near(root, autograder, names, words):
    options = [word for name in names for word in ("--test", name)]

    code, said = autograder("grade", "ada", "--lesson", "99", "--out", "out", *options)

    assert (code, words in said) == (2, True), said
    assert not (root / "out").exists()


def test_a_test_is_looked_for_in_the_modules_that_were_named(root, autograder):
    two_modules(root)
    both = ["grade", "ada", "--lesson", "99", "--out", "out", "--test", "test_the_mask_has_rows"]

    autograder(*both)
    card = Scorecard.from_json((root / "out" / "ada" / "scorecard.json").read_text())
    assert [row.module for row in card.outcomes] == ["toy", "other"]
    (root / "tests" / "lessons" / "99-toy" / "test_other.py").write_text("def test_b(student):\n    pass\n")
    code, said = autograder(*both, "--module", "other")
    assert (code, "99-toy (other) has no test 'test_the_mask_has_rows' among its 1" in said) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["grade", "ada", "--lesson", "99", "--out", "out", "--module", "lab"],
        ["grade", "ada", "--lesson", "99", "--out", "out", "--test", "test_a_number_is_doubled"],
        ["grade", "ada", "--lesson", "99-toy-lab", "--out", "out"],
        ["replay", "card.json", "--test", "test_a_number_is_doubled"],
    ],
)
def test_who_asks_for_the_exercises_of_a_lab_is_told_what_grades_them(root, autograder, arguments):
    (root / "assignments" / "99-toy" / "lab.py").write_text("")
    suite = root / "tests" / "lessons" / "99-toy-lab" / "test_lab.py"
    suite.parent.mkdir()
    suite.write_text("def test_a_number_is_doubled(student):\n    pass\n")
    row = Outcome("test_a_number_is_doubled", "lab", "Double", "Twice the number.", PASSED, 1.0, 1.0)
    (root / "card.json").write_text(Scorecard("99-toy", "ada", 1, (row,)).to_json())

    code, said = autograder(*arguments)

    assert (code, "`nbgrader autograde 99-toy` grades them, and no other command does" in said) == (2, True), said


def test_replay_refuses_a_submission_that_has_changed(root, autograder):
    autograder("grade", "ada", "--lesson", "99", "--out", "out")
    (root / "ada" / "toy.py").write_text("x = 1")

    code, said = autograder("replay", "out/ada/scorecard.json", "--test", "test_the_past_is_seen")

    assert code == 2
    assert "has changed" in said


def test_a_box_that_breaks_costs_one_submission_and_no_other(root, monkeypatch):
    from autograder.batch import Job, run
    from autograder.box.choose import open_box
    from autograder.grade import Grader
    from autograder.lesson import load
    from autograder.submission import Submission

    monkeypatch.setattr("autograder.grade.open_box", open_box)  # not the one that the other tests share
    lesson = load("99")
    real, calls = Grader.grade, []

    def breaking(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            self._sandbox._process.kill()
        return real(self, *args, **options)

    monkeypatch.setattr(Grader, "grade", breaking)
    jobs = [Job(Submission(name, "", lesson.solution_files())) for name in ("one", "two", "three")]
    cards = [card for _, card in run(lesson, jobs)]

    assert [card.score for card in cards] == [4, 0, 4]
    assert [len(card.grader_errors) for card in cards] == [0, 1, 0]


@pytest.mark.parametrize("name", ["scorecard.json", "partial.json", "earlier-1.json"])
def test_a_submission_called_like_a_file_of_the_results_is_graded_exported_and_merged(root, autograder, name):
    """As a folder, and as the folder around another submission's card."""
    for student in (name, "bob"):
        (root / "class" / student).mkdir(parents=True)
        (root / "class" / student / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION))

    for _ in range(2):
        code, _ = autograder("grade", "class", "--each", "--lesson", "99-toy", "--out", "out", "--processes", 1)
        assert code == 0
    code, _ = autograder("export", "out", "--format", "csv", "--out", "scores.csv")
    assert code == 0
    code, _ = autograder("export", *sorted((root / "out").iterdir()), "--format", "csv", "--out", "again.csv")
    assert code == 0
    code, _ = autograder("merge", "out", "out", "--out", "merged")
    assert code == 0

    lines = (root / "scores.csv").read_text("utf-8-sig").splitlines()
    assert sorted(line.split(",")[:3] for line in lines[1:]) == sorted([[name, "4.0", "4.0"], ["bob", "4.0", "4.0"]])
    assert sorted((root / "again.csv").read_text("utf-8-sig").splitlines()) == sorted(lines)


def test_a_fault_of_ours_in_the_intake_is_nobodys_zero(root, monkeypatch):
    from autograder import batch
    from autograder.lesson import load
    from autograder.submission import take_in_each

    for name in ("ada", "bob"):
        (root / "class" / name).mkdir(parents=True)
        (root / "class" / name / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION))
    real = batch.take_in

    def failing(source, lesson):
        if source.student == "ada":
            raise ZeroDivisionError("a bug")
        return real(source, lesson)

    monkeypatch.setattr(batch, "take_in", failing)
    jobs = batch.jobs_of(take_in_each(root / "class").sources)
    cards = {card.student: card for _, card in batch.run(load("99"), jobs)}

    assert [(row.message, row.detail) for row in cards["ada"].grader_errors] == [
        (OUR_ERROR, "ZeroDivisionError: a bug")
    ]
    assert cards["bob"].score == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process keeps to a core here")
@pytest.mark.parametrize("processes", [1, 2])
def test_each_process_of_the_pool_keeps_to_one_core(root, processes):
    from autograder.batch import Job, run
    from autograder.lesson import load
    from autograder.submission import Submission

    lesson = load("99")
    telling = b"import os\nprint('cores', sorted(os.sched_getaffinity(0)))\n"
    files = {"toy.py": telling + lesson.solution_files()["toy.py"]}
    jobs = [Job(Submission(name, "", files)) for name in ("one", "two", "three", "four")]
    cards = [card for _, card in run(lesson, jobs, processes=processes)]

    assert [card.score for card in cards] == [4] * 4
    told = [re.search(r"cores \[(.*)\]", card.student_output)[1] for card in cards]
    assert set(told) <= set(map(str, os.sched_getaffinity(0)))  # one each: "0", not "0, 1"
