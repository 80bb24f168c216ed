"""Public tests of bigram.py: small cases, worked out by hand. The hidden tests look at much more."""

import math

import torch


def test_pairs_by_hand(student, check):
    """Each input's target is the token behind it, in every row of a batch."""
    check(student.call("bigram.training_pairs", torch.tensor([5, 6, 7])), (torch.tensor([5, 6]), torch.tensor([6, 7])))
    check(
        student.call("bigram.training_pairs", torch.tensor([[1, 2, 3], [4, 5, 6]])),
        (torch.tensor([[1, 2], [4, 5]]), torch.tensor([[2, 3], [5, 6]])),
    )


def test_probabilities_by_hand(student, check):
    """In 0 1 0 1 2 the pairs are 0-1 twice, 1-0 and 1-2 once; each of the three tokens counts once more by smoothing."""

    def probe(ids):
        from bigram import BigramLanguageModel

        model = BigramLanguageModel(3, smoothing=1.0).fit(ids)
        return torch.stack([model.next_token_probabilities(token).double() for token in range(3)])

    found = student.run(probe, torch.tensor([0, 1, 0, 1, 2]))

    check(found, torch.tensor([[0.2, 0.6, 0.2], [0.4, 0.2, 0.4], [1 / 3, 1 / 3, 1 / 3]]).double(), within=1e-6)


def test_perplexity_by_hand(student, check):
    """Of 0 1 2 the probabilities are 0.6 and 0.4 with smoothing, 1 and 0.5 without, where 0 0 is impossible."""

    def probe(ids):
        from bigram import BigramLanguageModel

        smooth, bare = (BigramLanguageModel(3, smoothing=s).fit(ids) for s in (1.0, 0.0))
        text = torch.tensor([0, 1, 2])
        return smooth.perplexity(text), bare.perplexity(text), bare.perplexity(torch.tensor([0, 0]))

    smooth, bare, impossible = student.run(probe, torch.tensor([0, 1, 0, 1, 2]))

    check((smooth, bare), (2.0412415, 1.4142136), within=1e-5)
    check(impossible, math.inf)


def test_generation_by_hand(student, check):
    """Where 1 follows 0, 2 follows 1 and 0 follows 2, generation goes round in circles."""

    def probe(ids, prompt):
        from bigram import BigramLanguageModel

        return BigramLanguageModel(3, smoothing=0.0).fit(ids).generate(prompt, 5)

    found = student.run(probe, torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0]))

    check(found, torch.tensor([1, 0, 1, 2, 0, 1, 2]))


def test_what_is_out_of_range_is_refused(student):
    """A negative smoothing and an id outside the vocabulary are ValueErrors that name the argument."""

    def probe(smoothing, token):
        from bigram import BigramLanguageModel

        return BigramLanguageModel(3, smoothing=smoothing).next_token_probabilities(token)

    student.raises(ValueError, probe, -1.0, 0, says="smoothing")
    student.raises(ValueError, probe, 1.0, 3, says="token")
