"""What is in a gradable zip, and what must never be in one."""

import json
import re
import sys
import textwrap
import zipfile

import pytest
import yaml
from conftest import ROOT, TOY_SUITE, write_lesson
from otter_ways import attention_zip
from packaging.requirements import Requirement

from autograder import __version__
from autograder.errors import LessonError, UsageError
from autograder.lesson import load
from autograder.release import otter_zip as package

ENVELOPE = """environment.yml files/driver.ipynb otter_config.json run_autograder run_otter.py setup.sh
    tests/placeholder.py""".split()
GRADING = """__init__ answers arguments bounds cases check differences digests errors files grade in_process lesson marks names options plausible plugin points
    probes questions rules scorecard starting student submission suite tomls witness exports/__init__ exports/gradescope exports/otter release/__init__
    release/otter_plugin""".split()
INTAKE = [
    f"intake/{path.stem}"
    for path in (ROOT / "autograder" / "intake").glob("*.py")
    if path.stem not in ("crowd", "packed")
]
BOX = [
    str(path.relative_to(ROOT / "autograder").with_suffix("")) for path in (ROOT / "autograder" / "box").rglob("*.py")
]


@pytest.fixture(scope="module")
def contents():
    """File name -> bytes of the zip of lesson 01."""
    with zipfile.ZipFile(attention_zip()) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pip_lines(contents):
    environment = yaml.safe_load(contents["environment.yml"])
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


# ---------------------------------------------------------------------------------------------- contents


@pytest.mark.slow
def test_the_zip_holds_otters_files_the_grader_and_the_lesson(contents):
    lesson = load("01-attention", ROOT)
    modules = [f"autograder/{name}.py" for name in GRADING + INTAKE + BOX]
    suite = [f"tests/lessons/01-attention/{path.name}" for path in lesson.tests.glob("*.py")]
    suite += [f"tests/lessons/{name}.py" for name in ("inside", "searching", "shared")]
    solution = [f"solutions/01-attention/{module}.py" for module in lesson.modules]
    starter = [f"starter/01-attention/{module}.py" for module in lesson.modules]
    grader = [*modules, *suite, *solution, *starter, "assignments/01-attention/lesson.toml"]
    grader += ["assignments/01-attention/handout.md"]  # it has the questions of [[written]]

    assert sorted(contents) == sorted([*ENVELOPE, *(f"grader/{name}" for name in grader)])


@pytest.mark.slow
def test_the_grader_is_a_verbatim_copy_of_the_checkout(contents):
    copied = {name.removeprefix("grader/"): content for name, content in contents.items() if name.startswith("grader/")}

    assert copied == {name: (ROOT / name).read_bytes() for name in copied}


@pytest.mark.slow
def test_building_again_gives_the_same_bytes(tmp_path):
    again = package.build_zip(load("01-attention", ROOT), tmp_path / "dist")

    assert again == tmp_path / "dist" / "01-attention-autograder.zip"
    assert again.read_bytes() == attention_zip().read_bytes()
    assert [path.name for path in again.parent.iterdir()] == [again.name]


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_the_zip(contents):
    here = {str(path).encode() for path in (ROOT, sys.prefix, sys.base_prefix)}

    assert {name for name, content in contents.items() if any(path in content for path in here)} == set()


@pytest.mark.slow
def test_the_image_is_made_from_torchs_index_and_where_otter_gets_its_interpreter(contents):
    text = b"\n".join(contents[name] for name in ENVELOPE).decode()

    assert set(re.findall(r"https?://([^/\s\"']+)", text)) == {"download.pytorch.org", "github.com"}


@pytest.mark.slow
def test_scripts_can_be_run(contents):
    with zipfile.ZipFile(attention_zip()) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}

    assert {name for name, mode in modes.items() if mode == 0o755} == {"run_autograder", "setup.sh"}
    assert set(modes.values()) == {0o755, 0o644}


@pytest.mark.slow
def test_otter_is_told_the_lesson_and_the_version(contents):
    config = json.loads(contents["otter_config.json"])

    assert config == {
        "plugins": [{"autograder.release.otter_plugin.OtterPlugin": {"lesson": "01-attention", "version": __version__}}]
    }


