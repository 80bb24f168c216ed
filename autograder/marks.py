"""The marks of hidden tests, and what is wrong with a test before it runs: then that one test is an error of the grader.

Whatever is read here was written by an author, so a mistake in it says what to write, and no other test suffers from it.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from .errors import nearest

MARKS = {
    "points(n)": "what the test is worth; its parametrized cases are one test, all or nothing",
    "question(title)": "the part of the lesson that the test belongs to",
    "needs(test)": "not reached unless that test of the module passed",
    "gpu": "needs CUDA; pending where there is none",
    "slow": "takes long",
}
_OURS = {mark.partition("(")[0]: mark for mark in MARKS}
_PYTESTS = {"parametrize", "usefixtures", "filterwarnings", "skip", "skipif", "xfail"}


def points_of(item: pytest.Item) -> float:
    """What a test is worth; 0 where its mark is wrong."""
    points = _argument(item, "points")
    return float(points) if _is_worth(points) else 0.0


def question_of(item: pytest.Item, default: str) -> str:
    question = _argument(item, "question")
    return question if isinstance(question, str) else default


def needs_of(item: pytest.Item) -> tuple[str, ...]:
    """The tests that must have passed before this one runs."""
    return tuple(name for mark in item.iter_markers("needs") for name in mark.args if isinstance(name, str))


def problem(item: pytest.Item, tests: Iterable[str]) -> str:
    """What its author must mend before a test can be graded; empty if nothing.

    Args:
        tests: the tests of its module.
    """
    for mark in item.iter_markers():
        why = _problem_of_a_mark(mark, item, tests)
        if why:
            return f"{_name_of(item)}: {why}"
    if item.get_closest_marker("points") is None:
        return f"{_name_of(item)} has no points: write @pytest.mark.points(n)"
    return ""


def two_of_a_name(name: str, places: Iterable[tuple[Path, int]]) -> str:
    """What is said of several tests of one name: in a scorecard they would be one row."""
    where = " and ".join(f"{path.name}:{line}" for path, line in sorted(places))
    return f"{name} is the name of two tests, {where}: rename one"


def _problem_of_a_mark(mark, item, tests):
    said = f"@pytest.mark.{mark.name}"
    if mark.name not in _OURS:
        return "" if mark.name in _PYTESTS else f"{said} is not a mark of ours{nearest(mark.name, _OURS)}"
    form = f"write @pytest.mark.{_OURS[mark.name]}"
    if "(" in _OURS[mark.name] and not mark.args or mark.kwargs:
        return f"{said} has {'named arguments' if mark.kwargs else 'no argument'}: {form}"
    if mark.name == "points" and (len(mark.args) != 1 or not _is_worth(mark.args[0])):
        return f"{said}({', '.join(map(repr, mark.args))}): points are one number above 0"
    if mark.name in ("question", "needs") and not all(isinstance(text, str) and text for text in mark.args):
        return f"{said}({', '.join(map(repr, mark.args))}): {form}, with a text"
    if mark.name == "needs":
        return next((_problem_of_a_need(said, name, item, tests) for name in mark.args if name not in tests), "")
    return ""


def _problem_of_a_need(said, name, item, tests):
    """A test that was not collected may still be in the suite, where pytest was asked for one test only."""
    module = item.path.stem.partition("__")[0]
    texts = [
        path.read_text("utf-8")
        for path in (item.path.with_name(f"{module}.py"), *item.path.parent.glob(f"{module}__*.py"))
        if path.is_file()
    ]
    known = {found for text in texts for found in re.findall(r"^\s*def (test_\w+)", text, re.MULTILINE)} | set(tests)
    return "" if name in known else f"{said}({name!r}): its module has no such test{nearest(name, known)}"


def _argument(item, name):
    mark = item.get_closest_marker(name)
    return mark.args[0] if mark is not None and mark.args else None


def _is_worth(points):
    return type(points) in (int, float) and math.isfinite(points) and points > 0


def _name_of(item):
    return getattr(item, "originalname", None) or item.name
