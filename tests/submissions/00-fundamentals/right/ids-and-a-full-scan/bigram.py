from collections import Counter, defaultdict
from math import exp, inf, log

import torch


def training_pairs(ids):
    last = ids.shape[-1] - 1
    return ids.narrow(-1, 0, last).clone(), ids.narrow(-1, 1, last).clone()


class BigramLanguageModel:
    def __init__(self, vocab_size, smoothing=1.0):
        if smoothing < 0:
            raise ValueError(f"smoothing must be at least 0, not {smoothing}")
        self.V, self.s = vocab_size, smoothing
        self.followers = defaultdict(Counter)

    def valid(self, name, ids):
        for token in ids:
            if token < 0 or token >= self.V:
                raise ValueError(f"{name}: {token} is no token")
        return ids

    def fit(self, ids):
        ids = self.valid("ids", ids.tolist())
        self.followers = defaultdict(Counter)
        for a, b in zip(ids, ids[1:]):
            self.followers[a][b] += 1
        return self

    def p(self, a, b):
        below = sum(self.followers[a].values()) + self.s * self.V if a in self.followers else self.s * self.V
        return (self.followers[a][b] + self.s) / below if below else 1 / self.V

    def next_token_probabilities(self, token):
        self.valid("token", [token])
        return torch.tensor([self.p(token, b) for b in range(self.V)], dtype=torch.float64)

    def generate(self, prompt, max_new_tokens, generator=None):
        ids = self.valid("prompt", prompt.tolist())
        if not ids:
            raise ValueError("the prompt has no token")
        where = generator.device if generator else "cpu"
        cumulative = {}
        for _ in range(max_new_tokens):
            if ids[-1] not in cumulative:
                cumulative[ids[-1]] = self.next_token_probabilities(ids[-1]).cumsum(0)
            u = torch.rand((), generator=generator, dtype=torch.float64, device=where).cpu()
            edges = cumulative[ids[-1]]
            ids.append(int(torch.searchsorted(edges, u * edges[-1], right=True)))
        return torch.tensor(ids, device=prompt.device)

    def perplexity(self, ids):
        ids = self.valid("ids", ids.tolist())
        if len(ids) < 2:
            raise ValueError("ids needs two tokens")
        p = [self.p(a, b) for a, b in zip(ids, ids[1:])]
        return inf if 0 in p else exp(-sum(map(log, p)) / len(p))
