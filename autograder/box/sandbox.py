"""The grader's side of the border: starts the zygote and gives submissions their slots.

    Sandbox      one zygote, for as long as the grader lives
    Session      one submission (session.py): its slots, a second one only where a test asks for ranks
    Slot         its copy of the files, its scratch, its worker (slot.py); started anew after a hang
    BoxedWorker  the process that has imported the submission (boxed.py): forked by the zygote, confined, forked for each test
    Channel      one test (slot.py): a fresh fork of the worker, asked until the test is over
    Team         the same for a test that asks for ranks (ranks/team.py), and the broker between them (ranks/broker.py)

The grader never runs or imports student code: it sends requests and decodes plain data. Every wait has an absolute
limit of time (clock.py). Whatever a slot did, closing it kills all of its processes and removes its files.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import BoxError
from ..files import cannot_be_written, remove_tree
from . import users, wire
from .boxed import BoxedWorker
from .policy import DEFAULT, Policy
from .slot import Slot
from .zygote import cgroup, confine, delegated, processes

try:
    import resource
except ImportError:  # Windows
    pass

_START_S = 120.0  # a zygote imports torch, on a slow disk
_GROUPS_S = 2.0  # who was killed is still in its control group for a moment
_ZYGOTE = "import sys; sys.path.insert(0, sys.argv[1]); from autograder.box.zygote import loop; sys.path.pop(0); "
_ZYGOTE += "loop.main(int(sys.argv[2]), sys.argv[3], sys.argv[4].split(','), sys.argv[5], sys.argv[6:])"


class Sandbox:
    """A warm zygote.

    Args:
        packages: what it imports besides torch and numpy, before any submission is there.
        require: layers without which nothing may be graded.
        without: layers left out, to test the fallbacks.
        groups: the folder in which slots get control groups. Where none is named it is looked for, but only where slots share a
            user or they are required: where each has its own the kernel counts by user, and to enter a group takes 15 ms.

    Raises:
        BoxError: a required layer is missing, or the zygote did not start.
    """

    def __init__(
        self,
        packages: Sequence[str] = (),
        require: Iterable[str] = (),
        without: Iterable[str] = (),
        groups: str | None = None,
    ):
        self.layers = tuple(confine.available(set(without)))
        wanted = "uid" not in self.layers or groups is not None or "cgroup" in require
        self._groups = delegated.place(groups) if wanted and "cgroup" not in without else ""
        self.layers += ("cgroup",) if self._groups else ()
        if not confine.holds(self.layers):
            self.layers += ("unconfined",)
        missing = [layer for layer in require if layer not in self.layers]
        if missing:
            raise BoxError(
                f"this machine has no {', '.join(missing)}, only {', '.join(self.layers)} (see docs/security.md)"
            )
        self._uid_locks: dict[int, socket.socket] = {}
        self._workers: dict[int, int] = {}  # process -> user, of those that nobody has killed yet
        self._control, theirs = socket.socketpair()
        self._process = self._start(theirs, packages)
        try:
            started = self._receive(_START_S)
            if "fault" in started:
                raise BoxError(started["fault"])
        except BaseException:  # Ctrl-C too
            self._end()
            raise
        self.folder = Path(started["folder"])  # the zygote's, which removes it should this process be killed

    def _start(self, theirs, packages):
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        package_parent = str(Path(__file__).resolve().parents[2])
        command = [
            sys.executable,
            "-I",
            "-B",
            "-c",
            _ZYGOTE,
            package_parent,
            str(theirs.fileno()),
            tempfile.gettempdir(),
            ",".join(self.layers),
            self._groups,
        ]
        with theirs:
            return subprocess.Popen(
                [*command, *packages], pass_fds=[theirs.fileno()], env=environment, cwd="/", stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: the zygote ends when we do
            )  # fmt: skip

    def _receive(self, timeout=30.0):
        try:
            return wire.receive(self._control, time.monotonic() + timeout)
        except (EOFError, wire.DeadlinePassed, wire.ProtocolError, OSError) as error:
            raise BoxError(
                f"the box's zygote does not answer ({type(error).__name__}): see its output above"
            ) from error

    def ask(self, command: bytes, value, descriptors=()):
        """One request to the zygote; it is trusted, so its silence is our own fault."""
        with _whole():
            try:
                wire.send_command(self._control, command, value, descriptors)
            except OSError as error:
                raise BoxError(f"the box's zygote is gone: {error}") from error
            reply = self._receive()
        if command == b"K":
            self._workers.pop(value, None)
        return reply

    def slot(
        self,
        files: dict[str, bytes],
        policy: Policy = DEFAULT,
    ) -> Slot:
        """A slot for a submission: files is relative path -> content."""
        return Slot(self, files, policy)

    def worker(self, policy: Policy, output: bytearray, most_output: int) -> BoxedWorker:
        """A slot's worker, confined as the policy says."""
        worker = BoxedWorker(self, policy, output, most_output)
        self._workers[worker.pid] = policy.uid or os.getuid()
        return worker

    def share(self, name: str, files: dict[str, bytes]) -> Path:
        """A folder with these files that every slot may read: reference modules of lessons that are used."""
        folder = self.folder / "shared" / name
        try:
            folder.mkdir(parents=True)
            for file, content in files.items():
                (folder / file).write_bytes(content)
                (folder / file).chmod(0o644)
            for path in (folder, folder.parent):
                path.chmod(0o755)
        except OSError as error:
            raise BoxError(cannot_be_written(folder, error)) from error
        return folder

    def take_uid(self) -> int:
        """A user id that nobody else on this machine has; 0 where slots have none of their own."""
        if "uid" not in self.layers:
            return 0
        uid, self._uid_locks[uid] = users.take()
        return uid

    def free_uid(self, uid: int) -> None:
        if uid in self._uid_locks:
            self._uid_locks.pop(uid).close()

    def close(self) -> None:
        self._end()
        remove_tree(self.folder)  # the zygote has, unless it was killed

    def _end(self):
        self._control.close()  # the zygote kills what is left, removes the folder, then ends
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:  # it died, and killed nobody
            self._kill_workers()
            cgroup.sweep(self._groups, _GROUPS_S)
        for uid in list(self._uid_locks):
            self.free_uid(uid)

    def _kill_workers(self):
        """With all that they started, which is in their groups and is of their users."""
        table = processes.table()
        for leader in {entry.group for entry in table.values() if self._workers.get(entry.group) == entry.uid}:
            processes.kill_group(leader)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@contextmanager
def _whole():
    """The alarm of a test waits, and so does its bound of memory (bounds.py).

    A reply of the zygote that nobody took would be taken for that to the next request.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
