"""Tables on a terminal: they fit in 80 columns, and a class's mistakes are counted."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from autograder.exports import table
from autograder.scorecard import FAILED, PASSED, PENDING_GPU, Evidence, Outcome, Scorecard


def card(student, *mistakes):
    rows = [Outcome("test_right", "toy", "toy", "Is right", PASSED, 1, 1)]
    rows += [Outcome(f"test_{i}", "toy", "toy", "Is wrong", FAILED, 0, 1, m, m) for i, m in enumerate(mistakes)]
    rows += [Outcome("test_gpu", "toy", "toy", "Runs on a GPU", PENDING_GPU, 0, 1)]
    return Scorecard("99-toy", student, 0, tuple(rows), "")


def shown(cards, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table.many(cards))
    return console.file.getvalue()


def test_a_student_takes_one_line_of_80_columns():
    cards = [card("a-rather-long-name-of-a-student", "the mask is [b]transposed[/b]: it shows the future" * 2)] * 3

    lines = shown(cards).splitlines()

    assert max(map(len, lines)) <= 80
    assert sum("a-rather-long-name-of-a-student" in line and "1 / 2" in line for line in lines) == 3


def test_mistakes_are_counted_once_a_student_and_the_most_frequent_come_first():
    said = shown(
        [card("ada", "is transposed", "is transposed"), card("bob", "is [late]"), card("eve", "is transposed")]
    )

    lines = [line.strip("│ ").split("│") for line in said.splitlines() if "is " in line]
    assert [[cell.strip() for cell in line] for line in lines] == [["2", "is transposed"], ["1", "is [late]"]]


def test_rare_mistakes_of_a_large_class_are_counted_only():
    said = shown([card(f"student{i}", f"mistake {i:02}") for i in range(15)])

    assert "mistake 11" in said
    assert "mistake 12" not in said
    assert "and 3 more" in said


def test_where_no_mistake_was_recognised_nothing_is_said():
    assert "recognised" not in shown([card("ada")])


# ---------------------------------------------------------------------------------------------- what a class is told


def unanswered(student, cause, modules=("toy",), of=("toy",), message="why"):
    rows = [
        Outcome("test_x", name, name, "Is right", FAILED, 0, 1, message, cause=cause if name in modules else "")
        for name in of
    ]
    return Scorecard("99-toy", student, 0, tuple(rows))


def test_what_kept_code_from_answering_has_a_line_with_the_students_names():
    cards = [
        unanswered("ada", "syntax"),
        unanswered("bob", "syntax", ("toy",), ("toy", "other")),
        unanswered("eve", "import", message="toy.py cannot be imported: No module named 'einops.layers' (toy.py:1)"),
        unanswered("gil", "missing"),
        unanswered("hal", "timeout"),
        unanswered("ian", "unreadable"),
        unanswered("joe", "died"),
        unanswered("kim", "unwritten"),
    ]

    said = " ".join(shown(cards).replace("│", " ").split())

    assert "2 syntax error: ada, bob (toy)" in said
    assert "1 an unchanged starter: kim" in said
    for words, name in [
        ("a package is missing", "eve (einops.layers)"),
        ("a file is missing", "gil"),
        ("took too long", "hal"),
        ("could not be read", "ian"),
        ("died: crash, exit or memory", "joe"),
    ]:
        assert f"1 {words}: {name}" in said


def test_forbidden_calls_stand_below_the_class_with_names_and_counts():
    used = [Evidence("toy", "torch.nn.MultiheadAttention", f"toy.py:{line}", "source") for line in (3, 3, 9)]
    cards = [replace(card("ada"), evidence=tuple(used)), replace(card("bob"), evidence=tuple(used[:1])), card("eve")]

    said = " ".join(shown(cards).replace("│", " ").split())

    assert "2 torch.nn.MultiheadAttention: ada (2), bob" in said


def test_a_partial_grading_is_named_below_the_class():
    cards = [replace(card("ada"), modules=("toy",), ungraded=("other",)), card("bob")]

    assert "1 only toy: ada" in " ".join(shown(cards).replace("│", " ").split())


# ---------------------------------------------------------------------------------------------- one submission


def one(*rows, everything=False, width=80, **more):
    console = Console(file=io.StringIO(), width=width)
    console.print(table.one(Scorecard("99-toy", "ada", 0, rows, **more), everything))
    return console.file.getvalue()


def rows_of(module, passed=0, failed=(), status=FAILED):
    good = [Outcome(f"test_p{i}", module, "q", f"Good {i}", PASSED, 1, 1) for i in range(passed)]
    bad = [Outcome(f"test_f{i}", module, "q", f"Bad {i}", status, 0, 1, text) for i, text in enumerate(failed)]
    return [*good, *bad]


def test_failures_come_first_and_what_passed_is_one_line_a_module():
    said = one(*rows_of("alpha", passed=40), *rows_of("beta", passed=30, failed=["wrong sign"]))

    assert said.index("Bad 0") < said.index("beta: 30 of 31 tests") < said.index("alpha: all 40 tests")
    assert "Good 0" not in said
    assert len(said.splitlines()) < 16


def test_all_shows_every_test():
    said = one(*rows_of("alpha", passed=40), *rows_of("beta", failed=["wrong sign"] * 3), everything=True)

    assert all(f"Good {i}" in said for i in range(40))
    assert said.count("wrong sign") == 3


def test_one_message_of_a_whole_module_is_said_once():
    waiting = Outcome("test_g", "beta", "q", "On a GPU", PENDING_GPU, 0, 1)

    said = one(*rows_of("beta", failed=["beta.py is missing"] * 50), waiting)

    assert said.count("beta.py is missing") == 1
    assert "all 50 tests" in said
    assert "Bad 0" not in said
    assert "0 / 50" in said


def test_one_message_of_some_tests_is_said_once_with_their_titles():
    said = one(*rows_of("beta", passed=9, failed=["f is not implemented yet"] * 7 + ["wrong"]))

    assert said.count("f is not implemented yet") == 1
    assert "Bad 0" in said
    assert "and 5 more" in said


@pytest.mark.parametrize("everything", [False, True])
def test_a_long_word_and_markup_fit_into_80_columns(everything):
    said = one(*rows_of("beta", passed=2, failed=["[red]" + "x" * 300, "𝕏é" * 90]), everything=everything)

    assert max(map(len, said.splitlines())) <= 80
    assert "[red]" in said


def test_forbidden_calls_stand_below_one_submission():
    use = Evidence("toy", "torch.nn.MultiheadAttention", "toy.py:3", "source")

    assert "forbidden: torch.nn.MultiheadAttention (toy.py:3)" in one(*rows_of("toy", 1), evidence=(use,))
