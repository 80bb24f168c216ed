"""`make bench` runs: its figures of single processes, with few repetitions. Its figures of lessons take minutes."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench

    yield bench
    sys.modules.pop("bench")


def test_figures_of_single_processes_are_printed(bench, capsys):
    bench.process_figures(count=2)
    bench.box_figures(pairs=2)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(re.search(r" -?\d+\.\d (CPU-)?ms( more)?$", line) for line in lines), lines
