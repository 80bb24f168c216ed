import mmap
import os
import time

from attack import *

held = []
for number in range(10):
    file = os.open(f"file{number}", os.O_RDWR | os.O_CREAT)
    os.unlink(f"file{number}")
    os.posix_fallocate(file, 0, 60 << 20)
    held.append(mmap.mmap(file, mmap.PAGESIZE))
    os.close(file)
time.sleep(1)
print("REACHED: 600 MB of mapped files", flush=True)
