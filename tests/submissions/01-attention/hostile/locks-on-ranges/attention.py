import fcntl
import struct

import torch
from attack import *

F_OFD_SETLK = 37


def lock(path, mode, command=fcntl.F_SETLK, kind=fcntl.F_RDLCK, first=0):
    """A lock on one byte, asked for in a form that hides its command from who compares all of the argument."""
    with open(path, mode) as stream:
        wanted = struct.pack("hhqqi", kind, 0, first, 1, 0)
        answer = ctypes.create_string_buffer(wanted, 64)
        for high in (0, 1 << 32):
            syscall(72, 25, stream.fileno(), command | high, answer)
    return answer.raw[: len(wanted)]


open("mine", "w").close()
for command in (fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK, F_OFD_SETLK):
    reached(f"a lock on a library by {command}", lambda: lock(torch.__file__, "rb", command, first=4711))
    reached(f"a lock on a file of its own by {command}", lambda: lock("mine", "r+b", command))
with open("mine", "r+b") as mine:
    reached("a lease", lambda: fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_WRLCK))
    reached("a hint that stays", lambda: fcntl.fcntl(mine, 1036, struct.pack("Q", 5)))
