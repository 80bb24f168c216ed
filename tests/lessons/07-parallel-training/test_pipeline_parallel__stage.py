"""Hidden tests of pipeline_parallel: the loss and the gradients of stages, against the same model in one process.

The plan is that of GPipe, for which it does not matter whether a send waits for its receive, unless a test is about plans.
What a test is not about is kept out of it: the rows of the microbatches are even, the tensors between the stages have the
batch's number of dimensions, and where microbatches' means are added the sum is taken for right.
"""

import math
from functools import partial

import pytest
import torch

from pipeline_parallel_helpers import (
    cross_entropies,
    like_sum,
    linear_stages,
    plan_of,
    squares,
    stage_grads,
    sums,
    train_stages,
    whole_model,
)
from shared import dtype_of, randn, tokens

pytestmark = pytest.mark.question("PipelineStage")

EXACT = 1e-9


def classified(rng, stages, rows, dtype=torch.float64):
    """(batch, targets) for stages of Linears."""
    widths = [stage["weights"][0].shape for stage in (stages[0], stages[-1])]
    return randn(rng, rows, widths[0][1], dtype=dtype), tokens(rng, widths[1][0], rows)


# ---------------------------------------------------------------------------------------------- the gradients


@pytest.mark.points(4)
def test_two_stages_have_the_gradients_of_one_model(student, check, rng):
    """Both ranks get the gradients of the whole batch's mean loss."""
    stages = linear_stages(rng, 3, 5, 4)
    batch, targets = classified(rng, stages, 8)
    ranks = train_stages(student, stages, (batch, targets, 4, plan_of("GPipe", 2, 4)))

    grads = stage_grads(ranks)
    loss, truth = whole_model(stages, batch, targets)

    def parts(share):
        return lambda: whole_model(stages, batch, targets, 4, share)[1]

    last, none = [torch.zeros_like(grad) for grad in truth[0]], [torch.zeros_like(grad) for grad in truth[1]]
    check(grads, truth, relative=EXACT, names=("rank 0", "rank 1"), mistakes={
        "the means of the microbatches are added; their mean should be taken": parts(lambda n, B, M: 1),
        "the losses of all rows are added; it should be their mean": parts(lambda n, B, M: n),
        "the gradients are divided by the number of microbatches twice": parts(lambda n, B, M: n / B / M),
        "the gradients are divided by the number of ranks as well": parts(lambda n, B, M: n / B / 2),
        "only the last stage has gradients: send the gradient at its input back": [last, truth[1]],
        "no rank has gradients": [last, none],
        "only the first microbatch counts": lambda: whole_model(stages, batch[:2], targets[:2], 1, lambda n, B, M: 0.25)[1],
        "only the last microbatch counts": lambda: whole_model(stages, batch[6:], targets[6:], 1, lambda n, B, M: 0.25)[1],
        "each microbatch has the targets of the first one": lambda: whole_model(stages, batch, targets[:2].repeat(4))[1],
    }, what="the gradients")  # fmt: skip


