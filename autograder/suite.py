"""Runs pytest on a lesson's hidden suites, with the plugin that grades and nothing else that happens to be installed."""

import bdb
import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout

import pytest

from .errors import GraderFault
from .lesson import Lesson
from .plugin import GradingPlugin

_PYTEST = """-s --noconftest --continue-on-collection-errors --assert=plain --import-mode=importlib -p no:terminal
    -p no:cacheprovider -p no:unraisableexception -p no:threadexception -p no:logging -p no:faulthandler -p no:doctest
    -p no:junitxml""".split()


def run_suite(
    plugin: GradingPlugin,
    lesson: Lesson,
    modules: Iterable[str],
    tests: Iterable[str] | None = None,
    options: Sequence[str] = (),
    aloud: bool = False,
) -> None:
    """Runs pytest in this process on the modules' hidden suites, with nothing but `plugin`, which has the verdicts then.

    Args:
        aloud: leave the terminal to the tests, which then print and may stop in a debugger.
    """
    asked = None if tests is None else set(tests)
    files = [path for module in modules for path in lesson.parts_with(module, asked)]
    args = [*_PYTEST, *options, "-c", os.devnull, "--rootdir", str(lesson.tests), *map(str, files)]
    plugins = [plugin] if asked is None else [plugin, _Only(asked)]
    if aloud:  # Python's own debugger: pytest's needs pytest's terminal reporter
        args, plugins = ["-p", "no:debugging", *args], [*plugins, _Quitting()]
    said = io.StringIO()
    with (
        _only_our_plugins(),
        importing_from(lesson.tests.parent, lesson.tests),
        nullcontext() if aloud else redirect_stdout(said),
        nullcontext() if aloud else redirect_stderr(said),
    ):
        code = pytest.main(args, plugins=plugins)
    if plugin.interrupted:
        raise KeyboardInterrupt
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        raise GraderFault(f"pytest could not run {files[0]}: {said.getvalue()[-2000:]}")


class _Only:
    """Leaves the named test functions of the suite: the cases of the others are not even made."""

    def __init__(self, tests):
        self._tests = tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector, name):
        return [] if collector.funcnamefilter(name) and name not in self._tests else None


class _Quitting:
    """Who quits the debugger wants no more, and no verdict of it."""

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        try:
            return (yield)
        except bdb.BdbQuit:
            raise KeyboardInterrupt from None


@contextmanager
def importing_from(*folders):
    """Parts of a suite find what they share. Afterwards all is forgotten: the next suite may have others of the same names."""
    places = [str(folder) for folder in folders]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
        for name, module in list(sys.modules.items()):
            if os.path.dirname(getattr(module, "__file__", None) or "") in places:
                del sys.modules[name]


@contextmanager
def _only_our_plugins():
    """Without the plugins that happen to be installed here, and without options from the environment."""
    before = {
        name: os.environ.pop(name, None)
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    }
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
