"""What of a suite carries no weight: tests that nothing fails, and sentences that nobody was ever told.

The wrong samples are graded by whole suites. What no sample failed or was told is then tried with the mutants of its module,
by the tests that are left and by those that can say a sentence that is left; a test that has done its part is not run again.
A row tells one mistake, that of its first case which fails, so a sentence that is always behind another is idle, too.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..batch import Job, run
from ..lesson import Lesson
from ..options import Asked
from ..scorecard import PENDING_GPU, Scorecard
from ..submission import Submission
from .messages import FILLED, MISTAKE, Message, suite_messages
from .mutants import mutants_of
from .prove import hurried, job_of, lost_tests
from .samples import WRONG, load_samples

_AT_ONCE = 32  # mutants, before what is left is worked out anew
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Idle:
    """module -> what of its suite nothing needs, where there is any: names of tests, and mistakes with where they are written."""

    tests: dict[str, set[str]]
    sentences: dict[str, list[Message]]


def idle(lesson: Lesson, processes: int | None = None, on_progress: OnProgress = lambda done, of: None) -> Idle:
    """What no wrong sample and no mutant needs. GPU tests are not judged, nor are sentences of tests/lessons/shared.py."""
    tests = _every_test(lesson)
    said = {module: _Sentences(lesson, module, tests[module]) for module in tests}
    mutants = {module: mutants_of((lesson.solution / f"{module}.py").read_text("utf-8")) for module in tests}
    samples = load_samples(lesson, (WRONG,))
    most = len(samples) + sum(map(len, mutants.values()))

    def hear(module: str, card: Scorecard) -> None:
        tests[module] -= lost_tests(card)
        said[module].hear({row.mistake for row in card.outcomes if row.module == module and row.mistake})

    jobs = [Job(sample.submission(), Asked(sample.modules)) for sample in samples]
    for done, (index, card) in enumerate(run(lesson, jobs, processes=processes), 1):
        on_progress(done, most)
        for module in samples[index].modules:
            hear(module, card)
    done = len(samples)
    for module, all_of_it in mutants.items():
        for start in range(0, len(all_of_it), _AT_ONCE):
            part, left = all_of_it[start : start + _AT_ONCE], tests[module] | said[module].tests()
            asked = Asked((module,), tuple(sorted(left)))
            cards = run(
                hurried(lesson), [job_of(lesson, module, mutant, asked) for mutant in part], processes=processes
            )
            for _, card in cards if left else ():
                hear(module, card)
            done += len(part)
            on_progress(done, most)
    return Idle(
        {module: left for module, left in tests.items() if left},
        {module: sentences.left for module, sentences in said.items() if sentences.left},
    )


def _every_test(lesson):
    tests = defaultdict(set)
    job = Job(Submission("solution", "", lesson.solution_files()))
    for _, card in run(lesson, [job]):
        for row in card.outcomes:
            if row.status != PENDING_GPU:
                tests[row.module].add(row.test)
    return {module: tests[module] for module in lesson.modules if tests[module]}


# ---------------------------------------------------------------------------------------------- sentences


class _Sentences:
    """The mistakes of one module's suite.

    Attributes:
        left: those that nobody was told yet.
    """

    def __init__(self, lesson: Lesson, module: str, tests: Iterable[str]):
        files = _files_of(lesson, module)
        self.left = [one for one in suite_messages(lesson) if one.kind == MISTAKE and one.file in files]
        self._sayers = _sayers(files, set(tests))
        self.left = [one for one in self.left if self._tests_of(one)]  # what only a GPU test says waits for a GPU

    def hear(self, told: Iterable[str]) -> None:
        self.left = [one for one in self.left if not any(_fits(one.text, mistake) for mistake in told)]

    def tests(self) -> set[str]:
        """The tests that may say one that is left."""
        return {test for one in self.left for test in self._tests_of(one)}

    def _tests_of(self, message):
        around = [
            name
            for name, (file, first, last) in self._sayers.places.items()
            if file == message.file and first <= message.line <= last
        ]
        return {test for name in around for test in self._sayers.users(name)}


def _fits(text, mistake):
    return re.fullmatch(".*".join(map(re.escape, text.split(FILLED))), mistake, re.DOTALL) is not None


def _files_of(lesson, module):
    """The module's hidden suite, and the helpers beside it."""
    helpers = [path for path in lesson.tests.glob("*.py") if not path.name.startswith("test_")]
    return [*lesson.hidden_tests(module), *helpers]


class _sayers:
    """The functions, classes and values at the top of a suite's files: name -> (file, first line, last line)."""

    def __init__(self, files: Sequence[Path], tests: set[str]):
        self._tests = tests
        self.places: dict[str, tuple[Path, int, int]] = {}
        self._used_by: dict[str, set[str]] = defaultdict(set)
        for path in files:
            for node in ast.parse(path.read_text("utf-8")).body:
                for name in _names_of(node):
                    self.places[name] = (path, min([node.lineno, *_decorators(node)]), node.end_lineno or node.lineno)
                    for used in {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} | _arguments(node):
                        self._used_by[used].add(name)

    def users(self, name: str) -> set[str]:
        """The tests that use a name, or use what uses it."""
        found, todo = {name}, [name]
        while todo:
            new = self._used_by[todo.pop()] - found
            found |= new
            todo += new
        return found & self._tests


def _names_of(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _decorators(node):
    return [decorator.lineno for decorator in getattr(node, "decorator_list", [])]


def _arguments(node):
    """Of a function, as fixtures are used by the names of arguments; and attributes, as methods are."""
    names = {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
    return names | {attribute.attr for attribute in ast.walk(node) if isinstance(attribute, ast.Attribute)}
