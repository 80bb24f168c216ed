from attack import *

parameters = bytes(120)
reached("io_uring_setup", lambda: syscall(425, 425, 8, parameters))
reached("io_uring_enter", lambda: syscall(426, 426, 0, 1, 0, 0, 0, 0))
reached("io_uring_register", lambda: syscall(427, 427, 0, 0, 0, 0))
reached("a seccomp filter", lambda: syscall(317, 277, 1, 0, bytes(16)))
reached("a seccomp listener", lambda: syscall(317, 277, 1, 8, bytes(16)))
