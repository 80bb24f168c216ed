"""Every message that a student can see for a lesson, with the line that says it: read from the source, nothing is run.

    titles      the first lines of the hidden tests' docstrings, and the questions
    mistakes    what a suite says of a wrong answer: keys of `mistakes={…}`, the sentence of `check.that(fact, "…")`, pairs
                of a fact and its sentence
    grader      what the package itself says to students: of errors, limits, files that were handed in, values that differ

What is filled in when a message is made stands in it as {…}.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..lesson import Lesson
from . import wording

TITLE, MISTAKE, GRADER = "title", "mistake", "grader"
FILLED = "{…}"

# Parts of the package that speak to authors and instructors only; all others run and judge code, or take in files.
_NOT_TO_STUDENTS = """
    author/ cli/ release/ exports/__init__ exports/csv exports/otter exports/table batch. errors. files. kept. lesson.
    marks. names. pool. probes. tables. tomls. written.
    box/sandbox. box/unconfined. box/zygote/confine. box/zygote/disk. box/zygote/landlock. box/zygote/processes. box/zygote/seccomp.
""".split()
_TO_OTHERS = {"AuthorError", "BoxError", "GraderFault", "LessonError", "UsageError"}  # what these say, no student sees
_SENTENCES = {"mistake", "otherwise", "sentence", "wrong"}  # names of parameters that hold a sentence
_SAYING = {"that": 1, "judge": 2}  # functions that are given a sentence, and at which place

Values = dict[str, list[tuple[Path, ast.expr]]]


@dataclass(frozen=True)
class Message:
    """One message, and the line that it comes from."""

    kind: str
    text: str
    file: Path
    line: int

    @property
    def faults(self) -> list[str]:
        """What to change in it (wording.faults)."""
        return wording.faults(self.text, wording.MISTAKES if self.kind == MISTAKE else wording.MESSAGES)


# ---------------------------------------------------------------------------------------------- the suites


def suite_messages(lesson: Lesson) -> list[Message]:
    """The titles and mistakes of a lesson's suites, hidden and public, and of the helpers that all lessons share."""
    trees = {
        path: ast.parse(path.read_text("utf-8")) for path in [*sorted(lesson.tests.glob("*.py")), *lesson.shared_tests]
    }
    names = _Names(trees)
    found = {message for path, tree in trees.items() for message in _Suite(path, tree, names).messages()}
    return sorted(found, key=lambda message: (str(message.file), message.line, message.text))


class _Names:
    """What a lesson's names stand for: a sentence may be said by its name, or by a function that is given it.

    Attributes:
        values: name -> (file, expression) that is assigned to it, or that a loop gives it.
        places: function -> the places of its parameters that hold a sentence.
    """

    def __init__(self, trees: dict[Path, ast.Module]):
        self.values: Values = defaultdict(list)
        self.places: dict[str, list[int]] = {name: [place] for name, place in _SAYING.items()}
        for path, tree in trees.items():
            for node in ast.walk(tree):
                self._read(path, node)

    def _read(self, path, node):
        if isinstance(node, ast.Assign):
            self._assigned(path, node.targets[0], node.value)
        elif isinstance(node, ast.For | ast.comprehension):
            self._looped(path, node.target, node.iter)
        elif isinstance(node, ast.FunctionDef):
            taken = [arg.arg for arg in node.args.posonlyargs + node.args.args]
            places = [place for place, name in enumerate(taken) if name in _SENTENCES]
            self.places.setdefault(node.name, places)

    def _looped(self, path, target, over):
        """What a loop over a list, over a list's name, or over a zip of such gives its target."""
        if isinstance(over, ast.Call) and _name(over) == "zip" and isinstance(target, ast.Tuple):
            for one, other in zip(target.elts, over.args, strict=False):
                self._looped(path, one, other)
        elif isinstance(over, ast.Name):
            for file, value in list(self.values.get(over.id, [])):
                if isinstance(value, ast.List | ast.Tuple):
                    self._looped(file, target, value)
        else:
            for item in getattr(over, "elts", []):
                self._assigned(path, target, item)

    def _assigned(self, path, target, value):
        if isinstance(target, ast.Name):
            self.values[target.id].append((path, value))
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._assigned(path, one, other)


