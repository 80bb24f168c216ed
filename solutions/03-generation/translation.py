"""Translation: a Transformer that is asked for one token after the other, and BLEU, which says how good the result is.

The model gives P(token | source, target so far). A translation is found by asking again and again:

    greedy       take the most probable token each time: a good first token may lead nowhere
    beam search  keep the num_beams best beginnings; at the end the best finished sentence wins

A sentence's log-likelihood is a sum of negative numbers, one per token: short sentences have the better ones. So
finished sentences are compared by log-likelihood / number of tokens (length normalization; Wu et al. 2016, "Google's
Neural Machine Translation System", section 7, compare this and other formulas).

Letters in the shapes: B batch, Ts length of the source, T of the target, D = d_model, V target vocabulary, K beams.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformer import Transformer


def _checked(max_length: int, max_len: int) -> None:  # solution only
    if max_length <= 1:
        raise ValueError(f"max_length must leave room for a token after bos, but it is {max_length}")
    if max_length > max_len:
        raise ValueError(f"max_length={max_length} is more than the model's max_len={max_len}")


class TransformerTranslator(nn.Module):
    """Lesson 2's Transformer (Vaswani et al. 2017) with the loop that makes it translate.

    Args:
        src_vocab_size, tgt_vocab_size: the vocabularies of source and target.
        d_model, num_layers, num_heads: as in the Transformer; there are num_layers in the encoder and in the decoder.
        bos_id, eos_id: the tokens with which a target begins and ends. They may be the same.
        pad_id: the token that fills up sources and targets.

    Attributes:
        model: the Transformer, model(src, tgt) -> logits (B, T, V). A trainer of lesson 2 can train it.
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        bos_id: int = 1,
        eos_id: int = 2,
        pad_id: int = 0,
    ) -> None:
        # student: lesson 2's Transformer as self.model; remember the ids
        super().__init__()
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.max_len = 5000
        self.model = Transformer(
            src_vocab_size,
            tgt_vocab_size,
            d_model,
            num_layers,
            num_heads,
            d_ff=4 * d_model,
            max_len=self.max_len,
            pad_id=pad_id,
        )

    def translate(self, src: torch.Tensor, max_length: int, num_beams: int = 1) -> torch.Tensor:
        """src (B, Ts) integers, filled up with pad_id -> translations (B, T), T <= max_length.

        Each row begins with bos_id, ends with its first eos_id after that, if one comes before the row is max_length long,
        and is filled up with pad_id to the longest row. No token is suppressed: bos_id and pad_id may be generated.

        num_beams=1: each token is the argmax of model(src, row so far)[:, -1].
        num_beams>1: beam search. The best of all sentences that it finished wins: those that got their eos_id, and those
        that reached max_length. Score: log-likelihood / number of tokens, eos_id included and bos_id not.

        All modules are in eval mode meanwhile, and each has its own mode again afterwards.

        Raises:
            ValueError: max_length (bos included) leaves no room for a token, or is above the model's max_len. The message
                names max_length.
        """
        # student: check max_length; in eval mode, without gradients: greedy or beams; then give the modes back
        _checked(max_length, self.max_len)
        modes = [(module, module.training) for module in self.modules()]  # one by one: they may differ
        self.eval()
        try:
            with torch.no_grad():
                if num_beams == 1:
                    return self._greedy(src, max_length)
                rows = [self._beam_search(row[None], max_length, num_beams) for row in src]
                return pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        finally:
            for module, mode in modes:
                module.training = mode

    def _greedy(self, src: torch.Tensor, max_length: int) -> torch.Tensor:  # solution only
        """src (B, Ts) -> (B, T)."""
        memory, src_mask = self.model.encode(src), src != self.pad_id  # the source is read once
        ids = torch.full((src.shape[0], 1), self.bos_id, device=src.device)  # (B, 1)
        ended = torch.zeros(src.shape[0], dtype=torch.bool, device=src.device)  # bos may be eos: nothing has ended yet

        while ids.shape[1] < max_length and not ended.all():
            logits = self.model.decode(ids, memory, src_mask)[:, -1]  # (B, V)
            token = logits.argmax(dim=-1).masked_fill(ended, self.pad_id)  # (B,)
            ended |= token == self.eos_id
            ids = torch.cat([ids, token[:, None]], dim=1)
        return ids

    def _beam_search(self, src: torch.Tensor, max_length: int, num_beams: int) -> torch.Tensor:  # solution only
        """The translation (T,) of one source (1, Ts). Its K beams are the batch."""
        memory, src_mask = self.model.encode(src), src != self.pad_id  # (1, Ts, D), (1, Ts)
        beams = torch.full((1, 1), self.bos_id, device=src.device)  # (K, T); one at first, as all would be the same
        totals = torch.zeros(1, device=src.device)  # (K,) log-likelihoods, the best first
        finished = []  # (score, ids), the best first

        while len(beams) > 0:
            K, T = beams.shape  # with the token to come each beam has T tokens after bos
            logits = self.model.decode(beams, memory.expand(K, -1, -1), src_mask.expand(K, -1))[:, -1]  # (K, V)
            continued = totals[:, None] + logits.log_softmax(dim=-1)  # (K, V)

            # Each beam has one way to end, so among twice as many there are enough that go on.
            totals, places = continued.flatten().topk(min(2 * num_beams, continued.numel()))
            V = continued.shape[1]
            candidates = torch.cat([beams[places // V], (places % V)[:, None]], dim=1)  # (≤ 2K, T + 1)

            over = (candidates[:, -1] == self.eos_id) | (max_length == T + 1)
            good = torch.arange(len(over), device=src.device) < num_beams
            finished += [(float(totals[k]) / T, candidates[k]) for k in (over & good).nonzero().flatten()]
            finished = sorted(finished, key=lambda pair: pair[0], reverse=True)[:num_beams]

            beams, totals = candidates[~over][:num_beams], totals[~over][:num_beams]
            if len(finished) == num_beams and len(beams) and float(totals[0]) / T <= finished[-1][0]:
                break  # as transformers has it: no beam is now better than the worst that is finished
        return finished[0][1]


def bleu(hypotheses: list[str], references: list[str] | list[list[str]]) -> float:
    """Corpus BLEU-4, 0 to 100 (Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation").

        BLEU = 100 · BP · (p_1 · p_2 · p_3 · p_4)^(1/4),   BP = 1 if c > r, else e^(1 - r/c)

    p_n: of all n-grams of the hypotheses, the share that is found in the references. An n-gram counts at most as often as
    it occurs in the one reference of its sentence that has it most often ("clipped"). c: the length of all hypotheses.
    r: the sum of the reference lengths, from each sentence the one nearest to its hypothesis, the shorter of two equally
    near. Tokens are what whitespace separates. As sacrebleu.corpus_bleu(…, tokenize="none", smooth_method="none").

    Args:
        hypotheses: the sentences to judge.
        references: one sentence for each of them; or a list of such lists, as in sacrebleu: references[k][i] is the k-th
            reference of hypotheses[i].

    Returns:
        0.0 if for some n <= 4 no n-gram is found, or if there are no sentences.

    Raises:
        ValueError: hypotheses and references (or a list of these) differ in length.
    """
    # student: sum matches, n-grams and lengths over the corpus, and only then divide
    if not references or isinstance(references[0], str):
        references = [references]
    for sentences in references:
        if len(sentences) != len(hypotheses):
            raise ValueError(
                f"{len(hypotheses)} hypotheses, but {len(sentences)} references: there must be one for each"
            )

    matches, totals = [0] * 4, [0] * 4  # for n = 1 … 4
    c = r = 0
    for hypothesis, *alternatives in zip(hypotheses, *references, strict=True):
        tokens, alternatives = hypothesis.split(), [sentence.split() for sentence in alternatives]
        c += len(tokens)
        r += min((abs(len(other) - len(tokens)), len(other)) for other in alternatives)[1]
        for n in range(1, 5):
            found, most = _ngrams(tokens, n), Counter()
            for other in alternatives:
                most |= _ngrams(other, n)  # of each n-gram the greater count
            matches[n - 1] += (found & most).total()  # of each n-gram the smaller count
            totals[n - 1] += found.total()

    if min(matches) == 0:
        return 0.0
    log_precision = sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / 4
    return 100 * min(1.0, math.exp(1 - r / c)) * math.exp(log_precision)


def _ngrams(tokens: Sequence, n: int) -> Counter:  # solution only
    """How often each n-gram occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
