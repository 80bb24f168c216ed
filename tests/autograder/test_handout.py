"""What is in a handout, what must never be in one, and that its tests run where only torch and pytest are installed."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, all_lessons
from packaging.requirements import Requirement

import autograder
from autograder import lesson, progress
from autograder.author import starter, stub
from autograder.errors import LessonError
from autograder.release import handout

PACKAGE = Path(autograder.__file__).parent
REPOSITORY = all_lessons()
GRADING = ["grading/__init__.py", *(f"grading/{name}" for name in handout.COPIED)]

# ---------------------------------------------------------------------------------------------- a course of two lessons

MASKS = '''"""Masks."""

import torch


def causal_mask(length):
    """True where a position may attend."""
    # student: the lower triangle
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    return torch.ones(length, length, dtype=torch.bool).tril()
'''
MASKS_HIDDEN = """import torch


def test_a_long_mask_is_a_triangle(student, check):
    check(student.call("masks.causal_mask", 50), torch.ones(50, 50, dtype=torch.bool).tril())
"""
MASKS_PUBLIC = '''"""Public tests: literal values."""

import pytest
import torch


@pytest.mark.points(1)
@pytest.mark.question("triangles")
def test_three_positions(student, check):
    """The mask of three positions."""
    mask = student.call("masks.causal_mask", 3)

    past = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    check(mask, past, mistakes={"the mask is transposed: it shows the future": past.T})


def test_no_position_is_refused(student):
    student.raises(ValueError, "masks.causal_mask", 0, says="length")


@pytest.mark.needs("test_three_positions")
def test_masks_keep_their_hands_off_the_inputs(student, check, rng, device):
    def probe(x):
        import masks

        return x * masks.causal_mask(len(x)), inside.twice(3)

    x = torch.randn(4, 4, generator=rng)
    product, six = student.run(probe, x)
    check(product, x.tril())
    check(six, 6)
    assert device == torch.device("cpu")


@pytest.mark.gpu
def test_on_the_gpu(student, check, device):
    check(student.call("masks.causal_mask", 1), torch.ones(1, 1, dtype=torch.bool))
'''
MODEL = '''"""A model."""

from masks import causal_mask


def visible(length):
    """The number of pairs."""
    # student: how many pairs see each other
    return int(causal_mask(length).sum())
'''
MODEL_PUBLIC = """def test_three_positions_see_six(student, check):
    check(student.call("model.visible", 3), 6)
