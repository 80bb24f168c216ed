import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import time

import torch
import torch.distributed as dist
from attack import *

TOPS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev", os.path.dirname(os.getcwd()), os.path.dirname(__file__), targets.box_folder, targets.results_folder)
LIBRARY = torch.__file__
heard = []
signal.signal(signal.SIGURG, lambda *_: heard.append(1))
signal.signal(signal.SIGCHLD, lambda *_: None)


def whisper(what, say, hear):
    """hear() on rank 1 gives something else after say() of rank 0 than before it."""

    def trying(what):
        try:
            return what()
        except Exception as error:
            return type(error).__name__

    before = trying(hear) if rank() == 1 else None
    dist.barrier()
    if rank() == 0:
        trying(say)
    dist.barrier()
    if rank() == 1:
        after = trying(hear)
        if before != after:
            print(f"REACHED: rank 1 hears rank 0 by {what}: {str(before)[:80]!r} -> {str(after)[:80]!r}", flush=True)
    dist.barrier()


def each_descriptor(function):
    found = []
    for number in range(64):
        try:
            found.append(function(number))
        except OSError as error:
            found.append(error.errno)
    return found


def lock_bits():
    with open(LIBRARY, "rb") as stream:
        asked = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
        return fcntl.fcntl(stream, fcntl.F_GETLK, asked)


kept = []


def keep_lock():
    kept.append(open(LIBRARY, "rb"))
    fcntl.fcntl(kept[0], fcntl.F_SETLK, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 4711, 1, 0))
    fcntl.flock(kept[0], fcntl.LOCK_SH)


def abstract():
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind("\0hostile-whisper")
    kept[-1].listen()


