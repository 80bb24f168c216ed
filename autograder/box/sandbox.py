"""The grader's side of the border: starts the zygote, and gives each submission a slot that can do nothing else.

    Sandbox   one zygote, for as long as the grader lives
    Slot      one submission: its copy of the files, its scratch, its worker; started anew after a hang
    Channel   one test: a fresh fork of the worker, asked until the test is over

The grader never runs or imports student code: it sends requests and decodes plain data (wire.py). Every wait has an
absolute deadline. Whatever a slot did, closing it kills all of its processes and removes its files.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import BadReply, BoxError, StudentDied, StudentFault, StudentTimeout
from . import confine, wire

_START_S = 120.0  # a zygote imports torch, on a slow disk
_ZYGOTE = "import sys; sys.path.insert(0, sys.argv[1]); from autograder.box import zygote; sys.path.pop(0); "
_ZYGOTE += "zygote.main(int(sys.argv[2]), sys.argv[3].split(','), sys.argv[4:])"
OUTPUT_CAP = 65536  # bytes kept of what a submission prints
LIMITS = {"memory_mb": 1500, "cpu_s": 600, "processes": 64, "file_mb": 64, "scratch_mb": 256}


class Sandbox:
    """A warm zygote.

    Args:
        packages: what it imports besides torch and numpy, before any submission is there.
        require: layers without which nothing may be graded.
        without: layers left out, to test the fallbacks.

    Raises:
        BoxError: a required layer is missing, or the zygote did not start.
    """

    def __init__(self, packages: Sequence[str] = (), require: Iterable[str] = (), without: Iterable[str] = ()):
        self.layers = tuple(confine.available(set(without)))
        missing = [layer for layer in require if layer not in self.layers]
        if missing:
            raise BoxError(
                f"this machine has no {', '.join(missing)}: only {', '.join(self.layers)} (see docs/security.md)"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="autograder-"))
        self.folder.chmod(0o711)  # slots reach their own folders, and list none
        self._uid_locks: dict[int, socket.socket] = {}
        self._control, theirs = socket.socketpair()
        self._process = self._start(theirs, packages)
        self.versions = self._receive(_START_S)

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
            ",".join(self.layers),
        ]
        with theirs:
            return subprocess.Popen(
                [*command, *packages], pass_fds=[theirs.fileno()], env=environment, cwd="/", stdin=subprocess.DEVNULL
            )

    def _receive(self, timeout=30.0):
        try:
            return wire.receive(self._control, time.monotonic() + timeout)
        except (EOFError, wire.DeadlinePassed, wire.ProtocolError, OSError) as error:
            raise BoxError(
                f"the box's zygote does not answer ({type(error).__name__}): see its output above"
            ) from error

    def ask(self, command: bytes, value, descriptors=()):
        """One request to the zygote; it is trusted, so its silence is our own fault."""
        try:
            wire.send_command(self._control, command, value, descriptors)
        except OSError as error:
            raise BoxError(f"the box's zygote is gone: {error}") from error
        return self._receive()

    def slot(self, files: dict[str, bytes], *, prerequisites: Sequence[Path] = (), **limits) -> "Slot":
        """A slot for a submission's files (relative path -> content). `limits` override LIMITS."""
        return Slot(self, files, [str(path) for path in prerequisites], {**LIMITS, **limits})

    def share(self, name: str, files: dict[str, bytes]) -> Path:
        """A folder with these files that every slot may read: reference modules of lessons that are used."""
        folder = self.folder / "shared" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
            (folder / file).chmod(0o644)
        for path in (folder, folder.parent):
            path.chmod(0o755)
        return folder

    def take_uid(self) -> int:
        """A user id that no other slot on this machine has; 0 where slots have none of their own."""
        if "uid" not in self.layers:
            return 0
        start = secrets.randbelow(confine.SLOTS)
        for step in range(confine.SLOTS):
            uid = confine.FIRST_UID + (start + step) % confine.SLOTS
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0llm-autograder-slot-{uid}")  # an abstract name is free again when its holder ends
            except OSError:
                lock.close()
                continue
            self._uid_locks[uid] = lock
            return uid
        raise BoxError(f"all {confine.SLOTS} slots are taken: are other graders running?")

    def free_uid(self, uid: int) -> None:
        if uid in self._uid_locks:
            self._uid_locks.pop(uid).close()

    def close(self) -> None:
        self._control.close()  # the zygote kills what is left, then ends
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for uid in list(self._uid_locks):
            self.free_uid(uid)
        remove_tree(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Slot:
    """One submission in the box. Made by Sandbox.slot; close it."""

    def __init__(self, sandbox: Sandbox, files: dict[str, bytes], prerequisites: list[str], limits: dict):
        self._sandbox, self._limits, self._prerequisites = sandbox, limits, prerequisites
        self._uid = sandbox.take_uid()
        self._folder = Path(tempfile.mkdtemp(prefix="slot-", dir=sandbox.folder))
        self._submission = self._folder / "submission"
        self._worker: int | None = None
        self._control: socket.socket | None = None
        self._imported: set[str] = set()
        self._broken: dict[str, StudentFault] = {}
        self._reason = ""
        self._output = bytearray()
        self.cpu_s, self.peak_mb = 0.0, 0
        self._write(files)

    def _write(self, files):
        self._submission.mkdir()
        for name, content in files.items():
            path = self._submission / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._folder.chmod(0o750)
        if self._uid:
            os.chown(self._folder, 0, self._uid)  # readable to the slot's group, that is to it alone
            for path in [self._submission, *self._submission.rglob("*")]:
                os.chown(path, 0, self._uid)
                path.chmod(0o750 if path.is_dir() else 0o640)

    @property
    def output(self) -> str:
        """What the submission printed so far, capped; never parsed."""
        return self._output.decode("utf-8", "replace")

    def channel(self, module: str | None, seed: int, timeout: float) -> "Channel":
        """A fresh fork of the worker for one test of `module`, which is imported first.

        Raises:
            StudentFault: the module cannot be imported, now or when it was tried before.
        """
        if module in self._broken:
            raise self._broken[module]
        if self._worker is None:
            self._start()
        if module is not None and module not in self._imported:
            self._import(module, timeout)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                wire.send_command(self._control, b"F", seed, [theirs.fileno()])
            except OSError:
                ours.close()
                raise self._died("while it was asked for a test") from None
        return Channel(self, ours)

    def _start(self):
        scratch = tempfile.mkdtemp(prefix="scratch-", dir=self._folder)
        if self._uid:
            os.chown(scratch, self._uid, self._uid)
        self._control, theirs = socket.socketpair()
        read, write = os.pipe()
        policy = {
            "submission": str(self._submission), "scratch": scratch, "uid": self._uid,
            "prerequisites": self._prerequisites, "readable": self._prerequisites, **self._limits,
        }  # fmt: skip
        with theirs:
            self._worker = self._sandbox.ask(b"S", policy, [theirs.fileno(), write])["pid"]
        os.close(write)
        threading.Thread(target=self._drain, args=(read,), daemon=True).start()

    def _drain(self, pipe):
        with open(pipe, "rb", buffering=0) as stream:
            while chunk := stream.read(65536):
                self._output += chunk[: max(0, OUTPUT_CAP - len(self._output))]

    def _import(self, module, timeout):
        try:
            wire.send_command(self._control, b"I", module)
            reply = self.receive(self._control, timeout, f"importing {module}.py")
            error = reply.get("error") if isinstance(reply, dict) else None
            if error is not None:
                raise import_failure(module, error)
        except OSError:
            self._broken[module] = self._died(f"while {module}.py was imported")
            raise self._broken[module] from None
        except StudentFault as fault:
            self._broken[module] = fault
            raise
        self._imported.add(module)

    def receive(self, connection: socket.socket, timeout: float, doing: str):
        """The reply on `connection`; after anything else than a reply the slot starts afresh for the next test."""
        try:
            return wire.receive(connection, time.monotonic() + timeout)
        except wire.DeadlinePassed:
            self.stop()
            raise StudentTimeout(f"{doing} took more than {timeout:g} s") from None
        except wire.ProtocolError as error:
            self.stop()
            raise BadReply(f"{doing} sent something that is no reply: {error}") from None
        except (EOFError, OSError):
            raise self._died(f"while {doing}") from None

    def _died(self, when):
        self.stop()
        reason = f"it used {self._reason}" if self._reason else "a crash, os._exit, or a limit on memory"
        return StudentDied(f"the process ended {when}: {reason}")

    def stop(self) -> None:
        """Kills the worker and all that it started; the next channel starts a new one."""
        if self._worker is None:
            return
        usage = self._sandbox.ask(b"K", self._worker)
        self._worker, self._imported = None, set()
        self._control.close()
        self._reason = usage["reason"]
        self.cpu_s += usage["cpu_s"]
        self.peak_mb = max(self.peak_mb, usage["peak_mb"])

    def close(self) -> None:
        self.stop()
        remove_tree(self._folder)
        self._sandbox.free_uid(self._uid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Channel:
    """The process of one test."""

    def __init__(self, slot: Slot, connection: socket.socket):
        self._slot, self._connection = slot, connection

    def ask(self, request: dict, timeout: float):
        """Sends a request and returns the reply before `timeout` seconds have passed.

        Raises:
            StudentTimeout, StudentDied, BadReply
        """
        doing = f"calling {request['call']}" if "call" in request else "running the code"
        try:
            wire.send(self._connection, request, time.monotonic() + timeout)
        except wire.DeadlinePassed:
            self._slot.stop()
            raise StudentTimeout(f"{doing} took more than {timeout:g} s") from None
        except OSError:
            pass  # the process is gone; what receive says about it is the better message
        return self._slot.receive(self._connection, timeout, doing)

    def close(self) -> None:
        self._connection.close()


def import_failure(module: str, error: dict) -> StudentFault:
    """Why a module cannot be imported, in the student's terms."""
    types, text, where = error.get("types") or [""], str(error.get("text", ""))[:300], error.get("where")
    clean = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    place = f" ({where})" if isinstance(where, str) and where else ""
    return StudentFault(
        f"{module}.py cannot be imported: {str(types[0])[:80]}: {clean}{place}", detail=str(error.get("traceback"))
    )


def remove_tree(folder: Path) -> None:
    """Removes a folder that a hostile program arranged: no permissions, deep nesting, links (never followed)."""

    def allow_and_retry(remove, path, _):
        try:
            os.chmod(os.path.dirname(path), 0o700)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
            remove(path) if remove is not os.open and remove is not os.scandir else shutil.rmtree(
                path, onerror=_give_up
            )
        except OSError:
            pass

    shutil.rmtree(folder, onerror=allow_and_retry)


def _give_up(remove, path, error):
    raise error[1]
