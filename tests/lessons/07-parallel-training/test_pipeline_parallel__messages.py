"""Hidden tests of pipeline_parallel: plans that are carried out, and what is sent meanwhile.

The grader counts the messages itself. Between wide stages a row has 800 numbers, so that what holds values has 1 KiB or more,
and what tells shape and dtype less: so little that no values could be in it. What is sent has to become the gradients.
"""

import pytest
import torch

from pipeline_parallel_helpers import (
    BACKWARD,
    FORWARD,
    LEAST,
    WIDE,
    are_gradients,
    cross_entropies,
    events_of,
    few_besides_values,
    large_sends,
    like_sum,
    linear_stages,
    news_of_the_borders,
    output_of,
    plan_of,
    stage_grads,
    train_stages,
    whole_model,
    wide_stages,
)  # fmt: skip
from shared import randn, tokens

pytestmark = pytest.mark.question("PipelineStage")

EXACT = 1e-9


ROW = WIDE * 8  # bytes of a row between wide stages


# ---------------------------------------------------------------------------------------------- plans


@pytest.mark.points(3)
def test_1f1b_is_carried_out(student, check, rng):
    """Neighbours that send to each other do not wait for each other."""
    stages = linear_stages(rng, 3, 4, 4, 4, 4)
    batch, targets = randn(rng, 8, 3, dtype=torch.float64), tokens(rng, 4, 8)
    found = train_stages(student, stages, (batch, targets, 4, plan_of("1F1B", 4, 4)))

    grads = stage_grads(found)
    _, truth = whole_model(stages, batch, targets)
    check(
        grads,
        like_sum(grads, truth, 4),
        relative=EXACT,
        names=[f"rank {n}" for n in range(4)],
        what="the gradients",
    )


@pytest.mark.points(3)
def test_stages_may_take_microbatches_in_different_orders(student, check, rng):
    """A plan is valid in which a stage does not take microbatches in the order in which they come."""
    stages = linear_stages(rng, 3, 4, 4)
    batch, targets = randn(rng, 6, 3, dtype=torch.float64), tokens(rng, 4, 6)
    # The orders are such that two stages that both take the first, or the last, that they have do not agree by chance.
    orders = [(FORWARD, (0, 1, 2)), (BACKWARD, (2, 1, 0))], [(FORWARD, (1, 2, 0)), (BACKWARD, (0, 1, 2))]
    plan = [[(way, m) for way, order in stage for m in order] for stage in orders]
    found = train_stages(student, stages, (batch, targets, 3, plan))

    grads = stage_grads(found)
    _, truth = whole_model(stages, batch, targets)
    came = targets.view(3, 2)[
        [1, 2, 0]
    ].flatten()  # the targets of what comes first, if it is taken for microbatch 1, …
    check(grads[1], like_sum(grads[1:], truth[1:], 3)[0], relative=EXACT, what="the gradients of the last stage", mistakes={
        "microbatches are taken in the order in which they come; it should be that of the stage's own plan": lambda: whole_model(
            stages, batch, came
        )[1][1],
    })  # fmt: skip
    check(grads[0], like_sum(grads[:1], truth[:1], 3)[0], relative=EXACT, what="the gradients of the first stage", mistakes={
        "gradients are taken in the order in which they come; it should be that of the stage's own plan": lambda: grads_mixed_up(
            stages, batch, targets, (2, 1, 0)
        ),
        "a backward pass is that of the first or last microbatch that is kept; it should be the one that the plan names": (
            lambda: grads_mixed_up(stages, batch, targets, (0, 2, 1))
        ),
    })  # fmt: skip


def grads_mixed_up(stages, batch, targets, came):
    """The gradients of the first of two stages if its microbatch m gets the gradient of came[m], of three."""
    first = [weight.clone().requires_grad_() for weight in stages[0]["weights"]]
    outputs = [output_of(stages[:1], [first], rows) for rows in batch.tensor_split(3)]
    whole = torch.cat([outputs[m].detach() for m in range(3)]).requires_grad_()
    loss = cross_entropies(output_of(stages[1:], [stages[1]["weights"]], whole), targets)
    grads = torch.autograd.grad(loss, whole)[0].tensor_split(3)
    return list(torch.autograd.grad(outputs, first, [grads[m] for m in came]))


