"""What the code of one submission may do: the record that the grader makes, the slot completes and the zygote applies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Attributes:
    prerequisites: folders that it may read and import from.
    forbidden: dotted names whose use is noted. relatives: pairs of the last part of a related name and the forbidden one.
    inside: source of the helpers that most requests will bring: executed once, not in each test's process.
    gpu: whether it may open the GPU's devices.
    memory_mb, scratch_mb: of all its processes together; the watchdog reads them.
    cpu_s, processes, file_mb: limits of the kernel, for each process, for each slot (where there are neither control groups nor
        users of its own the watchdog counts), for each file.

    The slot fills in (slot.py):
    submission: the folder of its files, read-only. scratch: the only folder that it may write to.
    uid: the user that it becomes; 0 where slots have none of their own.
    """

    prerequisites: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    relatives: tuple[tuple[str, str], ...] = ()
    inside: str = ""
    gpu: bool = False
    memory_mb: int = 1500
    scratch_mb: int = 256
    cpu_s: int = 600
    processes: int = 64
    file_mb: int = 64
    submission: str = ""
    scratch: str = ""
    uid: int = 0


DEFAULT = Policy()