"""
COURSE = {
    "assignments/98-masks/lesson.toml": 'title = "Masks"\nmodules = ["masks"]\n',
    "assignments/98-masks/handout.md": "# Masks\n\nThe ﬁrst lesson: é, √, 数.\n",
    "solutions/98-masks/masks.py": MASKS,
    "tests/lessons/98-masks/test_masks.py": MASKS_HIDDEN,
    "tests/lessons/98-masks/test_masks_public.py": MASKS_PUBLIC,
    "tests/lessons/98-masks/inside.py": "def twice(x):\n    return 2 * x\n",
    "tests/submissions/98-masks/wrong/transposed/masks.py": MASKS.replace("tril", "triu"),
    "tests/submissions/98-masks/wrong/transposed/expect.toml": 'why = "transposed"\n',
    "assignments/99-model/lesson.toml": 'title = "Model"\nmodules = ["model"]\nuses = ["98-masks"]\n',
    "assignments/99-model/handout.md": "# Model\n",
    "solutions/99-model/model.py": MODEL,
    "tests/lessons/99-model/test_model_public.py": MODEL_PUBLIC,
    "tests/lessons/99-model/inside.py": "SECRET = 1\n",
}


@pytest.fixture
def course(tmp_path):
    """A root with two lessons, the second of which uses the first."""
    root = tmp_path / "course"
    for name, text in COURSE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


def names_in(archive):
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


# ---------------------------------------------------------------------------------------------- contents


def test_a_handout_holds_exactly_this(course, tmp_path):
    archive = handout.build_handout(lesson.load("98-masks", course), tmp_path / "dist")

    files = [*GRADING, "README.md", "conftest.py", "grading/inside.py", "masks.py", "pytest.ini"]
    files += ["tests/test_masks_public.py"]
    assert archive == tmp_path / "dist" / "98-masks-handout.zip"
    assert names_in(archive) == sorted(f"98-masks/{name}" for name in files)


def test_inside_is_handed_out_only_if_a_public_test_uses_it(course):
    files = handout.handout_files(lesson.load("99-model", course))

    others = ["README.md", "conftest.py", "model.py", "pytest.ini", "tests/test_model_public.py"]
    assert sorted(files) == sorted([*GRADING, *others])


def test_the_first_lesson_holds_exactly_this(tmp_path):
    modules = ["attention", "flash_attention", "positional_encoding"]

    archive = handout.build_handout(lesson.load("01-attention", ROOT), tmp_path)

    files = ["COURSE.md", "README.md", "answers.md", "conftest.py", "pytest.ini", *GRADING]
    files += [f"{module}.py" for module in modules] + [f"tests/test_{module}_public.py" for module in modules]
    assert names_in(archive) == sorted(f"01-attention/{name}" for name in files)


@pytest.mark.parametrize("name", handout.COPIED)
def test_a_copy_equals_its_original(course, name):
    files = handout.handout_files(lesson.load("98-masks", course))

    assert files[f"grading/{name}"] == (PACKAGE / name).read_bytes()


def test_public_tests_and_the_readme_are_handed_out_verbatim(course):
    files = handout.handout_files(lesson.load("98-masks", course))

    assert files["tests/test_masks_public.py"] == MASKS_PUBLIC.encode()
    assert files["README.md"].decode() == COURSE["assignments/98-masks/handout.md"]


@pytest.mark.parametrize("name", handout.COPIED)
def test_a_copy_imports_torch_the_standard_library_and_other_copies(name):
    """A picture alone needs more, and says so where that is missing."""
    tree = ast.parse((PACKAGE / name).read_bytes())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    optional = {"matplotlib"} if name == "timeline.py" else set()
    relative = {path for node in imports for path in relative_imports(name, node)}
    absolute = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    absolute |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and not node.level}
    assert relative <= set(handout.COPIED)
    assert {module.partition(".")[0] for module in absolute} <= {"torch", *sys.stdlib_module_names, *optional}


def relative_imports(name, node):
    """The files that `from . import x` or `from .y import x` needs, beside the file called `name`."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return []
    folder = Path(name).parents[node.level - 1]
    module = folder.joinpath(*(node.module or "").split("."))
    if (PACKAGE / module).is_dir():
        return [(module / f"{alias.name}.py").as_posix() for alias in node.names]
    return [module.with_suffix(".py").as_posix()]


def test_the_same_lesson_gives_the_same_bytes(course, tmp_path):
    masks = lesson.load("98-masks", course)

    first = handout.build_handout(masks, tmp_path / "one").read_bytes()
    for path in course.rglob("*.py"):
        os.utime(path, (0, 0))
    second = handout.build_handout(masks, tmp_path / "two").read_bytes()

    assert first == second
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["98-masks-handout.zip"]


@pytest.mark.parametrize("missing", ["handout.md", "test_masks_public.py"])
def test_a_missing_part_is_named(course, missing):
    next(course.rglob(missing)).unlink()

    with pytest.raises(LessonError, match=missing):
        handout.handout_files(lesson.load("98-masks", course))


# ---------------------------------------------------------------------------------------------- nothing secret


@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_no_line_of_the_solution_is_handed_out(name):
    known = lesson.load(name, ROOT)
    given = lines_of(handout.handout_files(known).values())

    solutions = [content.decode() for content in known.solution_files().values()]
    shown = lines_of(known.starter_files().values())  # what one module asks for, the starter of another may show
    assert set().union(*map(stub.solution_lines, solutions)) & given - shown == set()


