"""The warm parent of all workers: started once, trusted, holds no secret.

It imports torch and makes the slots' folder before any submission is there, forks a confined worker for each, watches what a
slot uses in all, and kills a slot with everything that it started. When the grader is gone, however it ended, all slots are
killed and their folder is removed. Workers can read all of its memory, so nothing of a test ever comes here.
One thread and no torch operation with more than one: a forked child hangs in OpenMP otherwise.

    grader -> b"S", Policy, [control socket, output pipe]     -> {"pid": worker} or {"busy": why there is none now}
    grader -> b"M", pid                                       -> {}: from now on its peak is measured
    grader -> b"U", pid                                       -> Usage
    grader -> b"K", pid                                       -> Ended

The records cross as dicts of their fields (policy.py, clock.py).
"""

import os
import select
import socket
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...files import cannot_be_written, remove_tree
from .. import cpu, wire
from ..clock import Ended, Usage
from ..policy import Policy
from . import cgroup, confine, disk, libraries, memory, processes, seccomp, warm
from .becoming import Means, become_worker

_POLL_S = 0.1


@dataclass
class Slot:
    """A worker and all that it started."""

    pid: int
    policy: Policy
    group: cgroup.Group | None = None
    reason: str = ""  # the limit that it passed
    peak_mb: int = 0
    meter: cpu.Meter = field(default_factory=cpu.Meter)
    nameless: disk.Nameless = field(default_factory=disk.Nameless)
    peak: memory.Peak = field(default_factory=memory.Peak)


