"""A small lesson with all that a lab is built from, its course folder, and nbgrader's own commands on it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
from conftest import write_lesson

from autograder.author.starter import write_starter
from autograder.lesson import load

LESSON = "99-toy"
HANDOUT = """
    # 99 Toy

    ## What you write

    | file | you write |
    |---|---|
    | `toy.py` | `causal_mask` |

    ```
    pytest
    ```

    ## Activities

    ### 1. Look at it

    ```python
    from toy import causal_mask

    print(causal_mask(3).int())
    ```

    ## Check your understanding

    1. Why is the diagonal
       true?
    2. What does the last row hold?

    ## Submit

    <!-- points -->
"""
PUBLIC = '''
    import torch


    def test_the_mask_of_two(student, check):
        """The mask of two positions."""
        check(student.call("toy.causal_mask", 2), torch.tensor([[True, False], [True, True]]))
'''
WRITTEN = """
[[written]]
id = "diagonal"
points = 2
question = 1
rubric = "SECRET-RUBRIC: a position may use itself."

[[written]]
id = "cost"
points = 3
question = "What does attention cost for T positions?"
rubric = "SECRET-RUBRIC: T squared."
"""
SOLUTION = """
import torch


def causal_mask(length):
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    return torch.ones(length, length, dtype=torch.bool).tril()
"""
WRONG = SOLUTION.replace(".tril()", ".triu()")


def write_toy_course(root: Path) -> None:
    """The lesson 99-toy below `root`, with its starter and all else that students get."""
    write_lesson(root, settings=WRITTEN)
    files = {
        f"assignments/{LESSON}/handout.md": HANDOUT,
        f"tests/lessons/{LESSON}/test_toy_public.py": PUBLIC,
    }
    for name, text in files.items():
        (root / name).write_text(textwrap.dedent(text).lstrip("\n"))
    write_starter(load(LESSON, root))


def command(folder: Path, program: str, *arguments: str, check: bool = True, **environment: str) -> str:
    """What an installed program prints, run in `folder` as an instructor would."""
    beside = Path(sys.executable).parent
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVERAGE"))}
    known |= {"AUTOGRADER_ROOT": str(folder)} if (folder / "assignments").is_dir() else {}
    run = subprocess.run(
        [str(beside / program), *arguments],
        cwd=folder,
        env=known | {"JUPYTER_PLATFORM_DIRS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert not check or run.returncode == 0, (
        f"{program} {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout}"
    )
    return run.stdout


def build(root: Path) -> Path:
    """The course folder, with what students are given in release/."""
    course = root / "course"
    command(root, "autograder", "course", "--out", str(course))
    command(course, "nbgrader", "generate_assignment", LESSON)
    return course


def submit(
    course: Path, student: str, module: str | None = None, answers: dict | None = None, code: dict | None = None
):
    """What a student hands in: the release, with their module, answers by id, and cells put in after the setup's."""
    folder = course / "submitted" / student / LESSON
    for path in (course / "release" / LESSON).rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(course / "release" / LESSON)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    if module is not None:
        (folder / "toy.py").write_text(module)
    lab = lab_of(folder)
    for cell in lab.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        cell.source = (answers or {}).get(name.removeprefix("written-"), cell.source)
    lab.cells[2:2] = [nbformat.v4.new_code_cell(source) for source in code or ()]
    nbformat.write(lab, folder / f"{LESSON}.ipynb")
    return folder


def lab_of(folder: Path):
    return nbformat.read(folder / f"{LESSON}.ipynb", as_version=4)
