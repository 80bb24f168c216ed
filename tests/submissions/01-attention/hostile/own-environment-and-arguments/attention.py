import ctypes
import itertools
import os
import sys

from attack import *

environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
of_libc = map(os.fsdecode, itertools.takewhile(bool, (environ[i] for i in itertools.count())))
for text in (*os.environ.values(), *sys.argv, *sys.orig_argv, *of_libc):
    print("seen:", text)
    if targets.secret_begins in text or targets.hidden_test in text:
        print("REACHED: the grader's", text)
reached("/proc/self/environ", lambda: read_text("/proc/self/environ"))
reached("/proc/self/cmdline", lambda: read_text("/proc/self/cmdline"))
