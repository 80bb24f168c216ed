"""Free blocks of C's heap, used up before the processes of tests are forked.

Imports leave a thousand of them, scattered over all pages that the worker has written. `malloc` hands them out first, so each
process of a test would copy some 250 pages for the sake of a few hundred bytes on each. Once they are taken, what a test
allocates is side by side on new pages.
"""

import ctypes
import sys

_SMALLEST, _STEP = 24, 16  # bytes: glibc rounds what is asked for up to these on 64 bits
_LARGEST = 1 << 16  # larger ones may get a mapping of their own
_MOST = 20_000  # blocks of one size: far beyond what was ever seen


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(9)] + [("keepcost", ctypes.c_size_t)]


def fill() -> int:
    """Takes every free block that is not at the heap's end, for good; returns how many. 0 where the C library is not glibc 2.33."""
    libc = _glibc()
    if libc is None:
        return 0
    end = libc.sbrk(0) - libc.mallinfo2().keepcost
    return sum(_take(libc, size, end) for size in _sizes())


def _sizes():
    """From large to small, so that no block is cut while one of its own size is free."""
    large = [_LARGEST >> shift for shift in range(6)]
    return [*large, *range(large[-1] - _STEP + 8, _SMALLEST - 1, -_STEP)]


def _take(libc, size, end):
    for taken in range(_MOST):
        block = libc.malloc(size)
        if block is None or block >= end:  # nothing but new memory is left for this size
            libc.free(block)
            return taken
    return _MOST


def _glibc():
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallinfo2"):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_size_t, [ctypes.c_ssize_t]
    libc.mallinfo2.restype = _Mallinfo2
    return libc