@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_no_hidden_test_is_handed_out(name):
    known = lesson.load(name, ROOT)
    files = handout.handout_files(known)

    public = {test for module in known.modules for test in names_of_tests(known.public_test(module))}
    suites = [path for module in known.modules for path in known.hidden_tests(module)]
    hidden = {test for path in suites for test in names_of_tests(path)}
    assert not {f"tests/{path.name}" for path in suites} & set(files)
    assert not [
        test for test in hidden - public if any(f"def {test}(".encode() in content for content in files.values())
    ]


def names_of_tests(path):
    tree = ast.parse(path.read_bytes())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_no_sample_is_handed_out(name):
    known = lesson.load(name, ROOT)
    files = handout.handout_files(known)

    samples = [path.read_bytes() for path in known.samples.rglob("*.py")]
    assert not [path for path in files if "expect.toml" in path or "submissions" in path]
    assert not [content for content in files.values() if content in samples]


def lines_of(contents):
    """Every line, with and without the comment that ends it."""
    lines = [line for content in contents for line in content.decode().splitlines()]
    return {part.strip() for line in lines for part in (line, line.partition("  # ")[0])}


# ---------------------------------------------------------------------------------------------- starter


def test_a_starter_is_fresh_once_it_is_written(course):
    masks = lesson.load("98-masks", course)
    before = starter.starter_is_fresh(masks)

    folder = starter.write_starter(masks)

    assert (before, starter.starter_is_fresh(masks)) == (False, True)
    assert folder == course / "starter" / "98-masks"
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("masks.py", stub.starter_text(MASKS))]


def test_a_starter_that_was_changed_by_hand_is_not_fresh(course):
    masks = lesson.load("98-masks", course)
    cut = starter.write_starter(masks) / "masks.py"

    cut.write_text(cut.read_text() + "\n")

    assert not starter.starter_is_fresh(masks)


def test_a_module_that_the_lesson_no_longer_has_goes_from_the_starter(course):
    masks = lesson.load("98-masks", course)
    masks.starter.mkdir(parents=True)
    (masks.starter / "renamed.py").write_text("# an old module\n")

    starter.write_starter(masks)

    assert [path.name for path in masks.starter.iterdir()] == ["masks.py"]


def test_a_handout_is_cut_from_the_solution_whatever_lies_in_starter(course):
    masks = lesson.load("98-masks", course)
    masks.starter.mkdir(parents=True)
    (masks.starter / "masks.py").write_text(MASKS)

    assert handout.handout_files(masks)["masks.py"].decode() == stub.starter_text(MASKS)


# ---------------------------------------------------------------------------------------------- as students run it

# Runs pytest with the libraries in a folder, and without what Windows has not; multiprocessing has another way there, and keeps it here.
RUN = """
import os, signal, socket, sys, types
from multiprocessing import forkserver, popen_fork, popen_forkserver, reduction, resource_tracker
sys.path.append(sys.argv[1])
import pytest, torch
for module in (forkserver, popen_fork, popen_forkserver, resource_tracker):
    module.os = types.SimpleNamespace(**vars(os))
for module, names in ((os, "fork setsid waitpid WNOHANG"), (socket, "send_fds recv_fds"), (signal, "SIGALRM setitimer")):
    for name in names.split():
        delattr(module, name)
code = pytest.main(["-p", "no:cacheprovider", *sys.argv[2:]])
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A folder through which Python finds torch, pytest and what they require, and no other package."""
    return link_libraries(tmp_path_factory.mktemp("libraries"), "torch", "pytest")


