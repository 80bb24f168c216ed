import os

from attack import *

for pid in (targets.grader_pid, targets.zygote_pid, targets.neighbour_pid, 1):
    for name in ("mem", "environ", "cmdline", "maps", "stack", "status", "cwd/setup.py", "root/etc/shadow"):
        reached(f"/proc/{pid}/{name}", lambda: read_text(f"/proc/{pid}/{name}"))
    for name in ("fd", "task", "map_files"):
        reached(f"/proc/{pid}/{name}", lambda: os.listdir(f"/proc/{pid}/{name}"))
    for name in ("exe", "cwd", "fd/1"):
        reached(f"/proc/{pid}/{name}", lambda: os.readlink(f"/proc/{pid}/{name}"))
