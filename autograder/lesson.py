"""What a lesson is, and where its files are.

A root holds lessons in the tree of docs/architecture.md: a checkout of this project, or the folder `grader/` of a zip,
which has the same shape. `assignments/example.toml` shows every key of lesson.toml.
"""

import ast
import os
from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .digests import digest_of, imports_beside, with_imports
from .errors import LessonError, UsageError, nearest
from .names import misnamed
from .tomls import record_of, toml_of

LAB = "lab"  # the module that a lesson's own lab.py makes of its exercises
ModuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]  # two underscores part a suite's files


class Feedback(BaseModel):
    """What students see of the hidden tests, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    visibility: Literal["visible", "after_due_date", "after_published", "hidden"] = "visible"


class Forbidden(BaseModel):
    """What students are to write themselves, and what it costs to use it all the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = ()
    cost: Literal["nothing", "question", "module"] = "nothing"


class Written(BaseModel):
    """A question that is answered in words, and that a person grades; questions.py says where a lesson has them.

    Attributes:
        id: its name in gradebooks and scorecards. points: what it is worth. rubric: what they are given for; no student sees it.
        question: its text, or its number under "Check your understanding" in handout.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
    points: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rubric: Annotated[str, Field(pattern=r"\S")]
    question: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"\S")]


class Lab(BaseModel):
    """How the exercises of the lesson's own lab (assignments/<name>/lab.py) are graded; each is as of a lesson."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: tuple[str, ...] = ()
    memory_mb: int = Field(1500, ge=400)
    student_memory_mb: int = Field(1500, ge=64)


