"""A lesson's suite and the grader -> the zip that Otter and Gradescope grade with.

    run_otter.py      Gradescope's entry: grader/ first on sys.path, then otter_plugin.run
    run_autograder, setup.sh, environment.yml                     Gradescope's image, from `otter generate`, made leaner
    otter_config.json, files/driver.ipynb, tests/placeholder.py   what Otter wants: our plugin, something to run, a test
    grader/           this package as far as grading needs it, and the lesson in the tree of a checkout, so that
                      lesson.load(name, root=grader) works; nobody but the grader's user may open it

Building twice gives equal bytes.
"""

import ast
import json
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .. import __version__
from ..digests import PACKAGE, relative_imports, with_imports
from ..errors import LessonError, UsageError
from ..files import write, zipped
from ..lesson import Lesson

DISTRIBUTION = "llm-autograder"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # without CUDA the image is a tenth of the size
_IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}  # where the zip is used

_RUN_OTTER = '''\
"""Grades ../submission into ../results/results.json. On Gradescope `..` is /autograder."""

import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
GRADER = SOURCE / "grader"

GRADER.chmod(0o700)
sys.path[:] = [str(GRADER), *(path for path in sys.path if path not in ("", ".", str(SOURCE)))]

if __name__ == "__main__":
    from autograder.release.otter_plugin import run

    run(SOURCE.parent)
'''

_PLACEHOLDER = """\
OK_FORMAT = True

test = {
    "name": "placeholder",
    "points": 0,
    "suites": [{"type": "doctest", "scored": True, "setup": "", "teardown": "", "cases": [{"code": ">>> True\\nTrue"}]}],
}
"""

