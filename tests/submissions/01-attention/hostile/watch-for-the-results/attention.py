import ctypes
import os

from attack import *


def watched(descriptor):
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return libc.inotify_add_watch(descriptor, os.fsencode(targets.results_folder), 0xFFF)


reached("inotify_init1", lambda: watched(libc.inotify_init1(0)))
reached("inotify_init", lambda: watched(libc.inotify_init()))
reached("fanotify_init", lambda: watched(libc.fanotify_init(0, 0)))
