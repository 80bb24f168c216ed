"""Samples prove a suite: each is a submission with the verdict that it must get.

    tests/submissions/NN-lesson/right/<name>/    another correct implementation: full points
    tests/submissions/NN-lesson/wrong/<name>/    one realistic mistake: loses at least the tests of expect.toml
    tests/submissions/NN-lesson/hostile/<name>/  an attack on the grader: gets the verdict of expect.toml (tests/hostile)

A sample is laid over the solution: the files beside expect.toml replace whole modules, and each [[change]] of expect.toml
replaces a piece of text that occurs exactly once. So a sample shows the mistake, and nothing but the mistake.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import LessonError
from ..lesson import Lesson
from ..scorecard import PASSED, PENDING_GPU, Scorecard
from ..submission import Submission

RIGHT, WRONG, HOSTILE = "right", "wrong", "hostile"


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    old: str
    new: str


class Expectation(BaseModel):
    """expect.toml: why the sample is what it is, the tests it must fail, the mistake that must be named.

    Of a hostile sample also its `row` in the threat catalogue, what must hold of it (`verdict`: no test passes; ends at a
    limit; passes, as right values do however they are made), whether it `beats_in_process`, that is an ordinary pytest,
    and the modes that what it reaches is `granted_to`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    fails: tuple[str, ...] = ()
    mistake: str | None = None
    change: tuple[Change, ...] = ()
    row: str | None = None
    verdict: Literal["blocked", "killed", "values"] | None = None
    beats_in_process: bool = False
    granted_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    lesson: Lesson
    kind: str
    name: str
    folder: Path
    expect: Expectation

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that differ from the solution: only their tests are run."""
        changed = {change.file for change in self.expect.change} | {path.name for path in self.folder.glob("*.py")}
        return tuple(module for module in self.lesson.modules if f"{module}.py" in changed)

    @property
    def options(self) -> dict:
        """How it is graded (options of Grader.grade): a wrong sample by the tests that it must fail, not by all."""
        return {"modules": self.modules, "tests": self.expect.fails if self.kind == WRONG else None}

    def submission(self) -> Submission:
        """The solution with the sample laid over it.

        Raises:
            LessonError: a change's text does not occur exactly once.
        """
        files = self.lesson.solution_files()
        files |= {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.py"))}
        for change in self.expect.change:
            files[change.file] = self._changed(files, change)
        return Submission(self.name, str(self.folder), files)

    def _changed(self, files, change):
        text = files[change.file].decode() if change.file in files else ""
        count = text.count(change.old)
        if count != 1:
            raise LessonError(
                f"{self.folder / 'expect.toml'}: {change.old!r} occurs {count} times in {change.file}, not once"
            )
        return text.replace(change.old, change.new).encode()

    def problems(self, card: Scorecard) -> list[str]:
        """What of the scorecard is not as the sample promises."""
        lost = {row.test: row for row in card.outcomes if row.status not in (PASSED, PENDING_GPU)}
        found = [f"{row.test} is a grader error: {row.detail}" for row in card.grader_errors]
        if self.kind == RIGHT:
            return found + [f"{row.test} {row.status}: {row.message}" for row in lost.values()]
        found += [f"{test} should fail and does not" for test in self.expect.fails if test not in lost]
        named = {lost[test].mistake for test in self.expect.fails if test in lost}
        if self.expect.mistake is not None and self.expect.mistake not in named:
            found.append(f"{self.expect.mistake!r} should be named, but {sorted(filter(None, named)) or 'nothing'} was")
        return found


def load_samples(lesson: Lesson, kinds: tuple[str, ...] = (RIGHT, WRONG)) -> list[Sample]:
    """All samples of a lesson, by kind and name.

    Raises:
        LessonError: an expect.toml is missing or wrong.
    """
    folders = [(kind, path) for kind in kinds for path in sorted((lesson.samples / kind).glob("*")) if path.is_dir()]
    return [_load(lesson, kind, folder) for kind, folder in folders]


def _load(lesson, kind, folder):
    path = folder / "expect.toml"
    try:
        expect = Expectation(**tomllib.loads(path.read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise LessonError(f"{path}: {error}") from error
    sample = Sample(lesson, kind, folder.name, folder, expect)
    if not sample.modules:
        raise LessonError(f"{folder} changes no module of {lesson.name}")
    if kind == WRONG and not expect.fails:
        raise LessonError(f"{path}: fails is empty: a wrong sample names the tests that it must fail")
    if kind == HOSTILE and not (expect.row and expect.verdict):
        raise LessonError(f"{path}: a hostile sample names its row of the catalogue and its verdict")
    return sample
