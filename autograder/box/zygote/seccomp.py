"""seccomp: which system calls a process may make. A deny-list on top of an own uid and Landlock.

A deny-list, because an allow-list breaks with each release of torch or glibc. Each group says what it takes away.
Built once with libseccomp (pyseccomp) in the zygote; loading it takes effect for a process and all it starts.
"""

import errno
import functools

from . import whispers

_DENIED = {
    "other processes": """ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd pidfd_open
        pidfd_send_signal kcmp move_pages migrate_pages process_mrelease get_robust_list""",
    "the kernel": """bpf perf_event_open userfaultfd init_module finit_module delete_module kexec_load kexec_file_load reboot
        swapon swapoff personality acct quotactl syslog iopl ioperm modify_ldt lookup_dcookie settimeofday clock_settime
        sethostname setdomainname vhangup""",
    "mounts and namespaces": """mount umount2 move_mount open_tree fsopen fsmount fsconfig fspick mount_setattr pivot_root
        chroot unshare setns name_to_handle_at open_by_handle_at fanotify_init fanotify_mark""",
    "identity": "setuid setgid setresuid setresgid setreuid setregid setgroups setfsuid setfsgid keyctl add_key request_key",
    "rings that pass the filter by": "io_uring_setup io_uring_enter io_uring_register",
    "what outlives a process": "shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink",
    "memory that no limit counts": "memfd_create memfd_secret",
    "the slot's group of processes, by which it is killed": "setsid setpgid",
    "sockets with a name": "bind connect listen accept accept4",
    "watching files of others": "inotify_init inotify_init1",
    "files that only a message on its way holds": "sendmsg sendmmsg",
    "pages that only a pipe or a socket holds, and with one the large page that it is of": "vmsplice splice tee sendfile",
}
# Landlock does not cover these. They say yes and do nothing, so that compilers and shutil do not fail. Of them flock: what one
# slot locks another could find locked, and so be told something; within a slot compilers write beside and rename anyway.
_IGNORED = """chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr
    lremovexattr fremovexattr utime utimes futimesat utimensat flock"""
# setxattrat, removexattrat, open_tree_attr, file_setattr: too new for libseccomp's names, of one number everywhere.
_DENIED_NUMBERS = (463, 466, 467, 469)
# Their first argument is a process: 0 means oneself. A worker that shares the grader's uid could limit the grader.
_LIMITS = "prlimit64"
# For oneself these say yes and do nothing: everybody may read them of every process, so one rank could tell another something.
_SCHEDULING = "sched_setaffinity sched_setscheduler sched_setparam sched_setattr"
_PRIORITIES = {
    "setpriority": 0,
    "ioprio_set": 1,
}  # PRIO_PROCESS, IOPRIO_WHO_PROCESS: the same call sets it for a whole user
_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW*
# Of fcntl: locks on ranges (their owners and offsets are data for whoever may read the file, and each takes memory that no
# limit counts); signals that a descriptor sends to a process of the sender's choice; what stays with a file for others to see.
_FCNTL = {
    "locks": (5, 6, 7, 36, 37, 38, 1029),
    "signals": (8, 10, 15),
    "leases, notices, hints": (1024, 1026, *range(1035, 1039)),
    "the size of a pipe": (1031,),
}
# A thread's own table of descriptors, of which /proc/PID shows nothing: CLONE_THREAD without CLONE_FILES, and this.
_CLONE_THREAD, _CLONE_FILES, _CLOSE_RANGE_UNSHARE = 0x00010000, 0x00000400, 2
_IOCTL_OWNER = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: the same as fcntl's signals
_SHARED_WITHOUT_A_FILE = 0x21  # MAP_SHARED | MAP_ANONYMOUS: who unmaps a page of it keeps it, and no counter shows it
_SOL_SOCKET = 1
_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and both as root: what waits there no counter of a process shows
_INT = 0xFFFFFFFF  # the kernel looks at the lower half of an argument that it takes as an int
_SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET = 2, 3, 5
_PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_SET_PTRACER = 22, 4, 0x59616D61


def build(allowed=(), all_threads=False):
    """The filter, or None where libseccomp is not available. `.load()` it in the process to confine.

    Args:
        allowed: calls that stay, of those that are denied by name. all_threads: it is loaded where other threads run already.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return None
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refused, ignored = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(0)
    if all_threads:
        rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)

    for names in _DENIED.values():
        for name in set(names.split()) - set(allowed):
            _add(rules, refused, name)
    for number in _DENIED_NUMBERS:
        _add(rules, refused, number)
    for name in _IGNORED.split():
        _add(rules, ignored, name)
    _add(rules, refused, _LIMITS, pyseccomp.Arg(0, pyseccomp.NE, 0))
    for name in _SCHEDULING.split():
        if all_threads:  # libzmq ends the process where a thread cannot set its own, which it calls by its number
            _add(rules, ignored, name)
            continue
        _add(rules, refused, name, pyseccomp.Arg(0, pyseccomp.NE, 0))
        _add(rules, ignored, name, pyseccomp.Arg(0, pyseccomp.EQ, 0))
    for name, one_process in _PRIORITIES.items():
        _add(rules, refused, name, pyseccomp.Arg(0, pyseccomp.NE, one_process))
        _add(rules, refused, name, pyseccomp.Arg(1, pyseccomp.NE, 0))
        oneself = pyseccomp.Arg(0, pyseccomp.EQ, one_process), pyseccomp.Arg(1, pyseccomp.EQ, 0)
        _add(rules, ignored, name, *oneself)

    for flag in _NAMESPACE_FLAGS:
        _add(rules, refused, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    own_table = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD | _CLONE_FILES, _CLONE_THREAD)
    _add(rules, refused, "clone", own_table)
    unshare = pyseccomp.Arg(2, pyseccomp.MASKED_EQ, _CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_UNSHARE)
    _add(rules, refused, "close_range", unshare)
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # glibc falls back to clone, whose flags a filter can see
    _add(rules, refused, "seccomp")  # a second filter could answer with a signal, and so forge clocks
    for option in (_PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_SET_PTRACER):
        _add(rules, refused, "prctl", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _INT, option))
    for call, commands in [*(("fcntl", commands) for commands in _FCNTL.values()), ("ioctl", _IOCTL_OWNER)]:
        for command in commands:
            _add(rules, refused, call, pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _INT, command))
    for buffer in _BUFFERS:  # says yes and does nothing: how large one is, is for the system to choose anyway
        level, option = (
            pyseccomp.Arg(place, pyseccomp.MASKED_EQ, _INT, value) for place, value in ((1, _SOL_SOCKET), (2, buffer))
        )
        _add(rules, ignored, "setsockopt", level, option)
    shared = pyseccomp.Arg(3, pyseccomp.MASKED_EQ, _SHARED_WITHOUT_A_FILE, _SHARED_WITHOUT_A_FILE)
    _add(rules, refused, "mmap", shared)

    whispers.add(pyseccomp, functools.partial(_add, rules))

    # No network of any family, and no Unix socket (a container's engine may listen on one); socketpair stays.
    _add(rules, refused, "socket")
    for kind in (_SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET):  # these can send to a name without a connection
        _add(rules, refused, "socketpair", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xF, kind))
    return rules


def _add(rules, action, name, *args):
    """Adds a rule, for a call by name or number; one that this architecture or libseccomp does not know needs none."""
    try:
        rules.add_rule(action, name, *args)
    except (ValueError, OSError, RuntimeError):
        pass