def test_a_lesson_brings_the_lessons_that_it_uses(tmp_path):
    write_lesson(tmp_path)
    (tmp_path / "assignments/98-base").mkdir()
    (tmp_path / "assignments/98-base/lesson.toml").write_text('title = "Base"\nmodules = ["base"]\n')
    (tmp_path / "solutions/98-base").mkdir()
    (tmp_path / "solutions/98-base/base.py").write_text("")
    lesson = load("99-toy", tmp_path).model_copy(update={"uses": ("98-base",)})

    names = {path.relative_to(tmp_path).as_posix() for path in package._lesson_paths(lesson)}

    assert names == {
        "assignments/98-base/lesson.toml",
        "assignments/99-toy/lesson.toml",
        "solutions/98-base/base.py",
        "solutions/99-toy/toy.py",
        "tests/lessons/99-toy/test_toy.py",
    }


def test_a_lesson_without_its_suite_is_refused(tmp_path):
    write_lesson(tmp_path)
    (tmp_path / "tests/lessons/99-toy/test_toy.py").unlink()

    with pytest.raises(LessonError, match="test_toy.py is missing"):
        package._lesson_paths(load("99-toy", tmp_path))


# ---------------------------------------------------------------------------------------------- the image


@pytest.mark.slow
def test_the_image_is_pinned_by_the_lock(contents):
    lock = package._pins((ROOT / "requirements.lock").read_text())
    index, *pinned = pip_lines(contents)
    names = {Requirement(line).name for line in pinned}

    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert set(pinned) <= set(lock.values())
    assert {"torch", "numpy", "pytest", "pydantic", "pyseccomp", "otter-grader", "ipykernel"} <= names
    assert names.isdisjoint({"jupyterlab", "notebook", "nbgrader", "dask", "hypothesis", "ruff", "llm-autograder"})


@pytest.mark.slow
def test_the_image_has_no_browser_and_an_interpreter_that_others_can_reach(contents):
    setup, environment = contents["setup.sh"].decode(), contents["environment.yml"].decode()

    assert "playwright" not in setup
    assert "nb_conda_kernels" not in setup
    assert "jupyter_server" not in environment
    assert setup.rstrip().endswith("chmod o+x /root")
    assert contents["run_autograder"].decode().rstrip().endswith("python -P /autograder/source/run_otter.py")


def test_packages_that_a_lesson_names_are_in_the_image(tmp_path):
    write_lesson(tmp_path, settings='packages = ["regex"]\n')

    lines = package._requirements(load("99-toy", tmp_path))

    assert "regex" in lines
    assert "otter-grader[grading]<8,>=7" in lines
    assert not [line for line in lines if ";" in line]


def test_what_the_hidden_suite_imports_is_in_the_image(tmp_path):
    suite = "import sacrebleu\nfrom tokenizers.models import BPE\n" + textwrap.dedent(TOY_SUITE)
    write_lesson(tmp_path, suite=suite, settings='packages = ["transformers.models.gpt2.modeling_gpt2"]\n')

    assert {"sacrebleu", "tokenizers", "transformers"} <= set(package._requirements(load("99-toy", tmp_path)))


def test_a_suite_may_import_the_package_that_the_zip_holds(tmp_path):
    write_lesson(tmp_path, suite="from autograder.check import Check\n" + textwrap.dedent(TOY_SUITE))

    assert "llm-autograder" not in package._distributions_of(load("99-toy", tmp_path))


def test_an_import_that_no_image_could_have_is_refused(tmp_path):
    write_lesson(tmp_path, suite="import no_such_package\n" + textwrap.dedent(TOY_SUITE))

    with pytest.raises(LessonError, match="no_such_package"):
        package._requirements(load("99-toy", tmp_path))


def test_a_lock_that_lacks_a_package_is_stale(tmp_path):
    write_lesson(tmp_path, settings='packages = ["regex"]\n')
    lock = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text(re.sub(r"(?m)^regex==.*\n", "", lock))

    with pytest.raises(UsageError, match="requirements.lock does not pin regex"):
        package._requirements(load("99-toy", tmp_path))


def test_another_template_of_otter_does_not_slip_through():
    with pytest.raises(UsageError, match="a different template"):
        package._edited(b"#!/bin/bash\necho changed\n", package._SETUP_EDITS)
