import mmap

from attack import *

MADV_DONTNEED = 4


def let_go():
    """Pages that no process has in its table, and that are there as long as one of them has the map."""
    held = mmap.mmap(-1, 60 << 20)
    held.write(bytes(60 << 20))
    held.madvise(MADV_DONTNEED)
    return held


held = []
reached("60 MB of shared memory that no counter shows", lambda: held.append(let_go()))
