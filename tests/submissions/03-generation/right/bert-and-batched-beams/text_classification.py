from itertools import groupby

import torch
import torch.nn as nn
from transformer import BERTModel


class _Reader(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, max_len, dropout):
        super().__init__()
        self.bert = BERTModel(vocab_size, d_model, num_layers, num_heads, 2 * d_model, max_len, dropout)

    def forward(self, input_ids, attention_mask):
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape)
        mask = attention_mask.bool()
        return self.bert(input_ids, attention_mask=mask), mask


class TransformerClassifier(nn.Module):
    pooled = True

    def __init__(self, vocab_size, d_model=512, num_layers=6, num_heads=8, num_classes=2, max_len=512, dropout=0.1):
        super().__init__()
        self.reader = _Reader(vocab_size, d_model, num_layers, num_heads, max_len, dropout)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(d_model, num_classes))

    def forward(self, input_ids, attention_mask=None):
        states, mask = self.reader(input_ids, attention_mask)
        if self.pooled:
            share = mask.to(states.dtype)
            share = share / share.sum(-1, keepdim=True)
            states = torch.einsum("bt,btd->bd", share, states)
        return self.classifier(states)


class TokenClassifier(TransformerClassifier):
    pooled = False


def decode_bio(tags, labels):
    # Give each token the number of its entity, then group.
    numbered, number, previous = [], 0, "O"
    for tag in tags:
        label = labels[tag]
        new = label != "O" and (label.startswith("B-") or previous == "O" or previous[2:] != label[2:])
        number += new
        numbered.append((None, None) if label == "O" else (number, label[2:]))
        previous = label
    spans, place = [], 0
    for (number, kind), group in groupby(numbered):
        size = len(list(group))
        if number is not None:
            spans.append((kind, place, place + size))
        place += size
    return spans


def best_answer_span(start_logits, end_logits, max_answer_length):
    starts, ends = start_logits.tolist(), end_logits.tolist()
    best, span = None, None
    for s, start in enumerate(starts):
        for e, end in enumerate(ends[s : s + max_answer_length], s):
            if best is None or start + end > best:
                best, span = start + end, (s, e)
    return span
