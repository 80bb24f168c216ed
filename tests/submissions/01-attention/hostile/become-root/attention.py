import ctypes
import os
import shutil
import subprocess

from attack import *

for call in ("setuid", "setgid", "seteuid", "setegid"):
    reached(call, lambda: getattr(os, call)(0))
reached("setresuid", lambda: os.setresuid(0, 0, 0))
reached("setgroups", lambda: os.setgroups([0]))
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
reached("capset", lambda: syscall(126, 91, header, sets))
reached("ambient capability", lambda: syscall(157, 167, 47, 2, 21, 0, 0))
for program in ("su -c id", "sudo -n id", "mount -t tmpfs x .", "unshare -r id", "newgrp root", "chsh -s /bin/sh", "passwd -S"):
    if shutil.which(program.split()[0]):
        reached(program, lambda: subprocess.check_output(program.split(), stdin=subprocess.DEVNULL, timeout=1))
