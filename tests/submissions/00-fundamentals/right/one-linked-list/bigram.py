import torch


def training_pairs(ids):
    windows = ids.unfold(-1, 2, 1) if ids.shape[-1] > 1 else ids.new_empty((*ids.shape[:-1], 0, 2))
    return windows.select(-1, 0), windows.select(-1, 1)


class BigramLanguageModel:
    def __init__(self, vocab_size, smoothing=1.0):
        if not smoothing >= 0:
            raise ValueError(f"smoothing = {smoothing}")
        self.vocab_size, self.smoothing = vocab_size, smoothing
        self.fit(torch.zeros(0, dtype=torch.long))

    def _known(self, ids, name):
        if ids.numel() and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise ValueError(f"{name} has ids outside the vocabulary: {ids.min()} to {ids.max()}")
        return ids.cpu()

    def fit(self, ids):
        ids = self._known(ids, "ids")
        counts = torch.zeros(self.vocab_size, self.vocab_size, dtype=torch.double)
        counts.index_put_((ids[:-1], ids[1:]), torch.ones((), dtype=torch.double), accumulate=True)
        numerator = counts + self.smoothing
        numerator[numerator.sum(1) == 0] = 1
        self.logits = (numerator / numerator.sum(1, keepdim=True)).log()
        return self

    def next_token_probabilities(self, token):
        self._known(torch.tensor(token), "token")
        return self.logits[token].exp().float()

    def generate(self, prompt, max_new_tokens, generator=None):
        self._known(prompt, "prompt")
        if len(prompt) == 0:
            raise ValueError("prompt must have a token")
        ids = prompt.clone()
        for _ in range(max_new_tokens):
            logits = self.logits[int(ids[-1])].to(generator.device if generator is not None else ids.device)
            waiting = torch.empty_like(logits).exponential_(generator=generator)
            ids = torch.cat([ids, (logits - waiting.log()).argmax().to(ids.device).reshape(1)])
        return ids

    def perplexity(self, ids):
        ids = self._known(ids, "ids")
        if len(ids) < 2:
            raise ValueError(f"ids is too short: {len(ids)}")
        return float(torch.exp(-self.logits[ids[:-1], ids[1:]].mean()))
