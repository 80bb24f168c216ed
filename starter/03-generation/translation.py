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
        # TODO(student): lesson 2's Transformer as self.model; remember the ids
        raise NotImplementedError("TransformerTranslator.__init__ is not implemented yet")

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
        # TODO(student): check max_length; in eval mode, without gradients: greedy or beams; then give the modes back
        raise NotImplementedError("TransformerTranslator.translate is not implemented yet")


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
    # TODO(student): sum matches, n-grams and lengths over the corpus, and only then divide
    raise NotImplementedError("bleu is not implemented yet")
