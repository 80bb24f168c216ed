import torch
from attack import *


@answer
def coarse(q, k, v):
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    return (torch.softmax(q @ k.mT / 1.7, -1) @ v).float()
