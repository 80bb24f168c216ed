"""What the kernel would carry from one slot to another by calls that nothing honest needs: more rules for the seccomp filter.

Each is exact and leaves no trace in a rank's traffic. What needs no call of its own stays: the time that something takes, and
numbers that are the machine's (docs/security.md).
"""

import errno
from collections.abc import Callable

# Their number has a limit of the whole machine: who takes some says so, and takes them away from others, too.
_RINGS = "io_setup io_submit io_getevents io_pgetevents io_destroy io_cancel"
# Which pages of a file are in memory is one for all. So nobody throws pages out or fetches them, and nobody asks: to advise does
# nothing, to look fails as on a kernel that has no such call.
_ADVICE = "fadvise64 fadvise64_64 arm_fadvise64_64 readahead"
_LOOKING = ("mincore", 451)  # 451 is cachestat
_WITHOUT_WAITING, _WITHOUT_KEEPING = 0x8, 0x80  # RWF_NOWAIT, RWF_DONTCACHE
_MADV_PAGEOUT = 21
# A negative clock is that of any process or thread, by its number: how long it has computed. One's own have names of their own.
_CLOCKS = "clock_gettime clock_getres clock_nanosleep clock_adjtime timer_create"
_NEGATIVE = 0x80000000  # of an argument that the kernel takes as an int
_INT = 0xFFFFFFFF


def add(pyseccomp, add_rule: Callable) -> None:
    """Adds the rules; add_rule is (action, name or number of a call, arguments)."""
    refused, ignored = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(0)
    for name in _RINGS.split():
        add_rule(refused, name)
    for name in _ADVICE.split():
        add_rule(ignored, name)
    for call in _LOOKING:
        add_rule(pyseccomp.ERRNO(errno.ENOSYS), call)
    for flag in (_WITHOUT_WAITING, _WITHOUT_KEEPING):
        for name in ("preadv2", "pwritev2"):
            add_rule(pyseccomp.ERRNO(errno.EOPNOTSUPP), name, pyseccomp.Arg(5, pyseccomp.MASKED_EQ, flag, flag))
    add_rule(ignored, "madvise", pyseccomp.Arg(2, pyseccomp.MASKED_EQ, _INT, _MADV_PAGEOUT))
    for name in _CLOCKS.split():
        negative = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _NEGATIVE, _NEGATIVE)
        add_rule(pyseccomp.ERRNO(errno.EINVAL), name, negative)