def shared_page():
    with open(LIBRARY, "rb") as stream:
        kept.append(mmap.mmap(stream.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
        kept[-1][0] = kept[-1][0] ^ 1


# Exact words: each gives what it hears, or raises where the kernel refuses.

BIG = max((os.path.join(top, name) for top, _, names in os.walk(os.path.dirname(LIBRARY)) for name in names if name.endswith(".so")), key=os.path.getsize)
PAGES = [(os.path.getsize(BIG) // 2 & -4096) + 8 * 4096 * n for n in range(64)]


def throw_pages_out():
    with open(BIG, "rb") as stream:
        os.posix_fadvise(stream.fileno(), PAGES[0], 8 * 4096 * 64, os.POSIX_FADV_DONTNEED)


def fetch_pages():
    with open(BIG, "rb") as stream:
        os.posix_fadvise(stream.fileno(), PAGES[0], 8 * 4096 * 64, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for place in PAGES[::3]:
            os.pread(stream.fileno(), 1, place)


def pages_without_waiting():
    found = []
    with open(BIG, "rb") as stream:
        for place in PAGES:
            try:
                found.append(os.preadv(stream.fileno(), [bytearray(1)], place, os.RWF_NOWAIT))
            except BlockingIOError:
                found.append(0)
    return found


def mapped(ask):
    with open(BIG, "rb") as stream, mmap.mmap(stream.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        return ask(stream.fileno(), address)


def pages_in_core(_, address):
    found = ctypes.create_string_buffer(8 * 64)
    syscall(27, 232, address + PAGES[0], 8 * 4096 * 64, found)
    return found.raw


def pages_in_the_cache(descriptor, _):
    found = ctypes.create_string_buffer(40)
    syscall(451, 451, descriptor, ctypes.create_string_buffer(struct.pack("QQ", PAGES[0], 8 * 4096 * 64), 16), found, 0)
    return found.raw[:8]


def page_out(_, address):
    syscall(28, 233, address + PAGES[0], 8 * 4096 * 64, 21)


def take_rings():
    kept.append(ctypes.c_ulong(0))
    syscall(206, 0, 4711, ctypes.byref(kept[-1]))


def room_for_rings():
    """How many there can be still: with those of others, at most as many as the whole machine has."""
    low, high = 0, 70_000
    while low < high:
        count, context = (low + high + 1) // 2, ctypes.c_ulong(0)
        try:
            syscall(206, 0, count, ctypes.byref(context))
            syscall(207, 1, context)
            low = count
        except OSError:
            high = count - 1
    return low


def compute():
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass


@at_call
def talk():
    pid = torch.tensor([os.getpid()])
    dist.broadcast(pid, src=0)
    pid = int(pid)
    for top in TOPS:
        whisper(f"a file in {top}", lambda: open(f"{top}/hostile-whisper", "w").write("1"), lambda: os.path.exists(f"{top}/hostile-whisper"))
        whisper(f"the times of {top}", lambda: os.utime(top, (1, 1)), lambda: os.stat(top).st_mtime)
    for path in (LIBRARY, os.path.dirname(LIBRARY), __file__, "/usr", "/etc/passwd"):
        whisper(f"the times of {path}", lambda: os.utime(path, (1, 1)), lambda: os.stat(path).st_mtime)
        whisper(f"the mode of {path}", lambda: os.chmod(path, 0o700), lambda: os.stat(path).st_mode)
        whisper(f"an attribute of {path}", lambda: os.setxattr(path, "user.hostile", b"1"), lambda: os.listxattr(path))
        whisper(f"a lease on {path}", lambda: fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK), lambda: fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_GETLEASE))
    whisper("locks", keep_lock, lock_bits)
    whisper("a lock that is taken", keep_lock, lambda: fcntl.flock(open(LIBRARY, "rb"), fcntl.LOCK_EX | fcntl.LOCK_NB))
    whisper("offsets of descriptors", lambda: each_descriptor(lambda number: os.lseek(number, 4711, os.SEEK_SET)), lambda: each_descriptor(lambda number: os.lseek(number, 0, os.SEEK_CUR)))
    whisper("flags of descriptors", lambda: each_descriptor(lambda number: number in (0, 1, 2) and fcntl.fcntl(number, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)), lambda: each_descriptor(lambda number: fcntl.fcntl(number, fcntl.F_GETFL)))
    whisper("a priority", lambda: os.nice(3), lambda: os.getpriority(os.PRIO_PROCESS, pid))
    whisper("a priority of a group", lambda: os.nice(1), lambda: os.getpriority(os.PRIO_PGRP, pid))
    whisper("processors", lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}), lambda: os.sched_getaffinity(pid))
    whisper("a scheduler", lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)), lambda: os.sched_getscheduler(pid))
    whisper("attributes of a scheduler", lambda: syscall(314, 274, 0, ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, 3, 0, 5, 0, 0, 0, 0), 48), 0), lambda: scheduler_of(pid))
    whisper("a priority of the disk", lambda: syscall(251, 30, 1, 0, 3 << 13), lambda: syscall(252, 31, 1, pid))
    whisper("limits", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)) or resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)), lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE))
    whisper("a group of processes", os.setsid, lambda: (os.getpgid(pid), os.getsid(pid)))
    whisper("a name", lambda: ctypes.CDLL(None).prctl(15, b"whisper", 0, 0, 0), lambda: read_text(f"/proc/{pid}/comm"))
    whisper("its environment", lambda: os.putenv("WHISPER", "1"), lambda: read_text(f"/proc/{pid}/environ"))
    whisper("a signal", lambda: [os.kill(other, signal.SIGURG) for other in range(pid - 40, pid + 40) if other != pid], lambda: len(heard))
    whisper("a socket", abstract, lambda: socket.socket(socket.AF_UNIX).connect("\0hostile-whisper"))
    whisper("shared memory", lambda: libc.shmget(4711, 4096, 0o1666), lambda: libc.shmget(4711, 4096, 0o666))
    whisper("a queue", lambda: libc.mq_open(b"/hostile", 66, 0o666, None), lambda: libc.mq_open(b"/hostile", 0))
    whisper("a key", lambda: syscall(248, 217, b"user", b"hostile", b"1", 1, -4), lambda: syscall(249, 218, b"user", b"hostile", 0, -4))
    whisper("a page of a library", shared_page, lambda: open(LIBRARY, "rb").read(1))
    whisper("a watch", lambda: os.listdir(os.path.dirname(LIBRARY)), lambda: libc.inotify_init1(0))
    for what, hear in (
        ("reading without waiting", pages_without_waiting),
        ("mincore", lambda: mapped(pages_in_core)),
        ("cachestat", lambda: mapped(pages_in_the_cache)),
    ):
        whisper(f"pages thrown out, heard by {what}", throw_pages_out, hear)
        whisper(f"pages fetched, heard by {what}", fetch_pages, hear)
        whisper(f"pages paged out, heard by {what}", lambda: mapped(page_out), hear)
    whisper("rings", take_rings, room_for_rings)
    for kind in (0, 1, 2):
        whisper(f"clock {kind} of a process", compute, lambda: time.clock_gettime((~pid << 3) | kind))
        whisper(f"clock {kind} of a thread", compute, lambda: time.clock_gettime((~pid << 3) | 4 | kind))
    if rank() == 1:
        print("whispered", flush=True)


def scheduler_of(pid):
    found = ctypes.create_string_buffer(48)
    syscall(315, 275, pid, found, 48, 0)
    return found.raw
