import torch
from attack import *


@answer
def huge(ids, length):
    kinds = [
        torch.zeros(1, dtype=torch.int64).expand(1 << 40),
        torch.empty(len(ids), length, dtype=torch.int64, device="meta"),
        torch.zeros(1, dtype=torch.int64).as_strided((len(ids), length), (0, 0)),
        torch.eye(3).to_sparse(),
        torch.zeros(0, 1 << 30),
    ]
    return kinds[len(ids) % len(kinds)]


def beam_search(model, ids, num_beams, max_length, eos_id=None, length_penalty=1.0):
    return torch.zeros(len(ids), 1 << 16, dtype=torch.int64), torch.zeros(1).expand(1 << 24)


def speculative_sample(target, draft, ids, max_length, num_draft_tokens=4, generator=None, return_stats=False):
    stats = type("Stats", (), {"accepted": torch.zeros(1).expand(1 << 40)})()
    return torch.zeros(1 << 21, dtype=torch.int64), stats
