"""What must hold of the whole tree, so that no reviewer has to remember it."""

import ast
import inspect
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, all_lessons

from autograder.author.mutants import mutants_of
from autograder.author.prove import explanations
from autograder.box.seam import Processes
from autograder.box.session import BoxedProcesses
from autograder.errors import LessonError
from autograder.in_process import InProcess
from autograder.lesson import Lesson, lesson_names, load

# Imports go down only: a module may import from layers below its own, never from its own or above.
LAYERS = [
    "cli.__main__",
    "cli.grading cli.written cli.author cli.release",
    "cli.shared",
    "release.rehearse release.otter_plugin release.otter_zip notebooks.course notebooks.export",
    "notebooks.boxed",
    "notebooks.lab notebooks.execute",
    "release.handout",
    "author.idle author.skeleton written",
    "author.prove author.seeds",
    "author.costs",
    "batch exports.table author.starter author.mutants author.hollow kept intake.crowd",
    "exports.gradescope exports.otter exports.csv author.samples author.messages author.plain grade",
    "suite",
    "witness plugin rules author.stub",
    "cases in_process gloo marks",
    "student check submission timeline",
    "intake.missing intake.packed joining",
    "intake.choose",
    "intake.gather intake.naming intake.classes",
    "intake.opening intake.sites intake.students",
    "intake.archives intake.folders",
    "notebooks.settings notebooks.kernel",
    "answers notebooks.exercises",
    "questions",
    "intake.entries intake.kinds",
    "lesson scorecard probes arguments",
    "bounds box.choose names tomls author.stub_marks author.needless",
    "box.sandbox box.unconfined box.session",
    "box.slot box.boxed box.zygote.loop box.ranks.local box.seam",
    "box.ranks.team box.local box.budget box.zygote.warm box.zygote.becoming",
    "box.ranks.broker box.ranks.listener box.replies box.inside.gloo box.zygote.confine box.zygote.memory box.zygote.disk box.users box.inside.worker",
    "box.ranks.post box.zygote.landlock box.zygote.seccomp box.zygote.processes box.zygote.libraries box.zygote.heap box.zygote.pages box.zygote.delegated box.inside.tripwires box.inside.callers box.inside.uncompiled box.inside.scan box.inside.group box.ranks.operation",
    "box.inside.pending",
    "box.wire box.ranks.collectives box.ranks.news box.inside.reading",
    "box.codec box.clock box.cpu notebooks.restore",
    "differences files points pool progress digests options tables intake.reader box.caps box.policy box.ranks.order box.zygote.whispers box.zygote.cgroup author.wording plausible notebooks.links notebooks.cells notebooks.feedback notebooks.in_lab",
    "errors starting",
]
LESSONS = all_lessons()
MODULES = [(lesson, module) for lesson in LESSONS for module in lesson.modules]


def each_module(function):
    return pytest.mark.parametrize(("lesson", "module"), MODULES, ids=lambda value: getattr(value, "name", value))(
        function
    )


# ---------------------------------------------------------------------------------------------- how a starter reads


def without_types(source: str) -> list[str]:
    """The functions of a module of which a parameter or the result has no annotation: "line 12: forward"."""
    found = []
    for node in [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]:
        given = node.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [arg for arg in parameters if arg and arg.annotation is None and arg.arg not in ("self", "cls")]
        found += [f"line {node.lineno}: {node.name}"] if bare or node.returns is None else []
    return found


@each_module
def test_every_signature_of_a_starter_and_its_solution_has_types(lesson, module):
    for folder in (lesson.starter, lesson.solution):
        assert without_types((folder / f"{module}.py").read_text("utf-8")) == []


@each_module
def test_solutions_say_torch_tensor_in_one_way(lesson, module):
    assert re.search(r"(?<![\w.])Tensor\b", (lesson.solution / f"{module}.py").read_text("utf-8")) is None


@pytest.mark.parametrize(
    "signature", ["f(x) -> None", "f(x: int)", "f(self, *, x) -> int", "f(*args) -> int", "f(cls, **more) -> int"]
)
def test_a_signature_without_a_type_is_found(signature):
    assert without_types(f"class A:\n    def {signature}:\n        pass") == ["line 2: f"]


# ---------------------------------------------------------------------------------------------- architecture


