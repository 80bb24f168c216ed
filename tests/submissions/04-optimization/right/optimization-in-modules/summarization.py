import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformer import Transformer

# ---------------------------------------------------------------------------------------------- abstractive


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


class TransformerSummarizer(nn.Module):
    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        bos_id: int = 1,
        eos_id: int = 2,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.max_len = 5000
        self.model = Transformer(
            vocab_size, vocab_size, d_model, num_layers, num_heads, max_len=self.max_len, pad_id=pad_id
        )
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def summarize(self, text: torch.Tensor, max_summary_length: int, num_beams: int = 1) -> torch.Tensor:
        if not 2 <= max_summary_length <= self.max_len:
            raise ValueError(
                f"max_summary_length must be from 2 to the model's max_len={self.max_len}, not {max_summary_length}"
            )
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, not {num_beams}")
        text = text.long()
        with torch.no_grad(), _evaluating(self):
            memory, src_mask = self.model.encode(text), text != self.pad_id
            if num_beams == 1:
                return self._greedy_search(memory, src_mask, max_summary_length)
            return self._beam_search(memory, src_mask, max_summary_length, num_beams)

    def _greedy_search(self, memory: torch.Tensor, src_mask: torch.Tensor, max_length: int) -> torch.Tensor:
        batch_size = src_mask.shape[0]
        ids = torch.full((batch_size, 1), self.bos_id, dtype=torch.long, device=src_mask.device)
        done = torch.zeros(batch_size, dtype=torch.bool, device=src_mask.device)
        while ids.shape[1] < max_length and not bool(done.all()):
            token = self.model.decode(ids, memory, src_mask)[:, -1].argmax(dim=-1)
            token = token.masked_fill(done, self.pad_id)
            ids = torch.cat([ids, token[:, None]], dim=1)
            done = done | (token == self.eos_id)
        return ids

    def _beam_search(
        self, memory: torch.Tensor, src_mask: torch.Tensor, max_length: int, num_beams: int
    ) -> torch.Tensor:
        batch_size, device = src_mask.shape[0], src_mask.device
        beams = torch.full((batch_size, 1, 1), self.bos_id, dtype=torch.long, device=device)  # (B, live, length)
        beam_scores = torch.zeros(batch_size, 1, dtype=torch.float64, device=device)  # log-likelihoods
        # what is finished: the best one, and the num_beams best scores
        best = beams[:, 0]
        best_score = torch.full((batch_size,), -math.inf, dtype=torch.float64, device=device)
        best_length = torch.ones(batch_size, dtype=torch.long, device=device)
        top_scores = torch.full((batch_size, num_beams), -math.inf, dtype=torch.float64, device=device)
        num_finished = torch.zeros(batch_size, dtype=torch.long, device=device)
        done = torch.zeros(batch_size, dtype=torch.bool, device=device)

        for length in range(2, max_length + 1):
            live = beams.shape[1]
            if live == 0 or bool(done.all()):
                break
            logits = self.model.decode(
                beams.flatten(0, 1), memory.repeat_interleave(live, dim=0), src_mask.repeat_interleave(live, dim=0)
            )[:, -1]
            vocab_size = logits.shape[-1]
            log_probs = logits.double().log_softmax(dim=-1).view(batch_size, live, vocab_size)
            scores = (beam_scores[:, :, None] + log_probs).flatten(1)  # (B, live * V)

            # at most one candidate of each beam ends, so num_beams of these go on if there are as many
            scores, index = scores.topk(min(2 * num_beams, live * vocab_size), dim=1)
            parent, token = index // vocab_size, index % vocab_size
            candidates = beams.gather(1, parent[:, :, None].expand(-1, -1, length - 1))
            candidates = torch.cat([candidates, token[:, :, None]], dim=2)  # (B, candidates, length)
            ended = token == self.eos_id

            # a candidate finishes if it is among the num_beams best
            finished = ended | (length == max_length)
            finished = finished & ~done[:, None]
            finished[:, num_beams:] = False
            final_scores = (scores / (length - 1)).masked_fill(~finished, -math.inf)
            num_finished = num_finished + finished.sum(dim=1)
            top_scores = torch.cat([top_scores, final_scores], dim=1).topk(num_beams, dim=1).values
            score, which = final_scores.max(dim=1)
            better = score > best_score
            best = F.pad(best, (0, 1), value=self.pad_id)
            best = torch.where(better[:, None], candidates[torch.arange(batch_size, device=device), which], best)
            best_score = torch.where(better, score, best_score)
            best_length = torch.where(better, length, best_length)

            # the best others go on; each row has as many of them
            order = ended.long().sort(dim=1, stable=True).indices
            going = int((~ended).sum(dim=1).min()) if batch_size else 0
            order = order[:, : min(num_beams, going)]
            beam_scores = scores.gather(1, order)
            beams = candidates.gather(1, order[:, :, None].expand(-1, -1, length))

            if beams.shape[1] > 0:
                running = beam_scores[:, 0] / (length - 1)
                done = done | ((num_finished >= num_beams) & (running <= top_scores[:, -1]))

        width = int(best_length.max()) if batch_size else 1
        return best[:, :width]


