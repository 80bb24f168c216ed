"""The suites of a lesson under plain pytest, for an author: `pytest tests/lessons/NN-name`, with -k, -s, --pdb and breakpoint().

tests/lessons/conftest.py takes its hooks and fixtures from here. The modules run in this very process (in_process.py): the
lesson's solution, or those in --submission FOLDER. No limits, points or witness, so a failure is not a verdict: that is
`autograder grade`, which never loads this.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from .. import arguments, marks, probes
from .. import check as checking
from .. import student as asking
from ..errors import AuthorError
from ..in_process import InProcess
from ..lesson import Lesson, load
from ..plugin import seed_of
from ..student import Student

__all__ = [
    "check",
    "device",
    "pytest_addoption",
    "pytest_configure",
    "pytest_exception_interact",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "rng",
    "student",
]


def pytest_addoption(parser):
    group = parser.getgroup("lessons")
    group.addoption("--submission", metavar="FOLDER", help="The modules to run; without it, the lesson's solution.")
    group.addoption("--seed", type=int, default=0, metavar="N", help="Of all inputs, as of `autograder grade --seed`.")


def pytest_configure(config):
    for mark, meaning in marks.MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    folder = config.getoption("--submission", None)
    if folder is not None and not Path(folder).is_dir():
        raise pytest.UsageError(f"--submission {folder} is not a folder: give one that holds the modules as .py files")
    for module in (arguments, asking, checking, probes):
        vars(module)["__tracebackhide__"] = True  # a failure shows the line of the test


def pytest_exception_interact(call, report):
    detail = getattr(call.excinfo.value, "detail", "")
    if detail and "NotImplementedError" not in detail:
        report.sections.append(("in detail", detail))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What a grading would refuse of a hidden test is refused here."""
    why = "" if item.path.stem.endswith("_public") else marks.problem(item, ())
    if why:
        raise AuthorError(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What an author must mend comes first, and the traceback after it."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, AuthorError):
        report.longrepr = _SentenceFirst(str(call.excinfo.value), report.longrepr)
    return report


class _SentenceFirst:
    """pytest's representation of a failure, behind a sentence."""

    def __init__(self, sentence, shown):
        self._sentence, self._shown = sentence, shown
        self.reprcrash = getattr(shown, "reprcrash", None)  # the summary takes its line from here

    def toterminal(self, tw):
        tw.line(self._sentence, bold=True)
        tw.line("")
        self._shown.toterminal(tw)

    def __str__(self):
        return f"{self._sentence}\n\n{self._shown}"


@pytest.fixture
def device(request) -> torch.device:
    """Where the test runs: the CPU, or the GPU in tests that are marked so."""
    if request.node.get_closest_marker("gpu") is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@pytest.fixture
def student(request, device) -> Iterator[Student]:
    """The submission: run, call, raises, accepts, on."""
    path, lesson = request.node.path, _lesson_of(request.node.path)
    folder = Path(request.config.getoption("--submission", None) or lesson.solution)
    module = path.stem.removeprefix("test_").removesuffix("_public").partition("__")[0]
    if not (folder / f"{module}.py").is_file():
        pytest.fail(f"{folder} has no {module}.py, which {path.name} is about", pytrace=False)
    used = [each.solution for each in lesson.prerequisites()]
    processes = InProcess(folder, seed_of(_seed(request), request.node, "student"), used)
    yield Student(processes, lesson.inside, str(device), misnamed=lesson.misnamed)
    processes.close()


@pytest.fixture
def check(device) -> checking.Check:
    """Compares, and names the mistake."""
    return checking.Check(device.type)


@pytest.fixture
def rng(request) -> torch.Generator:
    """Where all random inputs come from."""
    return torch.Generator().manual_seed(seed_of(_seed(request), request.node))


def _seed(request):
    return request.config.getoption("--seed", 0)


@lru_cache
def _lesson_of(path: Path) -> Lesson:
    """ROOT/tests/lessons/NN-name/test_….py"""
    return load(path.parent.name, path.parents[3])
