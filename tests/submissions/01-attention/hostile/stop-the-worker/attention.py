import os
import signal

from attack import *

worker = os.getpid()


@at_call
def stop():
    os.kill(worker, signal.SIGSTOP)
