import torch
import torch.distributed as dist
from attack import *


@at_call
def flood():
    other = (rank() + 1) % dist.get_world_size()
    for number in range(1000):
        if rank() % 2:
            dist.isend(torch.ones(8 << 20), other, tag=number)
        else:
            post(id=1000 + number, post="send", peer=other, tag=number, tensors=[torch.zeros(0, number, 7)] * 4000)