class Lesson(BaseModel):
    """One lesson, from assignments/<name>/lesson.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    root: Path
    title: str
    modules: tuple[ModuleName, ...] = Field(min_length=1)
    uses: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    hours: str = ""
    memory_mb: int = Field(700, ge=400)
    student_memory_mb: int = Field(1500, ge=64)
    deadline_s: float = Field(240, gt=0)
    call_timeout_s: float = Field(20, gt=0)
    wall_s: float = Field(500, gt=0)
    scale_to: float | None = Field(None, gt=0)
    feedback: Feedback = Feedback()
    forbidden: Forbidden = Forbidden()
    written: tuple[Written, ...] = ()
    lab: Lab | None = None

    @field_validator("modules")
    @classmethod
    def _not_written(cls, value):
        if "written" in value:  # scorecard.WRITTEN
            raise ValueError(
                "no module can be called 'written', as the rows of written answers are: choose another name"
            )
        return value

    @field_validator("written")
    @classmethod
    def _told_apart(cls, value):
        names = [question.id for question in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two questions have the id {name!r}: give each an id of its own")
        return value

    @field_validator("scale_to")
    @classmethod
    def _in_cents(cls, value):
        if value is not None and value != round(value, 2):
            raise ValueError("give at most two decimals: points are counted in cents")
        return value

    @property
    def assignment(self) -> Path:
        return self.root / "assignments" / self.name

    @property
    def handout(self) -> Path:
        return self.assignment / "handout.md"

    @property
    def solution(self) -> Path:
        return self.root / "solutions" / self.name

    @property
    def starter(self) -> Path:
        return self.root / "starter" / self.name

    @property
    def tests(self) -> Path:
        return self.root / "tests" / "lessons" / self.name

    @property
    def samples(self) -> Path:
        return self.root / "tests" / "submissions" / self.name

    def hidden_test(self, module: str) -> Path:
        return self.tests / f"test_{module}.py"

    def hidden_tests(self, module: str) -> list[Path]:
        """The module's hidden suite: test_<module>.py, and parts of it that are called test_<module>__<part>.py.

        What these share is beside them in <module>_helpers.py, which they import.

        Raises:
            LessonError: there is none.
        """
        first = self.hidden_test(module)
        if not first.is_file():
            raise LessonError(f"{first} is missing: every module of lesson.toml has a hidden suite")
        return [first, *sorted(self.tests.glob(f"test_{module}__*.py"))]

    def parts_with(self, module: str, tests: Iterable[str] | None) -> list[Path]:
        """Those of hidden_tests that have one of the tests, or all: a part that nothing is asked of is not imported either."""
        parts = self.hidden_tests(module)
        if tests is None:
            return parts
        try:
            return [path for path in parts if not set(tests).isdisjoint(_names_in(path))] or parts
        except LessonError:  # collecting it says more
            return parts

    def test_names(self, module: str) -> list[str]:
        """The test functions of the module's hidden suite, read off its files."""
        return [name for path in self.hidden_tests(module) for name in _names_in(path)]

    def modules_with(self, tests: Iterable[str], modules: Iterable[str] | None = None) -> tuple[str, ...]:
        """The modules (of these, or of all) whose suites have one of the tests.

        Raises:
            UsageError: a test is in none of them; it names those that are near.
        """
        known = {module: self.test_names(module) for module in modules or self.modules}
        every = [name for names in known.values() for name in names]
        for test in tests:
            if test not in every:
                self._refuse_the_lab(test in self._tests_of_the_lab())
                where = f"{self.name} ({', '.join(known)})" if modules else self.name
                raise UsageError(f"{where} has no test {test!r} among its {len(every)}{nearest(test, every, most=3)}")
        return tuple(module for module, names in known.items() if not set(tests).isdisjoint(names))

    def public_test(self, module: str) -> Path:
        return self.tests / f"test_{module}_public.py"

    @property
    def shared_tests(self) -> list[Path]:
        """What suites of several lessons share: shared.py and searching.py on the grader's side, inside.py for probes."""
        return [path for path in sorted(self.tests.parent.glob("*.py")) if path.name != "conftest.py"]

    @cached_property
    def inside(self) -> str:
        """Source of the helpers that probes may use, those of all lessons before the lesson's own; empty if there are none."""
        parts = [_text_of(self.tests.parent / "inside.py"), _without_import_of_shared(self.tests / "inside.py")]
        return "\n\n".join(filter(None, parts))

    def solution_files(self) -> dict[str, bytes]:
        return self._modules_in(self.solution)

    def starter_files(self) -> dict[str, bytes]:
        return self._modules_in(self.starter)

    def _modules_in(self, folder):
        missing = [name for name in self.modules if not (folder / f"{name}.py").is_file()]
        if missing:
            raise LessonError(f"{folder / missing[0]}.py is missing: lesson.toml lists the module {missing[0]!r}")
        return {f"{name}.py": (folder / f"{name}.py").read_bytes() for name in self.modules}

    def require(self, modules: Iterable[str]) -> None:
        """Raises UsageError where one of the modules is not the lesson's, with the nearest that is."""
        for name in modules:
            if name not in self.modules:
                self._refuse_the_lab(name == LAB)
                known = f"it has {', '.join(self.modules)}{nearest(name, self.modules)}"
                raise UsageError(f"{self.name} has no module {name!r}: {known}")

    def refuse_to_come_with(self, submission: Path) -> None:
        """A student's copy of a course, in which somebody stands to grade it, is not the course: hidden tests run in the grader.

        Raises:
            UsageError: the lesson was found in the submission.
        """
        if not os.environ.get(_ROOT) and self.root.is_relative_to(submission.resolve()):
            raise UsageError(
                f"the lessons of {self.root} were found, but that is in {submission}, which is to be graded: run this in the "
                f"course's folder, or set {_ROOT} to it"
            )

    @property
    def has_a_lab(self) -> bool:
        return (self.assignment / f"{LAB}.py").is_file()

    def _tests_of_the_lab(self):
        folder = self.tests.with_name(f"{self.name}-{LAB}")
        return {name for path in folder.glob(f"test_{LAB}*.py") for name in _names_in(path)}

    def _refuse_the_lab(self, is_asked_for):
        if is_asked_for and self.has_a_lab:
            raise UsageError(_ONLY_NBGRADER.format(self.name))

    def prerequisites(self) -> tuple["Lesson", ...]:
        """The lessons that this one uses, and those that they use, nearest first."""
        found: dict[str, Lesson] = {}
        for name in self.uses:
            used = load(name, self.root)
            for lesson in (used, *used.prerequisites()):
                found.setdefault(lesson.name, lesson)
        return tuple(found.values())

    def misnamed(self, path: str) -> str:
        """Why there is no function at "module.name" in this lesson and those that it uses; empty where there may be one."""
        modules = {
            module: partial((lesson.solution / f"{module}.py").read_text, "utf-8")
            for lesson in (self, *self.prerequisites())
            for module in lesson.modules
        }
        return misnamed(path, modules, self.name)

    def suite_digest(self, module: str) -> str:
        """Of all that decides the verdicts on a module: its hidden tests with what they import, the helpers of probes, the
        reference modules of used lessons, and the settings of lesson.toml that reach a test. Not what rows are scaled to.
        """
        beside = (self.tests, self.tests.parent)
        paths = with_imports(self.hidden_tests(module), lambda path: imports_beside(path, beside))
        for lesson in self.prerequisites():
            paths |= set(lesson.solution.glob("*.py"))
        files = {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}
        settings = self.model_dump_json(include=_REACHES_A_TEST)
        return digest_of({**files, "inside": self.inside.encode(), "lesson.toml": settings.encode()})

    def written_digest(self) -> str:
        """Of the questions that persons grade: their names, and what they are worth."""
        return digest_of({question.id: str(question.points).encode() for question in self.written})


