"""What one mistake costs is counted over the whole suite, and docs/proof.md keeps the figures."""

import pytest
from conftest import write_lesson

from autograder.author.costs import MEDIANS, MUCHES, CostTables, Loss, Summary, as_tsv, measure, problems
from autograder.author.prove import ProofTable, losses_of_mutants
from autograder.errors import GraderFault
from autograder.lesson import load

pytestmark = pytest.mark.usefixtures("graders_share_a_box")

TRANSPOSED = 'why = "x"\nfails = ["test_the_past_is_seen"]\n[[change]]\nold = ".tril()"\nnew = ".triu()"\n'
NO_ROWS = (
    'why = "x"\ncosts = "Every test asks for rows."\nfails = ["test_the_mask_has_rows"]\n'
    '[[change]]\nold = ".tril()"\nnew = ".tril()[:1]"\n'
)
PAGE = f"""# Proof

<!-- {MEDIANS}: written by `make costs` -->

| lesson | module | points | samples | median | 9 in 10 | worst | the worst sample |
|---|---|---|---|---|---|---|---|
| 98-other | x | 9 | 3 | 1 | 2 | 3 | some |

<!-- end: {MEDIANS} -->

In between.

<!-- {MUCHES}: written by `make costs` -->

| lesson | module | sample | points | of | reason |
|---|---|---|---|---|---|
| 98-other | x | some | 3 | 9 | It is so. |
| 99-toy | toy | gone | 3 | 4 | It was so. |

<!-- end: {MUCHES} -->

## The end
"""


@pytest.fixture
def lesson(tmp_path):
    write_lesson(tmp_path)
    folder = tmp_path / "tests" / "submissions" / "99-toy" / "wrong" / "toy"
    folder.mkdir(parents=True)
    (folder / "transposed.toml").write_text(TRANSPOSED)
    (folder / "no-rows.toml").write_text(NO_ROWS)
    return load("99-toy", tmp_path)


def losing(points, name="a", of=20.0, reason=""):
    return Loss(name, "toy", points, of, ("test_it",), reason)


def test_a_sample_is_graded_by_the_whole_suite_and_not_by_the_tests_that_it_names(lesson):
    losses = measure(lesson)["toy"]

    assert [(loss.name, loss.points, loss.of, set(loss.tests)) for loss in losses] == [
        ("no-rows", 3, 4, {"test_the_past_is_seen", "test_the_mask_has_rows"}),
        ("transposed", 2, 4, {"test_the_past_is_seen"}),
    ]
    assert [loss.reason for loss in losses] == ["Every test asks for rows.", ""]


def test_a_broken_test_is_told_and_not_left_out(lesson):
    suite = lesson.root / "tests" / "lessons" / "99-toy" / "test_toy.py"
    suite.write_text(suite.read_text().replace(".tril()", ".triu()"))

    with pytest.raises(GraderFault, match=r"no-rows\.toml: toy test_the_past_is_seen is a grader error"):
        measure(lesson)


def test_mutants_are_graded_by_the_whole_suite_too_and_fill_the_cells_of_their_line(lesson, tmp_path):
    losses = losses_of_mutants(lesson, "toy")
    table = ProofTable.read(tmp_path / "proof.md")
    table.put_losses(lesson, "toy", losses)
    table.lines["99-toy", "toy"] = "| 99-toy | toy | 3 | 2 | 9 | 100.0 % | 0 | 0 |"
    table.put_losses(lesson, "toy", losses)
    table.put_losses(lesson, "toy", losses)

    assert max(loss.points for loss in losses) > 1
    assert max(len(loss.tests) for loss in losses) > 1
    figures = [f"{number:g}" for number in (4, Summary.of_losses(losses).median, max(loss.points for loss in losses))]
    assert table.lines == {("99-toy", "toy"): f"| 99-toy | toy | 3 | 2 | 9 | 100.0 % | 0 | 0 | {' | '.join(figures)} |"}


def test_a_summary_has_the_median_the_ninth_decile_and_the_worst():
    summary = Summary.of_losses([losing(points, name=str(points)) for points in range(11)])

    assert (summary.samples, summary.of, summary.median, summary.most, summary.worst.name) == (11, 20, 5, 9, "10")
    assert Summary.of_losses([losing(3)]).most == 3


def test_what_costs_more_than_a_quarter_needs_a_reason_and_nothing_else_has_one():
    fine = [losing(5), losing(6, reason="It breaks everything.")]

    assert problems(fine) == []
    assert [text.partition(":")[0] for text in problems([losing(6, "dear"), losing(5, "cheap", reason="x")])] == [
        "dear costs 6 of 20 points of toy, more than a quarter",
        "cheap costs 5 of 20 points of toy, not more than a quarter",
    ]


def test_the_tables_keep_the_rows_of_other_modules_and_the_text_around_them(lesson, tmp_path):
    page = tmp_path / "proof.md"
    page.write_text(PAGE)
    tables = CostTables.read(page)
    tables.put(lesson, "toy", [losing(6, "dear", reason="It is so."), losing(1, "cheap")])
    tables.write()

    new = "| 99-toy | toy | 20 | 2 | 3.5 | 5.5 | 6 | dear |"
    expected = PAGE.replace("| some |\n\n", f"| some |\n{new}\n\n").replace(
        "| gone | 3 | 4 | It was so. |", "| dear | 6 | 20 | It is so. |"
    )
    assert page.read_text() == expected
    tables.put(lesson, "toy", [losing(6, "dear", reason="It is so."), losing(1, "cheap")])
    assert tables.text == expected


def test_the_losses_are_written_as_rows():
    assert as_tsv([losing(1.5)]) == "a\ttoy\t1.5\t20\ttest_it\n"
