"""What a test's own code may take of the grader: what a student returned must not grow without end in it.

An alarm does not ring in C code, so memory has a bound of its own; it ends what a loop in C makes of a reply, too. What one
reply may hold is bounded before that (box/caps.py).
"""

import sys
from contextlib import contextmanager

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TEST_MEMORY_MB = 1024  # that a test may take above what the grader has when it starts


@contextmanager
def bounded_memory(megabytes: int = TEST_MEMORY_MB, gpu: bool = False):
    """An allocation above the bound raises MemoryError, or RuntimeError in torch. On Linux only.

    Args:
        gpu: whether the test may use one: there is no bound then, because CUDA maps more than any.
    """
    if gpu or resource is None or not sys.platform.startswith("linux"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _data_now() + (megabytes << 20)
    unbounded = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (bound if soft == unbounded else min(soft, bound), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_now():
    """Bytes of private memory that can be written, as the kernel counts them for the limit."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