def imports_of(name: str, source: str) -> set[str]:
    """The modules of the package that a module imports, also inside functions: "box.wire", "errors"."""
    package = ["autograder", *name.split(".")[:-1]]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found |= {".".join([*base, alias.name]) for alias in node.names} | {".".join(base)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    known = {module for layer in LAYERS for module in layer.split()}
    return {path.removeprefix("autograder.") for path in found if path.removeprefix("autograder.") in known}


def violations(sources: dict[str, str]) -> list[str]:
    height = {module: len(LAYERS) - index for index, layer in enumerate(LAYERS) for module in layer.split()}
    return [
        f"{name} imports {used}"
        for name, source in sources.items()
        for used in sorted(imports_of(name, source))
        if height[used] >= height[name]
    ]


def package_sources() -> dict[str, str]:
    paths = [path for path in (ROOT / "autograder").rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(ROOT / "autograder").with_suffix("").parts): path.read_text() for path in paths}


def test_imports_go_down_only():
    assert violations(package_sources()) == []


def test_every_module_has_its_layer():
    assert set(package_sources()) == {module for layer in LAYERS for module in layer.split()}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("box.wire", "from .. import errors\nfrom ..grade import Grader"),
        ("box.inside.worker", "from ..zygote import loop"),
        ("check", "def f():\n    from . import plugin"),
        ("scorecard", "import autograder.batch"),
    ],
)
def test_an_import_that_goes_up_is_found(name, source):
    assert violations({name: source}) != []


def test_what_shares_a_process_with_student_code_imports_nothing_of_ours_but_the_wire():
    inside = {name: source for name, source in package_sources().items() if name.startswith("box.inside.")}

    assert {"box.inside.worker", "box.inside.group"} <= set(inside)
    used = {name: imports_of(name, source) - {"box.wire"} for name, source in inside.items()}
    assert used.pop("box.inside.scan") == {"box.inside.reading"}  # one text, and no student code has run where it runs
    assert used.pop("box.inside.gloo") == {"box.inside.group", "box.inside.pending"}  # in the same process
    assert used.pop("box.inside.group") == {"box.inside.pending"}
    assert {name: names for name, names in used.items() if names} == {}


def test_the_wire_imports_nothing_of_ours_but_the_codec_and_its_caps():
    assert imports_of("box.wire", package_sources()["box.wire"]) == {"box.codec", "box.caps"}


def test_only_the_box_and_the_second_backend_import_the_worker():
    users = {name for name, source in package_sources().items() if "box.inside.worker" in imports_of(name, source)}

    assert {name for name in users if not name.startswith("box.")} == {"in_process"}


@pytest.mark.parametrize("backend", [BoxedProcesses, InProcess])
def test_both_backends_are_what_the_seam_says(backend):
    """mypy holds the types where they meet; here the signatures are equal, so that neither grows apart."""
    asked = {name: inspect.signature(method) for name, method in vars(Processes).items() if name[0] != "_"}

    assert set(asked) == {"ask", "ask_ranks", "cpu_s", "begin_peak", "end_peak", "close"}
    assert {name: str(inspect.signature(getattr(backend, name))) for name in asked} == {
        name: str(signature) for name, signature in asked.items()
    }


@pytest.mark.parametrize(
    "dict_of_options", [r"\bpolicy\[", r"\*\*(grader|policy|options|limits)\b", r"SimpleNamespace"]
)
def test_what_crosses_functions_is_a_record(dict_of_options):
    """box/policy.py, options.py and box/clock.py list what there is; a dict of options lists nothing."""
    found = [name for name, source in package_sources().items() if re.search(dict_of_options, source)]

    assert [name for name in found if name != "student"] == []  # student.on(**options) is for authors of tests


def test_architecture_page_draws_the_layers():
    page = (ROOT / "docs" / "architecture.md").read_text()

    assert "\n".join(layer for layer in LAYERS) in page


