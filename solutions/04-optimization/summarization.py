"""Summaries: a Transformer that writes one, TextRank that picks sentences, and ROUGE that compares with a reference.

    abstractive   the model says it in its own words, token by token      TransformerSummarizer
    extractive    the most central sentences of the text itself           extractive_summary (TextRank)
    evaluation    shared n-grams, or the longest common subsequence       rouge_n, rouge_l

Letters in the shapes: B batch, T length of the text, L of the summary, D = d_model, V vocabulary, K beams.
"""

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
def _evaluating(model: nn.Module) -> Iterator[None]:  # solution only
    """Eval mode without gradients; afterwards every module has its own mode again, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class TransformerSummarizer(nn.Module):
    """Lesson 2's Transformer (Vaswani et al. 2017), from a text to its summary in the same vocabulary.

    Args:
        vocab_size: V, of texts and of summaries.
        d_model, num_layers, num_heads: as in the Transformer; there are num_layers in the encoder and in the decoder.
        bos_id, eos_id: the tokens with which a summary begins and ends. They may be the same.
        pad_id: the token that fills up texts and summaries.

    Attributes:
        model: the Transformer, model(text, summary) -> logits (B, L, V). A trainer of lesson 2 can train it.
    """

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
        # student: lesson 2's Transformer as self.model, with the same vocabulary twice; remember the ids
        super().__init__()
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.max_len = 5000
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
        """text (B, T) integers, filled up with pad_id on the right -> summaries (B, L), L <= max_summary_length.

        Each row begins with bos_id, ends with its first eos_id after that, if one comes before the row is
        max_summary_length long, and is filled up with pad_id to the longest row. No token is suppressed: bos_id and pad_id
        may be generated. A text's padding changes nothing.

        num_beams=1: each token is the argmax of model(text, row so far)[:, -1].
        num_beams>1: beam search. The best of all summaries that it finished wins: those that got their eos_id, and those
        that reached max_summary_length. Score: log-likelihood / number of tokens, eos_id included and bos_id not. When the
        search stops is up to you, as in lesson 3's translate: for example once num_beams are finished and the best beam, by
        its score so far, is not better than the worst of them.

        All modules are in eval mode meanwhile, and each has its own mode again afterwards.

        Raises:
            ValueError: max_summary_length (bos included) leaves no room for a token, or is above the model's max_len (5000
                as in lesson 2); or num_beams is less than 1. The message names the argument.
        """
        # student: check the arguments; in eval mode, without gradients: greedy or beams; then give the modes back
        if not 1 < max_summary_length <= self.max_len:
            raise ValueError(f"max_summary_length must be from 2 to {self.max_len}, not {max_summary_length}")
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, not {num_beams}")
        with _evaluating(self):
            if num_beams == 1:
                return self._greedy(text, max_summary_length)
            rows = [self._best_beam(row[None], max_summary_length, num_beams) for row in text]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)

    def _greedy(self, text: torch.Tensor, max_length: int) -> torch.Tensor:  # solution only
        """text (B, T) -> (B, L)."""
        memory, mask = self.model.encode(text), text != self.pad_id  # the text is read once
        ids = torch.full((len(text), 1), self.bos_id, device=text.device)  # (B, 1)
        ended = torch.zeros(len(text), dtype=torch.bool, device=text.device)  # bos may be eos: nothing has ended yet
        while ids.shape[1] < max_length and not ended.all():
            token = self.model.decode(ids, memory, mask)[:, -1].argmax(dim=-1)  # (B,)
            token = token.masked_fill(ended, self.pad_id)
            ended |= token == self.eos_id
            ids = torch.cat([ids, token[:, None]], dim=1)
        return ids

    def _best_beam(self, text: torch.Tensor, max_length: int, num_beams: int) -> torch.Tensor:  # solution only
        """The summary (L,) of one text (1, T). Its beams are the batch, the best one first."""
        memory, mask = self.model.encode(text), text != self.pad_id  # (1, T, D), (1, T)
        beams = torch.full((1, 1), self.bos_id, device=text.device)  # (K, L); one at first: all would be the same
        totals = torch.zeros(1, device=text.device)  # (K,) log-likelihoods
        finished: list[tuple[float, torch.Tensor]] = []  # scores and summaries, the best num_beams

        for length in range(1, max_length):  # tokens after bos, the new one included
            logits = self.model.decode(beams, memory.expand(len(beams), -1, -1), mask.expand(len(beams), -1))[:, -1]
            continued = totals[:, None] + logits.log_softmax(dim=-1)  # (K, V)
            # Each beam has one way to end, so among twice as many there are enough that go on.
            totals, places = continued.flatten().topk(min(2 * num_beams, continued.numel()))
            parents, tokens = places // logits.shape[1], places % logits.shape[1]
            beams = torch.cat([beams[parents], tokens[:, None]], dim=1)  # (<= 2K, L)

            ends = tokens == self.eos_id
            over = ends | (length == max_length - 1)
            finished += [(float(totals[k]) / length, beams[k]) for k in range(min(num_beams, len(beams))) if over[k]]
            finished = sorted(finished, key=lambda pair: pair[0], reverse=True)[:num_beams]

            beams, totals = beams[~ends][:num_beams], totals[~ends][:num_beams]
            if len(beams) == 0:
                break
            if len(finished) == num_beams and float(totals[0]) / length <= finished[-1][0]:
                break  # no beam is now better than the worst that is finished
        return finished[0][1]


# ---------------------------------------------------------------------------------------------- extractive


def _words(text: str) -> list[str]:  # solution only
    """As rouge-score's tokenizer without a stemmer."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _similarity(one: set[str], other: set[str]) -> float:  # solution only
    """Common words over the sum of the logarithms of both sizes; 0 if there is none."""
    common = len(one & other)
    if common == 0 or len(one) == len(other) == 1:  # the latter would divide by log 1 + log 1
        return 0.0
    return common / (math.log(len(one)) + math.log(len(other)))


