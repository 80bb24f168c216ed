import torch


def training_pairs(ids):
    t = ids.transpose(0, -1)
    return t[:-1].transpose(0, -1), t[1:].transpose(0, -1)


class BigramLanguageModel:
    # beginner
    def __init__(self, vocab_size, smoothing=1.0):
        if smoothing < 0:
            raise ValueError("smoothing must not be negative")
        self.vocab_size = vocab_size
        self.smoothing = smoothing
        self.reset()

    def reset(self):
        self.counts = []
        for i in range(self.vocab_size):
            self.counts.append([0] * self.vocab_size)

    def check_ids(self, ids, name):
        for i in ids:
            i = int(i)
            if i < 0:
                raise ValueError(name + " contains a negative id")
            if i >= self.vocab_size:
                raise ValueError(name + " contains an id that is too big")

    def fit(self, ids):
        self.check_ids(ids, "ids")
        self.reset()
        for i in range(len(ids) - 1):
            a = ids[i].item()
            b = ids[i + 1].item()
            self.counts[a][b] += 1
        return self

    def next_token_probabilities(self, token):
        self.check_ids([token], "token")
        row = self.counts[token]
        total = 0
        for c in row:
            total = total + c + self.smoothing
        probs = torch.zeros(self.vocab_size)
        for b in range(self.vocab_size):
            if total == 0:
                probs[b] = 1.0 / self.vocab_size
            else:
                probs[b] = (row[b] + self.smoothing) / total
        return probs

    def generate(self, prompt, max_new_tokens, generator=None):
        self.check_ids(prompt, "prompt")
        if len(prompt) == 0:
            raise ValueError("prompt is empty")
        result = prompt.clone()
        for i in range(max_new_tokens):
            last = result[-1].item()
            probs = self.next_token_probabilities(last)
            if generator is None:
                new = torch.multinomial(probs, 1)
            else:
                new = torch.multinomial(probs.to(generator.device), 1, generator=generator)
            result = torch.cat([result, new.to(result.device)], dim=0)
        return result

    def perplexity(self, ids):
        if len(ids) < 2:
            raise ValueError("need at least two ids")
        self.check_ids(ids, "ids")
        total = torch.tensor(0.0)
        for i in range(len(ids) - 1):
            p = self.next_token_probabilities(ids[i].item())[ids[i + 1].item()]
            total = total + torch.log(p)
        average = total / (len(ids) - 1)
        return float(torch.exp(-average))
