"""Samples prove a suite: each is a submission with the verdict that it must get.

    tests/submissions/NN-lesson/wrong/<module>/<name>.toml  one realistic mistake: loses at least the tests that it names
    tests/submissions/NN-lesson/right/<name>/               another correct implementation: full points
    tests/submissions/NN-lesson/hostile/<name>/             an attack on the grader: gets its verdict (tests/hostile)

A sample is laid over the solution: each [[change]] replaces a piece of text that occurs exactly once, in the
module that the file is filed under, where it names no other. So a sample shows the mistake, and nothing but the mistake. A
sample that is a folder replaces whole modules by the files beside its expect.toml.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..errors import LessonError, nearest
from ..lesson import Lesson
from ..options import Asked
from ..scorecard import PASSED, PENDING_GPU, Scorecard
from ..submission import Submission
from ..tomls import record_of, toml_of

RIGHT, WRONG, HOSTILE = "right", "wrong", "hostile"


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = ""  # the module whose folder the sample is in
    old: str
    new: str


class Expectation(BaseModel):
    """What a sample's file says: why it is what it is, the tests it must fail, the mistake that must be named.

    `costs` is the reason why a wrong sample loses more than a quarter of its module's points (costs.py).

    Of a hostile sample also its `row` in the threat catalogue, what must hold of it (`verdict`: no test passes; ends at a
    limit; passes, as right values do however they are made), the tests that it is asked (`asks`, where these are not those of
    tests/hostile/lessons.toml), whether it `beats_in_process`, that is an ordinary pytest, and the modes that what it
    reaches is `granted_to`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    fails: tuple[str, ...] = ()
    mistake: str | None = None
    costs: str | None = None
    change: tuple[Change, ...] = ()
    row: str | None = None
    verdict: Literal["blocked", "killed", "values"] | None = None
    asks: tuple[str, ...] = ()
    beats_in_process: bool = False
    granted_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    lesson: Lesson
    kind: str
    name: str
    path: Path  # its .toml file, or its folder
    expect: Expectation

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that differ from the solution: only their tests are run."""
        changed = {change.file for change in self.expect.change} | {path.name for path in self.path.glob("*.py")}
        return tuple(module for module in self.lesson.modules if f"{module}.py" in changed)

    @property
    def asked(self) -> Asked:
        """What of it is graded: of a wrong sample the tests that it must fail, not all."""
        return Asked(self.modules, self.expect.fails if self.kind == WRONG else None)

    def submission(self) -> Submission:
        """The solution with the sample laid over it.

        Raises:
            LessonError: a change's text does not occur exactly once.
        """
        files = self.lesson.solution_files()
        files |= {path.name: path.read_bytes() for path in sorted(self.path.glob("*.py"))}
        for change in self.expect.change:
            files[change.file] = self._changed(files, change)
        return Submission(self.name, str(self.path), files)

    def _changed(self, files, change):
        text = files[change.file].decode() if change.file in files else ""
        count = text.count(change.old)
        if count != 1:
            how_often = {0: "does not occur", 2: "occurs twice"}.get(count, f"occurs {count} times")
            what_to_do = "give more of the lines around it" if count else "quote the solution as it is now"
            raise LessonError(f"{self.path}: {change.old!r} {how_often} in {change.file}, not once: {what_to_do}")
        return text.replace(change.old, change.new).encode()

    def problems(self, card: Scorecard) -> list[str]:
        """What of the scorecard is not as the sample promises."""
        lost = {row.test: row for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)}
        unknown = self._unknown_tests()
        if unknown:
            return unknown
        found = [f"{row.test} is a grader error: {row.detail}" for row in card.grader_errors]
        if self.kind == RIGHT:
            return found + [f"{row.test} {row.status}: {row.message}" for row in lost.values()]
        found += [f"{test} should fail and does not" for test in self.expect.fails if test not in lost]
        named = {lost[test].mistake for test in self.expect.fails if test in lost}
        if self.expect.mistake is not None and self.expect.mistake not in named:
            found.append(f"{self.expect.mistake!r} should be named, but {sorted(filter(None, named)) or 'nothing'} was")
        return found

    def _unknown_tests(self):
        tests = _tests_in(tuple(path for module in self.modules for path in self.lesson.hidden_tests(module)))
        return [
            f"{self.path}: fails names {test!r}, and {' and '.join(self.modules)} has no such test{nearest(test, tests)}"
            for test in self.expect.fails
            if test not in tests
        ]


@dataclass(frozen=True)
class Found:
    """A sample in the tree, before it is read: so one that is wrong breaks nothing but its own test.

    Attributes:
        path: its .toml file, or its folder. module: whose folder it is in, or "". twin: another of the same name.
    """

    lesson: Lesson
    kind: str
    path: Path
    module: str
    twin: Path | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def label(self) -> str:
        """ "wrong/transposed"; no other of the lesson has the same."""
        return f"{self.kind}/{self.path.relative_to(self.lesson.samples / self.kind) if self.twin else self.name}"

    def load(self) -> Sample:
        """The sample, of which each change is known to fit.

        Raises:
            LessonError: it is not complete, or another has its name.
        """
        if self.twin is not None:
            raise LessonError(f"{self.path} and {self.twin} have the same name: rename one")
        return _load(self.lesson, self.kind, self.path, self.module)


def find_samples(lesson: Lesson, kinds: tuple[str, ...] = (RIGHT, WRONG)) -> list[Found]:
    """All samples of a lesson, by kind and name, none of which has been read."""
    seen: dict[tuple[str, str], Path] = {}
    found = []
    for kind in kinds:
        for path, module in _places(lesson, kind):
            first = seen.setdefault((kind, path.stem), path)
            found.append(Found(lesson, kind, path, module, twin=None if first == path else first))
    return sorted(found, key=lambda each: (kinds.index(each.kind), each.name))


def load_samples(lesson: Lesson, kinds: tuple[str, ...] = (RIGHT, WRONG)) -> list[Sample]:
    """All samples of a lesson, by kind and name.

    Raises:
        LessonError: a sample is not complete, or two have the same name.
    """
    return [found.load() for found in find_samples(lesson, kinds)]


def _places(lesson, kind):
    """(path, module or "") of each sample of a kind: a .toml file or a folder, under a module or not."""
    home = lesson.samples / kind
    modules = [module for module in lesson.modules if (home / module).is_dir()]
    for folder, module in [(home, ""), *((home / module, module) for module in modules)]:
        for path in sorted(folder.glob("*")):
            if path.suffix == ".toml" or path.is_dir() and not (folder == home and path.name in modules):
                yield path, module


def _load(lesson, kind, path, module):
    file = path / "expect.toml" if path.is_dir() else path
    if not module and path.is_dir() and not file.is_file():
        raise LessonError(
            f"{path} has no expect.toml, and is not the folder of a module of {lesson.name}{nearest(path.name, lesson.modules)}"
        )
    expect = record_of(file, Expectation, _with_files(toml_of(file), module))
    sample = Sample(lesson, kind, path.stem, path, expect)
    _require_files(sample, file)
    if not sample.modules:
        raise LessonError(f"{path} changes no module of {lesson.name}")
    if module and module not in sample.modules:
        raise LessonError(f"{path} changes {', '.join(sample.modules)}: move it there from {module}/")
    if kind == WRONG and not expect.fails:
        raise LessonError(f"{file}: fails is empty: a wrong sample names the tests that it must fail")
    if expect.costs is not None and (kind != WRONG or not expect.costs.strip() or {"|", "\n"} & set(expect.costs)):
        raise LessonError(f"{file}: costs is the reason of a wrong sample, in one line without |")
    if kind == HOSTILE and not (expect.row and expect.verdict):
        raise LessonError(f"{file}: a hostile sample names its row of the catalogue and its verdict")
    sample.lesson.modules_with(expect.asks, sample.modules)  # UsageError where one of them is not there
    return sample


def _require_files(sample, file):
    """Each change names a file that the submission has."""
    known = [f"{module}.py" for module in sample.lesson.modules] + [path.name for path in sample.path.glob("*.py")]
    for change in sample.expect.change:
        if not change.file:
            raise LessonError(
                f"{file}: a change names no file, and the sample is not in the folder of a module of {sample.lesson.name}"
            )
        if change.file not in known:
            raise LessonError(
                f"{file}: a change names the file {change.file!r}: {sample.lesson.name} has {', '.join(known)}"
                f"{nearest(change.file, known)}"
            )


def _with_files(content, module):
    """The same, where changes without a file are made to the module's."""
    changes = content.get("change")
    if not module or not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        return content
    return {**content, "change": [{"file": f"{module}.py", **change} for change in changes]}


@cache
def _tests_in(paths: tuple[Path, ...]) -> frozenset[str]:
    texts = [path.read_text("utf-8") for path in paths]
    return frozenset(name for text in texts for name in re.findall(r"^\s*def (test_\w+)", text, re.MULTILINE))
