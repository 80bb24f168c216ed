"""A mistake is never computed from what the student returned: else it agrees with any wrong value, and names it wrongly.

Two ways to find that. One reads the suites. The other grades the solution with every floating-point number of its replies
changed by the same function: all values are wrong, but what should be equal still is (two calls, a part and the whole).
Such an answer is none of the known mistakes, so no sentence may be said of it, but for facts: `check.that(fact, …)`.
"""

import ast
import math
import os
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, all_lessons

import autograder.grade
import autograder.plugin
from autograder.check import Check
from autograder.errors import CheckFailed
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked
from autograder.submission import Submission

SUITES = sorted(path for path in (ROOT / "tests" / "lessons").glob("*/*.py") if path.name != "inside.py")


# ---------------------------------------------------------------------------------------------- read


def mistakes_of_their_own_value(source: str) -> list[int]:
    """Lines of check(value, …, mistakes=…) in which a mistake's value holds `value` itself, under no condition."""
    tree, found = ast.parse(source), []
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        dicts = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in [node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args]:
            for keyword in call.keywords:
                if keyword.arg == "mistakes":
                    value = call.args[1 if _name(call) != "check" else 0]
                    found += [call.lineno for item in _values(keyword.value, dicts) if _holds(item, ast.unparse(value))]
    return sorted(set(found))


def _name(call):
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _values(node, dicts):
    """The values of the dicts in an expression such as `{…} | others`."""
    if isinstance(node, ast.Name) and node.id in dicts:
        node = dicts[node.id]
    if isinstance(node, ast.Dict):
        named = [value for key, value in zip(node.keys, node.values, strict=True) if key is not None]
        return named + [item for key, value in zip(node.keys, node.values, strict=True) if key is None for item in _values(value, dicts)]  # fmt: skip
    if isinstance(node, ast.BinOp):
        return _values(node.left, dicts) + _values(node.right, dicts)
    return []


def _holds(node, value):
    if isinstance(node, ast.expr) and ast.unparse(node) == value and not isinstance(node, ast.Constant):
        return True
    if isinstance(node, (ast.IfExp, ast.Compare)):  # a plain condition says which wrong values are meant
        return False
    if isinstance(node, ast.Call) and _name(node) in ("like", "type", "len"):  # takes the value's form, not its numbers
        return False
    if isinstance(node, ast.Call) and _name(node) in ("when", "only_if", "given"):
        return isinstance(node.args[0], ast.Constant)
    return any(_holds(child, value) for child in ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_mistake_holds_the_value_that_it_is_compared_with(path):
    assert mistakes_of_their_own_value(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "mistake",
    [
        "results[1]",
        "lambda: results[1]",
        "[results[1], 2]",
        "lambda: results[1].view(3)",
        "check.when(True, results[1])",
    ],
)
def test_a_mistake_of_its_own_value_is_found(mistake):
    start = "def test(student, check):\n    results = student.run(probe)\n"
    for text in (
        f"    check(results[1], truth, mistakes={{'a': {mistake}}})",
        f"    agree(check, results[1], truth, mistakes={{'b': truth}} | {{'a': {mistake}}})",
        f"    kept = {{'b': truth, 'a': {mistake}}}\n    check(results[1], truth, mistakes=kept)",
        f"    check(results[1], truth, mistakes={{**{{'a': {mistake}}}}})",
    ):
        assert mistakes_of_their_own_value(start + text), text


@pytest.mark.parametrize(
    "mistake",
    ["truth", "results[0]", "check.when(has_nan(results[1]), results[1])", "results[1] if results[1] > 3 else None"],
)
def test_values_of_other_calls_and_plain_conditions_are_allowed(mistake):
    text = f"def test(student, check):\n    check(results[1], truth, mistakes={{'a': {mistake}}})"
    assert mistakes_of_their_own_value(text) == []


# ---------------------------------------------------------------------------------------------- tried


def changed(value, given):
    """A reply in which every floating-point number is another, by one function; what was given comes back as it is."""
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point() or any(_same(value, tensor) for tensor in given):
            return value
        result = _other(value.double()).to(value.dtype)
        if hasattr(value, "came_from"):
            result.came_from = value.came_from
        return result
    if type(value) is float:
        return value if value in given else _other(torch.tensor(value, dtype=torch.float64)).item()
    if isinstance(value, (list, tuple)):
        return type(value)(changed(item, given) for item in value)
    if isinstance(value, dict):
        return {key: changed(item, given) for key, item in value.items()}
    return value


def _other(x):
    return torch.where(x.isfinite(), x + 0.45 * x.abs() + 0.35, x)  # always greater


def _same(one, other):
    return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one.double(), other.double())


def leaves(value):
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [value] if isinstance(value, torch.Tensor) or type(value) is float else []


class WrongProcesses:
    """Processes of a test whose replies are wrong."""

    def __init__(self, processes):
        self._processes = processes
        self.close, self.cpu_s, self.peak = processes.close, processes.cpu_s, processes.peak

    def ask(self, request, timeout):
        reply = self._processes.ask(request, timeout)
        if reply.raised is not None:
            return reply
        given = leaves([request.get("args", []), request.get("kwargs", {})])
        return replace(reply, value=changed(reply.value, given))

    def ask_ranks(self, request, ranks, timeout):
        return self._processes.ask_ranks(request, ranks, timeout)


class WrongConnect:
    """The way to such processes."""

    def __init__(self, connect):
        self._connect = connect

    def __call__(self, *where):
        return WrongProcesses(self._connect(*where))


class WrongGrader(Grader):
    def _run(self, session, connect, *args, **options):
        return super()._run(session, WrongConnect(connect), *args, **options)


class Listening(Check):
    """Notes which sentence a wrong value gets, and lets the test go on to its next check."""

    said: set = set()

    def __init__(self, device):
        super().__init__(device)
        self._failed = []  # values that have failed a check: without us the test would have ended there

    def __call__(self, value, expected, **options):
        try:
            super().__call__(value, expected, **options)
        except CheckFailed as failed:
            is_fact = expected is None or isinstance(expected, bool) or expected in ([False] * 2, [False] * 3)
            if failed.mistake is not None and not is_fact and not any(value is other for other in self._failed):
                test = os.environ["PYTEST_CURRENT_TEST"].rpartition("/")[2].partition(" (")[0]
                Listening.said.add((test, failed.mistake))
            self._failed.append(value)

    def that(self, fact, otherwise):
        """A fact may be wrong of values that are merely wrong: what it is said to be is what it is."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [lesson.name for lesson in all_lessons()])
def test_no_sentence_is_said_of_values_that_are_merely_wrong(monkeypatch, name):
    lesson = load(name, ROOT)
    monkeypatch.setattr(autograder.plugin, "Check", Listening)
    monkeypatch.setattr(Listening, "said", set())
    monkeypatch.setattr(autograder.grade, "settle", lambda *_: [])  # the verdicts are of no interest
    with WrongGrader(lesson) as grader:
        grader.grade(Submission("wrong", "", lesson.solution_files()), Asked(seed=3))

    assert sorted(Listening.said) == [], sorted(Listening.said)


def test_the_change_is_one_that_shows():
    x = torch.linspace(-9, 9, 50)
    assert not torch.isclose(changed(x, []), x, rtol=1e-2, atol=1e-2).any()
    assert changed(x, [x]) is x
    assert changed((math.inf, 1, "a", True), []) == (math.inf, 1, "a", True)