@pytest.mark.points(2)
def test_any_plan_is_carried_out(student, check, rng):
    """Plans that are neither GPipe's nor 1F1B's: all stages one after the other for each microbatch, in any order."""
    stages = linear_stages(rng, 3, 4, 4, 4, 4)
    batch, targets = randn(rng, 6, 3, dtype=torch.float64), tokens(rng, 4, 6)
    order = torch.randperm(3, generator=rng).tolist()
    plan = [[(way, m) for m in order for way in (FORWARD, BACKWARD)] for _ in range(4)]
    found = train_stages(student, stages, (batch, targets, 3, plan))

    grads = stage_grads(found)
    _, truth = whole_model(stages, batch, targets)
    check(grads, like_sum(grads, truth, 3), relative=EXACT, names=[f"rank {n}" for n in range(4)], what="the gradients")


@pytest.mark.points(3)
@pytest.mark.parametrize("kind", ["GPipe", "1F1B"])
def test_a_stage_follows_its_plan(student, check, rng, kind):
    """A stage does the passes of its plan in their order, and sends what comes out of each before the next one begins."""
    stages, plan = wide_stages(rng, 4), plan_of(kind, 4, 4)
    batch, targets = randn(rng, 4, 3, dtype=torch.float64), tokens(rng, 4, 4)
    ranks = student.on(ranks=4)
    grads = trained_on(ranks, stages, batch, targets, 4, plan)

    check.that(learns(grads), NOTHING_LEARNED)
    passes = [step for m in range(4) for step in ((FORWARD, m), (BACKWARD, m))]
    for rank in (1, 2, 0, 3):
        events = events_of(ranks.traffic, rank)
        check(events, planned(plan[rank], rank), what=f"what rank {rank} does and sends", mistakes={
            "all microbatches run forward before the first one runs backward; the plan is another one": planned(
                plan_of("GPipe", 4, 4)[rank], rank
            ),
            "one microbatch runs in both directions before the next one begins; the plan is another one": planned(passes, rank),
            "the passes are those of 1F1B; the plan is another one": planned(plan_of("1F1B", 4, 4)[rank], rank),
            "outputs are sent only when a backward pass begins; each should be sent right after its forward pass": planned(
                plan[rank], rank, late=True
            ),
            "gradients are sent only at the end of train_step; each should be sent right after its backward pass": [
                *[each for each in planned(plan[rank], rank) if each != rank - 1], rank - 1
            ],
            "no gradients are sent": [each for each in planned(plan[rank], rank) if each != rank - 1],
            "it sends no messages to its neighbours": [each for each in planned(plan[rank], rank) if each in (FORWARD, BACKWARD)],
            "no backward passes are done": planned([step for step in plan[rank] if step[0] == FORWARD], rank),
        })  # fmt: skip
    for fact in traffic_facts(ranks.traffic, grads, stages, batch, targets, 4):
        check.that(*fact)


NOTHING_LEARNED = "no weight has a gradient after train_step"
FOR_NOTHING = "what is sent does not become the gradients of the whole model, so it counts for nothing"
FILLED_DOWN = "a stage sends filler to the next one, such as zeros; it should send its outputs"
FILLED_UP = "a stage sends filler to the one before, such as zeros; it should send the gradients at its inputs"
TOO_MUCH_BESIDES = "besides outputs and gradients more is sent than what tells their shapes and dtypes"


