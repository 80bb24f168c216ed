"""Each export against a file in golden/: to renew them, run `RENEW_GOLDEN=1 pytest tests/autograder/test_exports.py`
and read the difference. Beside them, what must hold of any scorecard."""

import csv
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder import exports
from autograder.errors import UsageError, clean
from autograder.exports import gradescope, otter
from autograder.exports.csv import without_guards
from autograder.scorecard import (
    FAILED,
    GRADER_ERROR,
    NOT_REACHED,
    PASSED,
    PENDING_GPU,
    STATUSES,
    Evidence,
    Outcome,
    Scorecard,
)

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((GOLDEN / "gradescope_results.schema.json").read_text(encoding="utf-8"))
SECRET = "only the instructor reads this"


def outcome(test, status, points=1.0, question="masks", module="attention", **more):
    title = f"{test.removeprefix('test_').replace('_', ' ').capitalize()}."
    earned = points if status == PASSED else 0.0
    return Outcome(test, module, question, title, status, earned, points, detail=SECRET, **more)


ADA = Scorecard(
    lesson="01-attention",
    student="ada",
    seed=8888888888,
    outcomes=(
        outcome("test_the_diagonal_stays", PASSED, 2.0),
        outcome(
            "test_the_past_only",
            FAILED,
            message="the mask is transposed: it shows the future",
            mistake="the mask is transposed: it shows the future",
        ),
        outcome("test_heads_are_joined", NOT_REACHED, question="heads", message="not reached: it builds on 'Heads.'"),
        outcome("test_forward", PASSED, 3.0, module="flash_attention", question="flash_attention"),
        outcome(
            "test_speed", PENDING_GPU, 4.0, module="flash_attention", question="on the GPU", message="waits for a GPU"
        ),
    ),
    student_output=SECRET,
)
BOB = Scorecard(
    lesson="01-attention",
    student="=bob",
    seed=8888888888,
    outcomes=(
        outcome(
            "test_the_diagonal_stays", FAILED, 2.0, message="ValueError: <b>no</b> (attention.py:4 in causal_mask)"
        ),
        Outcome.ours("test_the_past_only", "attention", "masks", "The past only.", SECRET, 1.0),
    ),
    student_output=SECRET,
)


def same_as_golden(text, name):
    path = GOLDEN / name
    if os.environ.get("RENEW_GOLDEN"):
        path.write_bytes(text.encode())
    return text == path.read_bytes().decode()


@pytest.mark.parametrize(
    ("name", "cards", "golden"),
    [
        ("gradescope", [ADA], "gradescope.json"),
        ("gradescope", [replace(BOB, visibility="after_published")], "gradescope_hidden.json"),
        ("gradescope", [ADA, BOB], "gradescope_class.json"),
        ("otter", [ADA], "otter.json"),
        ("csv", [ADA, BOB], "scores.csv"),
    ],
)
def test_an_export_is_what_its_golden_file_shows(name, cards, golden):
    assert same_as_golden(exports.render(name, cards), golden)


# ---------------------------------------------------------------------------------------------- any scorecard

TEXTS = st.text(max_size=12)
POINTS = st.integers(0, 8).map(lambda halves: halves / 2)


@st.composite
def outcomes(draw):
    status, points = draw(st.sampled_from(STATUSES)), draw(POINTS)
    earned = points if status == PASSED else 0.0
    question, title, message = draw(st.sampled_from(["masks", "heads", "="])), draw(TEXTS), draw(TEXTS)
    mistake = draw(st.none() | TEXTS)
    if status == GRADER_ERROR:
        return Outcome.ours("", "attention", question, title, SECRET, points)
    return Outcome("", "attention", question, title, status, earned, points, message, mistake, detail=SECRET)


@st.composite
def scorecards(draw):
    rows = draw(st.lists(outcomes(), max_size=6))
    return Scorecard(
        lesson="01-attention",
        student=draw(TEXTS),
        seed=8888888888,
        outcomes=tuple(replace(row, test=f"test_{number}") for number, row in enumerate(rows)),
        visibility=draw(st.sampled_from(["visible", "after_due_date", "after_published", "hidden"])),
        scale_to=draw(st.none() | st.sampled_from([1.0, 10.0, 100.0])),
        student_output=SECRET,
    )