def definitions(path: Path) -> set[str]:
    """Names of the functions and classes of a file, methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def test_the_life_of_a_grading_names_what_there_is():
    page = (ROOT / "docs" / "architecture.md").read_text()
    life = page.partition("## The life of a grading")[2].partition("\n## ")[0]
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", life)

    assert [number for number in range(1, 11) if f"\n{number}. " not in life] == []
    assert len(steps) >= 20
    assert [step for step in steps if step[1] not in definitions(ROOT / "autograder" / step[0])] == []


def test_files_can_be_read_in_a_sitting():
    lengths = {name: len(source.splitlines()) for name, source in package_sources().items()}

    assert {
        name: length
        for name, length in lengths.items()
        if length >= (250 if name.startswith(("box.", "intake.")) else 400)
    } == {}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_suites_can_be_read_part_by_part(lesson):
    lengths = {path.name: len(path.read_text().splitlines()) for path in lesson.tests.glob("*.py")}

    assert {name: length for name, length in lengths.items() if length >= 800} == {}, "part it: docs/authors.md"


# ---------------------------------------------------------------------------------------------- lessons


def test_example_shows_every_key_of_lesson_toml():
    example = tomllib.loads((ROOT / "assignments" / "example.toml").read_text())

    assert set(example) == set(Lesson.model_fields) - {"name", "root"}
    assert Lesson(name="example", root=ROOT, **example)


@pytest.mark.parametrize("name", lesson_names(ROOT))
def test_a_lesson_can_be_read(name):
    try:
        load(name, ROOT).prerequisites()
    except LessonError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.lesson
def test_module_names_are_unique_over_all_lessons():
    names = [module for _, module in MODULES]

    assert sorted(names) == sorted(set(names))


@each_module
def test_a_module_has_all_its_parts(lesson, module):
    parts = [lesson.solution / f"{module}.py", lesson.hidden_test(module), lesson.public_test(module), lesson.handout]

    assert [path for path in parts if not path.is_file()] == []


def hidden_tests_of(lesson: Lesson, module: str) -> list[ast.FunctionDef]:
    return [
        node
        for path in lesson.hidden_tests(module)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    ]


@each_module
def test_every_hidden_test_has_points_and_a_title(lesson, module):
    for test in hidden_tests_of(lesson, module):
        marks = [ast.unparse(mark) for mark in test.decorator_list]

        assert any("mark.points(" in mark for mark in marks), f"{test.name} has no points"
        assert ast.get_docstring(test), f"{test.name} has no title"


@each_module
def test_names_of_hidden_tests_are_not_taken_twice(lesson, module):
    names = [test.name for test in hidden_tests_of(lesson, module)]

    assert sorted(names) == sorted(set(names)), "the second one of a name hides the first"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_starters_are_fresh(lesson):
    from autograder.author.starter import starter_is_fresh

    assert starter_is_fresh(lesson), "run `make starter`"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_explained_mutant_is_still_made(lesson):
    made = {
        (module, mutant.old, mutant.new)
        for module in lesson.modules
        for mutant in mutants_of((lesson.solution / f"{module}.py").read_text(), f"{module}.py")
    }

    assert [entry for entry in explanations(lesson) if (entry.module, entry.old, entry.new) not in made] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_uses_name_earlier_lessons(lesson):
    assert all(name < lesson.name and load(name, ROOT) for name in lesson.uses)


# ---------------------------------------------------------------------------------------------- the tree


def tracked() -> list[Path]:
    names = (
        subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    )
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_environment_yaml_installs_the_lock():
    text = (ROOT / "environment.yaml").read_text()

    assert "- -r requirements.lock" in text
    assert re.search(r"python=3\.11\b", text)


def test_ci_runs_lint_with_the_type_checker_and_then_all_tests():
    steps = (ROOT / ".ci" / "run").read_text().splitlines()
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]

    assert [step for step in steps if step.startswith("make ")] == ["make lint", "make test"]
    assert [line.strip().removeprefix("$(BIN)/") for line in lint.splitlines()] == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "python -m pytest -q tests/test_messages.py",
    ]
    assert (mypy["files"], mypy["check_untyped_defs"], mypy["warn_unused_ignores"]) == (["autograder"], True, True)


def test_types_are_ignored_by_the_kind_of_error_only():
    """`# type: ignore` alone would hide the next error of the line, too."""
    lines = [(name, line) for name, text in package_sources().items() for line in text.splitlines()]
    ignored = [(name, line) for name, line in lines if "# type: ignore" in line]

    assert [where for where in ignored if "# type: ignore[" not in where[1]] == []
    assert len(ignored) < 12


def test_lock_pins_every_dependency_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in wanted}

    assert names - pinned == set()
    assert not re.search(r"://|--hash|\+cpu|^-", lock, re.MULTILINE)


def test_no_path_of_a_machine_is_written_down():
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".sh", ".lock", "", ".json", ".ipynb"}
        for match in re.finditer(
            r"(?<![\w.-])/(?:work|farm|home/\w+|root/\.pyenv)/\S*", path.read_text(errors="replace")
        )
        if path != Path(__file__)
    ]

    assert found == []


def test_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page.read_text())}

    assert named - targets == set()


def test_readme_prints_the_package_as_it_is():
    readme = (ROOT / "README.md").read_text()

    missing = [name for name in package_sources() if "." not in name and f"{name}.py" not in readme]
    assert missing == []
