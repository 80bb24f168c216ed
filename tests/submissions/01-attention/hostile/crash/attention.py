import ctypes
import faulthandler
import os
import sys
import threading

from attack import *

faulthandler.enable(all_threads=True)
sys.setrecursionlimit(10**9)
threading.stack_size(256 << 20)


def deeper():
    deeper()


crashes = [lambda: ctypes.string_at(0), os.abort, deeper, lambda: os.kill(os.getpid(), 4)]


@at_call
def crash():
    crashes[os.getpid() % 4]()
