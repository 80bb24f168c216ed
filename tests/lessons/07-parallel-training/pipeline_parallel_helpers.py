"""What the hidden tests of pipeline_parallel share: models that are cut into stages, plans, and the truth in one process.

A stage is {"steps": …, "weights": …}: steps are methods of a tensor as (name, *arguments); ("linear",) takes the next two
weights, ("embedding",) the next one. inside.PipelinePart makes a module of it.
"""

import torch
import torch.nn.functional as F

from shared import linear_weights, nearly

FORWARD, BACKWARD = "forward", "backward"
WIDE = 800  # numbers of a row between wide stages


def linear_stages(rng, *widths, dtype=torch.float64):
    """A stage for each pair of neighbouring widths: a Linear, and tanh behind all but the last."""
    stages = [
        {"steps": [("linear",), ("tanh",)], "weights": list(linear_weights(rng, *pair, dtype=dtype))}
        for pair in zip(widths, widths[1:], strict=False)
    ]
    stages[-1]["steps"] = [("linear",)]
    return stages


def wide_stages(rng, S):
    """S stages of width 4 between which a row has 800 numbers, which fewer could not stand for: 6400 bytes."""
    stages = []
    for stage in range(S):
        widths = [3 if stage == 0 else WIDE, 4, *([] if stage == S - 1 else [WIDE])]
        pairs = list(zip(widths, widths[1:], strict=False))
        weights = [each for pair in pairs for each in linear_weights(rng, *pair, dtype=torch.float64)]
        stages.append({"steps": [("linear",), ("tanh",), *([("linear",)] * (len(pairs) - 1))], "weights": weights})
    stages[-1]["steps"] = [("linear",)]
    return stages


def train_stages(student, stages, *calls, loss=None, before=None):
    """Each rank's (what train_step returned, gradients, weights) after calls: (batch, targets, M, plan) each.

    loss: "squares" or "sums" for a loss_fn, that of the helper of this name. before: what each gradient is before the first call.
    """

    def probe(stages, calls, loss, before):
        from pipeline_parallel import PipelineStage

        rank = torch.distributed.get_rank()
        part = inside.PipelinePart(stages[rank])
        for weight, value in zip(part.parameters(), before[rank] if before else (), strict=False):
            weight.grad = value
        loss_fn = {
            "squares": lambda output, targets: ((output[..., 0] - 2 * targets) ** 2).mean(),
            "sums": lambda output, targets: ((output[..., 0] - 2 * targets) ** 2).sum(-1).mean(),
        }.get(loss)
        stage = PipelineStage(part, rank, len(stages), *([loss_fn] if loss_fn else []))
        losses = [stage.train_step(*call) for call in calls]
        return losses, [weight.grad for weight in part.parameters()], [weight.detach() for weight in part.parameters()]

    return student.on(ranks=len(stages)).run(probe, stages, calls, loss, before)


def output_of(stages, weights, x):
    """The output of all stages one after the other."""
    for stage, own in zip(stages, weights, strict=True):
        left = list(own)
        for name, *given in stage["steps"]:
            if name == "linear":
                x = F.linear(x, left.pop(0), left.pop(0))
            elif name == "embedding":
                x = F.embedding(x, left.pop(0))
            else:
                x = getattr(x, name)(*given)
    return x


def squares(output, targets):
    """A loss of the first number of each output, in which output and targets play different parts."""
    return ((output[..., 0] - 2 * targets) ** 2).mean()


def sums(output, targets):
    """A mean over the rows alone: the other places of a row are added."""
    return ((output[..., 0] - 2 * targets) ** 2).sum(-1).mean()


def cross_entropies(output, targets):
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


def whole_model(stages, batch, targets, parts=1, share=lambda rows, B, M: rows / B, loss=cross_entropies):
    """The loss and all gradients, stage by stage, of a model in one process in float64; in `parts` only for mistakes.

    share: what the mean loss of each of `parts` parts counts by.
    """
    weights = [[weight.double().clone().requires_grad_() for weight in stage["weights"]] for stage in stages]
    batch = batch.double() if batch.is_floating_point() else batch
    total = torch.zeros((), dtype=torch.float64)
    for rows, labels in zip(batch.tensor_split(parts), targets.tensor_split(parts), strict=True):
        part = loss(output_of(stages, weights, rows), labels)
        total = total + share(len(rows), len(batch), parts) * part
    leaves = [weight for own in weights for weight in own]
    found = list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    return total.item(), [[found.pop(0) for _ in own] for own in weights]


def stage_grads(ranks):
    """The gradients of each rank, of what `train_stages` gives; zeros where a rank has none."""
    return [
        [torch.zeros_like(weight) if grad is None else grad for grad, weight in zip(grads, weights, strict=True)]
        for _, grads, weights in ranks
    ]


