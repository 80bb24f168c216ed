"""Gradescope's results.json: one row a test, so that a student sees what was tested and what went wrong.

Who sees what. Rows have the visibility that lesson.toml states. Gradescope hides the *total* too as soon as one row is
hidden, until that row is shown. Its text above the rows is always shown; so it names points only where all rows are visible.
The seed, what the code printed, and every `detail` are for instructors: they are not in the file, and the grader's own
output is hidden.

Tests that wait for a GPU, answers that nobody has graded and grader errors are rows without a score, outside the total; the
row and the text above say so.

Gradescope shows the total out of what the assignment is worth there, a fixed number. So where there are grader errors the
other tests are worth all of it: right work has full points with a broken test as without it, and nobody's share changes.
A test that waits for a GPU keeps its points for later. Where nothing could be graded there is no score at all, which
Gradescope shows as a failure of the autograder; a 0 would be a grade.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..points import added, number
from ..scorecard import GRADER_ERROR, OUR_ERROR, PASSED, PENDING_GPU, PENDING_PERSON, UNCOUNTED, Outcome, Scorecard
from . import as_json, by_question, counted, forbidden


def render(cards: Sequence[Scorecard]) -> str:
    """One card: the results.json that Gradescope reads. Else an object, student -> what their results.json holds."""
    return as_json(cards, results)


def results(card: Scorecard) -> dict:
    """The results.json of one submission, as plain data."""
    card = _out_of_the_whole(card)
    return {
        **({} if card.is_lost else {"score": card.score}),
        "output": _summary(card),
        # Text, and said so: messages quote what the student's code raised, and must not be read as HTML.
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "stdout_visibility": "hidden",
        "tests": _rows(card),
    }


def _out_of_the_whole(card):
    """The card as it is scored out of the assignment's points: the same, unless there are grader errors."""
    if not card.grader_errors:
        return card
    return replace(card, outcomes=card.scaled_to(card.whole_points), scale_to=None)


# ---------------------------------------------------------------------------------------------- rows


def _rows(card):
    return [
        _row(card, outcome, f"{question}.{place}")
        for question, outcomes in enumerate(by_question(card).values(), 1)
        for place, outcome in enumerate(outcomes, 1)
    ]


def _row(card: Scorecard, outcome: Outcome, place: str) -> dict:
    row = {
        "number": place,
        "name": outcome.title,
        "visibility": card.visibility,
        "output": _explanation(outcome),
    }
    if outcome.status in UNCOUNTED:
        return row
    return row | {
        "status": "passed" if outcome.status == PASSED else "failed",
        "score": outcome.points,
        "max_score": outcome.max_points,
    }


def _explanation(outcome):
    """Why the row is as it is: the message, and the mistake that was recognised unless the message is it."""
    if outcome.status == PENDING_GPU:
        why = outcome.message or "waits for a machine with a GPU"
        return f"Not scored yet: {why}. Worth {number(outcome.max_points)}."
    if outcome.status == PENDING_PERSON:
        return f"Not scored yet: {outcome.message}. Worth {number(outcome.max_points)}."
    if outcome.status == GRADER_ERROR:
        return f"Not scored: {OUR_ERROR}."
    if outcome.mistake and outcome.mistake not in outcome.message:
        return f"{outcome.message}\n{outcome.mistake}".strip()
    return outcome.message


# ---------------------------------------------------------------------------------------------- text above the rows


def _summary(card):
    if card.visibility == "visible":
        parts = [f"{card.lesson}: {number(card.score)} of {number(card.max_score)} points", _questions(card)]
    else:
        parts = [f"{card.lesson}: graded. Your instructor decides when the results are shown."]
    if card.pending_gpu_points:
        pending = number(card.pending_gpu_points)
        parts.append(
            f"Tests worth {pending} wait for a machine with a GPU. They are not part of this total until they have run."
        )
    if card.pending_person_points:
        pending = number(card.pending_person_points)
        parts.append(
            f"Answers worth {pending} have not been graded. They are not part of this total until a person grades them."
        )
    if forbidden(card):
        parts.append(
            "Found in your code, which this lesson asks you to write yourself: " + ", ".join(forbidden(card)) + "."
        )
    if card.grader_errors:
        parts.append(_errors(card))
    return "\n\n".join(parts)


def _errors(card):
    if card.is_lost:
        return "The grader made an error, not you: nothing of your work has been graded yet."
    errors = len(card.grader_errors)
    some = "1 test" if errors == 1 else f"{errors} tests"
    return (
        f"The grader made an error in {some}, not you: the points are not in the total, the other tests make up all of it. "
        "You lose nothing."
    )


def _questions(card):
    return "\n".join(f"{name}: {_points(outcomes)}" for name, outcomes in by_question(card).items())


def _points(outcomes):
    scored = counted(outcomes)
    if not scored:
        waiting = {PENDING_GPU: "waits for a GPU", PENDING_PERSON: "waits for a person"}
        return next((waiting[row.status] for row in outcomes if row.status in waiting), "not scored")
    earned = added(outcome.points for outcome in scored)
    possible = added(outcome.max_points for outcome in scored)
    return f"{number(earned)} of {number(possible)}"
