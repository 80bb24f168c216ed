"""Totals add up to the cent: what an export or a table prints, row by row and question by question, is what it prints as total."""

import csv
import io
import json
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autograder import exports
from autograder.exports import table
from autograder.scorecard import FAILED, GRADER_ERROR, PASSED, PENDING_GPU, STATUSES, Outcome, Scorecard

WEIGHTS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 7.0, 1 / 3, 2.675, 13.37, 0.001]) | st.floats(0, 50)
SCALES = st.none() | st.sampled_from([1.0, 10.0, 20.0, 33.33, 100.0, 0.07])


@st.composite
def scorecards(draw, statuses=STATUSES):
    rows = []
    for place in range(draw(st.integers(0, 40))):
        status, worth = draw(st.sampled_from(statuses)), draw(WEIGHTS)
        module, question = draw(st.sampled_from(["attention", "flash"])), draw(st.sampled_from(["masks", "heads"]))
        earned = worth if status == PASSED else 0.0
        rows.append(Outcome(f"test_{place}", module, question, "Title", status, earned, worth))
    return Scorecard("01-attention", "ada", 1, tuple(rows), scale_to=draw(SCALES))


def decimals(text: str):
    """What a reader of JSON sees: the digits that are printed, and nothing else."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def in_cents(value: Decimal) -> bool:
    return value == value.quantize(Decimal("0.01"))


@given(scorecards())
def test_the_rows_of_gradescope_add_up_as_they_are_printed(card):
    results = decimals(exports.render("gradescope", [card]))

    scores = [row["score"] for row in results["tests"] if "score" in row]
    assert sum(scores) == results.get("score", 0)
    assert all(map(in_cents, [*scores, results.get("score", Decimal(0))]))
    assert ("score" not in results) == card.is_lost


@given(scorecards())
def test_the_questions_of_gradescope_add_up_as_they_are_printed(card):
    output = decimals(exports.render("gradescope", [card]))["output"]

    total, *questions = [tuple(map(Decimal, pair)) for pair in re.findall(r": ([\d.]+) of ([\d.]+)", output)]
    assert tuple(map(sum, zip(*questions, strict=True))) in (total, ())


@given(scorecards())
def test_the_rows_of_otter_add_up_as_they_are_printed(card):
    rows = decimals(exports.render("otter", [card])).values()

    assert sum(row["score"] for row in rows) == Decimal(str(card.score))
    assert sum(row["possible"] for row in rows) == Decimal(str(card.max_score))


@given(scorecards())
def test_the_questions_of_the_csv_add_up_as_they_are_printed(card):
    head, line = csv.reader(io.StringIO(exports.render("csv", [card]), newline=""))
    cells = dict(zip(head, line, strict=True))

    questions = [Decimal(cell) for name, cell in cells.items() if re.match(r"(attention|flash): ", name) and cell]
    assert sum(questions) == Decimal(cells["score"] or 0)
    assert (cells["score"] == "") == (cells["max_score"] == "") == card.is_lost
    assert all(in_cents(Decimal(cells[name] or 0)) for name in ("score", "max_score", "pending_gpu_points"))


@given(scorecards())
def test_the_rows_of_the_table_add_up_as_they_are_printed(card):
    console = Console(file=io.StringIO(), width=80)
    console.print(table.one(card, everything=True))

    shown = [tuple(map(Decimal, pair)) for pair in re.findall(r"([\d.]+) / ([\d.]+)", console.file.getvalue())]
    *rows, total = shown if not card.is_lost else [*shown, (0, 0)]
    pending = Decimal(str(card.pending_gpu_points)) + Decimal(str(card.pending_person_points))
    assert sum(earned for earned, _ in rows) == total[0]
    assert sum(worth for _, worth in rows) == total[1] + pending


@given(scorecards())
def test_no_row_is_a_cent_from_its_exact_value_and_a_failed_one_is_zero(card):
    sound = [row for row in card.outcomes if row.status != GRADER_ERROR]
    whole = sum(Fraction(str(row.max_points)) for row in sound)
    factor = Fraction(str(card.scale_to)) / whole if card.scale_to and whole else 1

    for row, scored in zip(card.outcomes, card.scored, strict=True):
        exact = factor * Fraction(str(row.max_points)) if row.status != GRADER_ERROR else 0
        assert abs(Fraction(str(scored.max_points)) - exact) < Fraction(1, 100)
        assert scored.points == (scored.max_points if row.status == PASSED else 0.0)


@given(scorecards(statuses=[PASSED]))
def test_all_points_are_exactly_what_the_lesson_is_scaled_to(card):
    if card.scale_to and any(row.max_points for row in card.outcomes):
        assert card.score == card.max_score == card.scale_to


@given(scorecards(), st.randoms())
def test_the_order_of_the_rows_changes_no_points(card, random):
    shuffled = replace(card, outcomes=tuple(random.sample(card.outcomes, len(card.outcomes))))

    assert {row.test: row.points for row in shuffled.scored} == {row.test: row.points for row in card.scored}
    assert (shuffled.score, shuffled.max_score) == (card.score, card.max_score)


@given(scorecards())
def test_what_waits_counts_as_much_once_it_ran(card):
    ran = [
        replace(row, status=FAILED) if row.status == PENDING_GPU else row for row in card.outcomes
    ]  # as after `merge`

    assert Decimal(str(card.max_score)) + Decimal(str(card.pending_gpu_points)) == Decimal(
        str(replace(card, outcomes=tuple(ran)).max_score)
    )


def all_passed(points, scale_to=None):
    rows = [Outcome(f"test_{i}", "toy", "toy", "T", PASSED, worth, worth) for i, worth in enumerate(points)]
    return Scorecard("99-toy", "ada", 1, tuple(rows), scale_to=scale_to)


def test_thirty_tests_of_a_tenth_are_three():
    assert str(all_passed([0.1] * 30).score) == "3.0"


@pytest.mark.parametrize("scale_to", [10, 20, 100])
def test_the_scorecard_states_the_same_total(scale_to):
    card = all_passed([1, 2, 3] * 22, scale_to)

    written = decimals(card.to_json())

    assert (written["score"], written["max_score"]) == (scale_to, scale_to)
    assert sum(Decimal(str(row.points)) for row in card.scored) == scale_to


# ---------------------------------------------------------------------------------------------- grader errors

SOUND = [status for status in STATUSES if status != GRADER_ERROR]


@st.composite
def with_broken_tests(draw):
    """A card, and the same with some of its tests broken: its rows are those without them, and grader errors."""
    card = draw(scorecards(SOUND))
    broken = [
        Outcome.ours(f"test_broken_{i}", "attention", "masks", "Title", "why", draw(WEIGHTS))
        for i in range(draw(st.integers(1, 4)))
    ]
    rows = draw(st.permutations([*card.outcomes, *broken]))
    return card, replace(card, outcomes=tuple(rows))


@given(with_broken_tests())
def test_a_broken_test_leaves_the_total_of_the_suite_without_it(cards):
    without, broken = cards

    assert (broken.score, broken.max_score) == (without.score, without.max_score)
    assert broken.pending_gpu_points == without.pending_gpu_points
    points = {row.test: (row.points, row.max_points) for row in broken.scored if row.status != GRADER_ERROR}
    assert points == {row.test: (row.points, row.max_points) for row in without.scored}
    assert {row.max_points for row in broken.scored if row.status == GRADER_ERROR} == {0}


@given(with_broken_tests())
def test_gradescopes_total_stays_out_of_what_the_assignment_is_worth(cards):
    """Its maximum is fixed, so that the other tests are worth all of it."""
    _, broken = cards
    right = replace(
        broken,
        outcomes=tuple(
            row if row.status in (GRADER_ERROR, PENDING_GPU) else replace(row, status=PASSED, points=row.max_points)
            for row in broken.outcomes
        ),
    )
    results = decimals(exports.render("gradescope", [right]))
    pending = sum(row.max_points for row in right.outcomes if row.status == PENDING_GPU)

    if not right.is_lost and not pending and right.max_score:
        assert results["score"] == Decimal(str(right.whole_points))
        assert sum(row.get("max_score", 0) for row in results["tests"]) == results["score"]


def test_where_nothing_was_graded_no_table_says_zero():
    lost = Scorecard.lost("01-attention", "ada", "the disk is full")

    assert (lost.is_lost, lost.score, lost.max_score) == (True, 0, 0)
    assert exports.render("csv", [lost]).splitlines()[1].startswith("ada,,,,")
    assert "score" not in json.loads(exports.render("gradescope", [lost]))
    for shown in (table.one(lost), table.many([lost])):
        console = Console(file=io.StringIO(), width=80)
        console.print(shown)
        assert "not graded" in console.file.getvalue()
        assert "0 / 0" not in console.file.getvalue()
