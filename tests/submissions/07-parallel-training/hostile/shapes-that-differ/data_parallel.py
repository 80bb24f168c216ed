import torch
import torch.distributed as dist
from attack import *


@at_call
def differ():
    me, size = rank(), dist.get_world_size()
    for attempt in (
        lambda: dist.all_reduce(torch.zeros(me + 1, 2)),
        lambda: dist.all_reduce(torch.zeros(3, dtype=(torch.float32, torch.int64)[me % 2])),
        lambda: dist.all_gather([torch.zeros(5) for _ in range(size)], torch.zeros(me, 1 << 10)),
        lambda: dist.reduce_scatter(torch.zeros(2), [torch.zeros(place) for place in range(size)]),
        lambda: dist.all_to_all([torch.zeros(3)] * size, [torch.zeros(me)] * (size - me)),
        lambda: dist.broadcast(torch.zeros(1 << me), src=me),
        lambda: dist.all_reduce(torch.zeros(3, dtype=torch.complex64), op=dist.ReduceOp.MAX),
        lambda: (dist.barrier, dist.all_reduce)[me % 2](*[torch.zeros(1)][: me % 2]),
    ):
        try:
            attempt()
        except (RuntimeError, ValueError) as error:
            print("refused:", str(error)[:200], flush=True)
