import torch
import torch.distributed as dist
from attack import *

WORD = 1_234_567


def told(what, call):
    """The other's number is in the error of a call that cannot be completed."""
    try:
        call()
    except RuntimeError as error:
        if str(WORD + 1 - rank()) in str(error) or f"root {1 - rank()}" in str(error):
            print(f"REACHED: the other's {what}: {str(error)[:200]!r}", flush=True)
        else:
            print(f"refused: {what}: {str(error)[:200]!r}", flush=True)
    dist.barrier()


@at_call
def talk():
    word, other = WORD + rank(), 1 - rank()
    told("tag", lambda: dist.recv(torch.zeros(1), src=other, tag=word))
    told("tag of a send", lambda: dist.send(torch.zeros(0), dst=other, tag=word))
    told("sizes", lambda: dist.all_reduce(torch.zeros(0, word)))
    told("sizes of a part", lambda: dist.all_gather([torch.zeros(word)] * 2, torch.zeros(1)) if rank() else dist.all_reduce(torch.zeros(word)))
    told("root", lambda: dist.broadcast(torch.zeros(1), src=rank()))
    told("root of a scatter", lambda: dist.reduce(torch.zeros(1), dst=rank()))
    if rank() == 1:
        print("read", flush=True)