@pytest.mark.points(3)
@pytest.mark.parametrize(("rows", "M", "outputs"), [(7, 3, "rows"), (5, 4, "rows"), (7, 3, "one row")])
def test_uneven_microbatches_count_by_their_rows(student, check, rng, rows, M, outputs):
    """Where M does not divide the batch, each row still counts the same, also where the stages change the number of rows."""
    stages, one = linear_stages(rng, 3, 4, 4), outputs == "one row"
    stages[0]["steps"] += [("sum", 0, True)] if one else []
    batch, targets = classified(rng, stages, rows)
    plan = plan_of("GPipe", 2, M)
    ranks = train_stages(student, stages, (batch, targets, M, plan), loss="squares" if one else None)

    whole = partial(whole_model, loss=squares if one else cross_entropies)
    _, truth = whole(stages, batch, targets, M)
    grads = stage_grads(ranks)
    check(grads, truth, relative=EXACT, names=("rank 0", "rank 1"), what="the gradients", mistakes={
        "microbatches count by the rows of the stage's output; they should count by their own rows": check.when(
            one, whole(stages, batch, targets, M, lambda n, B, M: 1 / B)[1]
        ),
        "the mean of the microbatches' means is taken; each should count by its rows": lambda: whole(
            stages, batch, targets, M, lambda n, B, M: 1 / M
        )[1],
        "the means of the microbatches are added; their mean should be taken": lambda: whole(
            stages, batch, targets, M, lambda n, B, M: 1
        )[1],
        "all microbatches count by the rows of the first one": lambda: whole(
            stages, batch, targets, M, lambda n, B, M: -(-B // M) / B
        )[1],
        "the rows that are left over are dropped": lambda: whole(
            stages, batch[: rows // M * M], targets[: rows // M * M], M
        )[1],
    })  # fmt: skip


@pytest.mark.points(3)
def test_four_stages_have_the_gradients_of_one_model(student, check, rng):
    """Stages in the middle receive and send in both directions."""
    stages = linear_stages(rng, 3, 4, 4, 4, 4)
    batch, targets = classified(rng, stages, 6)
    ranks = train_stages(student, stages, (batch, targets, 3, plan_of("GPipe", 4, 3)))

    _, truth = whole_model(stages, batch, targets)
    grads = stage_grads(ranks)
    zeros = [[torch.zeros_like(grad) for grad in own] for own in truth]
    check(grads, like_sum(grads, truth, 3), relative=EXACT, names=[f"rank {n}" for n in range(4)], mistakes={
        "the gradient ends at stage 2; each stage should send back the gradient at its input": zeros[:2] + truth[2:],
        "the gradient ends at the last stage; it should be sent back": zeros[:3] + truth[3:],
        "each stage divides the gradient by the number of microbatches again; only the loss should be weighted": [
            [grad / 3 ** (3 - n) for grad in rank] for n, rank in enumerate(truth)
        ],
    }, what="the gradients")  # fmt: skip


# ---------------------------------------------------------------------------------------------- the loss


@pytest.mark.points(2)
@pytest.mark.parametrize(("rows", "M"), [(6, 3), (7, 3), (3, 3), (4, 1)])
def test_the_last_stage_returns_the_loss(student, check, rng, rows, M):
    """It is the mean loss of the whole batch, a float."""
    stages = linear_stages(rng, 3, 4, 4)
    batch, targets = classified(rng, stages, rows)
    (*_, (losses, _, _)) = train_stages(student, stages, (batch, targets, M, plan_of("GPipe", 2, M)))

    check.that(type(losses[0]) is float, "the loss of the last stage is not a float: return a Python number")

    def parts(share, *some):
        return whole_model(stages, batch, targets, M, share)[0]

    sizes = [len(part) for part in batch.tensor_split(M)]
    check(losses[0], whole_model(stages, batch, targets)[0], dtype=torch.float64, what="the loss", mistakes={
        "the losses of the microbatches are added; it should be their mean": parts(lambda n, B, M: 1),
        "it is the mean of the microbatches' means; each should count by its rows": parts(lambda n, B, M: 1 / M),
        "it is the loss of the last microbatch": whole_model(stages, batch[-sizes[-1] :], targets[-sizes[-1] :])[0],
        "it is the loss of the last microbatch, as a share of the batch": whole_model(
            stages, batch[-sizes[-1] :], targets[-sizes[-1] :], 1, lambda n, B, M: sizes[-1] / rows
        )[0],
        "it is the sum over the rows": parts(lambda n, B, M: n),
        "it is divided by the number of ranks": parts(lambda n, B, M: n / B / 2),
        "it is divided by the number of microbatches twice": parts(lambda n, B, M: n / B / M),
    })  # fmt: skip


@pytest.mark.points(2)
def test_loss_fn_is_used(student, check, rng):
    """loss_fn(output, targets) takes the place of the cross-entropy, and gets both in their own shapes: (n, T, V) and (n, T)."""
    stages = linear_stages(rng, 3, 4, 3)
    batch, targets = randn(rng, 6, 2, 3, dtype=torch.float64), tokens(rng, 3, 6, 2)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)), loss="sums")

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets, loss=sums)
    check(grads, like_sum(grads, truth, 2), relative=EXACT, names=("rank 0", "rank 1"), what="the gradients", mistakes={
        "loss_fn is not used: the loss is the cross-entropy": lambda: whole_model(stages, batch, targets)[1],
        "loss_fn gets the targets first; it should get the output first": lambda: whole_model(
            stages, batch, targets, 2, loss=lambda output, targets: sums(targets, output)
        )[1],
        "output and targets are flattened before loss_fn gets them; it should get them in their own shapes": lambda: whole_model(
            stages, batch, targets, 2, loss=lambda output, targets: sums(output.flatten(0, -2), targets.flatten())
        )[1],
    })  # fmt: skip


