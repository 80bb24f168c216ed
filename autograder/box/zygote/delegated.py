"""Where control groups for slots may be made (cgroup.py), if anywhere.

    version 1    below this process's own group of the hierarchy `pids`
    version 2    beside this process's own group, for one that has processes may hand nothing out to groups below it: only where
                 the group above both is ours to divide (`_is_ours`) and hands out `pids` (`_hands_out`)

Most containers and sessions show no such place, or not for writing. The one file that is written and belongs to no group of
cgroup.py is `cgroup.subtree_control` of a group that systemd has marked as delegated to us.
"""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from . import cgroup

_MARKS = ("user.delegate", "trusted.delegate")  # systemd's (its page CGROUP_DELEGATION)
_SYSTEMD = Path("/run/systemd/system")
_ONE_TOO_MANY = """
import os, sys
with open(sys.argv[1], "w") as procs:
    procs.write("0")
try:
    os.fork()
except OSError:
    pass
"""


def place(named: str | None = None) -> str:
    """The folder in which groups for slots are made: the named one, or one that is found; "" where none does what it should."""
    found = _find() if named is None else named
    return found if found and works(found) else ""


def works(folder: str) -> bool:
    """Whether a group made there stops a process that starts one too many: not what files promise, but what the kernel does."""
    group = cgroup.make(folder, 1)
    if group is None:
        return False
    try:
        command = [sys.executable, "-I", "-S", "-c", _ONE_TOO_MANY, os.path.join(group.folder, "cgroup.procs")]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        refused = re.search(r"^max [1-9]", Path(group.folder, "pids.events").read_text(), re.MULTILINE)
        return refused is not None
    except OSError:
        return False
    finally:
        group.remove()


def _find() -> str:
    """The folder in which groups for slots can be made; "" where there is none."""
    try:
        groups, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    except (OSError, UnicodeDecodeError):  # not Linux, or names that no grader has
        return ""
    version, folder = own_group(groups, mounts)
    if version == 2:
        return folder if folder and _is_ours(folder) and _hands_out(folder) else ""
    return folder


def own_group(groups: str, mounts: str) -> tuple[int, str]:
    """(version, folder): of this process's own group in version 1, of the one above it in version 2, "" if that is out of sight.

    Args:
        groups: /proc/self/cgroup: lines of hierarchy:controllers:group. mounts: /proc/self/mountinfo.
    """
    lines = [line.split(":", 2) for line in groups.splitlines() if line.count(":") >= 2]
    paths = [path for _, controllers, path in lines if "pids" in controllers.split(",")]
    if paths:
        return 1, _folder_of(paths[0], _mounted(mounts, "cgroup", "pids"))
    paths = [path for number, controllers, path in lines if (number, controllers) == ("0", "")]
    if not paths or paths[0] == "/":
        return 2, ""
    return 2, _folder_of(os.path.dirname(paths[0]), _mounted(mounts, "cgroup2"))


def _mounted(mounts, kind, option=""):
    """(root, folder) of each place where such a hierarchy is mounted, or a part of it, from `root` on; the last covers the others."""
    found = []
    for line in mounts.splitlines():
        here, _, system = line.partition(" - ")
        fields, (name, _, options) = here.split(" "), (system.split(" ") + ["", "", ""])[:3]
        if len(fields) > 5 and name == kind and (not option or option in options.split(",")):
            found.append((_unescaped(fields[3]), _unescaped(fields[4])))
    return found[::-1]


def _unescaped(path):
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def _folder_of(group, mounted):
    """Where a group is to be seen; "" if nowhere: a container may show a part that it is not in."""
    for root, folder in mounted if ".." not in group.split("/") else []:
        below = os.path.relpath(group, root)
        if below.split("/")[0] != "..":
            return os.path.normpath(os.path.join(folder, below))
    return ""


def _is_ours(folder):
    """Whether nobody else divides this group of version 2: where systemd runs, only what it has marked as delegated."""
    return _is_marked(folder) or not _SYSTEMD.exists()


def _is_marked(folder):
    for name in _MARKS:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _hands_out(folder):
    """Whether groups below it count processes. What is marked as ours may be told to: it fails where it has processes itself."""
    with suppress(OSError):
        if "pids" in Path(folder, "cgroup.subtree_control").read_text().split():
            return True
        if _is_marked(folder):
            cgroup.write(folder, "cgroup.subtree_control", "+pids")
            return True
    return False
