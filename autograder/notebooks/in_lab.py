"""What a lab calls, in the student's own kernel: a file of the lab's folder (grading/lab.py), which imports nothing of ours.

Nothing here decides a grade. When work is graded no test runs in the notebook: the points come from hidden tests, which run
in another process on the submitted modules.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def uses(*lessons: str) -> None:
    """Your modules of other lessons can be imported: from their folders beside this one."""
    for lesson in lessons:
        folder = HERE.parent / lesson
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.append(str(folder))


def public_tests(module: str) -> None:
    """Runs the public tests on your file, as `pytest` does in this folder."""
    if _is_graded():
        print("Public tests are for you: they do not run when your work is graded.")
        return
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", f"tests/test_{module}_public.py"],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(run.stdout)
    if run.returncode:
        raise AssertionError(f"some public tests of {module}.py do not pass yet: see above")


def hidden_tests(module: str, question: str, points: float) -> None:
    """Says what hidden tests are worth. They run when your work is graded, and then their results stand here."""
    if _is_graded():
        raise RuntimeError("not graded: nbgrader ran without the course's own steps (docs/notebooks.md)")
    worth = f"{points:g} point{'s' if points != 1 else ''}"
    print(f"{module}.py, {question}: {worth}, from hidden tests that run when your work is graded.")


def run_file(name: str) -> None:
    """Runs a file of this folder as a program, as an activity with several processes needs it."""
    if _is_graded():
        print(f"{name} does not run when your work is graded.")
        return
    run = subprocess.run(
        [sys.executable, name], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(run.stdout)
    if run.returncode:
        raise RuntimeError(f"{name} ended with an error: see above")


def _is_graded():
    return os.environ.get("NBGRADER_EXECUTION") == "autograde"