def link_libraries(folder, *names):
    folder.mkdir(exist_ok=True)
    for distribution in required_by(*names):
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def required_by(*names):
    """The installed distributions of these names, and those that they require."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        try:
            distribution = found.get(name) or metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform
            continue
        if name not in found:
            requirements = map(Requirement, distribution.requires or ())
            waiting += [need.name for need in requirements if not need.marker or need.marker.evaluate({"extra": ""})]
        found[name] = distribution
    return found.values()


@pytest.fixture
def unpacked(course, tmp_path):
    """The folder in which a student has unpacked both handouts."""
    for name in ("98-masks", "99-model"):
        with zipfile.ZipFile(handout.build_handout(lesson.load(name, course), tmp_path / "dist")) as archive:
            archive.extractall(tmp_path / "student's work")
    return tmp_path / "student's work"


def pytest_says(libraries, folder, *args, run=RUN):
    """(exit code, what `pytest args` prints in the folder); -I -S: nothing of this environment but the libraries."""
    command = [sys.executable, "-I", "-S", "-B", "-c", run, libraries, *args]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    environment["COLUMNS"] = "400"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_public_tests_fail_on_the_stub(libraries, unpacked):
    code, said = pytest_says(libraries, unpacked / "98-masks")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "3 failed, 1 skipped" in said
    assert "causal_mask is not implemented yet" in said


@pytest.mark.slow
def test_the_public_tests_pass_on_the_solution_and_import_nothing_of_ours(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS)

    code, said = pytest_says(libraries, unpacked / "98-masks", "--strict-markers", "-W", "error::pytest.PytestWarning")

    assert (code, "3 passed, 1 skipped" in said) == (pytest.ExitCode.OK, True), said
    assert not {"autograder", "numpy", "pydantic"} & set(said.rpartition("imported:")[2].split())


@pytest.mark.slow
def test_a_failure_names_the_mistake_and_shows_the_line_of_the_test_only(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS.replace("tril", "triu"))

    _, said = pytest_says(libraries, unpacked, "98-masks", "-k", "three_positions and not six")

    assert "CheckFailed: the mask is transposed: it shows the future" in said
    assert "[0, 1] is True; it should be False" in said
    assert "98-masks/tests/test_masks_public.py" in said
    assert "check.py" not in said


@pytest.mark.slow
def test_an_exception_shows_its_line_in_the_students_file(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text("def causal_mask(length):\n    return length / 0\n")

    _, said = pytest_says(libraries, unpacked / "98-masks", "tests", "-k", "three_positions")

    assert "ZeroDivisionError: division by zero (masks.py:2 in causal_mask)" in said
    assert "return length / 0" in said


@pytest.mark.slow
def test_a_handout_takes_the_modules_of_a_used_lesson_from_its_sibling(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS)
    (unpacked / "99-model" / "model.py").write_text(MODEL)

    code, said = pytest_says(libraries, unpacked.parent, str(unpacked / "99-model"))

    assert (code, "1 passed" in said) == (pytest.ExitCode.OK, True), said


@pytest.mark.slow
def test_a_used_lesson_is_found_where_windows_unpacks_it(libraries, unpacked):
    """Its explorer unpacks NN-lesson-handout.zip into NN-lesson-handout/NN-lesson."""
    for name, module, text in (("98-masks", "masks.py", MASKS), ("99-model", "model.py", MODEL)):
        (unpacked / f"{name}-handout").mkdir()
        (unpacked / name).rename(unpacked / f"{name}-handout" / name)
        (unpacked / f"{name}-handout" / name / module).write_text(text)

    code, said = pytest_says(libraries, unpacked / "99-model-handout" / "99-model")

    assert (code, "1 passed" in said) == (pytest.ExitCode.OK, True), said


RUN_AS_ON_UNIX = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest
raise SystemExit(pytest.main(["-p", "no:cacheprovider", *sys.argv[2:]]))
"""
RANKS_PUBLIC = """
import torch


def test_ranks_add_up(student, check):
    def total(mask):
        import masks
        import torch.distributed as dist

        mask = masks.causal_mask(2 + dist.get_rank()).sum()
        dist.all_reduce(mask)
        return mask

    for value in student.on(ranks=2).run(total, 1):
        check(value, torch.tensor(9))
"""


@pytest.mark.slow
def test_a_public_test_may_ask_for_ranks(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS)
    (unpacked / "98-masks" / "tests" / "test_ranks_public.py").write_text(RANKS_PUBLIC)

    code, said = pytest_says(libraries, unpacked / "98-masks", "-k", "ranks", run=RUN_AS_ON_UNIX)

    assert (code, "1 passed" in said) == (pytest.ExitCode.OK, True), said


