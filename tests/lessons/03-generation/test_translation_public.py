"""Public tests of translation: what you can see from outside, and BLEU worked out by hand. The hidden tests look closer."""

import math

import pytest
import torch


def test_a_translation_is_the_argmax_at_each_step(student, check):
    """Each token is the most probable one; what follows eos_id is pad_id; no row is longer than max_length."""

    def probe():
        from translation import TransformerTranslator

        translator = TransformerTranslator(12, 9, d_model=16, num_layers=1, num_heads=2).eval()
        src = torch.tensor([[5, 3, 11, 4], [7, 0, 0, 0], [6, 6, 2, 0]])
        ids = torch.ones(3, 1, dtype=torch.long)
        for _ in range(5):
            ids = torch.cat([ids, translator.model(src, ids)[:, -1:].argmax(-1)], dim=1)
        return translator.translate(src, 6), ids

    result, steps = student.run(probe)

    rows = [row.tolist() for row in steps]
    rows = [row[: row.index(2) + 1] if 2 in row else row for row in rows]
    width = max(map(len, rows))
    check(result, torch.tensor([row + [0] * (width - len(row)) for row in rows]), mistakes={
        "bos_id is missing at the beginning": torch.tensor([row[1:] + [0] * (width - len(row)) for row in rows]),
    })  # fmt: skip


@pytest.mark.parametrize("max_length", [1, 0, 10**9])
def test_max_length_counts_bos_and_has_bounds(student, max_length):
    """1 leaves no room for a token after bos; no model has a max_len of a billion."""

    def probe(max_length):
        from translation import TransformerTranslator

        return TransformerTranslator(12, 9, d_model=16, num_layers=1, num_heads=2).translate(
            torch.tensor([[5, 3]]), max_length
        )

    student.raises(ValueError, probe, max_length, says=("max_length", "max_len"))


def test_translate_gives_every_module_its_mode_back(student, check):
    """The translator was in train mode, its encoder was not: so it is afterwards."""

    def probe():
        from translation import TransformerTranslator

        translator = TransformerTranslator(12, 9, d_model=16, num_layers=1, num_heads=2).train()
        translator.model.encoder.eval()
        for beams in (1, 2):
            translator.translate(torch.tensor([[5, 3]]), 4, num_beams=beams)
        return translator.training, translator.model.training, translator.model.encoder.training

    check(student.run(probe), [True, True, False], mistakes={
        "the translator stays in eval mode": [False, False, False],
        "all modules are in train mode afterwards": [True, True, True],
    })  # fmt: skip


def test_bleu_of_one_wrong_word(student, check):
    """The last of five words is wrong: 4/5 · 3/4 · 2/3 · 1/2 = 1/5, and the fourth root of that is 0.6687."""
    score = student.call("translation.bleu", ["a b c d e"], ["a b c d f"])

    check(score, 66.8740304976422, terms=4096, mistakes={
        "the precisions are multiplied, without the fourth root": 20.0,
        "the score goes from 0 to 1; it should go from 0 to 100": 0.668740304976422,
        "the precisions' arithmetic mean is taken; it should be the geometric one": 100 * (4 / 5 + 3 / 4 + 2 / 3 + 1 / 2) / 4,
    })  # fmt: skip


def test_bleu_punishes_what_is_short(student, check):
    """Every n-gram is found, but 4 words stand for 5: e^(1 - 5/4)."""
    score = student.call("translation.bleu", ["a b c d"], ["a b c d e"])

    check(
        score,
        77.8800783071405,
        terms=4096,
        mistakes={
            "there is no brevity penalty": 100.0,
            "the brevity penalty is c / r; it should be exp(1 - r / c)": 80.0,
        },
    )


def test_bleu_of_two_references(student, check):
    """The second reference has all; the first is as long as the hypothesis."""
    score = student.call("translation.bleu", ["a b c d e"], [["a b x y z"], ["a b c d e f g h"]])

    check(score, 100.0, terms=4096, mistakes={
        "the longest reference's length counts; it should be the nearest": 100 * math.exp(1 - 8 / 5),
        "of several references only the first counts": 0.0,
    })  # fmt: skip


def test_bleu_without_a_match_of_four_is_zero(student, check):
    """Six words, none of the three 4-grams is right; and nothing at all."""
    check(student.call("translation.bleu", ["the cat is on the mat"], ["the cat sat on the mat"]), 0.0)
    check(student.call("translation.bleu", [], []), 0.0)