@pytest.mark.points(2)
def test_the_default_loss_is_over_the_last_dimension(student, check, rng):
    """Outputs (B, T, V) have targets (B, T): one for each place. The batch may be of ids."""
    stages = linear_stages(rng, 3, 5, 6)
    stages[0] = {"steps": [("embedding",), ("tanh",)], "weights": [randn(rng, 7, 5, dtype=torch.float64)]}
    stages[1]["steps"] = [("linear",), ("transpose", 1, 2)]  # T and V are the same number
    batch, targets = tokens(rng, 7, 4, 6), tokens(rng, 6, 4, 6)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)))

    grads = stage_grads(ranks)

    _, truth = whole_model(stages, batch, targets)
    # Over dimension 1 the bias of the last stage has no gradient, but for rounding: hence the scale.
    check(grads, like_sum(grads, truth, 2), relative=EXACT, scale=1.0, names=("rank 0", "rank 1"), what="the gradients", mistakes={
        "the cross-entropy is over dimension 1; it should be over the last one": lambda: over_dimension_1(stages, batch, targets),
    })  # fmt: skip


def over_dimension_1(stages, batch, targets):
    """The gradients if the classes were dimension 1: T and V are the same number."""
    turned = [*stages[:-1], {**stages[-1], "steps": [*stages[-1]["steps"], ("transpose", 1, 2)]}]
    return whole_model(turned, batch, targets)[1]


# ---------------------------------------------------------------------------------------------- what is left alone


@pytest.mark.points(2)
def test_gradients_are_added_to_what_is_there(student, check, rng):
    """`.grad` is not cleared: what is there before the call is added to."""
    stages = linear_stages(rng, 3, 4, 3)
    batch, targets = classified(rng, stages, 6)
    before = [[randn(rng, *weight.shape, dtype=torch.float64) for weight in stage["weights"]] for stage in stages]
    found = stage_grads(train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)), before=before))

    added = [plus_each(*pair, -1) for pair in zip(found, before, strict=True)]
    truth = whole_model(stages, batch, targets)[1]
    right = [plus_each(*pair) for pair in zip(like_sum(added, truth, 2), before, strict=True)]
    check(found, right, relative=EXACT, names=("rank 0", "rank 1"), what="the gradients", mistakes={
        "train_step clears the gradients; it should add to them": truth,
        "what was in .grad before is divided by the number of microbatches, too; it should stay as it is": [
            plus_each(*pair, 1 / 2) for pair in zip(truth, before, strict=True)
        ],
    })  # fmt: skip


def plus_each(some, others, factor=1):
    return [one + factor * other for one, other in zip(some, others, strict=True)]


@pytest.mark.points(2)
def test_a_stage_trains_on_different_batches(student, check, rng):
    """A later call may have more rows: nothing is left over from the one before."""
    stages = linear_stages(rng, 3, 4, 3)
    calls = [(*classified(rng, stages, rows), 2, plan_of("GPipe", 2, 2)) for rows in (6, 8)]
    ranks = train_stages(student, stages, *calls)

    grads = stage_grads(ranks)
    (first, once), (second, again) = (whole_model(stages, batch, targets) for batch, targets, _, _ in calls)
    truth = [plus_each(*pair) for pair in zip(once, again, strict=True)]
    check(grads, like_sum(grads, truth, 2), relative=EXACT, names=("rank 0", "rank 1"), what="the sum of the gradients")
    losses = ranks[1][0]
    own = first if type(losses[0]) is not float or math.isclose(losses[0], first, rel_tol=1e-3) else losses[0]
    check(losses[1], losses[1] if own != first else second, dtype=torch.float64, what="the loss of the second call", mistakes={
        "the loss of earlier calls is added": first + second,
    })  # fmt: skip


