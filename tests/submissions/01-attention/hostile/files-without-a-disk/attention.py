import mmap
import multiprocessing.shared_memory
import os

from attack import *

reached("memfd_create", lambda: os.memfd_create("x"))
reached("memfd_create, by number", lambda: syscall(319, 279, b"x", 0))
reached("memfd_secret", lambda: syscall(447, 447, 0))
reached("/dev/shm", lambda: open("/dev/shm/hostile", "w"))
reached("shm_open", lambda: multiprocessing.shared_memory.SharedMemory("hostile", create=True, size=1 << 20))
reached("a large shared map", lambda: mmap.mmap(-1, 12 << 30))
reached("a small shared map", lambda: mmap.mmap(-1, 4096))
reached("a file that is memory", lambda: mmap.mmap(os.open("/dev/zero", os.O_RDONLY), 1 << 20, prot=mmap.PROT_READ))
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
reached("locked memory", lambda: (page := mmap.mmap(-1, 64 << 20, flags=private)) and libc.mlockall(3) == 0 or 1 / 0)