def extractive_summary(sentences: list[str], num_sentences: int) -> list[str]:
    """TextRank (Mihalcea & Tarau 2004, "TextRank: Bringing Order into Texts", sections 2.2 and 4.1).

    A sentence is important if important sentences have much in common with it. It is a node of a graph, and two of them are
    joined with the weight

        w_ij = |S_i ∩ S_j| / (log |S_i| + log |S_j|),   S_i: the set of the words of sentence i

    A word is a run of the letters a-z and digits 0-9 of the lower-cased text, as in rouge_n; no word is left out and none
    is stemmed, and each counts once a sentence. w_ij is 0 if no word is in both, and if both have only one word. No
    sentence is joined with itself. The scores solve PageRank's equation with d = 0.85:

        score_i = (1 - d) + d · Σ_j  w_ji / (Σ_k w_jk) · score_j        the sum runs over the sentences j joined with i

    Args:
        sentences: in the order of the document; there may be none, and a sentence may have no words.
        num_sentences: how many to choose; if there are fewer, all are returned.

    Returns:
        The num_sentences sentences with the greatest scores, in the order of the document. Between equal scores either is
        right.

    Raises:
        ValueError: num_sentences is less than 1.
    """
    # student: the matrix of similarities, the scores, the best in their old order
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, not {num_sentences}")
    words = [set(_words(sentence)) for sentence in sentences]
    n, d = len(sentences), 0.85
    w = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i):
            w[i, j] = w[j, i] = _similarity(words[i], words[j])

    total = w.sum(dim=1)  # (n,)
    share = w / torch.where(total > 0, total, 1.0)  # share[i, j]: of what sentence j gives, sentence i's part
    # The equation is linear: (1 - d · share) score = 1 - d. Repeating it from any start gives the same scores.
    score = torch.linalg.solve(torch.eye(n, dtype=w.dtype) - d * share, torch.full((n,), 1 - d, dtype=w.dtype))

    best = score.argsort(descending=True, stable=True)[:num_sentences]
    return [sentences[i] for i in sorted(best.tolist())]


# ---------------------------------------------------------------------------------------------- evaluation


def _scores(matches: int, candidate_total: int, reference_total: int) -> tuple[float, float, float]:  # solution only
    """Precision, recall, f1."""
    if matches == 0:
        return 0.0, 0.0, 0.0
    precision, recall = matches / candidate_total, matches / reference_total
    return precision, recall, 2 * precision * recall / (precision + recall)


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:  # solution only
    """How often each n-gram occurs."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def rouge_n(candidate: str, reference: str, n: int) -> tuple[float, float, float]:
    """ROUGE-N (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 2): the n-grams in common.

        matches   = Σ over n-grams of min(count in the candidate, count in the reference)
        precision = matches / n-grams of the candidate
        recall    = matches / n-grams of the reference
        f1        = 2 · precision · recall / (precision + recall)

    As the package rouge-score computes it without a stemmer: words are runs of a-z and 0-9 of the lower-cased text, and
    everything else separates words ("don't" is two of them, "naïve" too).

    Args:
        candidate: the summary to judge, any string.
        reference: what it should be like.
        n: at least 1.

    Returns:
        (precision, recall, f1), Python floats from 0 to 1; zeros if nothing is in common or a text has no n-gram.

    Raises:
        ValueError: n is less than 1.
    """
    # student: count n-grams in both; an n-gram counts as often as it is in both
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    ours, theirs = _ngrams(_words(candidate), n), _ngrams(_words(reference), n)
    return _scores((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(candidate: str, reference: str) -> tuple[float, float, float]:
    """ROUGE-L (Lin 2004, section 3.1): the longest common subsequence of the words (LCS), which may have gaps in both texts.

        precision = LCS / words of the candidate,   recall = LCS / words of the reference,   f1 as in rouge_n

    As rouge-score's "rougeL" without a stemmer: words as in rouge_n, the whole text is one sequence.

    Args:
        candidate, reference: any strings.

    Returns:
        (precision, recall, f1), Python floats from 0 to 1; zeros if nothing is in common or a text has no words.
    """
    # student: the table of the LCS, then the three numbers
    ours, theirs = _words(candidate), _words(reference)
    lengths = [0] * (len(theirs) + 1)  # lengths[j]: of the LCS of our words so far and their first j
    for word in ours:
        diagonal = 0  # the previous row's lengths[j]
        for j, other in enumerate(theirs):
            above = lengths[j + 1]
            lengths[j + 1] = diagonal + 1 if word == other else max(above, lengths[j])
            diagonal = above
    return _scores(lengths[-1], len(ours), len(theirs))