_ROOT = "AUTOGRADER_ROOT"
_ONLY_NBGRADER = (
    "the exercises of {0}'s lab are cells of a notebook: `nbgrader autograde {0}` grades them, "
    "and no other command does (docs/notebooks.md)"
)
_REACHES_A_TEST = {"uses", "packages", "student_memory_mb", "deadline_s", "call_timeout_s", "forbidden"}


def _names_in(path):
    try:
        return _test_functions(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise LessonError(f"{path} is not Python: {error}") from error


@lru_cache(maxsize=1000)  # by what a file holds: each of thousands of samples asks for the tests of its module
def _test_functions(source: bytes) -> tuple[str, ...]:
    body = ast.parse(source).body
    return tuple(node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test"))


def _text_of(path):
    return path.read_text("utf-8") if path.exists() else ""


def _without_import_of_shared(path):
    """The lesson's inside.py with empty lines for `from ..inside import …`: what it names comes before it in one source."""
    source = _text_of(path)
    lines = source.splitlines(keepends=True)
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise LessonError(f"{path} is not Python: {error}") from error
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.level, node.module) == (2, "inside"):
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = ["\n"] * (last - node.lineno + 1)
    return "".join(lines)


def find_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that holds lessons; AUTOGRADER_ROOT names another.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get(_ROOT)
    if named:
        return Path(named).resolve()
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "assignments").is_dir() and (folder / "tests" / "lessons").is_dir():
            return folder
    raise UsageError(f"no lessons above {start}: run this inside the course's folder, or set {_ROOT} to it")


def load(name: str, root: Path | None = None) -> Lesson:
    """The lesson called `name` ("01-attention", or its beginning where only one fits).

    Raises:
        LessonError: there is none, or its lesson.toml is wrong; the message names the key. UsageError: it is a lesson's lab.
    """
    root = root or find_root()
    names = lesson_names(root)
    fitting = [known for known in names if known == name] or [known for known in names if known.startswith(name)]
    if len(fitting) != 1:
        of_a_lab = name.removesuffix(f"-{LAB}")
        if of_a_lab in names and of_a_lab != name and load(of_a_lab, root).has_a_lab:
            raise UsageError(_ONLY_NBGRADER.format(of_a_lab))
        known = f"there are {', '.join(names) or 'none'}{nearest(name, names)}"
        raise LessonError(f"no lesson {name!r} in {root / 'assignments'}: {known}")
    path = root / "assignments" / fitting[0] / "lesson.toml"
    data = toml_of(path)
    for key in sorted({"name", "root"} & set(data)):
        raise LessonError(f"{path}: unknown key {key!r}: a lesson is called as its folder is")
    return record_of(
        path, Lesson, {"name": fitting[0], "root": root, **data}, "assignments/example.toml shows every key"
    )


def lesson_names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / "assignments").glob("*/lesson.toml"))


def load_all(root: Path | None = None) -> list[Lesson]:
    root = root or find_root()
    return [load(name, root) for name in lesson_names(root)]
