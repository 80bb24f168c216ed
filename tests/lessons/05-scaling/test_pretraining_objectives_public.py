"""Public tests of pretraining_objectives.py: run `pytest` in this folder. The hidden tests look closer."""

import torch


def test_masked_tokens_have_labels(student, check):
    """Whatever becomes of a chosen token, its label is the original id; the others stay and have -100."""

    def probe(ids):
        from pretraining_objectives import MLMTrainer

        trainer = MLMTrainer(None, vocab_size=20, mask_token_id=19, mask_prob=0.5)
        return trainer.create_mlm_targets(ids, torch.Generator().manual_seed(1))

    ids = torch.arange(18).repeat(10, 1)
    masked, labels = student.run(probe, ids)

    chosen = labels != -100
    check(masked[~chosen], ids[~chosen], what="tokens that were not chosen")
    check(labels[chosen], ids[chosen], what="labels")
    check.that(bool(chosen.any()), "no token is chosen")
    check.that(bool((masked == 19).any()), "no token is hidden")


def test_the_loss_of_a_sure_model_is_small(student, check):
    """Logits of ln 3 for the right one of 4 tokens, 0 for the others: -ln(3 / 6) where there is a label."""

    def probe(logits, labels):
        from pretraining_objectives import CLMTrainer, MLMTrainer

        return [
            MLMTrainer(None, 4, 3).compute_mlm_loss(logits, labels),
            CLMTrainer(None, 4).compute_clm_loss(logits, labels),
        ]

    labels = torch.tensor([[1, -100, 0]])
    logits = torch.tensor([[[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [3.0, 0.0, 0.0, 0.0]]])
    logits = torch.where(logits == 3, torch.tensor(3.0).log(), logits)
    losses = student.run(probe, logits, labels)

    check(losses, [torch.tensor(2.0).log()] * 2, names=("compute_mlm_loss", "compute_clm_loss"))


def test_targets_are_the_next_tokens(student, check):
    def probe(ids):
        from pretraining_objectives import CLMTrainer

        return CLMTrainer(None, 10).create_clm_targets(ids)

    pair = student.run(probe, torch.tensor([[3, 1, 4, 1, 5]]))

    check(pair, (torch.tensor([[3, 1, 4, 1]]), torch.tensor([[1, 4, 1, 5]])), names=("inputs", "targets"))


def test_a_short_text_is_one_span(student, check):
    """2 tokens, where a span has 3: both are hidden."""

    def probe(ids):
        from pretraining_objectives import SpanCorruptionTrainer

        trainer = SpanCorruptionTrainer(None, 10, mask_token_id=9)
        return [*trainer.create_span_targets(ids), *trainer.create_sentinel_targets(ids, 100)]

    corrupted, labels, inputs, targets = student.run(probe, torch.tensor([[7, 5]]))

    check((corrupted, labels), (torch.tensor([[9, 9]]), torch.tensor([[7, 5]])), names=("corrupted", "labels"))
    check((inputs, targets), (torch.tensor([[100]]), torch.tensor([[100, 7, 5]])), names=("inputs", "targets"))


def test_three_spans_leave_one_token_between(student, check):
    """3 spans of 3 in 11 tokens: there is only one way."""

    def probe(ids):
        from pretraining_objectives import SpanCorruptionTrainer

        trainer = SpanCorruptionTrainer(None, 50, mask_token_id=0, mask_prob=0.8)
        return [*trainer.create_span_targets(ids), *trainer.create_sentinel_targets(ids, 100)]

    corrupted, labels, inputs, targets = student.run(probe, torch.arange(20, 31))

    hole = -100
    check(corrupted, torch.tensor([0, 0, 0, 23, 0, 0, 0, 27, 0, 0, 0]))
    check(labels, torch.tensor([20, 21, 22, hole, 24, 25, 26, hole, 28, 29, 30]))
    check(inputs, torch.tensor([100, 23, 101, 27, 102]))
    check(targets, torch.tensor([100, 20, 21, 22, 101, 24, 25, 26, 102, 28, 29, 30]))


def test_the_mask_of_a_prefix_of_two(student, check):
    mask = student.call("pretraining_objectives.prefix_mask", 4, 2)

    check(mask, torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool())


def test_the_prefix_sees_itself_and_not_what_follows(student, check):
    def probe(ids):
        from pretraining_objectives import PrefixLanguageModel

        model = PrefixLanguageModel(11, 16, 2, num_heads=4, prefix_length=3).eval()
        plain, other_second, other_last = (model(torch.tensor([row])) for row in ids)
        return list(plain.shape), (other_second - plain)[0, 0].abs().max().item(), other_last[0, :4], plain[0, :4]

    shape, seen, other, plain = student.run(probe, [[1, 2, 3, 4, 5], [1, 9, 3, 4, 5], [1, 2, 3, 4, 9]])

    check(shape, [1, 5, 11])
    check.that(seen > 0, "the first token does not see the second, although both are in the prefix")
    check(other, plain, terms=1024, otherwise="a token sees one that follows it and is not in the prefix")


def test_bad_arguments_are_refused(student):
    student.raises(ValueError, "pretraining_objectives.MLMTrainer", None, 10, 9, 1.5, says=("mask_prob", 1.5))
    student.raises(ValueError, "pretraining_objectives.SpanCorruptionTrainer", None, 10, 9, 0, says="span_length")
    student.raises(ValueError, "pretraining_objectives.prefix_mask", 4, -1, says="prefix_length")
