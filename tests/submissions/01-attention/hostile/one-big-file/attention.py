import os

from attack import *


@at_call
def write():
    with open("big", "wb") as stream:
        reached("a gigabyte in one file", lambda: os.posix_fallocate(stream.fileno(), 0, 1 << 30))
        reached("a gigabyte, sparse", lambda: stream.truncate(1 << 30))
