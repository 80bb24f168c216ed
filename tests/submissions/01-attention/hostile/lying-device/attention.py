import os

import torch
from attack import *


@answer
def forged(q, k, v):
    output = torch.zeros(*q.shape[:-1], v.shape[-1])
    spec = ["float32", list(output.shape), "cuda"]
    value = {"dict": [[{"str": "value"}, {"tuple": [{"tensor": 0}, {"tensor": 0}]}]]}
    send_raw(message(value, [spec], bytes(4 * output.numel())))
    os._exit(0)