@pytest.mark.slow
def test_a_used_lesson_that_is_missing_is_asked_for(libraries, unpacked):
    (unpacked / "98-masks").rename(unpacked / "elsewhere")

    code, said = pytest_says(libraries, unpacked / "99-model")

    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"99-model uses your modules of 98-masks: unpack that handout to {unpacked / '98-masks'}" in said


@pytest.mark.slow
@pytest.mark.parametrize("args", [[], ["-q"], ["-q", "--no-header", "-p", "no:warnings"]])
def test_pytest_works_from_the_folder_of_the_tests_and_ends_with_a_line_a_module(libraries, unpacked, args):
    _, said = pytest_says(libraries, unpacked / "98-masks" / "tests", *args)

    assert "causal_mask is not implemented yet" in said
    assert "masks: 0 of 4 public tests pass (1 skipped); next: causal_mask, line 6" in said


@pytest.mark.slow
def test_the_last_lines_are_right_once_all_is_done(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS)

    _, said = pytest_says(libraries, unpacked)

    assert "masks: 3 of 4 public tests pass (1 skipped); no TODO is left" in said
    assert "model: 0 of 1 public tests passes; next: visible, line 6" in said


@pytest.mark.slow
def test_two_handouts_named_side_by_side_are_refused(libraries, unpacked):
    code, said = pytest_says(libraries, unpacked, "98-masks", "99-model")

    assert code == pytest.ExitCode.USAGE_ERROR
    assert "98-masks and 99-model: run pytest on one handout at a time" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-k", "three"], "1 of 1 public tests that ran passes"),
        (["tests/test_masks_public.py::test_three_positions"], "1 of 1 public tests that ran passes"),
        (
            ["--deselect", "tests/test_masks_public.py::test_three_positions"],
            "2 of 3 public tests that ran pass (1 skipped)",
        ),
        (["-x", "-k", "refused or three"], "2 of 2 public tests that ran pass"),
    ],
)
def test_a_run_of_some_tests_claims_nothing_of_the_others(libraries, unpacked, args, words):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS)

    _, said = pytest_says(libraries, unpacked / "98-masks", *args)

    assert f"masks: {words}; no TODO is left" in said