def trained_on(ranks, stages, batch, targets, M, plan):
    """One train_step in these ranks, whose traffic is looked at: the gradients of each rank afterwards, zeros for none.

    In the traffic a rank tells itself when its module begins with a pass.
    """

    def probe(stages, batch, targets, M, plan):
        from pipeline_parallel import PipelineStage

        rank = torch.distributed.get_rank()
        alone = [torch.distributed.new_group([n]) for n in range(len(stages))][rank]

        def tell(*shape):
            torch.distributed.all_reduce(torch.zeros(2, 7, 1, *shape, dtype=torch.uint8), group=alone)

        def after(module, given, output):
            tell(8)
            if output.requires_grad:
                output.register_hook(lambda grad: tell(9))

        part = inside.PipelinePart(stages[rank])
        part.register_forward_hook(after)
        PipelineStage(part, rank, len(stages)).train_step(batch, targets, M, plan)
        return [torch.zeros_like(each) if each.grad is None else each.grad for each in part.parameters()]

    return ranks.run(probe, stages, batch, targets, M, plan)


def traffic_facts(traffic, grads, stages, batch, targets, M):
    """Facts about what `trained_on` gives, that are looked at last: small messages hold no values, large ones do."""
    down, up = news_of_the_borders(traffic, len(stages))
    least = len(batch) * ROW * 0.3  # of float64 nine tenths are news, of the same in float32 half as much
    return [
        (few_besides_values(traffic, M), TOO_MUCH_BESIDES),
        (are_gradients(grads, stages, batch, targets, M), FOR_NOTHING),
        (min(down) > least, FILLED_DOWN),
        (min(up) > least, FILLED_UP),
    ]


def learns(grads):
    return any(bool(grad.any()) for own in grads for grad in own)


def planned(steps, rank, late=False):
    """What `events_of` gives of a stage that sends everything at once; late: outputs wait until a backward pass begins."""
    events, waiting = [], False
    for direction, _ in steps:
        if direction == FORWARD:
            events += [FORWARD] if late else [FORWARD, rank + 1]
            waiting = late
        else:
            events += [rank + 1] * waiting + [BACKWARD, rank - 1]
            waiting = False
    return [each for each in events if each in (FORWARD, BACKWARD) or 0 <= each < 4]


# ---------------------------------------------------------------------------------------------- messages


