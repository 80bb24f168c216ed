"""The hidden suites copy nothing from each other, and what is checked stands in the tests.

What several lessons need lies in tests/lessons/shared.py and tests/lessons/inside.py; helpers of a lesson beside its suites.
"""

import ast
import copy
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import ROOT

LESSONS = ROOT / "tests" / "lessons"
LARGE, LONG = 25, 3  # nodes of a syntax tree, statements: bodies that are no smaller count as copies
MOST_HELPERS = 0.5  # lines of helpers for each line of tests


def files(public: bool = False) -> dict[str, str]:
    """name below tests/lessons -> source."""
    paths = [path for path in sorted(LESSONS.rglob("*.py")) if public or not path.stem.endswith("_public")]
    return {path.relative_to(LESSONS).as_posix(): path.read_text("utf-8") for path in paths}


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


# ---------------------------------------------------------------------------------------------- copies


class Renamed(ast.NodeTransformer):
    """Names that belong to a function -> their place in the order in which they come."""

    def __init__(self, own):
        self._own, self._places = own, {}

    def visit_Name(self, node):
        node.id = self._place(node.id)
        return node

    def visit_arg(self, node):
        node.arg, node.annotation = self._place(node.arg), None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.name = self._place(node.name)
        return self.generic_visit(node)

    def _place(self, name):
        return str(self._places.setdefault(name, len(self._places))) if name in self._own else name


def shape_of(function: ast.FunctionDef) -> str | None:
    """The function without its name, docstring and the names of its locals; None if its body is too small to be a copy."""
    function = copy.deepcopy(function)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    size = sum(1 for statement in body for _ in ast.walk(statement))
    if not body or size < LARGE and len(body) < LONG:
        return None
    nodes = list(ast.walk(function))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    renamed = Renamed(own)
    return ast.dump(renamed.visit(function.args)) + "".join(ast.dump(renamed.visit(statement)) for statement in body)


def copies(sources: dict[str, str]) -> list[list[str]]:
    """The places of each body of a helper or probe that stands more than once."""
    found = defaultdict(list)
    for name, source in sources.items():
        for function in functions(source):
            shape = None if function.name.startswith("test_") else shape_of(function)
            if shape:
                found[shape].append(f"{name}:{function.lineno} {function.name}")
    return [places for places in found.values() if len(places) > 1]


def named_twice(sources: dict[str, str]) -> dict[str, list[str]]:
    """Helpers at the top of more than one file -> those files."""
    found = defaultdict(list)
    for file, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("test_"):
                found[node.name].append(file)
    return {name: places for name, places in found.items() if len(places) > 1}


@pytest.mark.lesson
def test_no_body_of_a_helper_stands_twice():
    assert copies(files()) == []


@pytest.mark.lesson
def test_no_name_of_a_helper_stands_twice():
    assert named_twice(files()) == {}


COPIED = {
    "a.py": "def strided(x):\n    '''Text.'''\n    y = x.T\n    z = y + 1\n    return z.T\n",
    "b/b.py": "def test_a():\n    def probe(a):\n        b = a.T\n        c = b + 1\n        return c.T\n",
    "c.py": "def strided(x):\n    y = x.T\n    z = y + 2\n    return z.T\n",
}


def test_a_copy_is_found_whatever_its_names_are():
    assert copies(COPIED) == [["a.py:1 strided", "b/b.py:2 probe"]]
    assert named_twice(COPIED) == {"strided": ["a.py", "c.py"]}


# ---------------------------------------------------------------------------------------------- where it is checked


def checks_elsewhere(source: str) -> list[str]:
    """Functions that take `check` and are neither a test nor a fixture."""
    return [
        f"{function.name}, line {function.lineno}"
        for function in functions(source)
        if any(argument.arg == "check" for argument in [*function.args.args, *function.args.kwonlyargs])
        and not function.name.startswith("test_")
        and not any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)
    ]


def probes(tree: ast.AST) -> set[str]:
    """The names that student.run, raises and accepts are given: what has them runs in the student's process."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return {
        argument.id
        for call in calls
        if call.func.attr in ("run", "raises", "accepts")
        for argument in call.args
        if isinstance(argument, ast.Name)
    }


def raised_outside_probes(source: str) -> list[int]:
    """Lines that raise or assert in the grader's process, where check says what is wrong."""
    tree, found = ast.parse(source), []
    in_probes = probes(tree)

    def look(node):
        if isinstance(node, ast.FunctionDef) and node.name in in_probes:
            return
        if isinstance(node, ast.Raise | ast.Assert):
            found.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            look(child)

    look(tree)
    return found


