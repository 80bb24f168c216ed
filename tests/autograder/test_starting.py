"""A file in the current folder is a student's, whatever its name: no process of ours imports it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.starting import NothingFromHere

LIBRARIES = set("torch numpy scipy transformers pytest pluggy rich typer sitecustomize autograder".split())
DECOY = """
with open({log!r}, "a") as log:
    log.write(__name__ + "\\n")
raise ImportError("a student's file was imported")
"""


@pytest.fixture
def here(tmp_path):
    """A folder with a class, and with files of a student's that are named as all that we may import."""
    write_lesson(tmp_path / "root")
    folder = tmp_path / "here"
    for student in ("ada", "bob"):
        (folder / "class" / student).mkdir(parents=True)
        (folder / "class" / student / "toy.py").write_text(textwrap.dedent(TOY_SOLUTION))
    for name in LIBRARIES | set(sys.stdlib_module_names):
        (folder / f"{name}.py").write_text(DECOY.format(log=str(tmp_path / "imported")))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        "grade class --each --lesson 99-toy --out out --processes 2",
        "grade class/ada --lesson 99-toy --out out",
        "mutants 99-toy --processes 2",
    ],
)
def test_no_process_of_a_command_imports_from_the_current_folder(here, tmp_path, arguments):
    environment = {**os.environ, "AUTOGRADER_ROOT": str(tmp_path / "root")}
    environment.pop("PYTHONPATH", None)
    command = [str(Path(sys.executable).with_name("autograder")), *arguments.split()]

    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)

    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0, done.stdout + done.stderr


OWN = """
from autograder.box.local import LocalProcess

if __name__ == "__main__":
    LocalProcess(["class/ada"]).close()
"""


def test_nor_does_a_process_that_is_not_confined(here, tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    subprocess.run([sys.executable, str(tmp_path / "own.py")], cwd=here, check=True)

    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


@pytest.mark.parametrize("before", [None, "yes"])
def test_the_environment_is_as_before(monkeypatch, before):
    monkeypatch.setenv("PYTHONSAFEPATH", before or "")
    if before is None:
        monkeypatch.delenv("PYTHONSAFEPATH")

    with NothingFromHere():
        assert os.environ["PYTHONSAFEPATH"] == "1"

    assert os.environ.get("PYTHONSAFEPATH") == before
