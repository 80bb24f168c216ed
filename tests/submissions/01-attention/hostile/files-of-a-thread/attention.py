import ctypes
import os
import threading
import time

from attack import *

libc = ctypes.CDLL(None, use_errno=True)
CLOSE_RANGE, UNSHARE = 436, 272
CLOSE_RANGE_UNSHARE, CLONE_FILES = 2, 0x400
WAYS = ((CLOSE_RANGE, 200, 210, CLOSE_RANGE_UNSHARE), (CLOSE_RANGE, 200, 210, 6), (UNSHARE, CLONE_FILES))


def fill():
    if all(libc.syscall(*way) for way in WAYS):
        return
    held = []
    for number in range(14):
        held.append(os.open(f"file{number}", os.O_RDWR | os.O_CREAT, 0o600))
        os.unlink(f"file{number}")
        os.posix_fallocate(held[-1], 0, 60 << 20)
    time.sleep(1.5)
    print("REACHED: 840 MB of deleted files", flush=True)


thread = threading.Thread(target=fill)
thread.start()
thread.join()