class _Suite:
    """The messages of one file of a suite."""

    def __init__(self, path: Path, tree: ast.Module, names: _Names):
        self.path, self.tree, self.names = path, tree, names
        self.is_hidden = path.name.startswith("test_") and not path.stem.endswith("_public")

    def messages(self) -> Iterator[Message]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and self.is_hidden:
                yield from self._title(node)
            for said, words in self._said(node):
                yield from self._mistakes(said, words)
            if isinstance(node, ast.Call) and _name(node) == "question":
                yield from (Message(TITLE, text, *where) for where, text in texts(node.args[0], self.path))

    def _title(self, test):
        title = (ast.get_docstring(test) or "").partition("\n")[0]
        if title:
            yield Message(TITLE, title, self.path, test.body[0].lineno)

    def _said(self, node):
        """The expressions in a node that may be sentences, and how many words are the fewest that make them one."""
        if isinstance(node, ast.Dict):
            return [(key, 3) for key in node.keys if key is not None]
        if isinstance(node, ast.DictComp):
            return [(node.key, 3)]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            return [(node.targets[0].slice, 3)]
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and not isinstance(node.elts[0], ast.Constant):
            return [(node.elts[1], 3)]  # a fact and its sentence, for `check.that(*fact)`
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            return [(argument, 2) for argument in node.exc.args[:1]]
        if isinstance(node, ast.Call):
            named = [(keyword.value, 2) for keyword in node.keywords if keyword.arg in _SENTENCES]
            places = [place for place in self.names.places.get(_name(node), []) if place < len(node.args)]
            return named + [(node.args[place], 2) for place in places]
        return []

    def _mistakes(self, node, words):
        for where, text in texts(node, self.path, self.names.values):
            if len(re.findall(r"\{…\}|\w\S*", text)) >= words and not text[0].isspace():
                yield Message(MISTAKE, re.sub(r"\{\w*\}", FILLED, text), *where)


def _name(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def texts(node: ast.expr, path: Path, values: Values | None = None) -> list[tuple[tuple[Path, int], str]]:
    """((file, line), text) of each text that an expression can be, as far as it is written there.

    Args:
        path: the file that it is in.
        values: what names stand for (_Names.values).
    """
    values = values or {}
    where = path, node.lineno
    if isinstance(node, ast.Constant):
        return [(where, node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [(where, "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values))]
    if isinstance(node, ast.IfExp):
        return texts(node.body, path, values) + texts(node.orelse, path, values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (texts(side, path, values) or [(where, FILLED)] for side in (node.left, node.right))
        return [(at, one + other) for at, one in left for _, other in right if {one, other} != {FILLED}]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return texts(node.func.value, path, values)
    if isinstance(node, ast.Name):
        others = {name: value for name, value in values.items() if name != node.id}
        return [found for file, value in values.get(node.id, []) for found in texts(value, file, others)]
    return []


# ---------------------------------------------------------------------------------------------- the grader


def grader_messages() -> list[Message]:
    """What the package says to students; what only authors and instructors read is left out."""
    package = Path(__file__).resolve().parents[1]
    files = {str(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
    return [
        Message(GRADER, text, path, line)
        for name, path in files.items()
        if not name.startswith(tuple(_NOT_TO_STUDENTS))
        for (_, line), text in sentences(ast.parse(path.read_text("utf-8")), path)
    ]


def sentences(node: ast.AST, path: Path) -> Iterator[tuple[tuple[Path, int], str]]:
    """((file, line), sentence) of those in a piece of the package, without docstrings, patterns and what other people are told."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        yield from ((where, text) for where, text in texts(node, path) if _is_sentence(text))
    for child in _spoken(node):
        yield from sentences(child, path)


def _spoken(node):
    """The parts of a node in which a sentence can be."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
        return []
    if isinstance(node, ast.Call) and _name(node) in _TO_OTHERS | _PATTERNS:
        return []
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("_WORDS"):
        return []
    annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [child for child in ast.iter_child_nodes(node) if child not in annotations]


_PATTERNS = {"compile", "sub", "split", "search", "fullmatch", "match", "addinivalue_line"}
_CODE = re.compile(r"\n|^\.|[_^$\\(]\w*\[|^(import|if|from) |\w\.\w+\(")


def _is_sentence(text):
    """Whether a text of the package has words that somebody reads, and is not a piece of code."""
    said = text.replace(FILLED, "").strip()
    return " " in said and len(re.findall(r"[A-Za-z]+", said)) > 1 and _CODE.search(text.rstrip()) is None
