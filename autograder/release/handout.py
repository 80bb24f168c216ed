"""A lesson -> the zip that its students unpack.

    NN-lesson/
        README.md            assignments/NN-lesson/handout.md, with the points of the suite where it says <!-- points -->
        COURSE.md            assignments/README.md, if the course has one: all lessons, and how to set up
        answers.md           a place for each answer in words, if a person grades some ([[written]] in lesson.toml)
        <module>.py          cut from the solution, whatever is in starter/
        tests/               the public tests, verbatim
        conftest.py          fixtures for them; pytest.ini: that pytest finds it from tests/ too
        grading/             byte-for-byte copies of what the fixtures need of this package; for these torch is enough

`pytest`, typed in that folder or elsewhere, runs the public tests on the student's modules in the same process: no box, no
time limit, no score; with `--gloo` its ranks talk over torch's own gloo. `python -m grading.gloo` runs a function as ranks, and
grading/timeline.py draws them. Whatever decides a grade stays here. A handout whose lesson uses others takes their modules from the
folders of those handouts, so students build on their own work.
"""

import ast
from pathlib import Path

from .. import answers
from ..author.starter import starter_files
from ..errors import LessonError
from ..files import write, zipped
from ..lesson import Lesson
from ..points import added, number
from ..scorecard import Scorecard

PACKAGE = Path(__file__).parents[1]
COPIED = (
    *("errors.py", "check.py", "differences.py", "student.py", "in_process.py", "progress.py", "starting.py"),
    *("gloo.py", "timeline.py"),
    *("arguments.py", "names.py", "probes.py"),
    *("box/__init__.py", "box/caps.py", "box/clock.py", "box/codec.py", "box/cpu.py"),
    *("box/local.py", "box/replies.py", "box/seam.py", "box/wire.py"),
    *(f"box/inside/{name}.py" for name in ("__init__", "gloo", "group", "pending", "uncompiled", "worker")),
    *("box/ranks/__init__.py", "box/ranks/broker.py", "box/ranks/collectives.py", "box/ranks/listener.py"),
    *("box/ranks/local.py", "box/ranks/news.py", "box/ranks/operation.py", "box/ranks/order.py", "box/ranks/post.py"),
    "box/ranks/team.py",
)

_GRADING = '''"""What the public tests need of the course's autograder. The files here are copies: changing them changes no grade."""
'''

_CONFTEST = '''"""Lets `pytest` run the public tests on the modules in this folder. Nothing here needs to be changed."""

import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
USED = {used}  # lessons that this one builds on: your modules of them are imported
sys.path.insert(0, str(HERE))

import grading.arguments  # noqa: E402
import grading.check  # noqa: E402
import grading.in_process  # noqa: E402
import grading.probes  # noqa: E402
import grading.progress  # noqa: E402
import grading.student  # noqa: E402

for module in (grading.arguments, grading.check, grading.probes, grading.student):
    module.__tracebackhide__ = True  # a failure shows the line of the test

PROGRESS = grading.progress.Progress(HERE)


def pytest_addoption(parser):
    about = "ranks talk to each other over torch's own gloo, as on any machine; else through this process, as when grading"
    with suppress(ValueError):  # another handout was named beside this one, and has it already
        parser.addoption("--gloo", action="store_true", help=about)


def pytest_configure(config):
    for mark in ("points(n)", "question(title)", "needs(test)", "gpu", "slow"):
        config.addinivalue_line("markers", mark)
    other = config.rootpath.resolve()
    if other != HERE and (other / "grading").is_dir():  # two handouts were named, and pytest took that one's pytest.ini
        raise pytest.UsageError(f"{{other.name}} and {{HERE.name}}: run pytest on one handout at a time")
    PROGRESS.started(config.rootpath, config.args)
    for lesson in USED:
        places = [HERE.parent / lesson, HERE.parents[1] / f"{{lesson}}-handout" / lesson]
        found = [str(place) for place in places if place.is_dir()]
        if not found:
            raise pytest.UsageError(f"{{HERE.name}} uses your modules of {{lesson}}: unpack that handout to {{places[0]}}")
        sys.path.insert(1, found[0])


@pytest.hookimpl(tryfirst=True)  # before -k and others leave some out
def pytest_collection_modifyitems(items):
    PROGRESS.collected(items)


def pytest_runtest_logreport(report):
    PROGRESS.ended(report)


def pytest_terminal_summary(terminalreporter):
    if PROGRESS.lines():
        terminalreporter.section(HERE.name)
    for line in PROGRESS.lines():
        terminalreporter.write_line(line)


def pytest_exception_interact(call, report):
    detail = getattr(call.excinfo.value, "detail", "")
    if detail and "NotImplementedError" not in detail:
        report.sections.append(("in detail", detail))


@pytest.fixture
def device(request):
    if request.node.get_closest_marker("gpu") is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@pytest.fixture
def student(device, pytestconfig):
    inside = HERE / "grading" / "inside.py"
    source = inside.read_text(encoding="utf-8") if inside.exists() else ""
    processes = grading.in_process.InProcess(HERE, gloo=pytestconfig.getoption("--gloo", default=False))
    yield grading.student.Student(processes, source, str(device))
    processes.close()


@pytest.fixture
def check(device):
    return grading.check.Check(device.type)


@pytest.fixture
def rng(request):
    return torch.Generator().manual_seed(zlib.crc32(request.node.name.encode()))
'''


