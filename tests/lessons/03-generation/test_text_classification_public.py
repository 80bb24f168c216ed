"""Public tests of text_classification: what you can see from outside, and small cases by hand. The hidden tests look closer."""

import torch


def test_a_text_has_a_logit_for_each_class_and_a_token_too(student, check):
    """(B, C) from TransformerClassifier, (B, T, C) from TokenClassifier."""

    def probe():
        from text_classification import TokenClassifier, TransformerClassifier

        ids = torch.tensor([[5, 3, 9], [1, 0, 2]])
        sizes = {"vocab_size": 10, "d_model": 8, "num_layers": 1, "num_heads": 2, "num_classes": 4, "max_len": 6}
        return [list(kind(**sizes)(ids).shape) for kind in (TransformerClassifier, TokenClassifier)]

    check(student.run(probe), [[2, 4], [2, 3, 4]])


def test_padding_changes_nothing(student, check):
    """A text with two padded places has the logits that it has without them."""

    def probe():
        from text_classification import TransformerClassifier

        model = TransformerClassifier(10, 8, 2, 2).eval()
        padded, mask = torch.tensor([[5, 3, 9, 7, 1]]), torch.tensor([[1, 1, 1, 0, 0]])
        return model(padded, mask), model(torch.tensor([[5, 3, 9]])), model(padded)

    padded, alone, unmasked = student.run(probe)

    check(padded, alone, terms=1024, mistakes={"the mask is ignored": unmasked})


def test_without_layers_a_text_said_twice_is_the_same_text(student, check):
    """The mean over a, a, a, a is the mean over a, a if positions count little: here the embedding is very large."""

    def probe():
        from text_classification import TransformerClassifier

        model = TransformerClassifier(11, 8, 0, 2).double().eval()
        for weight in model.parameters():
            if 11 in weight.shape:
                weight.data.mul_(1e9)
        return model(torch.tensor([[3, 7]])), model(torch.tensor([[3, 7, 3, 7]]))

    once, twice = student.run(probe)

    check(twice / once, torch.ones(1, 2, dtype=torch.float64), within=1e-4, mistakes={
        "the logits change with the length: divide the sum by the number of real tokens": 2 * torch.ones(1, 2, dtype=torch.float64),
    })  # fmt: skip


def test_two_people_and_a_town(student, check):
    """Ada Lovelace (PER) met Babbage (PER) in London (LOC)."""
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

    entities = student.call("text_classification.decode_bio", [1, 2, 0, 1, 0, 3], labels)

    check(entities, [("PER", 0, 2), ("PER", 3, 4), ("LOC", 5, 6)], mistakes={
        "an entity that goes on to the last tag is lost": [("PER", 0, 2), ("PER", 3, 4)],
        "the end is inclusive; it should be the place after the last token": [("PER", 0, 1), ("PER", 3, 3), ("LOC", 5, 5)],
    })  # fmt: skip


def test_an_i_that_continues_nothing_starts_an_entity(student, check):
    """O I-PER I-LOC: two entities of one token each."""
    entities = student.call("text_classification.decode_bio", [0, 2, 4], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])

    check(
        entities,
        [("PER", 1, 2), ("LOC", 2, 3)],
        mistakes={"an I without a B is dropped; it should start an entity": []},
    )


def test_the_best_span_is_not_the_best_start_and_the_best_end(student, check):
    """The best start is 3, the best end 0. Of the spans, 1 to 2 has 4 + 3 = 7, and 3 to 3 has 5 + 1 = 6."""
    start, end = torch.tensor([0.0, 4.0, 1.0, 5.0]), torch.tensor([6.0, 0.0, 3.0, 1.0])

    span = student.call("text_classification.best_answer_span", start, end, 2)
    one_token = student.call("text_classification.best_answer_span", start, end, 1)

    check(span, (1, 2), mistakes={"start and end are chosen each on its own; their sum should be the greatest": (3, 0)})
    check(one_token, (0, 0))
