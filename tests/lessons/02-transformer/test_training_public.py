"""Public tests of training: small cases that you can work out by hand."""

import math

import pytest
import torch


def test_the_first_step_of_adamw_moves_by_lr(student, check):
    """Decay shrinks 2 to 1.9 and -4 to -3.8; then each weight moves by lr = 0.1 against the sign of its gradient."""

    def probe():
        from training import AdamW

        weight = torch.tensor([2.0, -4.0], requires_grad=True)
        optimizer = AdamW([weight], lr=0.1, weight_decay=0.5)
        weight.grad = torch.tensor([3.0, -0.5])
        optimizer.step()
        return weight

    check(student.run(probe), torch.tensor([1.8, -3.7]), mistakes={
        "there is no weight decay": torch.tensor([1.9, -3.9]),
    })  # fmt: skip


def test_cosine_schedule_at_its_corners(student, check):
    """4 steps of warmup to 1.0, half way down at step 9, min_lr = 0.2 from step 14 on."""

    def probe():
        from training import cosine_schedule

        return [cosine_schedule(step, 4, 14, 1.0, 0.2) for step in (0, 1, 4, 9, 14, 50)]

    check(student.run(probe), [0.0, 0.25, 1.0, 0.6, 0.2, 0.2], scale=1.0)


def test_noam_schedule_at_its_peak(student, check):
    """With d_model 16 and 4 warmup steps: 1/4 · 1/2 at step 4."""
    check(student.call("training.noam_schedule", 4, 16, 4), 0.125)


@pytest.mark.parametrize(("max_norm", "left"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_gradients_are_clipped_together(student, check, max_norm, left):
    """The gradients 3 and 4 of two weights are 5 long together."""

    def probe(max_norm):
        from training import clip_grad_norm

        weights = [torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)]
        weights[0].grad, weights[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
        total = clip_grad_norm(weights, max_norm)
        return float(total), [float(weight.grad) for weight in weights]

    check(student.run(probe, max_norm), (5.0, left), dtype=torch.float32)


def test_sure_and_unsure_predictions(student, check):
    """Where all tokens are equally likely the loss is ln 4, with or without smoothing; ignored places do not count."""
    logits, targets = torch.zeros(2, 3, 4), torch.tensor([[0, 1, -100], [3, -100, 2]])
    loss = student.call("training.label_smoothed_cross_entropy", logits, targets, 0.3)

    check(loss, torch.tensor(math.log(4.0)))


def test_a_trainer_learns_a_sentence(student):
    """The loss of a model that only counts which token follows which falls from ln 6 towards 0."""

    def probe():
        from training import TransformerTrainer

        class Pairs(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding.from_pretrained(torch.zeros(6, 6), freeze=False)

            def forward(self, src, tgt):
                return self.table(tgt)

        trainer = TransformerTrainer(Pairs(), 6, 6, lr=0.5)
        src, tgt = torch.ones(1, 3, dtype=torch.long), torch.tensor([[1, 4, 2, 5, 3, 0, 0]])
        return [trainer.train_step(src, tgt) for _ in range(20)]

    losses = student.run(probe)

    assert abs(losses[0] - math.log(6)) < 1e-5, "the first loss is not the mean over the real tokens before the update"
    assert losses[-1] < 0.05, "the loss does not fall"


def test_two_micro_batches_make_one_update(student, check):
    """With accumulation_steps=2 the weights change in every second call."""

    def probe():
        from training import OptimizedTransformerTrainer

        class Bias(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(5))

            def forward(self, src, tgt):
                return self.bias.expand(*tgt.shape, 5)

        model = Bias()
        trainer = OptimizedTransformerTrainer(model, 5, 5, use_gradient_accumulation=True, accumulation_steps=2)
        src, tgt, changes = torch.ones(1, 2, dtype=torch.long), torch.tensor([[1, 2, 3]]), []
        for _ in range(4):
            before = model.bias.detach().clone()
            trainer.train_step(src, tgt)
            changes.append(bool((model.bias != before).any()))
        return changes

    check(student.run(probe), [False, True, False, True])
