"""Notes who called what a lesson forbids (tripwires.py), and who imported it: the student's files, not a test's helpers.

A call is theirs if one of their files is on the stack, if it comes from code that was made at run time, if a name in one of
their files is the function that was called, or if nothing of the test is on the stack at all (a thread).
"""

import functools
import importlib
import importlib.abc
import sys
import types
from collections.abc import Mapping, Sequence

_MOST_NOTES = 50
_OF_THE_TEST = ("<probe>", "<inside>")


class Notes:
    """What was noted.

    Args:
        submission: folder of the student's files.

    Attributes:
        lines: "name (file.py:line)", each once.
    """

    def __init__(self, submission: str):
        self._submission = submission
        self.lines: list[str] = []

    def call(self, name: str, called: object) -> None:
        """A forbidden function was called by whoever called our caller; a test's helper may use what it likes."""
        place = self._place(sys._getframe(2), called)
        if place:
            self._keep(name, place)

    def line(self, name: str, frame: types.FrameType) -> None:
        """What this frame does is noted if it is in one of the student's files."""
        if self._is_theirs(frame.f_code.co_filename):
            self._keep(name, self._shown(frame))

    def _keep(self, name, place):
        note = f"{name} ({place})"
        if note not in self.lines and len(self.lines) < _MOST_NOTES:
            self.lines.append(note)

    def _place(self, frame, called):
        made, of_the_test = "", False
        while frame is not None:
            file = frame.f_code.co_filename
            if self._is_theirs(file):
                return self._shown(frame)
            of_the_test = of_the_test or file in _OF_THE_TEST
            if not of_the_test and file.startswith("<") and not file.startswith("<frozen"):
                made = "code that was made at run time"
            frame = frame.f_back
        return made or self._holder(called) or ("" if of_the_test else "called from outside the submission's files")

    def _is_theirs(self, file):
        return file.startswith(self._submission)

    def _shown(self, frame):
        return f"{self._short(frame.f_code.co_filename)}:{frame.f_lineno}"

    def _short(self, file):
        return file[len(self._submission) :].lstrip("/")

    def _holder(self, called):
        """The file in which a name is what was called: `attend = F.scaled_dot_product_attention`."""
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and self._is_theirs(file) and _holds(vars(module), called):
                return self._short(file)
        return ""


def _holds(names, called):
    for value in list(names.values()):
        if value is called or (isinstance(value, functools.partial) and value.func is called):
            return True
        if isinstance(value, type) and any(_itself(inner) is called for inner in vars(value).values()):
            return True
    return False


def _itself(value):
    return value.__func__ if isinstance(value, staticmethod) else value


class _Imports(importlib.abc.MetaPathFinder):
    """Finds nothing; notes which line imports a forbidden module for the first time."""

    def __init__(self, notes, names, parts):
        self._notes, self._names, self._parts = notes, names, parts

    def find_spec(self, fullname, path, target=None):
        name = self._forbidden(fullname)
        frame = sys._getframe(1) if name else None
        while frame is not None and _imports(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            self._notes.line(name, frame)

    def _forbidden(self, fullname):
        last = fullname.rpartition(".")[2]
        if fullname.startswith("torch.") and last in self._parts:
            return self._parts[last]
        return next((name for name in self._names if fullname == name or fullname.startswith(f"{name}.")), None)


def _imports(file):
    return file.startswith("<frozen importlib") or file == importlib.__file__


def watch_imports(names: Sequence[str], parts: Mapping[str, str], notes: Notes) -> None:
    """From now on. Args: parts: the ones that the tripwires get."""
    if names:
        sys.meta_path.insert(0, _Imports(notes, tuple(names), parts))