@pytest.mark.points(1)
def test_the_arguments_are_left_alone(student, check, rng):
    """Batch, targets, plan, weights and torch's settings are not changed, and nothing is printed; any layout will do."""
    stages = linear_stages(rng, 3, 4, 3)
    batch, targets = classified(rng, stages, 6)
    plan = plan_of("GPipe", 2, 2)

    def probe(stages, batch, targets, plan):
        from pipeline_parallel import PipelineStage

        rank = torch.distributed.get_rank()
        part = inside.PipelinePart(stages[rank])
        stage = PipelineStage(part, rank, 2)
        _, given, rude = inside.manners(stage.train_step, batch, targets, 2, plan)
        return given[0], given[1], given[3], rude, part.weights[0].grad, [weight.detach() for weight in part.weights]

    truth = whole_model(stages, batch, targets)[1]
    found = student.on(ranks=2).run(probe, stages, batch, targets, plan)
    grads = [[rank[4]] for rank in found]
    check(grads, like_sum(grads, [[rank[0]] for rank in truth], 2), relative=EXACT, what="the gradients of the weights")
    for stage, (given_batch, given_targets, given_plan, rude, _, weights) in zip(stages, found, strict=True):
        check(given_batch, batch, otherwise="the batch is changed in place")
        check(given_targets, targets, otherwise="the targets are changed in place")
        check(given_plan, plan, otherwise="the plan is changed in place")
        check(weights, stage["weights"], otherwise="train_step changes the weights; that is the optimizer's work")
        check(rude, "", otherwise="torch's settings are changed, or something is printed")


# ---------------------------------------------------------------------------------------------- shapes and dtypes


@pytest.mark.points(2)
@pytest.mark.parametrize("case", ["three dimensions", "one dimension", "no dimension", "six dimensions"])
def test_shapes_may_change_between_stages(student, check, rng, case):
    """A stage's output may have more or fewer dimensions than the batch, or none, and need not be contiguous."""
    stages = linear_stages(rng, 3, 6, 1)
    steps, width, back = {
        "three dimensions": (
            [("unflatten", 1, (2, 3)), ("transpose", 1, 2)],
            2,
            ("mean", 1),
        ),  # (B, 3, 2): not contiguous
        "one dimension": ([("flatten",)], 6, ("reshape", -1, 6)),
        "no dimension": ([("sum",)], 1, ("reshape", 1, 1)),
        "six dimensions": ([("reshape", 1, 1, 3, 1, 1, 2)], 2, ("reshape", 3, 2)),
    }[case]
    stages[0]["steps"] += steps
    stages[1] = {
        "steps": [back, ("linear",), ("sum", 0, True)],
        "weights": linear_stages(rng, width, 1)[0]["weights"],
    }
    batch, targets = randn(rng, 2, 3, dtype=torch.float64), randn(rng, 2, dtype=torch.float64)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)), loss="squares")

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets, 2, loss=squares)
    check(grads, like_sum(grads, truth, 2), relative=EXACT, names=("rank 0", "rank 1"), what="the gradients")


@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex128])
def test_dtypes_may_change_between_stages(student, check, rng, dtype):
    """The dtype of an output may differ from that of the batch, and its gradient has the same."""
    stages = linear_stages(rng, 3, 4, 3)
    stages[0]["steps"] += [("to", dtype)]
    stages[1]["steps"] = [("to", torch.float64), *stages[1]["steps"]]
    batch, targets = classified(rng, stages, 4)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)))

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets)
    near = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.004, torch.complex128: EXACT}[dtype]
    check(grads, like_sum(grads, truth, 2), relative=near, names=("rank 0", "rank 1"), what="the gradients")


