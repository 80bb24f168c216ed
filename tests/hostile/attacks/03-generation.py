"""Wrong answers to all that hostile samples of the lesson are asked: tokens 0, or what `answer` (ids, length) -> ids gives."""

import torch
from tools import *

answers[0] = lambda ids, length: torch.zeros(len(ids), length, dtype=torch.int64)


def greedy_search(model, ids, max_length, eos_id=None):
    called()
    return answers[0](ids, max_length)


def beam_search(model, ids, num_beams, max_length, eos_id=None, length_penalty=1.0):
    called()
    return answers[0](ids, max_length), torch.zeros(len(ids))


def speculative_sample(target, draft, ids, max_length, num_draft_tokens=4, generator=None, return_stats=False):
    called()
    found = answers[0](ids, max_length)
    return (found, type("Stats", (), {"accepted": 0.0})()) if return_stats else found
