import contextlib
import math

import torch
import torch.nn as nn
from transformer import Transformer


class TransformerTranslator(nn.Module):
    LIMIT = 600

    def __init__(
        self, src_vocab_size, tgt_vocab_size, d_model=512, num_layers=6, num_heads=8, bos_id=1, eos_id=2, pad_id=0
    ):
        super().__init__()
        self.model = Transformer(
            src_vocab_size, tgt_vocab_size, d_model, num_layers, num_heads, max_len=self.LIMIT, pad_id=pad_id
        )
        self.special = bos_id, eos_id, pad_id

    @contextlib.contextmanager
    def _evaluating(self):
        before = {name: module.training for name, module in self.named_modules()}
        self.train(False)
        yield
        for name, module in self.named_modules():
            module.training = before[name]

    @torch.no_grad()
    def translate(self, src, max_length, num_beams=1):
        if not 2 <= max_length <= self.LIMIT:
            raise ValueError(f"max_length: {max_length}, must be at least 2 and at most {self.LIMIT}")
        with self._evaluating():
            ids = self.greedy(src, max_length) if num_beams == 1 else self.beams(src, max_length, num_beams)
        # Cut what is behind the longest row.
        bos, eos, pad = self.special
        ends = (ids[:, 1:] == eos).int()
        lengths = torch.where(ends.any(1), ends.argmax(1) + 2, ids.shape[1])
        ids = ids[:, : int(lengths.max())]
        places = torch.arange(ids.shape[1], device=ids.device)
        return torch.where(places < lengths[:, None], ids, pad)

    def greedy(self, src, max_length):
        bos, eos, _ = self.special
        ids = src.new_full((len(src), 1), bos)
        for _ in range(max_length - 1):
            ids = torch.cat((ids, self.model(src, ids)[:, -1:].argmax(-1)), 1)
            if (ids[:, 1:] == eos).any(1).all():
                break
        return ids

    def beams(self, src, max_length, K):
        """As transformers: K running and K finished beams a source, in tensors; -1e9 means empty."""
        bos, eos, pad = self.special
        B, device = len(src), src.device
        src = src.repeat_interleave(K, 0)
        running = torch.full((B, K, max_length), pad, device=device)
        running[:, :, 0] = bos
        finished = running.clone()
        scores = torch.full((B, K), -1e9, dtype=torch.double, device=device)
        best = scores.clone()
        done = torch.zeros(B, K, dtype=torch.bool, device=device)
        active = torch.ones(B, 1, dtype=torch.bool, device=device)
        scores[:, 0] = 0
        for length in range(1, max_length):
            logits = self.model(src, running[:, :, :length].reshape(B * K, length))[:, -1].double()
            V = logits.shape[-1]
            total = (scores.view(B * K, 1) + logits.log_softmax(-1)).view(B, K * V)
            top, index = total.topk(min(2 * K, K * V), 1)
            sequences = running.gather(1, (index // V)[..., None].expand(-1, -1, max_length)).clone()
            sequences[:, :, length] = index % V
            over = (index % V == eos) | (length + 1 == max_length)
            count = over & (torch.arange(top.shape[1], device=device) < K) & active
            merged = torch.cat([best, torch.where(count, top / length, -1e9)], 1)
            best, pick = merged.topk(K, 1)
            finished = torch.cat([finished, sequences], 1).gather(1, pick[..., None].expand(-1, -1, max_length))
            done = torch.cat([done, count], 1).gather(1, pick)
            scores, pick = (top - 1e9 * over).topk(K, 1)
            running = sequences.gather(1, pick[..., None].expand(-1, -1, max_length))
            worst = torch.where(done.all(1), best.min(1).values, -1e9)
            active &= (scores[:, 0] / length > worst)[:, None]
            if not active.any():
                break
        return finished[:, 0]


def bleu(hypotheses, references):
    if len(references) > 0 and all(isinstance(line, str) for line in references):
        references = [references]
    if any(len(stream) != len(hypotheses) for stream in references) or (hypotheses and not references):
        raise ValueError("hypotheses and references differ in length")
    correct, total = torch.zeros(4, dtype=torch.double), torch.zeros(4, dtype=torch.double)
    sys_len = ref_len = 0
    for i, line in enumerate(hypotheses):
        words = line.split()
        others = [stream[i].split() for stream in references]
        sys_len += len(words)
        nearest = sorted(others, key=len)
        ref_len += len(min(nearest, key=lambda other: abs(len(other) - len(words))))
        for n in range(4):
            mine = [" ".join(words[k : k + n + 1]) for k in range(len(words) - n)]
            theirs = [[" ".join(other[k : k + n + 1]) for k in range(len(other) - n)] for other in others]
            total[n] += len(mine)
            for gram in set(mine):
                correct[n] += min(mine.count(gram), max(other.count(gram) for other in theirs))
    if (correct == 0).any():
        return 0.0
    penalty = 1.0 if sys_len >= ref_len else math.exp(1 - ref_len / sys_len)
    return 100.0 * penalty * float((correct / total).prod() ** 0.25)
