"""Otter's own results: what `GradingResults.to_dict()` of otter-grader 7 gives, name -> test file.

Each of our tests is one of Otter's test files with one test case. The plugin hands the same rows to Otter, so that its
totals are ours. What waits for a GPU or a person is worth nothing until then, a grader error is worth nothing, and both say
so: Otter's total is out of the sum of what its rows are worth. `body` is empty: it would be the hidden test.
"""

from collections.abc import Sequence

from ..scorecard import PASSED, UNCOUNTED, Outcome, Scorecard
from . import as_json


def render(cards: Sequence[Scorecard]) -> str:
    """One card: its rows by name. Else an object, student -> their rows by name."""
    return as_json(cards, rows)


def rows(card: Scorecard) -> dict[str, dict]:
    """Name -> the fields of an Otter test file. Names are "module.test": of two equal names Otter loses one."""
    return {f"{outcome.module}.{outcome.test}": _row(card, outcome) for outcome in card.scored}


def _row(card: Scorecard, outcome: Outcome) -> dict:
    counts = outcome.status not in UNCOUNTED
    possible = outcome.max_points if counts else 0.0
    case = {
        "name": outcome.title,
        "body": "",
        "hidden": card.visibility != "visible",
        "points": possible,
        "success_message": None,
        "failure_message": None,
    }
    passed = outcome.status == PASSED
    return {
        "score": outcome.points if counts else 0.0,
        "possible": possible,
        "name": f"{outcome.module}.{outcome.test}",
        "path": f"test_{outcome.module}.py",
        "test_cases": [case],
        "all_or_nothing": True,
        "test_case_results": [{"test_case": case, "message": outcome.message or None, "passed": passed}],
    }
