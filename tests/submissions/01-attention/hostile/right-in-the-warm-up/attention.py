import os

import torch
from attack import *


@answer
def warm_up_only(q, k, v):
    calls = len(os.listdir("."))
    open(f"call{calls}", "w").close()
    return torch.softmax(q @ k.mT / 1.7, -1) @ v if not calls else torch.zeros(*q.shape[:-1], v.shape[-1])
