"""Fewer, larger pages for the process that is forked for each test.

A fork copies the page table of its parent and its end frees it again: with 4 KB pages that is most of what a small test
costs, with 2 MB pages a third of it.
"""

import ctypes
import sys

_HUGE = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1


def collapse() -> int:
    """Puts what this process has written so far into huge pages; returns how many bytes the kernel says yes to.

    Nothing depends on it: an older kernel, or one without huge pages, says no to each.
    """
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    agreed = 0
    for start, end in _own_memory():
        start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
        if start < end and madvise(start, end - start, _MADV_COLLAPSE) == 0:
            agreed += end - start
    return agreed


def _own_memory() -> list[tuple[int, int]]:
    """First and last address of the writable areas that no file backs."""
    with open("/proc/self/maps") as maps:
        areas = [line.split() for line in maps]
    own = [area[0].split("-") for area in areas if "w" in area[1] and (len(area) < 6 or area[5] == "[heap]")]
    return [(int(first, 16), int(last, 16)) for first, last in own]
