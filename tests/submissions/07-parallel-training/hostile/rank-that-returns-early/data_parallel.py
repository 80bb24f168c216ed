import torch
import torch.distributed as dist
from attack import *


@at_call
def leave():
    if rank() == 0:
        return
    if rank() == 1:
        raise SystemExit(0)
    dist.recv(torch.zeros(3), src=0)
