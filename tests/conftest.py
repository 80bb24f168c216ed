"""What several test files share: a small lesson of its own, and a warm grader for it; and `--lesson`, for `make check`."""

import os
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from autograder import grade as grade_module
from autograder.author.samples import RIGHT, WRONG, Sample, find_samples
from autograder.batch import default_processes
from autograder.box.choose import open_box
from autograder.errors import LessonError
from autograder.grade import Grader
from autograder.lesson import Lesson, lesson_names, load
from autograder.options import Asked
from autograder.submission import Submission

ROOT = Path(__file__).resolve().parents[1]


@cache
def all_lessons() -> list[Lesson]:
    """Those that can be read. One that cannot is a failure of test_repository.py, and of no other test's collection."""
    found = []
    for name in lesson_names(ROOT):
        with suppress(LessonError):
            found.append(load(name, ROOT))
    return found


def cores_left() -> int | None:
    """How many processes may grade side by side: the other workers of this run of pytest keep their cores busy. None: no pool.

    Each process of a pool imports the suites and asks the solution for itself: two took 10 to 15 CPU-seconds more in 02 and 03.
    """
    share = default_processes() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return share if share > 1 else None


def all_samples(lesson: Lesson, kinds: tuple[str, ...] = (RIGHT, WRONG)) -> list[Sample]:
    """Those that can be read. One that cannot is a failure of its own test in test_samples.py."""
    samples = []
    for found in find_samples(lesson, kinds):
        with suppress(LessonError):
            samples.append(found.load())
    return samples


# ---------------------------------------------------------------------------------------------- what must hold of one lesson


def pytest_addoption(parser):
    parser.addoption("--lesson", metavar="NN-name", help="Only tests that are about this lesson (check_lesson.py).")


def pytest_collection_modifyitems(config, items):
    asked = config.getoption("--lesson", None)
    if asked is None:
        return
    name = load(asked, ROOT).name
    others = [item for item in items if not is_about(item, name)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def is_about(item: pytest.Item, name: str) -> bool:
    """Whether a test must hold of the lesson: it has the lesson, its name or a path of it as a parameter, or the mark `lesson`.

    Without a name the mark means every lesson. What is in tests/test_handout*.py and tells of none is about every lesson, too.
    """
    marks = [mark.args for mark in item.iter_markers("lesson")]
    told = {lesson for args in marks for lesson in args} | _lessons_among(item)
    every = () in marks or not told and item.path.name.startswith("test_handout") and item.path.parent == ROOT / "tests"
    return every or name in told


def _lessons_among(item):
    """The lessons among a test's parameters: itself, "01-attention", "01-attention/test_flash_attention.py", a path."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {value.name for value in values if isinstance(value, Lesson)}
    parts = {part for value in values if isinstance(value, str | Path) for part in Path(value).parts}
    return named | {part for part in parts if re.fullmatch(r"\d\d-[a-z0-9-]+", part)}


# ---------------------------------------------------------------------------------------------- a lesson of its own


hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine fails no property
hypothesis.settings.load_profile("busy")

TOY_SOLUTION = '''
    import torch


    def causal_mask(length):
        """(T, T) bool: true where a position may attend."""
        # student: a lower triangle
        if length < 1:
            raise ValueError(f"length must be at least 1, not {length}")
        return torch.ones(length, length, dtype=torch.bool).tril()
'''

TOY_SUITE = '''
    import pytest
    import torch


    @pytest.mark.points(2)
    @pytest.mark.question("Mask")
    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_the_past_is_seen(student, check, length):
        """A position sees itself and the past."""
        mask = student.call("toy.causal_mask", length)

        past = torch.ones(length, length, dtype=torch.bool).tril()
        check(mask, past, mistakes={"the mask is transposed: it shows the future": past.T})


    @pytest.mark.points(1)
    @pytest.mark.question("Arguments")
    def test_a_bad_length_is_refused(student):
        """A length below 1 is refused."""
        student.raises(ValueError, "toy.causal_mask", 0, says="length")


    @pytest.mark.points(1)
    @pytest.mark.question("Mask")
    def test_the_mask_has_rows(student):
        """The mask has rows."""
        mask = student.call("toy.causal_mask", 3)

        assert mask.shape[0] == 3, "the mask has too few rows"
'''


def write_lesson(root: Path, solution: str = TOY_SOLUTION, suite: str = TOY_SUITE, settings: str = "") -> None:
    """A root with the one lesson 99-toy, whose one module is toy."""
    files = {
        "assignments/99-toy/lesson.toml": 'title = "Toy"\nmodules = ["toy"]\n' + settings,
        "solutions/99-toy/toy.py": textwrap.dedent(solution),
        "tests/lessons/99-toy/test_toy.py": textwrap.dedent(suite),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextmanager
def busy(count: int):
    """So many other processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class _Lent:
    """A box that stays open for the next grader."""

    def __init__(self, box):
        self._box = box

    def __getattr__(self, name):
        return getattr(self._box, name)

    def close(self):
        pass


@pytest.fixture(scope="session")
def warm_boxes():
    """Options of a box -> the one that the graders of all files share."""
    boxes = {}
    yield boxes
    for box in boxes.values():
        box.close()


@pytest.fixture
def graders_share_a_box(monkeypatch, warm_boxes):
    """For tests of what graders do and not of the box: starting one takes two seconds of the processor, their gradings far less."""

    def lend(*options):
        if options not in warm_boxes:
            warm_boxes[options] = open_box(*options)
        return _Lent(warm_boxes[options])

    monkeypatch.setattr(grade_module, "open_box", lend)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_lesson(root, settings="call_timeout_s = 1.5\ndeadline_s = 6\n")
    return root


@pytest.fixture(scope="session")
def toy(toy_root):
    return load("99-toy", toy_root)


@pytest.fixture(scope="session")
def toy_grader(toy):
    with Grader(toy) as grader:
        yield grader


@pytest.fixture(scope="session")
def grade_toy(toy_grader):
    """Grades a text as toy.py (or other files), in one warm box."""

    def grade(text: str = "", seed: int = 1, **files: str):
        sources = {"toy.py": text, **{f"{name}.py": content for name, content in files.items()}}
        contents = {name: textwrap.dedent(source).encode() for name, source in sources.items() if source}
        return toy_grader.grade(Submission("student", "", contents), Asked(seed=seed))

    return grade