@pytest.mark.slow
def test_a_module_that_is_gone_or_is_no_python_is_said(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text("x = 1\ndef f(:\n")
    _, broken = pytest_says(libraries, unpacked / "98-masks")
    (unpacked / "98-masks" / "masks.py").unlink()
    _, gone = pytest_says(libraries, unpacked / "98-masks")

    assert "masks.py has a syntax error in line 2" in broken
    assert "masks.py is missing" in gone


@pytest.mark.slow
def test_a_traceback_names_the_fixtures_in_a_word(libraries, unpacked):
    (unpacked / "98-masks" / "masks.py").write_text(MASKS.replace("tril", "triu"))

    _, said = pytest_says(libraries, unpacked / "98-masks")

    assert "student = <student>" in said
    assert "check = <check>" in said


# ---------------------------------------------------------------------------------------------- what comes next


@pytest.mark.parametrize(
    ("source", "todo"),
    [
        (b"def f():\n    raise NotImplementedError\n", "f, line 1"),
        (b"def f():\n    return 1\n\n\ndef g():\n    raise NotImplementedError('g')\n", "g, line 5"),
        (b'class C:\n    def m(self):\n        """Doc."""\n        raise NotImplementedError()\n', "C.m, line 2"),
        (b"def f(x):\n    if x:\n        raise NotImplementedError\n    return x\n", ""),
        (b"def f(x):\n    raise ValueError('NotImplementedError')\n", ""),
        ("\ufeff# é\ndef f():\n    raise NotImplementedError\n".encode(), "f, line 2"),
        (b"", ""),
    ],
)
def test_the_next_todo_is_the_first_function_that_still_raises(source, todo):
    assert progress.next_todo(source) == todo


@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_the_next_todo_of_a_stub_is_there_and_that_of_a_solution_is_not(name):
    known = lesson.load(name, ROOT)

    assert all(map(progress.next_todo, starter.starter_files(known).values()))
    assert not any(map(progress.next_todo, known.solution_files().values()))


# ---------------------------------------------------------------------------------------------- figures

POINTED = """import pytest

LONG = pytest.mark.question("Long")


@LONG
@pytest.mark.points(2.5)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_long(length):
    pass


@pytest.mark.points(1)
def test_short():
    pass


@pytest.mark.gpu
@pytest.mark.points(2)
def test_on_a_gpu():
    pass
"""


def test_the_points_of_a_handout_are_counted_when_it_is_built(course):
    page = course / "assignments" / "98-masks" / "handout.md"
    page.write_text("# Masks\n\n<!-- points -->\n\nThat is all.\n")
    (course / "tests" / "lessons" / "98-masks" / "test_masks.py").write_text(POINTED)

    text = handout.handout_files(lesson.load("98-masks", course))["README.md"].decode()

    assert text.splitlines()[2:8] == [
        "| `masks.py` | points |",
        "|---|---:|",
        "| Long | 2.5 |",
        "| masks | 3 |",
        "| **together** | **5.5** |",
        "| 3 tests, 1 for a GPU |  |",
    ]
    assert "<!--" not in text


def test_a_suite_that_cannot_be_loaded_has_no_points(course):
    (course / "assignments" / "98-masks" / "handout.md").write_text("<!-- points -->\n")
    (course / "tests" / "lessons" / "98-masks" / "test_masks.py").write_text("import no_such_package\n")

    with pytest.raises(LessonError, match="cannot be loaded"):
        handout.handout_files(lesson.load("98-masks", course))


def test_the_points_are_those_of_a_grading():
    attention = lesson.load("01-attention", ROOT)
    table = handout.points_table(attention)

    totals = [float(points) for points in re.findall(r"\*\*([\d.]+)\*\*", table)]
    marks = [
        float(points)
        for module in attention.modules
        for path in attention.hidden_tests(module)
        for points in re.findall(r"^@pytest\.mark\.points\(([\d.]+)\)", path.read_text(), re.MULTILINE)
    ]
    assert sum(totals) == sum(marks)


@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_no_figure_of_the_suites_is_typed(name):
    text = lesson.load(name, ROOT).handout.read_text("utf-8")

    typed = re.findall(r"\b\d+(?:\.\d+)? (?:hidden |public )?(?:points|tests)\b|\|[^|\n]*\bpoints\b[^|\n]*\|.*", text)
    assert typed == [], "write <!-- points -->: `make handouts` fills it in"


@pytest.mark.slow
@pytest.mark.parametrize("name", [known.name for known in REPOSITORY])
def test_the_public_tests_of_a_lesson_fail_on_its_stub_and_pass_on_its_solution(tmp_path, name):
    known = lesson.load(name, ROOT)
    libraries = link_libraries(tmp_path / "libraries", "torch", "pytest", *known.packages)
    for each in (known, *known.prerequisites()):
        with zipfile.ZipFile(handout.build_handout(each, tmp_path / "dist")) as archive:
            archive.extractall(tmp_path)

    _, on_stub = pytest_says(libraries, tmp_path / name, "-q", "-rp")
    for each in (known, *known.prerequisites()):
        for module, content in each.solution_files().items():
            (tmp_path / each.name / module).write_bytes(content)
    code, on_solution = pytest_says(libraries, tmp_path / name, "-q", "-rfE")

    where = known.tests.relative_to(ROOT).as_posix()
    wrong = [f"{where}/{test} passes on the starter: it tests nothing" for test in told("PASSED", on_stub)]
    failed = [*told("FAILED", on_solution), *told("ERROR", on_solution)]
    wrong += [f"{where}/{test.replace(' - ', ' fails on the solution: ', 1)}" for test in failed]
    if code != pytest.ExitCode.OK and not wrong:
        wrong = [on_solution]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def told(word, said):
    """What pytest's summary says of the public tests that ended so: "test_masks_public.py::test_three - AssertionError: …"."""
    return re.findall(rf"^{word} tests/(.*)$", said, re.MULTILINE)
