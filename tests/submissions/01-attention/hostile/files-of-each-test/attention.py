import os

from attack import *


@at_call
def write():
    for number in range(4):
        with open(f"{os.getpid()}-{number}", "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, 50 << 20)
    if sum(entry.stat().st_size for entry in os.scandir(".")) > 500 << 20:
        print("REACHED: 500 MB over several tests", flush=True)
    os.kill(os.getppid(), 9)
