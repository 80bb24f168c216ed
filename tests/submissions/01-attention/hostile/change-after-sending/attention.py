import mmap
import os

import torch
from attack import *

with open("shared", "wb") as file:
    file.write(bytes(1 << 16))
with open("shared", "r+b") as file:
    shared = mmap.mmap(file.fileno(), 1 << 16)
view = torch.frombuffer(shared, dtype=torch.float32)
if not os.fork():
    while True:
        view.uniform_(-2, 2)


@answer
def changing(q, k, v):
    shape = (*q.shape[:-1], v.shape[-1])
    return view[: shape.numel() if hasattr(shape, "numel") else torch.Size(shape).numel()].view(shape)
