import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformer import Transformer

# ---------------------------------------------------------------------------------------------- abstractive


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


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
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.max_len = 5000
        self.model = Transformer(
            vocab_size, vocab_size, d_model, num_layers, num_heads, max_len=self.max_len, pad_id=pad_id
        )

    def summarize(self, text: torch.Tensor, max_summary_length: int, num_beams: int = 1) -> torch.Tensor:
        if max_summary_length < 2 or max_summary_length > self.max_len:
            raise ValueError(f"max_summary_length must be from 2 to max_len={self.max_len}, not {max_summary_length}")
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, not {num_beams}")
        if text.dim() != 2:
            raise ValueError(f"text must be (B, T), but has the shape {tuple(text.shape)}")

        with _eval_mode(self), torch.no_grad():
            if num_beams == 1:
                return self._greedy(text, max_summary_length)
            rows = [self._beam_search(text[i : i + 1], max_summary_length, num_beams) for i in range(len(text))]

        longest = max([len(row) for row in rows], default=1)
        result = torch.full((len(rows), longest), self.pad_id, dtype=torch.long, device=text.device)
        for i, row in enumerate(rows):
            result[i, : len(row)] = torch.tensor(row, device=text.device)
        return result

    def _greedy(self, text: torch.Tensor, max_summary_length: int) -> torch.Tensor:
        ids = torch.full((len(text), 1), self.bos_id, dtype=torch.long, device=text.device)
        ended = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        while ids.shape[1] < max_summary_length and not ended.all():
            token = self.model(text, ids)[:, -1].argmax(dim=-1)  # (B,)
            token = token.masked_fill(ended, self.pad_id)
            ids = torch.cat([ids, token[:, None]], dim=1)
            ended = ended | (token == self.eos_id)
        return ids

    def _beam_search(self, text: torch.Tensor, max_summary_length: int, num_beams: int) -> list[int]:
        beams = [([self.bos_id], 0.0)]  # tokens, log-likelihood
        finished = []  # score, tokens
        for length in range(2, max_summary_length + 1):  # the length after this step
            ids = torch.tensor([tokens for tokens, _ in beams], device=text.device)  # (K, L)
            logits = self.model(text.expand(len(beams), -1), ids)[:, -1]  # (K, V)
            before = torch.tensor([total for _, total in beams], dtype=torch.float64, device=text.device)
            totals = before[:, None] + logits.double().log_softmax(dim=-1)
            vocab_size = totals.shape[1]

            # At most one continuation of each beam is the end, so 2K of them have K that go on (if there are as many).
            values, places = totals.flatten().topk(min(2 * num_beams, totals.numel()))
            new_beams = []
            for total, place in zip(values.tolist(), places.tolist()):
                if len(new_beams) == num_beams:
                    break
                tokens = beams[place // vocab_size][0] + [place % vocab_size]
                if tokens[-1] == self.eos_id or length == max_summary_length:
                    finished.append((total / (length - 1), tokens))
                if tokens[-1] != self.eos_id:
                    new_beams.append((tokens, total))
            beams = new_beams

            if not beams:
                break
            if len(finished) >= num_beams:
                best_beam = max(total / (length - 1) for _, total in beams)
                if best_beam <= min(score for score, _ in finished):
                    break
        return max(finished, key=lambda pair: pair[0])[1]


# ---------------------------------------------------------------------------------------------- extractive


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _similarity(a: set[str], b: set[str]) -> float:
    common = len(a & b)
    if common == 0 or (len(a) == 1 and len(b) == 1):
        return 0.0
    return common / (math.log(len(a)) + math.log(len(b)))


def _text_rank(word_sets: list[set[str]], d: float = 0.85) -> list[float]:
    n = len(word_sets)
    weights = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i):
            weights[i][j] = weights[j][i] = _similarity(word_sets[i], word_sets[j])
    w = torch.tensor(weights, dtype=torch.float64)
    total = w.sum(dim=1)
    total[total == 0] = 1.0  # joined with nothing: a row of zeros stays one
    m = (w / total[:, None]).T  # m[i, j] = w_ji / sum_k w_jk
    system = torch.eye(n, dtype=torch.float64) - d * m
    right_side = torch.full((n,), 1 - d, dtype=torch.float64)
    return torch.linalg.solve(system, right_side).tolist()


def extractive_summary(sentences: list[str], num_sentences: int) -> list[str]:
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, not {num_sentences}")
    if num_sentences >= len(sentences):
        return list(sentences)

    scores = _text_rank([set(_words(sentence)) for sentence in sentences])
    best = sorted(range(len(sentences)), key=lambda i: scores[i], reverse=True)[:num_sentences]
    return [sentences[i] for i in sorted(best)]


# ---------------------------------------------------------------------------------------------- evaluation


def _count_ngrams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _precision_recall_f1(matches: int, in_candidate: int, in_reference: int) -> tuple[float, float, float]:
    if matches == 0:
        return 0.0, 0.0, 0.0
    precision = matches / in_candidate
    recall = matches / in_reference
    return precision, recall, 2 * precision * recall / (precision + recall)


def rouge_n(candidate: str, reference: str, n: int) -> tuple[float, float, float]:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    candidate_counts = _count_ngrams(_words(candidate), n)
    reference_counts = _count_ngrams(_words(reference), n)
    matches = 0
    for ngram, count in candidate_counts.items():
        matches += min(count, reference_counts[ngram])
    return _precision_recall_f1(matches, sum(candidate_counts.values()), sum(reference_counts.values()))


def rouge_l(candidate: str, reference: str) -> tuple[float, float, float]:
    candidate_words = _words(candidate)
    reference_words = _words(reference)
    previous = [0] * (len(reference_words) + 1)  # the row above in the table
    for a in candidate_words:
        row = [0]
        for j, b in enumerate(reference_words, start=1):
            if a == b:
                row.append(previous[j - 1] + 1)
            else:
                row.append(max(previous[j], row[j - 1]))
        previous = row
    return _precision_recall_f1(previous[-1], len(candidate_words), len(reference_words))
