import os
import time

from attack import *

held = []
for number in range(10):
    held.append(open(f"file{number}", "wb"))
    os.unlink(f"file{number}")
    os.posix_fallocate(held[-1].fileno(), 0, 60 << 20)
time.sleep(0.5)
print("REACHED: 600 MB of deleted files", flush=True)