@given(scorecards())
def test_any_scorecard_gives_valid_results_json_whose_rows_add_up(card):
    results = json.loads(exports.render("gradescope", [card]), parse_constant=pytest.fail)

    jsonschema.validate(results, SCHEMA)
    assert sum(row.get("score", 0) for row in results["tests"]) == pytest.approx(results.get("score", 0), abs=1e-4)
    if not card.grader_errors:
        assert results["score"] == pytest.approx(card.score)
        assert sum(row.get("max_score", 0) for row in results["tests"]) == pytest.approx(card.max_score, abs=1e-4)


@given(scorecards(), st.sampled_from(list(exports.FORMATS)))
def test_no_export_shows_the_seed_the_output_or_a_detail(card, name):
    text = exports.render(name, [card])

    assert str(card.seed) not in text
    assert SECRET not in text


@given(scorecards())
def test_a_spreadsheet_reads_what_was_written_and_runs_none_of_it(card):
    head, line = csv.reader(io.StringIO(exports.render("csv", [card]), newline=""), strict=True)
    cells = dict(zip(head, line, strict=True))

    assert cells["student"].removeprefix("'") == card.student.removeprefix("'")
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in [*head, *line])
    assert sum(float(cell or 0) for cell in line[12:]) == pytest.approx(card.score, abs=1e-4)


# ---------------------------------------------------------------------------------------------- gradescope


def test_a_test_that_waits_for_a_gpu_has_no_score():
    row = gradescope.results(ADA)["tests"][-1]

    assert "score" not in row
    assert "status" not in row
    assert "GPU" in row["output"]


def test_a_grader_error_has_no_score_and_its_row_and_the_text_above_say_the_same():
    results = gradescope.results(BOB)

    row = results["tests"][1]
    assert "score" not in row
    assert "max_score" not in row
    assert "status" not in row
    assert "not you" in row["output"]
    assert "not in the total" in row["output"]
    assert "not in the total" in results["output"]
    assert "regrade" not in row["output"] + results["output"]


def test_the_text_above_hidden_rows_gives_no_points_away():
    card = replace(ADA, visibility="hidden", outcomes=ADA.outcomes[:4])

    assert not any(char.isdigit() for char in gradescope.results(card)["output"].removeprefix("01-attention"))


def test_scale_to_scales_the_rows_as_it_scales_the_total():
    results = gradescope.results(replace(ADA, scale_to=22))

    assert (results["score"], results["tests"][0]["score"]) == (10, 4)


def test_a_number_that_is_none_never_reaches_gradescope():
    card = replace(ADA, outcomes=(replace(ADA.outcomes[0], points=float("nan")),))

    with pytest.raises(ValueError, match="not JSON compliant"):
        exports.render("gradescope", [card])


# ---------------------------------------------------------------------------------------------- otter


def test_otter_reads_the_rows_as_its_own():
    test_files = pytest.importorskip("otter.test_files")
    rows = otter.rows(ADA)

    results = test_files.GradingResults([_otters(test_files, row) for row in rows.values()])

    assert results.to_dict() == rows
    assert (results.total, results.possible) == (ADA.score, ADA.max_score)


def _otters(test_files, row):
    """An Otter test file with the fields of one of our rows."""
    cases = [test_files.TestCase(**case) for case in row["test_cases"]]
    found = test_files.OttrTestFile(row["name"], row["path"], cases, row["all_or_nothing"])
    for result, case in zip(row["test_case_results"], cases, strict=True):
        found.test_case_results.append(test_files.TestCaseResult(case, result["message"], result["passed"]))
    return found


# ---------------------------------------------------------------------------------------------- csv


@pytest.mark.parametrize("name", ["x;=1+1", "x; =1+1", 'x;"=1+1', "x\t@y", "x\n-1", "x;\t＝1"])
def test_nothing_is_a_formula_where_cells_are_parted_otherwise(name):
    text = exports.render("csv", [replace(ADA, student=name)])

    parts = [part.strip(' "') for part in re.split(r"[;\t\r\n]", text)]
    assert [part for part in parts if part.startswith(tuple("=+-@＝"))] == []


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1+1"])
def test_a_name_that_is_a_formula_is_not_run(name):
    lines = exports.render("csv", [replace(ADA, student=name)]).splitlines()

    assert lines[1].startswith(f"'{name}")


