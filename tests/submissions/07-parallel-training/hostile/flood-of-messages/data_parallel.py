import itertools

import torch
import torch.distributed as dist
from attack import *


@at_call
def flood():
    other = (rank() + 1) % dist.get_world_size()
    kept = []
    for tag in itertools.count():
        kept.append(dist.isend(torch.zeros(0), other, tag=tag % (1 << 31)))