@pytest.mark.points(1)
def test_stages_in_float32(student, check, rng):
    """float32 stays float32, to 1e-4."""
    stages = linear_stages(rng, 3, 4, 3, dtype=torch.float32)
    batch, targets = classified(rng, stages, 6, torch.float32)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)))

    grads = stage_grads(ranks)
    check([dtype_of(grad) for rank in grads for grad in rank], [torch.float32] * 4, what="the dtypes of the gradients")
    _, truth = whole_model(stages, batch, targets)
    right = like_sum(grads, truth, 2)
    check(grads, [[grad.float() for grad in rank] for rank in right], relative=1e-4, what="the gradients")


@pytest.mark.points(2)
@pytest.mark.parametrize(("dtype", "S"), [(torch.int64, 2), (torch.int32, 2), (torch.int16, 2), (torch.uint8, 2), (torch.bool, 2), (torch.int64, 3)])  # fmt: skip
def test_ids_may_go_from_stage_to_stage(student, check, rng, dtype, S):
    """Integers have no gradient: none comes back, and nobody waits for one. A stage may get ids, and gradients from the next one."""
    stages = linear_stages(rng, 3, 4, *[4] * (S - 2), 3)
    stages[0] = {"steps": [("gt", 0), ("to", dtype)], "weights": []}
    stages[1] = {"steps": [("long",), ("embedding",), ("mean", 1), ("linear",)],
                 "weights": [randn(rng, 2, 4, dtype=torch.float64), *stages[1]["weights"]]}  # fmt: skip
    batch, targets = randn(rng, 2 * S, 3, dtype=torch.float64), tokens(rng, 3, 2 * S)
    ranks = train_stages(student, stages, (batch, targets, S, plan_of("GPipe" if S == 2 else "1F1B", S, S)))

    grads = stage_grads(ranks)[1:]
    _, truth = whole_model(stages, batch, targets)
    check(grads, like_sum(grads, truth[1:], S), relative=EXACT, what="the gradients of the stages behind the ids")


@pytest.mark.points(2)
@pytest.mark.parametrize("place", ["first", "middle", "last", "frozen"])
def test_a_stage_may_have_no_parameters(student, check, rng, place):
    """It hands on activations and gradients all the same, as one in the middle does whose weights need no gradient."""
    plain = {"first": 0, "last": 3}.get(place, 1)
    sizes = {"first": [3, 3, 4, 4, 3], "last": [3, 4, 4, 3, 3]}.get(place, [3, 4, 4, 4, 3])
    stages = linear_stages(rng, *sizes)
    if place == "frozen":
        stages[plain]["frozen"] = True
    else:
        stages[plain] = {"steps": [("sin",)], "weights": []}
    batch, targets = randn(rng, 4, 3, dtype=torch.float64), tokens(rng, 3, 4)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 4, 2)))

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets)
    if place == "frozen":
        grads, truth = grads[:1] + grads[2:], truth[:1] + truth[2:]
    ended = [[0 * grad if n < plain else grad for grad in rank] for n, rank in enumerate(truth)]
    check(grads, like_sum(grads, truth, 2), relative=EXACT, what="the gradients", mistakes={
        "the gradient ends at a stage that has nothing to learn; it should be handed on to the stages before it": ended,
    })  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.parametrize(
    "steps", [[("gt", 0), ("long",), ("embedding",)], [("new_ones", (2, 4)), ("linear",)]], ids=["ids", "unused"]
)
def test_the_loss_may_not_depend_on_the_first_stage(student, check, rng, steps):
    """A stage may give ids, or not use its input: the stages before it have no gradients, those after it all of their own."""
    stages = linear_stages(rng, 3, 4, 4, 3)
    if steps[-1] == ("linear",):
        stages[1]["steps"] = steps
    else:
        stages[1] = {"steps": steps[:-1], "weights": []}
        stages[2] = {"steps": [steps[-1], ("mean", 1), ("linear",)],
                     "weights": [randn(rng, 2, 4, dtype=torch.float64), *stages[2]["weights"]]}  # fmt: skip
    batch, targets = classified(rng, [stages[0], {"weights": stages[2]["weights"][-2:]}], 4)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 3, 2)))

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets, 2)
    check(grads, like_sum(grads, truth, 2), relative=EXACT, names=[f"rank {n}" for n in range(3)], what="the gradients")