_PYTEST_INI = """[pytest]
# This file marks the folder of the handout, so that `pytest` finds conftest.py from every folder in it.
"""
_POINTS = "<!-- points -->"


def build_handout(lesson: Lesson, out: Path) -> Path:
    """Writes <lesson>-handout.zip into the folder `out`. The same lesson gives the same bytes.

    Raises:
        LessonError: a part of the lesson is missing. StubError: a solution cannot be cut.
    """
    target = Path(out) / f"{lesson.name}-handout.zip"
    contents = {f"{lesson.name}/{name}": content for name, content in handout_files(lesson).items()}
    write(target, zipped(contents))
    return target


def handout_files(lesson: Lesson) -> dict[str, bytes]:
    """Path in the handout's folder -> content, of all that students get."""
    public = {f"tests/{path.name}": _read(path) for path in map(lesson.public_test, lesson.modules)}
    used = [used.name for used in lesson.prerequisites()]
    return {
        "README.md": readme(lesson),
        **_course_page(lesson),
        **({answers.FILE: answers.template(lesson)} if lesson.written else {}),
        "conftest.py": _CONFTEST.format(used=used).encode(),
        "pytest.ini": _PYTEST_INI.encode(),
        **starter_files(lesson),
        **public,
        **_grading(lesson, any(map(_uses_inside, public.values()))),
    }


def readme(lesson: Lesson) -> bytes:
    """The handout, with what the suite is worth where it says so."""
    text = _read(lesson.handout)
    mark = _POINTS.encode()
    return text.replace(mark, points_table(lesson).encode()) if mark in text else text


def _course_page(lesson):
    page = lesson.handout.parents[1] / "README.md"
    return {"COURSE.md": page.read_bytes()} if page.is_file() else {}


def points_table(lesson: Lesson) -> str:
    """What each question of the hidden suites is worth, in Markdown: two columns a module.

    Raises:
        LessonError: a suite cannot be loaded.
    """
    card, gpu = collected(lesson), collected(lesson, only_gpu=True)
    columns = [_column(name, card.scored, gpu.outcomes) for name in lesson.modules]
    height = max(map(len, columns))
    padded = [[*column[:-2], *[("", "")] * (height - len(column)), *column[-2:]] for column in columns]
    head, *lines = [
        "| " + " | ".join(cell for pair in line for cell in pair) + " |" for line in zip(*padded, strict=True)
    ]
    return "\n".join([head, "|" + "---|---:|" * len(columns), *lines])


def _column(module, scored, gpu):
    """(question, points) of a module, below its name; then its total and the number of its tests."""
    rows = [row for row in scored if row.module == module]
    questions = dict.fromkeys(row.question for row in rows)
    pairs = [(f"`{module}.py`", "points")]
    for question in questions:
        pairs.append((question, number(added(row.max_points for row in rows if row.question == question))))
    on_gpu = sum(row.module == module for row in gpu)
    tests = f"{len(rows)} tests" + (f", {on_gpu} for a GPU" if on_gpu else "")
    return [*pairs, ("**together**", f"**{number(added(row.max_points for row in rows))}**"), (tests, "")]


def collected(lesson, only_gpu=False):
    """The suite as a scorecard: nothing is run."""
    from ..box.budget import Budget
    from ..plugin import GradingPlugin
    from ..suite import run_suite  # torch: `autograder starter` does without

    def nobody(test, seed):
        raise LessonError("points are counted, and nothing is run for it")

    plugin = GradingPlugin(nobody, Budget(), only_gpu=only_gpu)
    run_suite(plugin, lesson, lesson.modules, options=["--collect-only"])
    if plugin.collection_errors:
        file, problem = plugin.collection_errors[0]
        raise LessonError(f"{file} cannot be loaded, the handout needs its points: {problem}")
    return Scorecard(lesson.name, "", 0, plugin.outcomes, scale_to=lesson.scale_to)


def _grading(lesson, with_inside):
    """The folder whose relative imports work as they do in the package."""
    files = {f"grading/{name}": (PACKAGE / name).read_bytes() for name in COPIED}
    if with_inside:
        files["grading/inside.py"] = lesson.inside.encode()
    return {"grading/__init__.py": _GRADING.encode(), **files}


def _uses_inside(test: bytes) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "inside" for node in ast.walk(ast.parse(test)))


# ---------------------------------------------------------------------------------------------- files


def _read(path):
    if not path.is_file():
        raise LessonError(f"{path} is missing: the handout needs it")
    return path.read_bytes()
