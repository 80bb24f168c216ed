"""What a test's own code may take of the grader: a reply that would grow without end in it ends the test, and nothing else."""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from autograder.bounds import bounded_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bound is the kernel's")

GREEDY = {
    "a broadcast comparison of a column and a row": lambda n: torch.zeros(n * 1000, 1) == torch.zeros(1, n * 1000),
    "zeros of a size that came back": lambda n: torch.zeros(n << 26),
    "a text, repeated": lambda n: "x" * (n << 28),
    "a list of a range": lambda n: list(range(n << 24)),
    "a matrix of floats that were bits": lambda n: torch.zeros(n << 24, dtype=torch.bool).double(),
    "rows of a long tensor, one tensor each": lambda n: list(torch.zeros(n << 15, 0)),
}


def ended_by(what):
    """What ended it, and after how many seconds of processor time."""
    started = time.process_time()
    try:
        with bounded_memory(64):
            GREEDY[what](32)
    except (MemoryError, RuntimeError) as error:
        return type(error).__name__, time.process_time() - started
    return "nothing", time.process_time() - started


@pytest.fixture(scope="module")
def fresh():
    """A process that has freed nothing yet: what one has, it may use again, whatever the bound."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize("what", GREEDY)
def test_what_grows_too_large_is_ended_soon(fresh, what):
    error, seconds = fresh.submit(ended_by, what).result()

    assert error in ("MemoryError", "RuntimeError")
    assert seconds < 5


def test_afterwards_memory_is_as_before():
    with bounded_memory(64):
        assert torch.zeros(1 << 20).sum() == 0

    assert torch.zeros(40 << 20).sum() == 0


def test_bounds_can_be_nested():
    with bounded_memory(64), bounded_memory(10_000), pytest.raises((MemoryError, RuntimeError)):
        torch.zeros(1 << 28)