HIDDEN = {name: source for name, source in files().items() if not name.endswith("inside.py")}


@pytest.mark.parametrize("name", HIDDEN)
def test_only_tests_and_fixtures_check(name):
    assert checks_elsewhere(HIDDEN[name]) == []


@pytest.mark.parametrize("name", HIDDEN)
def test_nothing_is_raised_or_asserted_outside_probes(name):
    assert raised_outside_probes(HIDDEN[name]) == []


def test_checks_and_raises_elsewhere_are_found():
    source = (
        "@pytest.fixture\ndef same(check):\n    return check\n\n\n"
        "def check_all(student, check):\n    assert student\n\n\n"
        "def test_a(student, check):\n    def probe():\n        raise ValueError\n\n    student.run(probe)\n    raise ValueError\n"
    )

    assert checks_elsewhere(source) == ["check_all, line 6"]
    assert raised_outside_probes(source) == [7, 15]


# ---------------------------------------------------------------------------------------------- refusals


def refusals_only(source: str) -> list[str]:
    """Functions that ask for refusals (student.raises) and for nothing else: code that refuses everything passes them."""
    found = []
    for function in ast.parse(source).body:
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        asked = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
        helped = any(isinstance(item, ast.Name) and item.id == "student" for call in calls for item in call.args)
        if "raises" in asked and not asked & {"accepts", "run", "call"} and not helped:
            found.append(f"{function.name}, line {function.lineno}")
    return found


@pytest.mark.parametrize("name", HIDDEN)
def test_beside_each_refusal_something_is_accepted(name):
    assert refusals_only(HIDDEN[name]) == []


def test_refusals_alone_are_found():
    source = (
        "def test_a(student):\n    student.raises(ValueError, 'm.f', 0)\n\n\n"
        "def test_b(student):\n    student.accepts('m.f', 1)\n    student.raises(ValueError, 'm.f', 0)\n\n\n"
        "def test_c(student):\n    made(student, 1)\n    student.raises(ValueError, 'm.f', 0)\n"
    )

    assert refusals_only(source) == ["test_a, line 1"]


# ---------------------------------------------------------------------------------------------- marks


def needs() -> tuple[dict, list]:
    """(lesson, module) -> its tests, and ((lesson, module), test, what it needs) of each mark."""
    tests, needed = defaultdict(set), []
    for name, source in files().items():
        place = Path(name).parent, Path(name).stem.removeprefix("test_").partition("__")[0]
        tests[place] |= {function.name for function in functions(source)}
        for function in functions(source):
            marks = [node for node in function.decorator_list if "mark.needs" in ast.unparse(node)]
            needed += [(place, function.name, argument.value) for mark in marks for argument in mark.args]

    return tests, needed


def test_a_suite_uses_the_mark():
    assert needs()[1]


@pytest.mark.lesson
def test_what_a_test_needs_is_a_test_of_the_same_module():
    tests, needed = needs()

    assert [(test, other) for place, test, other in needed if other not in tests[place]] == []


# ---------------------------------------------------------------------------------------------- how much is not a test


def lines(sources: dict[str, str]) -> tuple[int, int]:
    """Lines of helpers (their files, and what stands beside tests) and lines of tests."""
    helpers = tests = 0
    for name, source in sources.items():
        if not Path(name).name.startswith("test_"):
            helpers += len(source.splitlines())
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                is_test = node.name.startswith("test_")
                tests += (node.end_lineno - first + 1) * is_test
                helpers += (node.end_lineno - first + 1) * (not is_test)
    return helpers, tests


@pytest.mark.parametrize(
    "lesson", sorted(path.name for path in LESSONS.iterdir() if path.is_dir() and path.name[:2].isdigit())
)
def test_most_of_a_suite_is_tests(lesson):
    helpers, tests = lines({name: source for name, source in files(public=True).items() if name.startswith(lesson)})

    assert helpers < MOST_HELPERS * tests, f"{helpers} lines of helpers, {tests} of tests"
