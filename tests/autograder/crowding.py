"""crowding.py GROUPS WITHOUT: three slots start all they may, side by side. Prints as JSON what became of it.

GROUPS is where control groups are made. The program is started as different users (tests/hostile/launch.py).
"""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace

from autograder.box.policy import DEFAULT
from autograder.box.sandbox import Sandbox

POLICY = replace(DEFAULT, processes=32, memory_mb=20000)  # addresses for stacks of threads
CODE = b"""
import os, threading, time

def forks():
    for count in range(200):
        try:
            child = os.fork()
        except OSError as error:
            return [count, error.errno]
        if not child:
            time.sleep(100)
            os._exit(0)
    return [200, 0]

def threads():
    threading.stack_size(1 << 16)
    for count in range(200):
        try:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        except RuntimeError:
            return count
    return 200

def fork_once():
    child = os.fork()
    if not child:
        os._exit(0)
    return os.waitpid(child, 0)[1]

def attack(groups, names):
    got = []
    for group in [groups, *(f"{groups}/{name}" for name in names)]:
        for file, text in (("pids.max", b"max"), ("cgroup.procs", b"0"), ("tasks", b"0"), ("cgroup.subtree_control", b"-pids")):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY):
                try:
                    opened = os.open(f"{group}/{file}", flags)
                    got.append(f"opened {file}")
                    os.write(opened, text)
                    got.append(f"wrote {file}")
                except OSError:
                    pass
        for act in (lambda: os.mkdir(f"{group}/own"), lambda: os.rmdir(group)):
            try:
                act()
                got.append(f"changed {group}")
            except OSError:
                pass
        try:
            os.chmod(f"{group}/pids.max", 0o666)  # seccomp lets it do nothing
        except OSError:
            pass
    return got
"""


def main(groups: str, without: str) -> None:
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox(without=without.split(","), groups=groups))
        slots = [stack.enter_context(box.slot({"work.py": CODE}, POLICY)) for _ in range(4)]
        channels = [slot.channel("work", 1, 60) for slot in slots]
        forks = [
            ask(channel, "forks") for channel in channels[:3]
        ]  # each slot's children sleep on while the next starts its own
        names = groups_in(groups)
        print(
            json.dumps(
                {
                    "layers": box.layers,
                    "forks": forks,
                    "neighbour": ask(channels[3], "fork_once"),
                    "threads": ask(channels[3], "threads"),
                    "groups": len(names),
                    "limits": sorted({read(f"{groups}/{name}/pids.max") for name in names}),
                    "most": max((int(read(f"{groups}/{name}/pids.current")) for name in names), default=0),
                    "attacked": attacked(box, groups),
                }
            )
        )


def attacked(box, groups):
    """What a fifth slot could do to the groups, its own too."""
    with box.slot({"work.py": CODE}, POLICY) as slot:
        channel = slot.channel("work", 1, 60)
        names = groups_in(groups)
        said = ask(channel, "attack", groups, names)
        return said + [name for name in names if os.stat(f"{groups}/{name}/pids.max").st_mode & 0o777 != 0o644]


def ask(channel, function, *args):
    return channel.ask({"call": f"work.{function}", "args": list(args), "kwargs": {}, "device": "cpu"}, 60)["value"]


def groups_in(folder):
    return [name for name in os.listdir(folder) if name.startswith("llm-autograder-")]


def read(path):
    with open(path) as file:
        return file.read().strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
