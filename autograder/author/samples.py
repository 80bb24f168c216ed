"""Samples prove a suite: each is a submission with the verdict that it must get.

    tests/submissions/NN-lesson/wrong/<module>/<name>.toml  one realistic mistake: loses at least the tests that it names
    tests/submissions/NN-lesson/right/<name>/               another correct implementation: full points
    tests/submissions/NN-lesson/hostile/<name>/             an attack on the grader: gets its verdict (tests/hostile)

A sample is laid over the solution: each [[change]] replaces a piece of text that occurs exactly once, in the
module that the file is filed under, where it names no other. So a sample shows the mistake, and nothing but the mistake. A
sample that is a folder replaces whole modules by the files beside its expect.toml.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import LessonError
from ..lesson import Lesson
from ..options import Asked
from ..scorecard import PASSED, PENDING_GPU, Scorecard
from ..submission import Submission

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
    limit; passes, as right values do however they are made), whether it `beats_in_process`, that is an ordinary pytest,
    and the modes that what it reaches is `granted_to`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    fails: tuple[str, ...] = ()
    mistake: str | None = None
    costs: str | None = None
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
            raise LessonError(f"{self.path}: {change.old!r} occurs {count} times in {change.file}, not once")
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
        LessonError: a sample is not complete, or two have the same name.
    """
    samples = [_load(lesson, kind, path, module) for kind in kinds for path, module in _places(lesson, kind)]
    seen: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        other = seen.setdefault((sample.kind, sample.name), sample)
        if other is not sample:
            raise LessonError(f"{sample.path} and {other.path} have the same name: rename one")
    return sorted(samples, key=lambda sample: (kinds.index(sample.kind), sample.name))


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
    try:
        expect = Expectation(**_with_files(tomllib.loads(file.read_text("utf-8")), module))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise LessonError(f"{file}: {error}") from error
    if not all(change.file for change in expect.change):
        raise LessonError(
            f"{file}: a change names no file, and the sample is not in the folder of a module of {lesson.name}"
        )
    sample = Sample(lesson, kind, path.stem, path, expect)
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
    return sample


def _with_files(content, module):
    """The same, where changes without a file are made to the module's."""
    if not module or "change" not in content:
        return content
    return {**content, "change": [{"file": f"{module}.py", **change} for change in content["change"]]}
