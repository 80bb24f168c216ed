"""Public tests of summarization: what you can see from outside, and small cases by hand. The hidden tests look closer."""

import pytest
import torch


def test_a_summary_is_the_argmax_at_each_step(student, check):
    """Each token is the most probable one; what follows eos_id is pad_id; no row is longer than max_summary_length."""

    def probe():
        from summarization import TransformerSummarizer

        summarizer = TransformerSummarizer(9, d_model=16, num_layers=1, num_heads=2).eval()
        text = torch.tensor([[5, 3, 8, 4], [7, 0, 0, 0], [6, 6, 2, 0]])
        ids = torch.ones(3, 1, dtype=torch.long)
        for _ in range(5):
            ids = torch.cat([ids, summarizer.model(text, ids)[:, -1:].argmax(-1)], dim=1)
        return summarizer.summarize(text, 6), ids

    result, steps = student.run(probe)

    rows = [row.tolist() for row in steps]
    rows = [row[: row.index(2) + 1] if 2 in row else row for row in rows]
    width = max(map(len, rows))
    check(result, torch.tensor([row + [0] * (width - len(row)) for row in rows]), mistakes={
        "bos_id is missing at the beginning": torch.tensor([row[1:] + [0] * (width - len(row)) for row in rows]),
    })  # fmt: skip


@pytest.mark.parametrize("max_summary_length", [1, 0, 10**9])
def test_max_summary_length_counts_bos_and_has_bounds(student, max_summary_length):
    """1 leaves no room for a token after bos; no model has a max_len of a billion."""

    def probe(max_summary_length):
        from summarization import TransformerSummarizer

        return TransformerSummarizer(9, d_model=16, num_layers=1, num_heads=2).summarize(
            torch.tensor([[5, 3]]), max_summary_length
        )

    student.raises(ValueError, probe, max_summary_length, says=("max_summary_length", "max_len"))


def test_summarize_gives_every_module_its_mode_back(student, check):
    """The summarizer was in train mode, its encoder was not: so it is afterwards."""

    def probe():
        from summarization import TransformerSummarizer

        summarizer = TransformerSummarizer(9, d_model=16, num_layers=1, num_heads=2).train()
        summarizer.model.encoder.eval()
        for beams in (1, 2):
            summarizer.summarize(torch.tensor([[5, 3]]), 4, num_beams=beams)
        return summarizer.training, summarizer.model.training, summarizer.model.encoder.training

    check(student.run(probe), [True, True, False], mistakes={
        "the summarizer stays in eval mode": [False, False, False],
        "all modules are in train mode afterwards": [True, True, True],
    })  # fmt: skip


def test_the_central_sentences(student, check):
    """The second and the last have words in common with all others, the third with none."""
    sentences = [
        "The river flooded the town.",
        "Rain made the river rise until it flooded streets.",
        "Bananas are yellow!",
        "Streets were closed by police.",
        "Police closed streets after rain flooded the town.",
    ]

    summary = student.call("summarization.extractive_summary", sentences, 2)

    check(summary, [sentences[1], sentences[4]], mistakes={
        "the sentences are in the order of their scores; they should be in the order of the text": [sentences[4], sentences[1]],
        "the first sentences are taken": sentences[:2],
    })  # fmt: skip


def test_rouge_1_and_2_of_a_cat(student, check):
    """All five words are in the reference's six, "the" twice in both; of four pairs two are: "the cat" and "the mat"."""
    candidate, reference = "The cat, the mat: sat", "the cat sat on the mat"

    check(student.call("summarization.rouge_n", candidate, reference, 1), (1.0, 5 / 6, 10 / 11), mistakes={
        "precision and recall are exchanged": (5 / 6, 1.0, 10 / 11),
        "a word counts once, however often it occurs": (4 / 5, 4 / 6, 8 / 11),
    })  # fmt: skip
    check(student.call("summarization.rouge_n", candidate, reference, 2), (0.5, 0.4, 4 / 9))


def test_rouge_l_keeps_the_order(student, check):
    """The longest common subsequence of both is "the cat the mat"."""
    candidate, reference = "The cat, the mat: sat", "the cat sat on the mat"

    check(student.call("summarization.rouge_l", candidate, reference), (0.8, 4 / 6, 8 / 11), mistakes={
        "precision and recall are exchanged": (4 / 6, 0.8, 8 / 11),
        "the order does not count; it should": (1.0, 5 / 6, 10 / 11),
        "gaps are not allowed; they should be": (0.4, 2 / 6, 4 / 11),
    })  # fmt: skip


def test_rouge_of_nothing(student, check):
    """Zeros, and no division by them."""
    check(student.call("summarization.rouge_n", "", "a b", 1), (0.0, 0.0, 0.0))
    check(student.call("summarization.rouge_n", "a", "a", 2), (0.0, 0.0, 0.0))
    check(student.call("summarization.rouge_l", "a b", "..."), (0.0, 0.0, 0.0))
