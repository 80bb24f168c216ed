import itertools

import torch
import torch.distributed as dist
from attack import *


@at_call
def split():
    ranks = list(range(dist.get_world_size()))
    groups = [None]
    for number in itertools.count():
        members = ranks[: 1 + number % len(ranks)] if number % 3 else ranks
        try:
            groups.append(dist.new_group(members, group_desc="g" * 190 + str(number)))
            if rank() in members:
                dist.all_reduce(torch.zeros(0), group=groups[-1])
        except (ValueError, RuntimeError) as error:
            print("refused:", error, flush=True)
        post(id=(1 << 41) + number, post="barrier", group=f"{number:0200}"[:200])
