import threading
import time

import torch
from attack import *


@answer
def patterns(q, k, v):
    for size in (1 << 10, 1 << 20, 1 << 22):
        kept = [torch.full((size,), targets.marker) for _ in range(4)]
        del kept
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return torch.zeros(*q.shape[:-1], v.shape[-1])
