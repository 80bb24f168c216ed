"""What a grading takes in memory, summed over its whole process tree, through the zip: the smallest container must do."""

import os
import subprocess
import sys
import time

import pytest
from conftest import all_lessons

from autograder.release.otter_zip import build_zip
from autograder.release.rehearse import lay_out

pytestmark = pytest.mark.slow


def tree_of(root: int) -> set[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    parents[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, grown = {root}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return found


def proportional_mb(pids: set[int]) -> float:
    """The sum of what the processes take, shared pages counted once (PSS)."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


@pytest.mark.parametrize("lesson", all_lessons(), ids=lambda lesson: lesson.name)
def test_a_grading_through_the_zip_stays_below_the_lessons_memory(lesson, tmp_path):
    if not os.access("/proc/self/smaps_rollup", os.R_OK) or os.geteuid():
        pytest.skip("only root on Linux can read what other users' processes take")
    lay_out(build_zip(lesson, tmp_path), lesson.solution_files(), tmp_path / "home")
    command = [sys.executable, "-P", str(tmp_path / "home" / "source" / "run_otter.py")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    peak = 0.0
    while process.poll() is None:
        peak = max(peak, proportional_mb(tree_of(process.pid)))
        time.sleep(0.05)

    assert process.returncode == 0
    assert (tmp_path / "home" / "results" / "results.json").exists()
    assert 200 < peak < lesson.memory_mb