def like_sum(grads, truth, M):
    """The true gradients, or M times those where the microbatches' means were added: that has tests of its own."""
    own = [grad for rank in grads for grad in rank]
    added = [M * grad for rank in truth for grad in rank]
    size = max((float(grad.abs().max()) for grad in added), default=0.0)  # small gradients are near their halves
    is_sum = len(own) == len(added) and nearly(own, added, 1e-3 * min(1.0, size))
    return [[M * grad for grad in rank] for rank in truth] if is_sum else truth


# ---------------------------------------------------------------------------------------------- plans


def plan_of(kind, S, M):
    """The plan of "GPipe" or of "1F1B"."""
    plan = []
    for stage in range(S):
        ahead = M if kind == "GPipe" else min(S - stage - 1, M)
        steps = [(FORWARD, m) for m in range(ahead)]
        for m in range(M):
            steps += [(FORWARD, m + ahead)] if m + ahead < M else []
            steps += [(BACKWARD, m)]
        plan.append(steps)
    return plan


def finished(plan, f, b):
    """When all passes of a plan are done, if forward takes f and backward b; None if it cannot be carried out."""
    ended, at, free = {}, [0] * len(plan), [0] * len(plan)
    moved = True
    while moved:
        moved = False
        for stage, steps in enumerate(plan):
            if at[stage] == len(steps):
                continue
            direction, m = steps[at[stage]]
            other = stage - 1 if direction == FORWARD else stage + 1
            needed = [(FORWARD, m, stage)] if direction == BACKWARD else []
            needed += [(direction, m, other)] if 0 <= other < len(plan) else []
            if all(each in ended for each in needed):
                free[stage] = max([free[stage], *(ended[each] for each in needed)]) + (f if direction == FORWARD else b)
                ended[direction, m, stage] = free[stage]
                at[stage], moved = at[stage] + 1, True
    return max(free) if at == [len(steps) for steps in plan] else None


# ---------------------------------------------------------------------------------------------- traffic

PASSES = {((2, 7, 1, 8),): FORWARD, ((2, 7, 1, 9),): BACKWARD}  # the shapes of what a module tells of its passes
LEAST = 1024  # bytes of a message that holds values: those that tell shape and dtype have fewer


def few_besides_values(traffic, M):
    """Whether each rank's messages that are too small for values could only tell what M microbatches are, both ways."""
    small = [each for each in traffic if each.bytes < LEAST and each.shapes not in PASSES]
    own = [[each.bytes for each in small if each.rank == rank] for rank in {each.rank for each in small}]
    return all(sum(sizes) <= 1024 * M + 1024 and len(sizes) <= 24 * M + 24 for sizes in own)


def are_gradients(found, stages, batch, targets, M):
    """Whether each rank's gradients are, but for a factor, those of the whole model, or of the mean of the microbatches' means."""
    shares = (1, lambda rows, B, _: rows / B), (M, lambda rows, B, parts: 1 / parts)
    truths = [whole_model(stages, batch, targets, parts, share)[1] for parts, share in shares]
    return any(all(map(_point_the_same_way, found, truth)) for truth in truths)


def _point_the_same_way(own, truth):
    if [each.shape for each in own] != [each.shape for each in truth]:
        return False
    own, truth = (torch.cat([each.double().flatten() for each in grads]) for grads in (own, truth))
    return float(F.cosine_similarity(own, truth, 0)) > 1 - 1e-6


def news_of_the_borders(traffic, S):
    """Bytes of news that each rank but the last sends to the next one, and that each but the first sends to the one before."""

    def between(rank, peer):
        return sum(each.news for each in traffic if (each.operation, each.rank, each.peer) == ("send", rank, peer))

    return [between(n, n + 1) for n in range(S - 1)], [between(n + 1, n) for n in range(S - 1)]


def large_sends(traffic, rank):
    """[(peer, bytes)] of the messages of a rank that hold values, in their order."""
    return [
        (each.peer, each.bytes)
        for each in traffic
        if each.rank == rank and each.operation == "send" and each.bytes >= LEAST
    ]


def events_of(traffic, rank):
    """What a rank does and to whom it sends values, in order: "forward", "backward", peers; by the marks of its module."""
    events = []
    for each in traffic:
        if each.rank == rank and each.operation == "all_reduce" and each.shapes in PASSES:
            events.append(PASSES[each.shapes])
        elif each.rank == rank and each.operation == "send" and each.bytes >= LEAST and events[-1:] != [each.peer]:
            events.append(each.peer)
    return events