def test_a_question_that_only_waits_for_a_gpu_has_an_empty_cell():
    head, line = csv.reader(io.StringIO(exports.render("csv", [ADA])))

    assert line[head.index("flash_attention: on the GPU")] == ""
    assert line[head.index("attention: heads")] == "0.0"


# ---------------------------------------------------------------------------------------------- which cards, which format


def test_an_unknown_format_is_refused_with_the_names_of_the_others():
    with pytest.raises(UsageError, match="'xml'.*gradescope, otter, csv"):
        exports.render("xml", [ADA])


@pytest.mark.parametrize("name", exports.FORMATS)
def test_two_cards_of_one_student_are_refused(name):
    with pytest.raises(UsageError, match="two scorecards of 'ada'"):
        exports.render(name, [ADA, ADA])


@pytest.mark.parametrize("name", exports.FORMATS)
def test_cards_of_two_lessons_are_refused(name):
    with pytest.raises(UsageError, match="01-attention and 02-transformer"):
        exports.render(name, [ADA, replace(BOB, lesson="02-transformer")])


def test_every_module_of_the_folder_is_a_format_in_the_table():
    modules = {path.stem for path in Path(exports.__file__).parent.glob("*.py")} - {"__init__", "table"}  # a terminal's

    assert modules == set(exports.FORMATS)


# ---------------------------------------------------------------------------------------------- as a file


def test_a_spreadsheet_knows_that_the_file_is_utf_8():
    content = exports.encoded("csv", [replace(ADA, student="José 李")])

    assert content.startswith(b"\xef\xbb\xbf")
    assert "José 李" in content.decode("utf-8-sig")
    assert not exports.encoded("gradescope", [ADA]).startswith(b"\xef\xbb\xbf")


def test_a_name_from_another_locale_is_written_as_it_was():
    read_in_c = "José".encode().decode("ascii", "surrogateescape")

    assert "José" in exports.encoded("csv", [replace(ADA, student=read_in_c)]).decode("utf-8-sig")
    assert exports.encoded("csv", [replace(ADA, student="\ud800")])


@pytest.mark.parametrize("text", ["=1+1", "\t=1", "\r=1", "\n=1", " =1", "\u00a0@x", "-2+3", "+1"])
@pytest.mark.parametrize("where", ["question", "module", "student", "forbidden"])
def test_no_cell_of_a_spreadsheet_runs(text, where):
    use = Evidence("attention", text, "attention.py:1", "source")
    card = {
        "question": replace(ADA, outcomes=(replace(ADA.outcomes[0], module="", question=text),)),
        "module": replace(ADA, outcomes=(replace(ADA.outcomes[0], module=text),)),
        "student": replace(ADA, student=text),
        "forbidden": replace(ADA, evidence=(use,)),
    }[where]

    head, line = csv.reader(io.StringIO(exports.render("csv", [card]), newline=""), strict=True)

    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in [*head, *line])
    assert not any(cell.startswith(("\t", "\r", "\n")) for cell in [*head, *line])
    assert any(clean(text, "\n\t") in without_guards(cell) for cell in [*head, *line])


# ---------------------------------------------------------------------------------------------- forbidden calls

USES = (
    Evidence("attention", "torch.nn.MultiheadAttention", "attention.py:12", "source"),
    Evidence("attention", "torch.nn.MultiheadAttention", "attention.py:12", "run", "test_the_past_only"),
)


@pytest.mark.parametrize("visibility", ["visible", "hidden"])
def test_forbidden_calls_are_reported_to_the_student_once(visibility):
    output = gradescope.results(replace(ADA, evidence=USES, visibility=visibility))["output"]

    assert output.count("torch.nn.MultiheadAttention (attention.py:12)") == 1
    assert "test_the_past_only" not in output


def test_forbidden_calls_have_a_column():
    head, with_uses, without = csv.reader(
        io.StringIO(exports.render("csv", [replace(ADA, evidence=USES), BOB]), newline="")
    )

    place = head.index("forbidden")
    assert (with_uses[place], without[place]) == ("torch.nn.MultiheadAttention (attention.py:12)", "")
