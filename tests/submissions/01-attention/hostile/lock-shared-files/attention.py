import fcntl
import os

import torch
from attack import *

held = [open(path) for path in (torch.__file__, os.__file__, "/etc/passwd") if os.access(path, os.R_OK)]
for stream in held:
    for lock in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB):
        try:
            fcntl.flock(stream, lock)
        except OSError as error:
            print("refused:", error)
    reached(f"a lease on {stream.name}", lambda: fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_WRLCK))
