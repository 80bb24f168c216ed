"""Every python block of a handout runs against the solutions: what students are told to try works.

A block that starts ranks is a file, which each of them imports: it is saved and run as one, as students are told to.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, all_lessons
from test_handout_claims import CLAIMS

from autograder.release.handout import handout_files

LESSONS = all_lessons()
OTHERS = [lesson for lesson in LESSONS if lesson.name not in {*CLAIMS, "02-transformer", "03-generation"}]
pytestmark = pytest.mark.slow

_RUNNER = """
import json, sys, traceback
import torch

torch.set_num_threads(1)
handout, alone, blocks = json.load(sys.stdin)
namespace, problems = {"__name__": "__main__"}, []
for line, code in blocks:
    try:
        exec(compile("\\n" * (line - 1) + code, handout, "exec"), {"__name__": "__main__"} if alone else namespace)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == handout]
        where = lines[-1] if lines else getattr(error, "lineno", line)
        problems.append(f"{handout}, line {where}: {type(error).__name__}: {error}")
        if not alone:
            break
print("\\n" + json.dumps(problems))
"""


def blocks_of(text: str) -> list[tuple[int, str]]:
    """(number of its first line, code) of each python block."""
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def starts_ranks(code: str) -> bool:
    return "from grading.gloo import" in code


def environment_of(lesson, folder) -> dict[str, str]:
    """What a block needs: the solutions in place of a student's modules."""
    folders = [lesson.solution, *(used.solution for used in lesson.prerequisites())]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }


def problems_of(lesson, folder, alone=False) -> list[str]:
    """What goes wrong in the blocks, run one after the other or each alone: "assignments/NN/handout.md, line 57: …"."""
    blocks = [block for block in blocks_of(lesson.handout.read_text("utf-8")) if not starts_ranks(block[1])]
    handout = lesson.handout.relative_to(ROOT).as_posix()
    assert blocks, f"{handout} has no python block: a handout has activities"

    run = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input=json.dumps([handout, alone, blocks]),
        cwd=folder,
        env=environment_of(lesson, folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if run.returncode:
        return [f"{handout}: a block ended the process: {run.stderr[-3000:]}"]
    return json.loads(run.stdout.splitlines()[-1])


def files_of(lesson) -> list:
    """(lesson, number of its first line, code) of each block that starts ranks, as a case with a name."""
    blocks = blocks_of(lesson.handout.read_text("utf-8"))
    return [pytest.param(lesson, *block, id=f"{lesson.name}-{block[0]}") for block in blocks if starts_ranks(block[1])]


@pytest.mark.parametrize(("lesson", "line", "code"), [case for lesson in LESSONS for case in files_of(lesson)])
def test_a_block_that_starts_ranks_runs_as_a_file_of_the_handout(lesson, line, code, tmp_path):
    for name, content in handout_files(lesson).items():
        if name.startswith("grading/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    (tmp_path / "activity.py").write_text("\n" * (line - 1) + code, "utf-8")

    run = subprocess.run(
        [sys.executable, "activity.py"],
        cwd=tmp_path,
        env=environment_of(lesson, tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )

    if run.returncode:
        pytest.fail(f"{lesson.name}, the block of line {line}: {run.stderr[-3000:]}", pytrace=False)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_the_blocks_of_a_handout_run_in_order(lesson, tmp_path):
    problems = problems_of(lesson, tmp_path)

    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.mark.parametrize("lesson", OTHERS, ids=lambda lesson: lesson.name)
def test_each_block_of_a_handout_runs_alone(lesson, tmp_path):
    """Where a test of what the blocks claim does not run each alone already."""
    problems = problems_of(lesson, tmp_path, alone=True)

    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
