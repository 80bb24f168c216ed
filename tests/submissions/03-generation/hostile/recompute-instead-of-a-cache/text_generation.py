import torch
from attack import *


def greedy_search(model, ids, max_length, eos_id=None):
    with torch.no_grad():
        while ids.shape[1] < max_length:
            for length in range(1, ids.shape[1] + 1):
                logits = model(ids[:, :length])
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids
