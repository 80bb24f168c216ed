import ctypes
import os

from attack import *


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    reached(f"unshare {flag:#x}", lambda: checked(libc.unshare(flag)))
    reached(f"clone {flag:#x}", lambda: syscall(56, 220, flag | 17, 0, 0, 0, 0) or os._exit(0))
reached("unshare the time", lambda: checked(libc.unshare(0x80)))
reached("clone3", lambda: syscall(435, 435, (ctypes.c_uint64 * 8)(0x10000000), 64) or os._exit(0))
reached("setns", lambda: checked(libc.setns(0, 0)))
reached("chroot", lambda: os.chroot("."))
reached("mount", lambda: checked(libc.mount(b"tmpfs", b".", b"tmpfs", 0, None)))
reached("pivot_root", lambda: syscall(155, 41, b".", b"."))
for number, name in ((428, "open_tree"), (429, "move_mount"), (430, "fsopen"), (432, "fsmount"), (442, "mount_setattr"), (467, "open_tree_attr")):
    reached(name, lambda: syscall(number, number, -100, b".", 1, 0, 0))
