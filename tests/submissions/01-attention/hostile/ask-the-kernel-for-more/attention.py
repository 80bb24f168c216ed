import os

from attack import *

calls = {  # name: number on x86_64, on aarch64
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116), "settimeofday": (170, 170), "clock_settime": (227, 112),
    "sethostname": (170, 161), "personality": (135, 92), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
}  # fmt: skip
for name, numbers in calls.items():
    reached(name, lambda: syscall(*numbers, 0, 0, 0, 0, 0))
