import os
import stat

from attack import *

for descriptor in range(256):
    try:
        kind = os.fstat(descriptor).st_mode
    except OSError:
        continue
    print("open:", descriptor, os.readlink(f"/proc/self/fd/{descriptor}"), stat.filemode(kind))
    if stat.S_ISREG(kind):
        reached(f"descriptor {descriptor}", lambda: os.pread(descriptor, 99, 0))
    if stat.S_ISDIR(kind):
        reached(f"folder {descriptor}", lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