_DRIVER = {
    "cells": [
        {
            "id": "note",
            "cell_type": "markdown",
            "metadata": {},
            "source": [
                "Otter runs this notebook. The submission is graded elsewhere: grader/autograder/release/otter_plugin.py."
            ],
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def build_zip(lesson: Lesson, out: Path) -> Path:
    """Builds out/<lesson>-autograder.zip and returns its path.

    Raises:
        LessonError: a hidden suite or a solution is missing. UsageError: Otter is not installed, or the lock is stale.
    """
    contents = _envelope(lesson) | {f"grader/{name}": content for name, content in _grader(lesson).items()}
    path = Path(out) / f"{lesson.name}-autograder.zip"
    write(path, zipped(contents))
    return path


# ---------------------------------------------------------------------------------------------- the grader


def _grader(lesson: Lesson) -> dict[str, bytes]:
    """The tree below grader/."""
    package = {f"autograder/{path.relative_to(PACKAGE).as_posix()}": path for path in _needed_modules()}
    lessons = {path.relative_to(lesson.root).as_posix(): path for path in _lesson_paths(lesson)}
    return {name: path.read_bytes() for name, path in (package | lessons).items()}


def _needed_modules() -> set[Path]:
    """The files of this package that grading needs: what Otter loads, with all that it imports now or later, and the box."""
    return with_imports([PACKAGE / "release" / "otter_plugin.py", *PACKAGE.glob("box/**/*.py")], relative_imports)


def _lesson_paths(lesson: Lesson) -> list[Path]:
    """All that load, grade and digest read of the lesson and of those that it uses."""
    paths = [lesson.assignment / "lesson.toml", *lesson.tests.glob("*.py"), *lesson.shared_tests]
    for module in lesson.modules:
        lesson.hidden_tests(module)  # complains if there are none
    for used in (lesson, *lesson.prerequisites()):
        used.solution_files()  # complains of a module that is missing
        paths += [used.assignment / "lesson.toml", *used.solution.glob("*.py")]
    starters = [lesson.starter / f"{module}.py" for module in lesson.modules]
    paths += [path for path in starters if path.is_file()]  # unchanged starters are told from work
    return paths + ([lesson.handout] if lesson.written else [])  # what its questions say is no answer


# ---------------------------------------------------------------------------------------------- Otter's part


def _envelope(lesson: Lesson) -> dict[str, bytes]:
    """What `otter generate` makes, adapted: file name -> content."""
    with tempfile.TemporaryDirectory() as name:
        made = _otter_generate(lesson, Path(name))
    return {
        **made,
        "run_otter.py": _RUN_OTTER.encode(),
        "run_autograder": _edited(made["run_autograder"], {r"^python (?=.*run_otter\.py)": "python -P "}),
        "setup.sh": _edited(made["setup.sh"], _SETUP_EDITS) + _SETUP_END,
        "environment.yml": _edited(made["environment.yml"], {r"^ *- jupyter_server\n": ""}),
    }


_SETUP_EDITS = {
    r"^mamba install .*nb_conda_kernels\n": "",  # the only kernel is the environment's own
    r"^mamba run .*playwright.*\n": "",  # nothing is exported as PDF: no browser
    r"^(apt-get install -y wget)\b": r"\1 libseccomp2",
}
_SETUP_END = b"\n# Workers run as users of their own, who must reach the interpreter below /root.\nchmod o+x /root\n"


def _edited(text: bytes, edits: dict[str, str]) -> bytes:
    """Each edit must fit exactly once: another release of Otter must not slip through."""
    edited = text.decode()
    for pattern, replacement in edits.items():
        edited, count = re.subn(pattern, replacement, edited, flags=re.MULTILINE)
        if count != 1:
            raise UsageError(
                f"this release of otter-grader has a different template: {pattern!r} fits {count} times, not once"
            )
    return edited.encode()


def _otter_generate(lesson, folder):
    config = {
        "plugins": [{"autograder.release.otter_plugin.OtterPlugin": {"lesson": lesson.name, "version": __version__}}]
    }
    (folder / "otter_config.json").write_text(json.dumps(config))
    (folder / "requirements.txt").write_text("\n".join(_requirements(lesson)) + "\n")
    (folder / "driver.ipynb").write_text(json.dumps(_DRIVER, indent=1) + "\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "placeholder.py").write_text(_PLACEHOLDER)
    version = ".".join(platform.python_version_tuple()[:2])
    options = "-t tests -o made.zip -c otter_config.json -r requirements.txt --overwrite-requirements --no-environment"
    options += f" --python-version {version} driver.ipynb"
    command = [sys.executable, "-P", "-m", "otter", "generate", *options.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"otter generate failed (is the extra `otter` installed?): {done.stderr.strip()[-500:]}")
    with zipfile.ZipFile(folder / "made.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---------------------------------------------------------------------------------------------- requirements


def _requirements(lesson: Lesson) -> list[str]:
    """The image's pip packages: what grading needs, pinned with all that it needs in turn where there is a lock."""
    wanted = [need for need in _needs_of(DISTRIBUTION) if _applies(need, {"otter"})]
    wanted += map(Requirement, _distributions_of(lesson))
    lock = lesson.root / "requirements.lock"
    lines = _pinned(wanted, _pins(lock.read_text())) if lock.is_file() else map(_without_marker, wanted)
    return [f"--extra-index-url {_TORCH_INDEX}", *lines]


def _distributions_of(lesson: Lesson) -> list[str]:
    """What pip calls the packages that the zygote, the hidden suite and the solutions import."""
    files = [path for path in _lesson_paths(lesson) if path.suffix == ".py"]
    ours = {path.stem for path in files} | {PACKAGE.name}  # which the zip holds itself
    names = {package.partition(".")[0] for package in lesson.packages}
    names = names.union(*map(_outer_imports, files))
    known = metadata.packages_distributions()
    names -= ours | set(sys.stdlib_module_names)
    missing = sorted(names - set(known))
    if missing:
        raise LessonError(f"{lesson.name} imports {missing[0]}, which is not installed: its image would lack it")
    return sorted({known[name][0] for name in names})


def _outer_imports(path: Path) -> set[str]:
    """The first names of all absolute imports, at the top of the file or deeper."""
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    plain = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        node.module.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def _pins(lock: str) -> dict[str, str]:
    """Name -> its line of the lock."""
    lines = [line.split("#")[0].strip() for line in lock.splitlines()]
    return {canonicalize_name(Requirement(line).name): line for line in lines if line}


def _pinned(wanted: list[Requirement], pins: dict[str, str]) -> list[str]:
    """The lock's lines for `wanted` and for all that these need in the image."""
    unpinned = [need.name for need in wanted if canonicalize_name(need.name) not in pins]
    if unpinned:
        raise UsageError(f"requirements.lock does not pin {unpinned[0]}: run `make lock`")
    todo, seen = list(wanted), set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        key = name, frozenset(need.extras)
        if name in pins and key not in seen:
            seen.add(key)
            todo += [inner for inner in _needs_of(name) if _applies(inner, need.extras)]
    return [pins[name] for name in sorted({name for name, _ in seen})]


def _needs_of(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:  # of another system than this one
        return []


def _applies(need: Requirement, extras: set[str]) -> bool:
    """Whether the image needs it, of a package that is installed with these extras."""
    return need.marker is None or any(need.marker.evaluate({**_IMAGE, "extra": extra}) for extra in ("", *extras))


def _without_marker(need: Requirement) -> str:
    return str(need).split(";")[0].strip()
