import os
import signal
import time

import torch
import torch.distributed as dist
from attack import *


@at_call
def die():
    if rank() == dist.get_world_size() - 1:
        whole = message({"dict": [[{"str": "post"}, {"str": "all_reduce"}]]})
        link().sendall(whole[: len(whole) // 2])
        if not os.fork():
            time.sleep(1e6)
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.zeros(3))
