import mmap

from attack import *

held = []


def hold(done):
    held.append(mmap.mmap(-1, 60 << 20))
    for _ in range(60):
        held[-1].write(b"x" * (1 << 20))


swarm(8, hold)
print("REACHED: 480 MB of shared memory", flush=True)
