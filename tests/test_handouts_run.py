"""Every python block of a handout runs against the solutions: what students are told to try works."""

import os
import re
import subprocess
import sys

import pytest
from conftest import all_lessons

LESSONS = all_lessons()
pytestmark = pytest.mark.slow


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_the_blocks_of_a_handout_run_in_order(lesson, tmp_path):
    blocks = blocks_of(lesson.handout.read_text("utf-8"))
    script = tmp_path / "blocks.py"
    script.write_text("import torch\ntorch.set_num_threads(1)\n" + "\n".join(blocks), "utf-8")
    folders = [lesson.solution, *(used.solution for used in lesson.prerequisites())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
    }
    environment["MPLCONFIGDIR"] = str(tmp_path / "matplotlib")

    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )

    assert blocks, "a handout has activities"
    assert run.returncode == 0, run.stderr[-3000:]
