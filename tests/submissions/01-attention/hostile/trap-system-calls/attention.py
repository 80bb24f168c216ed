import ctypes

from attack import *

program = (ctypes.c_uint64 * 1)(0x7FFF0000_00000006)  # return ALLOW
header = (ctypes.c_uint64 * 2)(1, ctypes.addressof(program))


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


reached("seccomp", lambda: syscall(317, 277, 1, 0, header))
reached("prctl(PR_SET_SECCOMP)", lambda: checked(libc.prctl(22, 2, header, 0, 0)))
reached("prctl(PR_SET_DUMPABLE)", lambda: checked(libc.prctl(4, 1, 0, 0, 0)))
reached("prctl(PR_SET_PTRACER)", lambda: checked(libc.prctl(0x59616D61, -1, 0, 0, 0)))
reached("arch_prctl, adjtimex", lambda: syscall(164, 170, 0, 0))
