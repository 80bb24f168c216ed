import atexit
import os
import sys
import threading

from attack import *


def at_the_end(*_):
    reached("writing at exit", lambda: open(targets.results, "w").write("100"))


atexit.register(at_the_end)
threading._register_atexit(at_the_end)
sys.excepthook = sys.unraisablehook = at_the_end
os._exit = lambda code: at_the_end()
