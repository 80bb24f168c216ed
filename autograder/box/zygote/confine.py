"""Turns a forked process into one that can do nothing but compute: the layers, in the one order that works.

    cgroup           processes and threads of each slot: the worker has entered its group before (becoming.py)
    rlimits          memory, processes, files and CPU of each process
    uid              an own user per slot, where the grader is root: its files, signals and /proc are out of reach
    no_new_privs     no setuid program gives anything back; the process dies with its parent
    landlock         only the submission, its scratch and the libraries can be opened
    seccomp          no network, no namespaces, no other process, nothing that outlives the slot

Each layer is left out where it is not available, and `available` says so before a grade depends on it. The zygote adds
the watchdog and the kill of a whole slot; two processes and the wire are always there.
"""

import ctypes
import glob
import os
import resource
import sys
import tempfile
from collections.abc import Iterable

from ..policy import Policy
from . import landlock, seccomp

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SIGKILL = 9
_READABLE = """/etc/ld.so.cache /etc/localtime /etc/passwd /etc/group /etc/nsswitch.conf /dev/urandom /proc/cpuinfo
    /proc/meminfo /proc/stat /proc/sys/kernel /proc/sys/vm /proc/filesystems /sys/devices/system/cpu""".split()
_GPU_READABLE = ["/proc/driver/nvidia", "/proc/devices", "/sys/bus/pci", "/sys/devices", "/sys/module/nvidia"]
_RUNNABLE = ["/usr", "/lib", "/lib64", "/bin"]


def available(without: set[str]) -> list[str]:
    """The layers that this machine has, less those that a test leaves out."""
    found = ["processes", "rlimits", "watchdog"]
    if LINUX:
        found.append("no_new_privs")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        found.append("uid")
    if landlock.abi():
        found.append("landlock")
    if LINUX and seccomp.build() is not None:
        found.append("seccomp")
    return [layer for layer in found if layer not in without]


def holds(layers: Iterable[str]) -> bool:
    """Whether these layers keep student code from the grader's files: all else is practice."""
    return "uid" in layers or {"landlock", "seccomp"} <= set(layers)


def harden_zygote() -> None:
    """Orphans of the slots become the zygote's children, and no worker can look into its memory."""
    if LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_DUMPABLE, 0)


def close_all_but(kept: set[int]) -> None:
    """Closes every descriptor but these."""
    for name in os.listdir("/proc/self/fd" if LINUX else "/dev/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the descriptor that listed them
                continue


def clean_environment(scratch: str) -> None:
    """The environment, working folder and arguments of a worker, whose only place is `scratch`."""
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=scratch, TMPDIR=scratch, LANG="C.UTF-8", PYTHONDONTWRITEBYTECODE="1",
        OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TORCHINDUCTOR_CACHE_DIR=f"{scratch}/inductor",
        TRITON_CACHE_DIR=f"{scratch}/triton", MPLCONFIGDIR=f"{scratch}/matplotlib", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    tempfile.tempdir = None  # forget where the zygote's own would be
    os.chdir(scratch)
    os.umask(0o077)
    sys.argv = ["student"]


def confine(policy: Policy, layers: list[str], rules, libraries: list[str], listens: bool = False) -> None:
    """Called in the forked process before it reads a byte of the student's.

    Args:
        policy: of the slot that it is for.
        layers: which to apply. rules: the seccomp filter. libraries: folders of the interpreter and its packages.
        listens: whether it may open ports, until its seccomp filter is loaded.
    """
    if "rlimits" in layers:
        _limit(policy, counted={"cgroup", "landlock"} <= set(layers))
    files = None
    if "landlock" in layers:  # the paths are opened while they can still be reached
        files = landlock.ruleset(
            read=[
                policy.submission,
                *policy.prerequisites,
                *_READABLE,
                *(_GPU_READABLE if policy.gpu else []),
            ],
            execute=_RUNNABLE + libraries,
            write=[policy.scratch, "/dev/null", *(_gpu_devices() if policy.gpu else [])],
            bind=listens,
        )
    if "uid" in layers:
        _become(policy.uid)
    if "no_new_privs" in layers:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # after the change of uid, which clears it
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 1)  # the watchdog may see what it holds open; whom else seccomp and Landlock keep out
    if files is not None:
        landlock.restrict(files)
    if "seccomp" in layers:
        rules.load()


def _gpu_devices():
    return sorted(glob.glob("/dev/nvidia*")) + sorted(glob.glob("/dev/dri/*"))


def _become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit(policy: Policy, counted: bool) -> None:
    """`counted`: its control group counts its processes, and it cannot get at that group's files, which may be its own user's."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: policy.cpu_s,
        resource.RLIMIT_FSIZE: policy.file_mb << 20,
        resource.RLIMIT_NOFILE: 256,
    }
    if LINUX and not policy.gpu:  # CUDA reserves more addresses than any limit of ours; the watchdog remains
        limits[resource.RLIMIT_AS] = _mapped_now() + (policy.memory_mb << 20) + _ARENAS
    if LINUX:
        limits |= {
            resource.RLIMIT_SIGPENDING: 4096,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_MEMLOCK: 65536,
        }
    if LINUX and policy.uid:
        limits[resource.RLIMIT_NPROC] = policy.processes
    elif LINUX and not counted:
        limits[resource.RLIMIT_NPROC] = _tasks_of(os.getuid()) + 2 * policy.processes
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


_ARENAS = 512 << 20  # malloc and threads map more than they use


def _tasks_of(uid):
    """Threads that the user runs already: where the worker shares the grader's uid, the limit counts them too.

    Asked where no control group counts it alone. The limit is twice as high, and the watchdog counts each slot: one that
    starts too many is killed at the next look, and a neighbour that could start no process in between tries again
    (fork_patiently). More room would let more of them be started, which take longer to end than the neighbour can wait.
    """
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # it ended meanwhile
            continue
    return count


def _mapped_now():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _prctl(option, value):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
