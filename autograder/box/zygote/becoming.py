"""What a fork of the zygote does to become a slot's worker: all of it before it reads a byte of the student's."""

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from ..inside import callers, group, tripwires, worker
from ..policy import Policy
from . import cgroup, confine, heap, processes


@dataclass(frozen=True)
class Means:
    """What the zygote has ready for all of its workers.

    Attributes:
        layers: which to apply. rules: the seccomp filter. library_folders: of the interpreter and its packages.
        libraries: descriptors of those of them that a slot's user could not open (libraries.py).
    """

    layers: list[str]
    rules: Any
    library_folders: list[str]
    libraries: dict[str, int]


def become_worker(policy: Policy, own: cgroup.Group | None, control: int, output: int, means: Means) -> NoReturn:
    """In the fork, which never comes back from here. `own` is the slot's control group."""
    try:
        _become(policy, own, control, output, means)
    except BaseException as error:  # whatever it was, this process must not return into the zygote's loop
        os.write(2, f"the worker could not start: {type(error).__name__}: {error}\n".encode())
    os._exit(70)


def _become(policy, own, control, output, means):
    os.setsid()
    layers = means.layers if _has_entered(own) else [layer for layer in means.layers if layer != "cgroup"]
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    confine.close_all_but({0, 1, 2, control, *means.libraries.values()})
    confine.clean_environment(policy.scratch)
    confine.confine(policy, layers, means.rules, means.library_folders)
    sys.path[:0] = [policy.submission, *policy.prerequisites]
    used, fork = _noted(policy), processes.fork_patiently
    worker.prepare(policy.inside)
    worker.main(socket.socket(fileno=control), policy.submission, used, group.join, fork, settle=heap.fill)
    os._exit(0)


def _has_entered(own):
    """A slot without a group is counted as where there are none, by the watchdog."""
    if own is None:
        return False
    try:
        own.enter()
    except OSError:
        return False
    return True


def _noted(policy):
    """The list that fills with calls of what the lesson forbids."""
    notes = callers.Notes(policy.submission)
    tripwires.lay(policy.forbidden, dict(policy.relatives), notes)
    callers.watch_imports(policy.forbidden, dict(policy.relatives), notes)
    return notes.lines