@pytest.mark.points(1)
def test_frozen_weights_at_the_beginning(student, check, rng):
    """A first stage whose weights need no gradient has none; the stage after it has all of its own."""
    stages = linear_stages(rng, 3, 4, 3)
    stages[0]["frozen"] = True
    batch, targets = classified(rng, stages, 4)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)))

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets)
    check([grads[1]], like_sum([grads[1]], [truth[1]], 2), relative=EXACT, what="the gradients of the last stage")
    nothing = [torch.zeros_like(grad) for grad in truth[0]]
    check(grads[0], nothing, otherwise="weights that need no gradient get one")


# ---------------------------------------------------------------------------------------------- microbatches


@pytest.mark.points(2)
def test_the_module_runs_once_for_each_microbatch(student, check, rng):
    """A module that counts its calls, and multiplies by their number, sees each microbatch once, in the order of the plan."""
    stages = linear_stages(rng, 3, 4, 3)
    stages[0]["steps"] = [("linear",), ("times its calls",)]
    batch, targets = classified(rng, stages, 6)
    ranks = train_stages(student, stages, (batch, targets, 3, plan_of("GPipe", 2, 3)))

    def counted(*calls):
        """The gradients if microbatch m is multiplied by calls[m]."""
        factors = torch.tensor(calls, dtype=torch.float64).repeat_interleave(2)[:, None]
        changed = [{**stages[0], "steps": [("linear",), ("mul", factors)]}, stages[1]]
        return whole_model(changed, batch, targets)[1]

    grads = stage_grads(ranks)
    check(grads, like_sum(grads, counted(1, 2, 3), 3), relative=EXACT, what="the gradients", mistakes={
        "the module is called once more before the first microbatch": lambda: counted(2, 3, 4),
        "the module is called twice for each microbatch": lambda: counted(2, 4, 6),
    })  # fmt: skip


@pytest.mark.points(1)
def test_a_microbatch_is_alone_in_the_module(student, check, rng):
    """A module that mixes rows mixes those of a microbatch, not of the batch."""
    stages = linear_stages(rng, 3, 4, 3)
    stages[0]["steps"] = [("linear",), ("cumsum", 0)]
    batch, targets = classified(rng, stages, 6)
    ranks = train_stages(student, stages, (batch, targets, 2, plan_of("GPipe", 2, 2)))

    grads = stage_grads(ranks)
    _, truth = whole_model(stages, batch, targets, 2)
    check(grads, like_sum(grads, truth, 2), relative=EXACT, names=("rank 0", "rank 1"), what="the gradients", mistakes={
        "the whole batch runs through the module; it should be one microbatch at a time": lambda: whole_model(stages, batch, targets)[1],
        "each microbatch has every M-th row; it should have rows that follow each other": lambda: whole_model(
            stages, *[torch.cat([whole[::2], whole[1::2]]) for whole in (batch, targets)], 2
        )[1],
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.parametrize("M", [0, 5, -1])
def test_a_wrong_number_of_microbatches_is_refused(student, check, rng, M):
    """Below 1, or above the number of rows: a ValueError on every rank."""
    stages = linear_stages(rng, 3, 4, 3)
    batch, targets = classified(rng, stages, 4)

    def probe(stages, batch, targets, M, plan):
        from pipeline_parallel import PipelineStage

        rank = torch.distributed.get_rank()
        PipelineStage(inside.PipelinePart(stages[rank]), rank, 2).train_step(batch, targets, M, plan)

    two = student.on(ranks=2)
    near = min(max(M, 1), 4)
    two.accepts(probe, stages, batch, targets, near, plan_of("GPipe", 2, near))
    two.raises(
        ValueError, probe, stages, batch, targets, M, plan_of("GPipe", 2, max(M, 0)), says=("num_microbatches", M)
    )
    sent = any(each.operation == "send" for each in two.traffic)
    check.that(not sent, "something is sent before the ValueError is raised")
