import ctypes

from attack import *


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


buffer = ctypes.create_string_buffer(64)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64)
for pid in (targets.grader_pid, targets.zygote_pid, targets.neighbour_pid):
    reached(f"ptrace attach {pid}", lambda: checked(libc.ptrace(16, pid, None, None)))
    reached(f"ptrace seize {pid}", lambda: checked(libc.ptrace(0x4206, pid, None, None)))
    reached(f"process_vm_readv {pid}", lambda: checked(libc.process_vm_readv(pid, vector, 1, vector, 1, 0)))
    reached(f"process_vm_writev {pid}", lambda: checked(libc.process_vm_writev(pid, vector, 1, vector, 1, 0)))
    reached(f"pidfd_open {pid}", lambda: syscall(434, 434, pid, 0))
    reached(f"kcmp {pid}", lambda: syscall(312, 272, pid, pid, 0, 0, 1))
    reached(f"process_madvise {pid}", lambda: syscall(440, 440, pid, 0, 0, 0, 0))
reached("pidfd_getfd", lambda: syscall(438, 438, 0, 0, 0))
