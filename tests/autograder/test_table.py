"""Tables on a terminal: they fit in 80 columns, and a class's mistakes are counted."""

import io

from rich.console import Console

from autograder import table
from autograder.scorecard import FAILED, PASSED, PENDING_GPU, Outcome, Scorecard


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
