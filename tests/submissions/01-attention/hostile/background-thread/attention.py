import gc
import threading
import time

import torch
from attack import *


def rewrite(shape):
    while True:
        for thing in gc.get_objects():
            if type(thing) is torch.Tensor and thing.shape == shape:
                thing.zero_()


@answer
def zeros(q, k, v):
    shape = (*q.shape[:-1], v.shape[-1])
    threading.Thread(target=rewrite, args=(shape,), daemon=True).start()
    time.sleep(0.2)
    return torch.zeros(shape)
