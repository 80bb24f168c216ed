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
        # TODO(student): lesson 2's Transformer as self.model, with the same vocabulary twice; remember the ids
        raise NotImplementedError("TransformerSummarizer.__init__ is not implemented yet")

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
        # TODO(student): check the arguments; in eval mode, without gradients: greedy or beams; then give the modes back
        raise NotImplementedError("TransformerSummarizer.summarize is not implemented yet")


# ---------------------------------------------------------------------------------------------- extractive


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
    # TODO(student): the matrix of similarities, the scores, the best in their old order
    raise NotImplementedError("extractive_summary is not implemented yet")


# ---------------------------------------------------------------------------------------------- evaluation


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
    # TODO(student): count n-grams in both; an n-gram counts as often as it is in both
    raise NotImplementedError("rouge_n is not implemented yet")


def rouge_l(candidate: str, reference: str) -> tuple[float, float, float]:
    """ROUGE-L (Lin 2004, section 3.1): the longest common subsequence of the words (LCS), which may have gaps in both texts.

        precision = LCS / words of the candidate,   recall = LCS / words of the reference,   f1 as in rouge_n

    As rouge-score's "rougeL" without a stemmer: words as in rouge_n, the whole text is one sequence.

    Args:
        candidate, reference: any strings.

    Returns:
        (precision, recall, f1), Python floats from 0 to 1; zeros if nothing is in common or a text has no words.
    """
    # TODO(student): the table of the LCS, then the three numbers
    raise NotImplementedError("rouge_l is not implemented yet")
