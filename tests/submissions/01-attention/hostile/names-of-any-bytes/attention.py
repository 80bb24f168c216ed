import ctypes
import os
import time

from attack import *

PR_SET_NAME = 15
NAMES = (b"\xff\xfe\xff", b"\rThreads: x", b"\x1cVmHWM: x y", b"\x85RssAnon:\t\xe2", b"a) Z (b", b"\nPPid:\t1\nUid:")

for name in NAMES:
    if not os.fork():
        ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)
        time.sleep(3)
        os._exit(0)
ctypes.CDLL(None).prctl(PR_SET_NAME, NAMES[0], 0, 0, 0)
time.sleep(1)


@at_call
def look():
    ctypes.CDLL(None).prctl(PR_SET_NAME, NAMES[1], 0, 0, 0)
    time.sleep(0.3)
