import os
import resource

from attack import *

for pid in (targets.grader_pid, targets.zygote_pid, targets.neighbour_pid):
    reached(f"prlimit {pid}", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
    reached(f"affinity {pid}", lambda: os.sched_setaffinity(pid, [0]))
    reached(f"scheduler {pid}", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    reached(f"nice {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    reached(f"ionice {pid}", lambda: syscall(251, 30, 1, pid, 3 << 13))
    reached(f"limit on swap {pid}", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
reached("nice for all of its user", lambda: os.setpriority(os.PRIO_USER, 0, 19))
reached("nice for its group", lambda: os.setpriority(os.PRIO_PGRP, 0, 19))
reached("ionice for all of its user", lambda: syscall(251, 30, 3, 0, 3 << 13))
