import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn
from transformer import Transformer

# ---------------------------------------------------------------------------------------------- abstractive


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
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
        self.bos_id, self.eos_id, self.pad_id, self.max_len = bos_id, eos_id, pad_id, 5000
        self.model = Transformer(
            vocab_size,
            vocab_size,
            d_model,
            num_layers,
            num_heads,
            d_ff=4 * d_model,
            max_len=self.max_len,
            pad_id=pad_id,
        )

    def summarize(self, text: torch.Tensor, max_summary_length: int, num_beams: int = 1) -> torch.Tensor:
        if not 2 <= max_summary_length <= self.max_len:
            raise ValueError(
                f"max_summary_length must be from 2 (bos and one token) to max_len={self.max_len}, not {max_summary_length}"
            )
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, not {num_beams}")
        with _eval_mode(self), torch.no_grad():
            if num_beams == 1:
                return self._greedy(self._trim(text), max_summary_length)
            rows = [self._beam_search(self._trim(row[None]), max_summary_length, num_beams) for row in text]
            width = max(map(len, rows), default=1)
            result = torch.full((len(rows), width), self.pad_id, dtype=torch.long, device=text.device)
            for target, row in zip(result, rows, strict=True):
                target[: len(row)] = row
            return result

    def _trim(self, text: torch.Tensor) -> torch.Tensor:
        used = (text != self.pad_id).any(dim=0).nonzero()
        return text[:, : int(used[-1]) + 1 if len(used) else 1]

    def _greedy(self, text: torch.Tensor, max_length: int) -> torch.Tensor:
        ids = torch.full((len(text), 1), self.bos_id, dtype=torch.long, device=text.device)
        ended = torch.zeros_like(ids, dtype=torch.bool)
        while ids.shape[1] < max_length and not ended.all():
            token = self.model(text, ids)[:, -1:].argmax(-1).masked_fill(ended, self.pad_id)  # (B, 1)
            ids = torch.cat([ids, token], dim=1)
            ended = ended | (token == self.eos_id)
        return ids

    def _beam_search(self, text: torch.Tensor, max_length: int, num_beams: int) -> torch.Tensor:
        live = torch.full((1, 1), self.bos_id, dtype=torch.long, device=text.device)
        likelihood = torch.zeros(1, dtype=torch.float64, device=text.device)
        best, best_score = live[0], None
        for length in range(1, max_length):
            logits = self.model(text.expand(len(live), -1), live)[:, -1]
            total = likelihood[:, None] + logits.double().log_softmax(-1)  # (K, V)
            # At most num_beams of the 2 · num_beams end, so there are num_beams others to go on with.
            top, place = total.flatten().topk(min(2 * num_beams, total.numel()))
            beam, token = place // total.shape[1], place % total.shape[1]
            rows = torch.cat([live[beam], token[:, None]], dim=1)

            ends = (token == self.eos_id) | (length == max_length - 1)
            for i in ends[:num_beams].nonzero()[:1, 0].tolist():  # the first one is the best of this length
                score = float(top[i]) / length
                if best_score is None or score > best_score:
                    best, best_score = rows[i], score
            go_on = (~ends).nonzero()[:num_beams, 0]
            live, likelihood = rows[go_on], top[go_on]
            # A likelihood can only fall, and the most tokens it may be divided by are max_length - 1: no beam that is
            # not above best_score with that divisor can still win.
            if len(live) == 0 or (best_score is not None and float(likelihood[0]) / (max_length - 1) <= best_score):
                break
        return best


# ---------------------------------------------------------------------------------------------- extractive


def _words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def extractive_summary(sentences: list[str], num_sentences: int) -> list[str]:
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, not {num_sentences}")
    if num_sentences >= len(sentences):
        return list(sentences)

    words = [set(_words(sentence)) for sentence in sentences]
    found_in = Counter(chain.from_iterable(words))
    columns = {word: j for j, word in enumerate(word for word, count in found_in.items() if count > 1)}
    pairs = [(i, columns[word]) for i, some in enumerate(words) for word in some if word in columns]
    if not pairs:
        return sentences[:num_sentences]  # nothing is joined, all scores are equal
    incidence = np.zeros((len(words), len(columns)), dtype=np.float32)
    incidence[tuple(np.transpose(pairs))] = 1

    common = (incidence @ incidence.T).astype(float)
    logs = np.log([max(len(some), 1) for some in words])
    lengths = logs[:, None] + logs
    weights = np.divide(common, lengths, out=np.zeros_like(common), where=lengths > 0)
    np.fill_diagonal(weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    moves = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)  # row j: where one goes from j

    d = 0.85
    scores = np.linalg.solve(np.eye(len(words)) - d * moves.T, np.full(len(words), 1 - d))
    return [sentences[i] for i in sorted(np.argsort(-scores, kind="stable")[:num_sentences])]


# ---------------------------------------------------------------------------------------------- evaluation


def rouge_n(candidate: str, reference: str, n: int) -> tuple[float, float, float]:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    ours, theirs = (
        Counter(zip(*(words[shift:] for shift in range(min(n, len(words) + 1))), strict=False))
        for words in (_words(candidate), _words(reference))
    )
    return _precision_recall_f1((ours & theirs).total(), ours.total(), theirs.total())


def _precision_recall_f1(matches: int, candidate: int, reference: int) -> tuple[float, float, float]:
    if matches == 0:
        return 0.0, 0.0, 0.0
    return matches / candidate, matches / reference, 2 * matches / (candidate + reference)


def rouge_l(candidate: str, reference: str) -> tuple[float, float, float]:
    a, b = _words(candidate), _words(reference)
    # The table's row as the bits of one integer: bit i is 0 where c rises between columns i and i + 1 (Hyyrö 2004).
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return _precision_recall_f1(len(a) - row.bit_count(), len(a), len(b))