# ---------------------------------------------------------------------------------------------- extractive


def _tokenize(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _similarities(words: list[set[str]]) -> torch.Tensor:
    n = len(words)
    w = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i):
            common = len(words[i] & words[j])
            if common:
                norm = math.log(len(words[i])) + math.log(len(words[j]))
                if norm > 0:
                    w[i][j] = w[j][i] = common / norm
    return torch.tensor(w, dtype=torch.float64)


def _pagerank(w: torch.Tensor, damping: float = 0.85, tolerance: float = 1e-13, max_steps: int = 1000) -> list[float]:
    total = w.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, w / total.clamp(min=1e-300), 0.0)  # share[j, i] of j's score goes to i
    scores = torch.ones(len(w), dtype=torch.float64)
    for _ in range(max_steps):
        new = (1 - damping) + damping * (share.T @ scores)
        if float((new - scores).abs().max()) < tolerance:
            return new.tolist()
        scores = new
    return scores.tolist()


def extractive_summary(sentences: list[str], num_sentences: int) -> list[str]:
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, not {num_sentences}")
    if num_sentences >= len(sentences):
        return list(sentences)
    scores = _pagerank(_similarities([set(_tokenize(sentence)) for sentence in sentences]))
    ranking = sorted(range(len(sentences)), key=lambda i: scores[i], reverse=True)
    return [sentences[i] for i in sorted(ranking[:num_sentences])]


# ---------------------------------------------------------------------------------------------- evaluation


def _precision_recall_f1(matches: int, ours: int, theirs: int) -> tuple[float, float, float]:
    if matches == 0:
        return 0.0, 0.0, 0.0
    precision, recall = matches / ours, matches / theirs
    return precision, recall, 2 * precision * recall / (precision + recall)


def _lcs_length(a: list[str], b: list[str]) -> int:
    previous = [0] * (len(b) + 1)
    for x in a:
        current = [0]
        left = 0
        for j, y in enumerate(b):
            if x == y:
                left = previous[j] + 1
            elif previous[j + 1] > left:
                left = previous[j + 1]
            current.append(left)
        previous = current
    return previous[-1]


def rouge_n(candidate: str, reference: str, n: int) -> tuple[float, float, float]:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")

    def ngrams(text: str) -> Counter:
        words = _tokenize(text)
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    ours, theirs = ngrams(candidate), ngrams(reference)
    return _precision_recall_f1(sum((ours & theirs).values()), sum(ours.values()), sum(theirs.values()))


def rouge_l(candidate: str, reference: str) -> tuple[float, float, float]:
    ours, theirs = _tokenize(candidate), _tokenize(reference)
    return _precision_recall_f1(_lcs_length(ours, theirs), len(ours), len(theirs))
