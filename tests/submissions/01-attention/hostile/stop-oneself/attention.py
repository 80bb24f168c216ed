import os
import signal

from attack import *


@at_call
def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
