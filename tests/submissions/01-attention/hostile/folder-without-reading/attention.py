import os
import time

from attack import *

os.umask(0)
os.mkdir("shut", 0o300)
for number in range(10):
    with open(f"shut/file{number}", "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, 60 << 20)
time.sleep(1)
print("REACHED: 600 MB in a folder that cannot be listed", flush=True)
