"""What the box does with free memory before it forks (autograder/box/zygote/heap.py), in processes of its own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc has such a heap")

# Every second of 2,000 blocks is freed, and nothing beside it: what is free lies scattered.
SCATTERED = """
import ctypes
from autograder.box.zygote import heap
libc = heap._glibc()
assert libc, "no glibc"
malloc, free = libc.malloc, libc.free
blocks = [malloc(600) for _ in range(2000)]
for block in blocks[::2]:
    free(block)
"""


def printed(code):
    command = [sys.executable, "-c", SCATTERED + code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_what_lies_scattered_is_taken_and_new_blocks_lie_at_the_end():
    code = "taken = heap.fill(); print(taken, sum(malloc(600) < blocks[-1] for _ in range(500)))"
    taken, before = map(int, printed(code).split())
    assert taken >= 1000
    assert before < 20  # what the interpreter itself freed meanwhile


def test_without_it_they_would_be_used_first():
    assert int(printed("print(sum(malloc(600) < blocks[-1] for _ in range(500)))")) > 400


def test_a_second_time_there_is_next_to_nothing():
    assert int(printed("heap.fill(); print(heap.fill())")) < 200
