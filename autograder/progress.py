"""The last lines of `pytest` in a handout: of each module, how many public tests pass, and which TODO comes next.

This file is copied into every handout, whose conftest.py hands over what pytest tells it: it imports the standard library
only. The student's modules are parsed here and never imported. A run of some of the tests (-k, -x, file::test, --lf) is told as what it was.
"""

import ast
import re
from pathlib import Path

_PUBLIC = re.compile(r"test_(.+)_public\.py")


class Progress:
    """One run of pytest, as far as it concerns one handout.

    Args:
        home: the handout's folder: <module>.py, and tests/test_<module>_public.py.
    """

    def __init__(self, home: Path):
        self._home = home
        self._root, self._named = home, False
        self._there: dict[str, int] = {}  # module -> how many tests its file holds
        self._ended: dict[str, dict[str, str]] = {}  # module -> test -> how it ended

    def started(self, root: Path, arguments) -> None:
        """`root` is what the names of tests begin at; the arguments may name single tests."""
        self._root, self._named = root, any("::" in str(argument) for argument in arguments)

    def collected(self, items) -> None:
        """All tests that were found, before some are deselected."""
        for item in items:
            module = self._module_of(item.path)
            if module:
                self._there[module] = self._there.get(module, 0) + 1

    def ended(self, report) -> None:
        """A report on the setup, call or teardown of a test."""
        module = self._module_of(self._root / report.nodeid.split("::")[0])
        if module and (report.when == "call" or report.outcome != "passed"):
            tests = self._ended.setdefault(module, {})
            if tests.get(report.nodeid) != "failed":
                tests[report.nodeid] = report.outcome

    def lines(self) -> list[str]:
        """A line for each module of which tests ran."""
        return [
            f"{module}: {self._passes(module, list(tests.values()))}; {self._next(module)}"
            for module, tests in self._ended.items()
        ]

    def _module_of(self, path):
        match = _PUBLIC.fullmatch(path.name)
        return match[1] if match and Path(path).resolve().parent == self._home / "tests" else ""

    def _passes(self, module, outcomes):
        passed, skipped = outcomes.count("passed"), outcomes.count("skipped")
        whole = not self._named and self._there.get(module) == len(outcomes)
        those = "public tests" if whole else "public tests that ran"
        pass_ = "passes" if len(outcomes) == 1 else "pass"
        text = f"{passed} of {len(outcomes)} {those} {pass_}"
        return f"{text} ({skipped} skipped)" if skipped else text

    def _next(self, module):
        path = self._home / f"{module}.py"
        try:
            todo = next_todo(path.read_bytes())
        except OSError:
            return f"{path.name} is missing"
        except SyntaxError as error:
            return f"{path.name} has a syntax error in line {error.lineno}"
        except (ValueError, RecursionError, MemoryError):
            return f"{path.name} cannot be read as Python"
        return f"next: {todo}" if todo else "no TODO is left"


def next_todo(source: bytes) -> str:
    """The first function, in the order of the file, that still raises NotImplementedError: "Class.method, line 12"; or "".

    Raises:
        SyntaxError, ValueError: it is not Python.
    """
    return next(
        (f"{name}, line {node.lineno}" for name, node in _functions(ast.parse(source).body) if _is_todo(node)), ""
    )


def _functions(body, prefix=""):
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")


def _is_todo(function):
    raised = [step.exc for step in function.body if isinstance(step, ast.Raise)]
    names = [exc.func if isinstance(exc, ast.Call) else exc for exc in raised]
    return any(isinstance(name, ast.Name) and name.id == "NotImplementedError" for name in names)
