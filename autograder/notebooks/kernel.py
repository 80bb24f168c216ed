"""The program that a notebook's kernel is: `python -P -m autograder.notebooks.kernel CONNECTION_FILE …`. It confines itself.

    kernel      copies the student's files into a folder of its own, becomes a user of its own, gives up what confine.py and
                Landlock take, listens on its five ports, then gives up sockets and all else that seccomp takes, in all threads;
                only then does it run a student's line
    keeper      forked before that, not confined, in a session of its own: watches memory, files and time, ends all that the
                kernel started when the kernel ends, and removes the folder

The parent, nbgrader, knows the kernel's process only. It may interrupt and kill it; the rest is the keeper's.
"""

import os
import select
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..box import cpu, users
from ..box.policy import Policy
from ..box.zygote import confine, disk, libraries, memory, processes, seccomp
from ..files import remove_tree

MEMORY_MB, SCRATCH_MB = 2500, 256
CPU_S, WALL_S = 600.0, 4800.0  # of processor time, and on the clock, for all that a notebook starts
_LOOK_S = 0.25
_MOST_COPIED = 128 << 20
_BACKEND = "module://matplotlib_inline.backend_inline"  # plots become outputs of their cells
_LISTENS = ("accept", "accept4", "sendmsg")  # on ports that were there before; no other socket can be made


def cannot_confine() -> str:
    """Why no student's notebook may run on this machine; "" where it may."""
    if confine.holds(confine.available(set())) and seccomp.build() is not None:
        return ""
    return (
        "nothing here keeps a notebook from the grader's files (it takes Linux, with seccomp, as root or with Landlock)"
    )


def main(arguments: list[str]) -> None:
    connection, *options = arguments
    layers = confine.available(set())
    if cannot_confine():
        sys.exit(cannot_confine())
    uid, lock = users.take() if "uid" in layers else (0, None)
    home = Path(tempfile.mkdtemp(prefix="autograder-kernel-"))
    policy = Policy(
        memory_mb=MEMORY_MB, scratch_mb=SCRATCH_MB, scratch=str(home / "own"), submission=str(home / "own"), uid=uid
    )
    try:
        _lay_out(home, Path.cwd(), Path(connection), uid)
        _keep(os.getpid(), policy, home, layers, {lock.fileno()} if lock is not None else set())
    except BaseException:
        remove_tree(home)
        raise
    if lock is not None:
        lock.close()
    app = _listening(policy, layers, options)
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__.partition(".")[0]]:
        del sys.modules[name]  # a notebook that asks for all modules gets none of ours
    os.chdir(home / "own" / "work")
    app.start()


# ---------------------------------------------------------------------------------------------- the student's files


def _lay_out(home: Path, lab: Path, connection: Path, uid: int) -> None:
    """home/own: all that the kernel may reach, with work/, a copy of the lab without notebooks: graders' notes are in them.

    Beside work/ are the student's own modules of other lessons, which a later lesson may import.
    """
    own = home / "own"
    room = _copy(lab, own / "work", _MOST_COPIED)
    for other in sorted(lab.parent.iterdir()):
        if other != lab and other.is_dir() and not other.is_symlink():
            room = _copy(other, own / other.name, room, only=".py")
    shutil.copyfile(connection, own / "connection.json")
    home.chmod(0o711)
    if uid:
        for place, folders, files in os.walk(own):
            for name in (".", *folders, *files):
                os.lchown(os.path.join(place, name), uid, uid)


