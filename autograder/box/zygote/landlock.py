"""Landlock: which files a process may reach, decided by the process itself and inherited by all it starts.

Spoken by ctypes, as there is no kept library. Rights that the running kernel does not know are left out (`abi`).
Landlock does not cover stat, chmod and its kin (seccomp.py does), nor sockets in the file system.
Reference: the kernel's Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
_VERSION_FLAG, _RULE_PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # since ABI 2, 3 and 5
_ABI_1 = (1 << 13) - 1
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND, _CONNECT = 1, 2  # of TCP, since ABI 4
_SCOPES = 3  # abstract sockets and signals stay inside, since ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32)]


def abi() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def ruleset(read: Iterable[str], execute: Iterable[str], write: Iterable[str], bind: bool = False) -> int:
    """A descriptor of the rules: what is beneath `read` and `execute` may be read, beneath `write` all but devices made.
    With `bind` ports may be opened.

    Paths that do not exist are left out. Made by a process that can still reach the paths; `restrict` comes later.
    """
    version = abi()
    handled = (
        _ABI_1
        | (_REFER if version >= 2 else 0)
        | (_TRUNCATE if version >= 3 else 0)
        | (_IOCTL_DEV if version >= 5 else 0)
    )
    rules = _Ruleset(
        handled, (_CONNECT if bind else _BIND | _CONNECT) if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )
    size = 8 if version < 4 else 16 if version < 6 else 24
    descriptor = _call(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    look = _READ_FILE | _READ_DIR
    for paths, rights in (
        (read, look),
        (execute, look | _EXECUTE),
        (write, handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _EXECUTE)),
    ):
        for path in paths:
            _allow(descriptor, path, rights & handled)
    return descriptor


def _allow(ruleset_descriptor, path, rights):
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _FILE_RIGHTS
        _call(_ADD_RULE, ruleset_descriptor, _RULE_PATH_BENEATH, ctypes.byref(_PathBeneath(rights, beneath)), 0)
    finally:
        os.close(beneath)


def restrict(descriptor: int) -> None:
    """From here on this process and its children obey the rules; needs no privilege, cannot be undone."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_RESTRICT_SELF, descriptor, 0)
    os.close(descriptor)


def _call(number, *args):
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock system call {number}: {os.strerror(code)}")
    return result
