import torch
import torch.nn as nn
import torch.nn.functional as F


def training_pairs(ids):
    T = ids.size(-1)
    idx = torch.arange(T - 1, device=ids.device)
    return ids.index_select(-1, idx), ids.index_select(-1, idx + 1)


class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size, smoothing=1.0, device=None):
        super().__init__()
        if smoothing < 0:
            raise ValueError("negative smoothing")
        self.vocab_size = vocab_size
        self.smoothing = smoothing
        self.register_buffer("counts", torch.zeros(vocab_size, vocab_size, device=device))
        self.emb = nn.Embedding(vocab_size, vocab_size)
        self.emb.weight.requires_grad_(False)
        self._refresh()

    @torch.no_grad()
    def _refresh(self):
        w = self.counts + self.smoothing
        z = w.sum(1, keepdim=True)
        p = torch.where(z == 0, torch.full_like(w, 1 / self.vocab_size), w / z.clamp_min(1e-30))
        self.emb.weight.copy_(p.log())

    def _assert_known(self, ids, arg):
        if ids.numel() and not bool(((ids >= 0) & (ids < self.vocab_size)).all()):
            raise ValueError(f"{arg} out of vocabulary")

    def fit(self, ids):
        self._assert_known(ids, "ids")
        self.counts.zero_()
        a, b = training_pairs(ids) if len(ids) > 1 else (ids[:0], ids[:0])
        self.counts.index_put_((a, b), torch.ones(len(a)), accumulate=True)
        self._refresh()
        return self

    def forward(self, ids):
        return self.emb(ids)

    @torch.no_grad()
    def next_token_probabilities(self, token):
        token = torch.as_tensor(token)
        self._assert_known(token, "token")
        return F.softmax(self(token), dim=-1)

    @torch.no_grad()
    def generate(self, prompt, max_new_tokens, generator=None):
        self._assert_known(prompt, "prompt")
        if prompt.numel() < 1:
            raise ValueError("prompt needs at least one id")
        idx = prompt[None]
        for _ in range(max_new_tokens):
            logits = self(idx)[:, -1, :]
            probs = F.softmax(logits, dim=-1)
            if generator is not None:
                probs = probs.to(generator.device)
            nxt = torch.multinomial(probs, num_samples=1, generator=generator).to(idx.device)
            idx = torch.cat((idx, nxt), dim=1)
        return idx[0]

    @torch.no_grad()
    def perplexity(self, ids):
        self._assert_known(ids, "ids")
        if len(ids) < 2:
            raise ValueError("ids: fewer than two")
        x, y = training_pairs(ids)
        return F.nll_loss(self(x), y).exp().item()