def _copy(source: Path, target: Path, room: int, only: str = "") -> int:
    """Copies regular files, of at most `room` bytes together; returns what is left of it."""
    target.mkdir(parents=True)
    for place, folders, files in os.walk(source):
        inner = target / Path(place).relative_to(source)
        inner.mkdir(exist_ok=True)
        folders[:] = [] if only else folders
        for name in files:
            path = Path(place, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and path.suffix != ".ipynb" and name.endswith(only):
                room -= status.st_size
                if room >= 0:
                    shutil.copyfile(path, inner / name)
    return room


# ---------------------------------------------------------------------------------------------- the kernel


def _listening(policy: Policy, layers: list[str], options: list[str]) -> Any:
    """A kernel that listens and has run nothing yet, confined."""
    os.environ["MPLBACKEND"] = _BACKEND  # before matplotlib asks for it
    import matplotlib.pyplot  # noqa: F401 - it looks for styles in the grader's home, and that is out of reach, too
    from ipykernel.kernelapp import IPKernelApp
    from matplotlib_inline import backend_inline  # before its place may be out of reach
    from zmq.utils import garbage

    execution = os.environ.get("NBGRADER_EXECUTION", "")
    folders = libraries.folders()
    unreachable = libraries.open_unreachable(sys.path) if "uid" in layers else {}
    libraries.read_through(unreachable)
    _tell_where_modules_are(unreachable)
    confine.close_all_but({0, 1, 2, *unreachable.values()})
    confine.clean_environment(policy.scratch)
    os.environ.update(
        NBGRADER_EXECUTION=execution,
        IPYTHONDIR=f"{policy.scratch}/ipython",
        MPLBACKEND=_BACKEND,
    )
    rules = seccomp.build(allowed=_LISTENS, all_threads=True)
    confine.confine(policy, [layer for layer in layers if layer != "seccomp"], None, folders, listens=True)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    app = IPKernelApp.instance(connection_file=f"{policy.scratch}/connection.json")
    app.initialize(options)
    backend_inline.configure_inline_support(app.shell, _BACKEND)  # by itself it does so where it finds a shell already
    garbage.gc.start()  # pyzmq's thread for large messages; the first of them would start it
    rules.load()
    sys.path.insert(0, "")  # the lab's folder: from here on the student's files may be imported
    return app


def _tell_where_modules_are(unreachable: dict[str, int]) -> None:
    """A notebook may read the source of a module that was imported before, as lesson 02 reads that of argparse."""
    for module in list(sys.modules.values()):
        known = getattr(module, "__dict__", {})  # asking a module itself may import something
        if isinstance(known.get("__file__"), str):
            known["__file__"] = libraries.led_through(known["__file__"], unreachable)


# ---------------------------------------------------------------------------------------------- the keeper


def _keep(kernel: int, policy: Policy, home: Path, layers: list[str], held: set[int]) -> None:
    """Starts the keeper, which goes on to hold what reserves the kernel's user; returns in the kernel."""
    ended = os.pidfd_open(kernel)
    if os.fork():
        os.close(ended)
        return
    try:
        os.setsid()
        confine.close_all_but({ended, *held})
        for _ in range(3):
            os.open(os.devnull, os.O_RDWR)  # nobody waits for the end of its output
        os.chdir("/")
        _watch(kernel, ended, policy, home)
    finally:  # whatever broke the watch: nothing of the kernel's goes on without one
        try:
            _end(kernel, policy, layers)
        finally:
            try:
                remove_tree(home)
            finally:
                os._exit(0)


def _watch(kernel: int, ended: int, policy: Policy, home: Path) -> None:
    """Returns when the kernel has ended, or has taken more than it may."""
    until, meter = time.monotonic() + WALL_S, cpu.Meter()
    while not select.select([ended], [], [], _LOOK_S)[0]:
        pids = _of_the_kernel(kernel, policy)
        meter.read(pids)
        if meter.seconds > CPU_S or time.monotonic() > until:
            return
        limit, files = policy.memory_mb << 20, disk.bytes_below(str(home))
        if memory.used(pids, 0, policy.uid, limit)[0] > limit or files > (policy.scratch_mb << 20) + _MOST_COPIED:
            return


def _of_the_kernel(kernel: int, policy: Policy) -> list[int]:
    """Seccomp lets none leave the kernel's group, and jupyter_client starts it as the leader of one."""
    table = processes.table(ended=True)
    return [pid for pid, entry in table.items() if (entry.uid == policy.uid if policy.uid else entry.group == kernel)]


def _end(kernel: int, policy: Policy, layers: list[str]) -> None:
    """Ends the kernel and all that it started and left; who ended and waits to be collected is nbgrader's."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        processes.kill_group(kernel)
        if policy.uid:
            processes.kill_user(policy.uid)
        alive = processes.table()
        if not [pid for pid in _of_the_kernel(kernel, policy) if pid in alive]:
            break
        time.sleep(0.01)
    if policy.uid and "landlock" not in layers:
        processes.sweep(policy.uid)


if __name__ == "__main__":
    main(sys.argv[1:])
