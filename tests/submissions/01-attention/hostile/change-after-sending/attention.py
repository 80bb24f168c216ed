import mmap
import os

import torch
from attack import *

shared = mmap.mmap(-1, 1 << 16)
view = torch.frombuffer(shared, dtype=torch.float32)
if not os.fork():
    while True:
        view.uniform_(-2, 2)


@answer
def changing(q, k, v):
    shape = (*q.shape[:-1], v.shape[-1])
    return view[: shape.numel() if hasattr(shape, "numel") else torch.Size(shape).numel()].view(shape)