class Zygote:
    """Forks, watches and kills slots until the grader closes the control socket."""

    def __init__(self, control: socket.socket, layers: list[str], groups: str = ""):
        self._control, self._layers, self._groups = control, layers, groups
        unreachable = libraries.open_unreachable(sys.path) if "uid" in layers else {}
        self._means = Means(layers, seccomp.build() if "seccomp" in layers else None, libraries.folders(), unreachable)
        libraries.read_through(unreachable)
        self._slots: dict[int, Slot] = {}
        self._inherited = memory.at_most(os.getpid()).bytes

    def run(self) -> None:
        try:
            while self._serve():
                pass
        finally:
            for slot in self._slots.values():
                self._kill(slot)

    def _serve(self):
        """One request, or a look at the slots; whether there may be another."""
        ready, _, _ = select.select([self._control], [], [], _POLL_S if self._slots else None)
        if not ready:
            self._watch()
            return True
        command, request, descriptors = wire.receive_command(self._control, 2)
        if command == b"S":
            wire.send(self._control, self._spawn(Policy(**request), *descriptors))
        elif command == b"M":
            wire.send(self._control, self._measure(self._slots[request]))
        elif command == b"U":
            wire.send(self._control, asdict(self._usage(self._slots[request])))
        elif command == b"K":
            wire.send(self._control, asdict(self._kill(self._slots.pop(request))))
        return bool(command)

    # ------------------------------------------------------------------------------------------ spawn

    def _spawn(self, policy: Policy, control: int, output: int) -> dict:
        group = cgroup.make(self._groups, policy.processes)
        try:
            pid = os.fork()
        except OSError as error:  # not waited for here: who fills the machine may be a slot that this process watches
            os.close(control)  # held open, it would hide that another worker has died
            os.close(output)
            if group is not None:
                group.remove()
            return {"busy": f"no process could be started: {error}"}
        if not pid:
            become_worker(policy, group, control, output, self._means)
        os.close(control)
        os.close(output)
        self._slots[pid] = Slot(pid, policy, group)
        return {"pid": pid}

    # ------------------------------------------------------------------------------------------ watch and kill

    def _watch(self):
        for slot in self._slots.values():
            if slot.reason:
                continue
            with self._or_its_end(slot):
                pids = self._read_meter(slot)
                slot.reason = self._too_much_of_the_machine(slot, pids) or self._too_much_disk(slot, pids)
                if slot.reason:
                    self._kill_processes(slot)

    @contextmanager
    def _or_its_end(self, slot):
        """What breaks a look at a slot is of the slot's making: it ends the slot, and no other."""
        try:
            yield
        except Exception as error:
            slot.reason = f"what nobody can look at ({type(error).__name__})"
            self._kill_processes(slot)

    def _too_much_of_the_machine(self, slot, pids):
        """What of memory and processes the slot has beyond its limit, or ""."""
        limit = slot.policy.memory_mb
        used, threads = memory.used(pids, self._inherited, slot.policy.uid, limit << 20)
        slot.peak_mb = max(slot.peak_mb, used >> 20)
        if used >> 20 > limit:
            return f"more than {limit} MB of memory"
        if "uid" not in self._layers and threads > slot.policy.processes:  # elsewhere the kernel counts them
            return f"more than {slot.policy.processes} processes and threads"
        return ""

    def _too_much_disk(self, slot, pids):
        limit = slot.policy.scratch_mb
        taken = disk.bytes_below(slot.policy.scratch) + slot.nameless.look(pids, slot.policy)
        return f"more than {limit} MB of files, or folders too deep or closed" if taken >> 20 > limit else ""

    def _usage(self, slot: Slot) -> Usage:
        with self._or_its_end(slot):
            pids = self._read_meter(slot)
            return Usage(slot.meter.seconds, *cpu.awake_and_ready(pids), slot.peak.read())
        return Usage(slot.meter.seconds)

    def _measure(self, slot):
        with self._or_its_end(slot):
            slot.peak.begin(lambda: self._processes(slot), slot.policy.uid, self._inherited)
        return {}

    def _read_meter(self, slot):
        """The slot's processes, after their processor time was read."""
        pids = self._processes(slot, ended=True)
        slot.meter.read(pids)
        return pids

    def _kill(self, slot: Slot) -> Ended:
        if not slot.reason:  # what was killed for a reason was read then
            with self._or_its_end(slot):
                self._read_meter(slot)
        used = max(slot.meter.seconds, self._kill_processes(slot))
        if "uid" in self._layers and "landlock" not in self._layers:
            processes.sweep(slot.policy.uid)
        if slot.group is not None:
            slot.group.remove()
        return Ended(slot.reason, round(used, 3), slot.peak_mb)

    def _kill_processes(self, slot):
        """Kills all at once, then looks whether any is left. Returns the seconds that the worker had used."""
        used, deadline = 0.0, time.monotonic() + 5
        while time.monotonic() < deadline:
            processes.kill_group(slot.pid)
            if "uid" in self._layers and self._has_its_user_alone(slot):
                processes.kill_user(slot.policy.uid)
            left = self._processes(slot)
            for pid in left:
                processes.kill(pid)
            used += processes.collect(slot.pid)
            if not left:
                break
            time.sleep(0.001)
        return used

    def _processes(self, slot, ended=False):
        """The slot's processes: those of its user and of its group, which seccomp lets none leave.

        Where there is neither: its descendants, and the orphans of any slot.
        """
        table = processes.table(ended)
        if {"uid", "seccomp"} & set(self._layers):
            return [pid for pid, entry in table.items() if self._is_of(slot, entry)]
        orphans = {pid for pid, entry in table.items() if entry.parent == os.getpid()} - set(self._slots)
        return processes.with_descendants({slot.pid} | orphans, table)

    def _is_of(self, slot, entry):
        """Whether a process is of the slot: what runs as its user, but was not started here, is left alone."""
        same_user = "uid" not in self._layers or entry.uid == slot.policy.uid
        return same_user and ("seccomp" not in self._layers or entry.group == slot.pid)

    def _has_its_user_alone(self, slot):
        """Whether all that runs as the slot's user was started here."""
        entries = processes.table(ended=True).values()
        return all(self._is_of(slot, entry) for entry in entries if entry.uid == slot.policy.uid)


# ---------------------------------------------------------------------------------------------- start


def main(descriptor: int, temporary: str, layers: list[str], groups: str, packages: list[str]) -> None:
    """`temporary` is where the slots' folder is made; `groups`, if there is such a place, where their control groups are."""
    warnings.simplefilter("ignore")
    cgroup.sweep(groups)
    confine.harden_zygote()
    warm.up(packages)
    control = socket.socket(fileno=descriptor)
    with suppress(BrokenPipeError, ConnectionResetError, EOFError):  # the grader is gone: nobody is there to be told
        try:
            folder = tempfile.mkdtemp(prefix="autograder-", dir=temporary)
        except OSError as error:
            wire.send(control, {"fault": cannot_be_written(Path(temporary), error)})
            return
        try:
            os.chmod(folder, 0o711)  # slots reach their own folders, and list none
            wire.send(control, {"folder": folder})
            Zygote(control, layers, groups).run()
        finally:
            remove_tree(Path(folder))
