"""Public tests of pipeline_parallel.py: run `pytest` in this folder."""

import pytest
import torch


def test_gpipe_runs_all_microbatches_forward_first(student, check):
    plan = student.call("pipeline_parallel.gpipe_schedule", 2, 3)

    check([len(steps) for steps in plan], [6, 6])
    for steps in plan:
        check(steps[:3], [("forward", 0), ("forward", 1), ("forward", 2)])
        check(sorted(steps[3:]), [("backward", 0), ("backward", 1), ("backward", 2)])


def test_one_f_one_b_takes_turns(student, check):
    plan = student.call("pipeline_parallel.one_f_one_b_schedule", 2, 3)

    F, B = "forward", "backward"
    check(plan[0], [(F, 0), (F, 1), (B, 0), (F, 2), (B, 1), (B, 2)])
    check(plan[1], [(F, 0), (B, 0), (F, 1), (B, 1), (F, 2), (B, 2)])


def test_half_of_the_time_is_bubble(student, check):
    check(student.call("pipeline_parallel.bubble_fraction", 4, 3), 0.5)


PLANS = {
    "GPipe": [[("forward", 0), ("forward", 1), ("backward", 1), ("backward", 0)]] * 2,
    "1F1B": [
        [("forward", 0), ("forward", 1), ("backward", 0), ("backward", 1)],
        [("forward", 0), ("backward", 0), ("forward", 1), ("backward", 1)],
    ],
}


@pytest.mark.parametrize("plan", PLANS)
def test_two_stages_train_like_one_model(student, check, plan):
    def probe(plan):
        from pipeline_parallel import PipelineStage

        rank = torch.distributed.get_rank()
        module = torch.nn.Linear(1, 1, bias=False)
        module.weight.data.fill_([2.0, 3.0][rank])  # the model: y = 3 · 2 · x
        stage = PipelineStage(module, rank, 2, torch.nn.functional.mse_loss)
        loss = stage.train_step(torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [10.0]]), 2, plan)
        return loss, module.weight.grad

    first, last = student.on(ranks=2).run(probe, PLANS[plan])

    check(last, (2.5, torch.tensor([[10.0]])), names=("loss", "gradient"), what="rank 1")
    check(first[1], torch.tensor([[15.0]]), what="the gradient of rank 0")


def test_no_microbatches_are_refused(student):
    student.raises(ValueError, "pipeline_parallel.gpipe_schedule", 2, 0, says="num_microbatches")
    student.raises(ValueError, "pipeline_parallel.one_f_one_b_schedule", 0, 2, says="num_stages")