@pytest.mark.points(3)
def test_outputs_and_gradients_cross_each_border_once(student, check, rng):
    """Rank s sends its outputs to rank s + 1 and gradients to rank s - 1: as many bytes as they have, and to nobody else."""
    stages = wide_stages(rng, 4)
    batch, targets = randn(rng, 4, 3, dtype=torch.float64), tokens(rng, 4, 4)
    ranks = student.on(ranks=4)
    grads = trained_on(ranks, stages, batch, targets, 2, plan_of("GPipe", 4, 2))

    check.that(learns(grads), NOTHING_LEARNED)
    other = [each.operation for each in ranks.traffic if each.bytes >= LEAST and each.operation not in ("send", "recv")]
    check(sorted(set(other)), [], what="the operations by which values go", mistakes={
        "outputs or gradients are broadcast to all ranks; send them to the neighbour alone": ["broadcast"],
        "outputs or gradients are gathered on all ranks; send them to the neighbour alone": ["all_gather"],
        "gradients or outputs are summed over all ranks; each rank has its own stage": ["all_reduce"],
    })  # fmt: skip
    sent = {}
    for rank in range(4):
        for peer, size in large_sends(ranks.traffic, rank):
            sent[rank, peer] = sent.get((rank, peer), 0) + size
    border = 4 * ROW
    # What tells the shape may come in the same message as the values, and tags count: numbers of four or eight bytes are told apart.
    sent = {pair: size - size % (border // 2) if size % (border // 2) < 1024 else size for pair, size in sent.items()}
    down, up = {(n, n + 1): border for n in range(3)}, {(n + 1, n): border for n in range(3)}
    check(dict(sorted(sent.items())), dict(sorted((down | up).items())), what="the bytes from rank to rank", mistakes={
        "no gradients are sent": down,
        "outputs are sent in float32, half of their bytes": up | {pair: border // 2 for pair in down},
        "gradients go to every earlier stage, not only to the one before": check.when((2, 0) in sent),
        "gradients are sent in float32, half of their bytes": down | {pair: border // 2 for pair in up},
        "outputs go to every later stage, not only to the next one": check.when((0, 2) in sent),
    })  # fmt: skip
    for fact in traffic_facts(ranks.traffic, grads, stages, batch, targets, 2):
        check.that(*fact)


@pytest.mark.points(2)
@pytest.mark.parametrize(("rows", "M"), [(7, 3), (6, 4)])
def test_microbatches_are_those_of_tensor_split(student, check, rng, rows, M):
    """Sizes differ by one row at most: those of batch.tensor_split(M)."""
    stages = wide_stages(rng, 2)
    batch, targets = randn(rng, rows, 3, dtype=torch.float64), tokens(rng, 4, rows)
    ranks = student.on(ranks=2)
    grads = trained_on(ranks, stages, batch, targets, M, plan_of("GPipe", 2, M))

    check.that(learns(grads), NOTHING_LEARNED)

    def sums(sizes):
        return torch.tensor(sizes).cumsum(0).tolist()

    sizes = [size for _, size in large_sends(ranks.traffic, 0)] or [0]
    # What tells the shape may come in the same message as the values.
    sent = sums([size - size % ROW if size % ROW < 512 else size for size in sizes])
    right = sums([len(part) * ROW for part in batch.tensor_split(M)])
    check([total for total in right if total in sent], right, what="the bytes of the outputs after each microbatch", mistakes={
        "the microbatches are those of chunk; they should be those of tensor_split": check.when(
            sent == sums([len(part) * ROW for part in batch.chunk(M)])
        ),
        "the rows that are left over all go to the last microbatch": check.when(
            sent == sums([rows // M * ROW] * (M - 1) + [(rows - rows // M * (M - 1)) * ROW])
        ),
        "the rows that are left over are dropped": check.when(sent == sums([rows // M * ROW] * M)),
        "the whole batch is sent at once": check.when(sent == [rows * ROW]),
    })  # fmt: skip
    for fact in traffic_facts(ranks.traffic, grads, stages, batch, targets, M):
        check.that(*fact)


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.points(2)
def test_a_stage_forgets_what_ran_backward(student, check, rng):
    """With 1F1B a stage keeps few of its outputs, however many microbatches there are: they go with their backward pass."""
    stages = linear_stages(rng, 3, 4, 4)
    batch, targets = randn(rng, 8, 3, dtype=torch.float64), tokens(rng, 4, 8)

    def probe(stages, batch, targets, plan):
        from pipeline_parallel import PipelineStage
        from torch.multiprocessing.reductions import StorageWeakRef

        rank = torch.distributed.get_rank()
        part = inside.PipelinePart(stages[rank])
        inputs, outputs, kept = [], [], []

        def note(module, given, output):
            kept.append([sum(not each.expired() for each in memory) for memory in (inputs, outputs)])
            if rank > 0:  # those of rank 0 are parts of the batch
                inputs.extend(StorageWeakRef(each.untyped_storage()) for each in given)
            outputs.append(StorageWeakRef(output.untyped_storage()))

        part.register_forward_hook(note)
        PipelineStage(part, rank, 2).train_step(batch, targets, 8, plan)
        return kept, any(weight.grad is not None and bool(weight.grad.any()) for weight in part.parameters())

    (first, learned), (last, also) = student.on(ranks=2).run(probe, stages, batch, targets, plan_of("1F1B", 2, 8))

    check.that(learned or also, NOTHING_LEARNED)
    check([len(first), len(last)], [8, 8], what="how often the module runs on each rank", mistakes={
        "the module runs a second time for each microbatch": check.when(max(len(first), len(last)) == 16),
    })  # fmt: skip
    # A variable of the student's may still hold what the pass before worked on.
    check.that(max(outputs for _, outputs in first) <= 2, "rank 0 keeps outputs whose backward pass is done")
    check.that(max(outputs for _, outputs in last) <= 1, "the last rank keeps outputs whose backward pass is done")
    check.that(max(inputs for inputs, _ in last) <= 1, "the last rank keeps inputs whose backward pass is done")
