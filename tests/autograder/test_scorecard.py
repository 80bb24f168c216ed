"""scorecard.json, format 2: docs/scorecard.md states every field, and a file of it is read and written back to the byte."""

import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from conftest import ROOT, TOY_SOLUTION

from autograder import answers, kept
from autograder.errors import UsageError
from autograder.scorecard import (
    CAUSES,
    FAILED,
    NOT_REACHED,
    OUR_ERROR,
    PASSED,
    PENDING_GPU,
    STATUSES,
    Digests,
    Evidence,
    Measurements,
    Outcome,
    Scorecard,
)

GOLDEN = Path(__file__).parent / "golden" / "scorecard.json"
PAGE = (ROOT / "docs" / "scorecard.md").read_text("utf-8")


def outcome(test, status, points, module="attention", **more):
    return Outcome(test, module, "masks", "Its title.", status, points if status == PASSED else 0.0, points, **more)


CARD = Scorecard(
    lesson="01-attention",
    student="ada",
    seed=123456789,
    outcomes=(
        outcome("test_a", PASSED, 2.0, seconds=0.25),
        outcome(
            "test_b", FAILED, 1.5, message="the mask is transposed", mistake="the mask is transposed", detail="row 0"
        ),
        outcome("test_c", NOT_REACHED, 1.0, message="not reached: it builds on 'Its title.'"),
        outcome("test_d", PENDING_GPU, 1.0, message="waits for a machine with a GPU"),
        Outcome.ours("test_e", "attention", "masks", "Its title.", "NameError: x", 4.0, 0.125),
        outcome("test_f", FAILED, 1.0, "flash_attention", message="flash_attention.py is missing", cause="missing"),
        answers.row("mask", 2.0, None, answers.WAITS, "so that nobody sees the future"),
    ),
    submission="submissions/ada",
    digests=Digests("0f" * 8, "1e" * 8, {"attention": "2d" * 8, "flash_attention": "3c" * 8}),
    environment={"autograder": "0.1.0", "python": "3.11.7", "torch": "2.7.0", "platform": "Linux"},
    measurements=Measurements(12.5, 3.25, 512),
    layers=("processes", "uid"),
    scale_to=10.0,
    notes=("old/attention.py was left out",),
    evidence=(Evidence("attention", "torch.nn.MultiheadAttention", "attention.py:12", "run", "test_a"),),
    student_output="Größe ✓\n",
    modules=("attention", "flash_attention"),
    seeds={"attention.test_a": 7},
)


# ---------------------------------------------------------------------------------------------- the file


def test_the_golden_file_is_what_is_written():
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_bytes(CARD.to_json().encode())
    assert GOLDEN.read_bytes() == CARD.to_json().encode()


def test_the_golden_file_is_read_and_written_back_to_the_byte():
    card = kept.read(GOLDEN)

    assert card == CARD
    assert card.to_json().encode() == GOLDEN.read_bytes()
    assert json.loads(GOLDEN.read_text("utf-8"))["format"] == 2


def test_a_card_of_format_1_is_read():
    card = kept.read(GOLDEN.with_name("scorecard-1.json"))

    assert card == replace(CARD, outcomes=CARD.tests)
    assert json.loads(card.to_json())["format"] == 2


def test_what_was_graded_is_read_and_written_back_to_the_byte(grade_toy):
    text = grade_toy(TOY_SOLUTION).to_json()

    assert Scorecard.from_json(text).to_json() == text


def test_an_outcome_that_is_our_fault_tells_the_student_nothing_of_it():
    row = Outcome.ours("test_e", "attention", "masks", "Its title.", "Traceback: secret")

    assert (row.message, row.detail, row.points, row.mistake) == (OUR_ERROR, "Traceback: secret", 0, None)


# ---------------------------------------------------------------------------------------------- other formats


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (None, "has no format number: an older version of llm-autograder wrote it; grade again"),
        (3, "has format 3, and this version of llm-autograder reads formats 1 to 2"),
        (2.5, "is not a scorecard"),
        ("1", "is not a scorecard"),
    ],
)
def test_another_format_is_refused_with_the_files_name(tmp_path, number, words):
    data = json.loads(CARD.to_json())
    data.pop("format")
    path = tmp_path / "scorecard.json"
    path.write_text(json.dumps(data if number is None else {**data, "format": number}))

    with pytest.raises(UsageError, match=f"{re.escape(str(path))} {words}"):
        kept.read(path)


@pytest.mark.parametrize("field", list(json.loads(CARD.to_json())))
def test_a_field_that_is_missing_is_named(tmp_path, field):
    data = json.loads(CARD.to_json())
    data.pop(field)
    path = tmp_path / "scorecard.json"
    path.write_text(json.dumps(data))

    with pytest.raises(UsageError, match="format number" if field == "format" else field):
        kept.read(path)


# ---------------------------------------------------------------------------------------------- the page


def stated(heading):
    """The fields in the first table below a heading of docs/scorecard.md."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "record"),
    {"An outcome": Outcome, "Digests": Digests, "Measurements": Measurements, "Evidence": Evidence}.items(),
)
def test_the_page_states_every_field_of_a_record(heading, record):
    assert stated(heading) == [field.name for field in fields(record)]


def test_the_page_states_every_field_of_the_file():
    assert stated("The scorecard") == list(json.loads(CARD.to_json()))


def test_the_page_states_what_an_environment_holds(grade_toy):
    assert stated("Environment") == [*grade_toy(TOY_SOLUTION).environment, "merged_with"]


def test_the_page_states_every_status_and_cause():
    for word in (*STATUSES, *CAUSES):
        assert f"`{word}`" in PAGE


# ---------------------------------------------------------------------------------------------- totals


def test_a_grader_error_is_outside_the_total_and_scale_to_goes_to_the_others():
    without = replace(CARD, outcomes=tuple(row for row in CARD.outcomes if row.status != "grader_error"))

    assert (CARD.score, CARD.max_score, CARD.pending_gpu_points) == (3.07, 8.46, 1.54)
    assert (without.score, without.max_score, without.pending_gpu_points) == (3.07, 8.46, 1.54)
    assert (replace(CARD, scale_to=None).score, replace(CARD, scale_to=None).max_score) == (2, 5.5)
    assert replace(CARD, scale_to=None).whole_points == 10.5


def test_a_grading_that_failed_is_a_card_without_a_score():
    lost = Scorecard.lost("01-attention", "ada", "the disk is full", ("attention",))

    assert lost.is_lost
    assert not CARD.is_lost
    assert [(row.message, row.detail) for row in lost.outcomes] == [(OUR_ERROR, "the disk is full")]
    assert Scorecard.from_json(lost.to_json()) == lost


def test_no_text_of_a_card_is_a_command_to_a_terminal():
    evil = "red \x1b[31m, turned \u202e, half \ud800, back \x08"
    row = Outcome("test_x", "attention", evil, evil, FAILED, 0.0, 1.0, evil, evil, detail=f"{evil}\n\tkept")
    use = Evidence("attention", evil, f"{evil}.py:3", "source")
    card = Scorecard(
        "01-attention", evil, 1, (row,), submission=evil, notes=(evil,), evidence=(use,), student_output=evil
    )

    texts = json.dumps(json.loads(card.to_json()), ensure_ascii=False)

    assert not set("\x1b\u202e\ud800\x08") & set(texts)
    assert "red ?[31m, turned ?, half ?, back ?" in texts
    assert card.outcomes[0].detail.endswith("\n\tkept")
    assert Scorecard.from_json(card.to_json()) == card
