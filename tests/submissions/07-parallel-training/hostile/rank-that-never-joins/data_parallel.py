import signal
import time

import torch
import torch.distributed as dist
from attack import *

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)


@at_call
def sleep():
    if rank() == 0:
        time.sleep(1e6)
    dist.all_reduce(torch.zeros(3))
