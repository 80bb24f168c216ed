"""What a grading takes in memory, summed over its whole process tree, through the zip: the smallest container must do.

Where a control group of the kernel's may be made (version 1, hierarchy `memory`), the kernel counts: each page of the grading's
own, at each moment. Elsewhere pages are looked at, twenty times a second.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

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
                with open(f"/proc/{name}/stat", "rb") as stat:  # a name may be any bytes
                    parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
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


def resident_mb(pids: set[int]) -> float:
    """The sum with shared pages counted for each process: no measure of what is taken, but it costs nothing and shows a change."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as statm:
                pages += int(statm.read().split()[1])
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Looked:
    """The highest proportional_mb, looked at where something changed: walking all pages at each look costs as much as a grading."""

    start: tuple[str, ...] = ()

    def __init__(self):
        self._mb, self._resident, self._at = 0.0, 0.0, 0.0

    def look(self, root: int) -> None:
        pids = tree_of(root)
        resident = resident_mb(pids)
        if abs(resident - self._resident) > 0.03 * self._resident or time.monotonic() - self._at > 0.5:
            self._mb = max(self._mb, proportional_mb(pids))
            self._resident, self._at = resident, time.monotonic()

    def mb(self) -> float:
        return self._mb


class Counted:
    """What a group of the kernel's counted, and the files that the grading has mapped: libraries that somebody has read before are
    counted for somebody else. All its processes map the same ones, so the process with the most stands for them."""

    def __init__(self, folder: str):
        self.start = ("bash", "-c", f'echo $BASHPID > {folder}/cgroup.procs && exec "$0" "$@"')
        self._folder, self._mapped_kb = Path(folder), 0

    def look(self, root: int) -> None:
        for pid in tree_of(root):
            with suppress(OSError):
                found = re.search(
                    r"^RssFile:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE
                )
                self._mapped_kb = max(self._mapped_kb, int(found[1]) if found else 0)

    def mb(self) -> float:
        return int((self._folder / "memory.max_usage_in_bytes").read_text()) / 2**20 + self._mapped_kb / 1024


@pytest.fixture
def peak():
    try:
        group = re.search(r"^\d+:memory:(.+)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        own = f"/sys/fs/cgroup/memory{group[1] if group else ''}"
        folder = tempfile.mkdtemp(prefix="test-of-memory-", dir=own)
    except OSError:
        yield Looked()
        return
    yield Counted(folder)
    os.rmdir(folder)


@pytest.mark.parametrize("lesson", all_lessons(), ids=lambda lesson: lesson.name)
def test_a_grading_through_the_zip_stays_below_the_lessons_memory(lesson, peak, tmp_path):
    if not os.access("/proc/self/smaps_rollup", os.R_OK) or os.geteuid():
        pytest.skip("only root on Linux can read what other users' processes take")
    lay_out(build_zip(lesson, tmp_path), lesson.solution_files(), tmp_path / "home")
    command = [sys.executable, "-P", str(tmp_path / "home" / "source" / "run_otter.py")]
    process = subprocess.Popen(
        [*peak.start, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    while process.poll() is None:
        peak.look(process.pid)
        time.sleep(0.05)

    assert process.returncode == 0
    assert (tmp_path / "home" / "results" / "results.json").exists()
    assert 200 < peak.mb() < lesson.memory_mb
