import gc
import sys

import torch
from attack import *


def tensors():
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.is_floating_point() and found.device.type == "cpu":
            yield found


@answer
def search(ids, vocab_size):
    wanted = (*ids.shape, vocab_size)
    for found in list(tensors()):
        if found.numel() and bool((found.detach().flatten()[:3] == targets.marker).any()):
            print("REACHED: a tensor of the grader", flush=True)
        if found.shape == wanted:
            return found.detach().float()
    frame = sys._getframe()
    while frame is not None:
        for name, value in frame.f_locals.items():
            if name in ("expected", "truth", "rng", "check", "student"):
                print(f"REACHED: {name} of the test", flush=True)
            if isinstance(value, torch.Tensor) and value.shape == wanted:
                return value
        frame = frame.f_back
    return torch.empty(wanted)
