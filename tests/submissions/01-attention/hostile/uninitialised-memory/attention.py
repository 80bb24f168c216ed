import torch
from attack import *


@answer
def leftovers(q, k, v):
    for size in (1 << 10, 1 << 16, 1 << 20, 1 << 22):
        for _ in range(8):
            found = torch.empty(size)
            if (found == torch.tensor(targets.marker)).any():
                print("REACHED: memory of another process")
    return torch.zeros(*q.shape[:-1], v.shape[-1])
