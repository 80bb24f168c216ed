from collections import Counter
from math import exp, log

import torch
from torch import nn
from transformer import Transformer


class TransformerTranslator(nn.Module):
    def __init__(
        self, src_vocab_size, tgt_vocab_size, d_model=512, num_layers=6, num_heads=8, bos_id=1, eos_id=2, pad_id=0
    ):
        super().__init__()
        self.bos, self.eos, self.pad = bos_id, eos_id, pad_id
        self.model = Transformer(
            src_vocab_size, tgt_vocab_size, d_model=d_model, num_layers=num_layers, num_heads=num_heads, pad_id=pad_id
        )

    @property
    def max_len(self):
        return self.model.decoder.position.pe.size(1)

    def next_scores(self, source, target):
        """The log-probabilities of what follows one target, by the parts of the model."""
        source, target = source[None], torch.tensor([target], device=source.device)
        mask = (source != self.pad)[:, None, None]
        memory = self.model.encoder(source, mask)
        states = self.model.decoder(target, memory, (target != self.pad)[:, None, None], mask)
        return torch.log_softmax(self.model.output(states[0, -1]).double(), -1).tolist()

    def translate(self, src, max_length, num_beams=1):
        if max_length < 2 or max_length > self.max_len:
            raise ValueError("max_length must be in 2 .. max_len=%d, not %d" % (self.max_len, max_length))
        modes = [m.training for m in self.modules()]
        self.eval()
        rows = []
        with torch.inference_mode():
            for source in src:
                rows.append(self.one(source, max_length, num_beams))
        for m, mode in zip(self.modules(), modes):
            m.training = mode
        width = max(len(row) for row in rows)
        return torch.tensor([row + [self.pad] * (width - len(row)) for row in rows], device=src.device)

    def one(self, source, max_length, num_beams):
        live, finished = [(0.0, [self.bos])], []
        while live:
            candidates = []
            for total, row in live:
                for token, score in enumerate(self.next_scores(source, row)):
                    candidates.append((total + score, row + [token]))
            candidates.sort(key=lambda c: -c[0])
            live = []
            for total, row in candidates:
                if row[-1] == self.eos or len(row) == max_length:
                    finished.append((total / (len(row) - 1), row))
                else:
                    live.append((total, row))
                if len(live) == num_beams or num_beams == 1:
                    break
        return max(finished)[1]


def ngrams(words):
    return Counter(tuple(words[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1))


def bleu(hypotheses, references):
    streams = [list(references)] if not references or isinstance(references[0], str) else references
    for stream in streams:
        if len(stream) != len(hypotheses):
            raise ValueError("references must be as many as hypotheses")
    stats = Counter()
    for hypothesis, refs in zip(hypotheses, zip(*streams)):
        words, refs = hypothesis.split(), [r.split() for r in refs]
        best = {}
        for ref in refs:
            for gram, count in ngrams(ref).items():
                best[gram] = max(count, best.get(gram, 0))
        for gram, count in ngrams(words).items():
            stats["all", len(gram)] += count
            stats["ok", len(gram)] += min(count, best.get(gram, 0))
        lengths = sorted(len(ref) for ref in refs)
        stats["ref"] += sorted(lengths, key=lambda n: abs(n - len(words)))[0]
        stats["hyp"] += len(words)
    if not all(stats["ok", n] for n in (1, 2, 3, 4)):
        return 0.0
    score = sum(log(stats["ok", n]) - log(stats["all", n]) for n in (1, 2, 3, 4)) / 4
    return 100 * exp(score + min(0, 1 - stats["ref"] / stats["hyp"]))
