import os
import time

from attack import *

for number in range(10):
    with open(f"file{number}", "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, 60 << 20)
time.sleep(0.5)
print("REACHED: 600 MB of files", flush=True)
