"""Objectives, token by token."""

import math

import torch
from torch import nn


class MLMTrainer:
    def __init__(self, model, vocab_size, mask_token_id, mask_prob=0.15):
        if mask_prob < 0 or mask_prob > 1:
            raise ValueError(f"{mask_prob} is not a probability")
        self.model, self.vocab_size, self.mask_token_id, self.mask_prob = model, vocab_size, mask_token_id, mask_prob

    def create_mlm_targets(self, input_ids, generator=None):
        ids, labels = input_ids.clone(), input_ids.clone()
        draw = lambda p: torch.bernoulli(torch.full(labels.shape, float(p), device=labels.device), generator=generator).bool()
        chosen = draw(self.mask_prob)
        labels[~chosen] = -100
        hidden = draw(0.8) & chosen
        ids[hidden] = self.mask_token_id
        # Half of what is left.
        other = draw(0.5) & chosen & ~hidden
        words = torch.randint(0, self.vocab_size, (int(other.sum()),), generator=generator, device=labels.device)
        ids[other] = words
        return ids, labels

    def compute_mlm_loss(self, logits, labels):
        real = labels != -100
        logs = logits[real].log_softmax(-1)
        return -logs[torch.arange(len(logs), device=logs.device), labels[real]].mean()


class CLMTrainer:
    def __init__(self, model, vocab_size):
        self.model, self.vocab_size = model, vocab_size

    def create_clm_targets(self, input_ids):
        rest = input_ids.shape[1] - 1
        return input_ids.narrow(1, 0, rest).clone(), input_ids.narrow(1, 1, rest).clone()

    def compute_clm_loss(self, logits, targets):
        return MLMTrainer(None, self.vocab_size, 0).compute_mlm_loss(logits, targets)


class SpanCorruptionTrainer:
    def __init__(self, model, vocab_size, mask_token_id, span_length=3, mask_prob=0.15):
        if span_length < 1:
            raise ValueError(f"span_length={span_length}")
        MLMTrainer(None, vocab_size, mask_token_id, mask_prob)
        self.model, self.vocab_size, self.mask_token_id = model, vocab_size, mask_token_id
        self.span_length, self.mask_prob = span_length, mask_prob

    def _places(self, length, generator):
        """Starts of one text, not uniform: after each span the next one is drawn from what leaves room for the others."""
        width = min(self.span_length, length)
        count = max(1, round(length * self.mask_prob / self.span_length))
        while count * (width + 1) - 1 > length:
            count -= 1
        places, first = [], 0
        for k in range(count):
            left = count - 1 - k
            last = length - width - left * (width + 1)
            place = first + int(torch.randint(last - first + 1, (1,), generator=generator))
            places.append(place)
            first = place + width + 1
        return places, width

    def create_span_targets(self, input_ids, generator=None):
        if input_ids.dim() == 1:
            corrupted, labels = self.create_span_targets(input_ids[None], generator)
            return corrupted[0], labels[0]
        corrupted, labels = input_ids.clone(), torch.full_like(input_ids, -100)
        for row in range(len(input_ids)):
            places, width = self._places(input_ids.shape[1], generator)
            for place in places:
                labels[row, place : place + width] = input_ids[row, place : place + width]
                corrupted[row, place : place + width] = self.mask_token_id
        return corrupted, labels

    def create_sentinel_targets(self, input_ids, sentinel_start_id, generator=None):
        if input_ids.dim() == 1:
            pair = self.create_sentinel_targets(input_ids[None], sentinel_start_id, generator)
            return pair[0][0], pair[1][0]
        inputs, targets = [], []
        for row in input_ids.tolist():
            places, width = self._places(len(row), generator)
            read, told, at = [], [], 0
            for number, place in enumerate(places):
                read += row[at:place] + [sentinel_start_id + number]
                told += [sentinel_start_id + number] + row[place : place + width]
                at = place + width
            inputs.append(read + row[at:])
            targets.append(told)
        return input_ids.new_tensor(inputs), input_ids.new_tensor(targets)


def prefix_mask(length, prefix_length):
    if prefix_length < 0:
        raise ValueError(f"a prefix of {prefix_length}")
    mask = torch.tril(torch.ones(length, length))
    mask[:, :prefix_length] = 1
    return mask.bool()


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, bias):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.joint(self.norms[0](x)).chunk(3, -1))
        weights = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        x = x + self.dropout(self.out((weights @ v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(torch.nn.functional.gelu(self.wide(self.norms[1](x)))))


class PrefixLanguageModel(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads=16, prefix_length=64):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not divisible by num_heads {num_heads}")
        if prefix_length < 0:
            raise ValueError(f"prefix_length is {prefix_length}")
        self.max_len, self.prefix_length = 2048, prefix_length
        self.embedding, self.place = nn.Embedding(vocab_size, d_model), nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList([Layer(d_model, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, input_ids):
        length = input_ids.shape[-1]
        if length > self.max_len:
            raise ValueError(f"input_ids are {length} long")
        x = self.embedding(input_ids) + self.place(torch.arange(length, device=input_ids.device))
        bias = torch.zeros(length, length, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(~prefix_mask(length, self.prefix_length).to(x.device), -math.inf)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x) @ self.embedding.weight.T
