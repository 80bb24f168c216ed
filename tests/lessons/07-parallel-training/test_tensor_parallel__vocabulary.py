"""Hidden tests of tensor_parallel: VocabParallelEmbedding and vocab_parallel_cross_entropy, against torch's in one process.

Values are compared in float64, to 1e-9 of their size. Results are lists with one item a rank.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from shared import MANNERS, has_nan, nearly, randn, shuffled, tokens
from tensor_parallel_helpers import (
    KEEPS_MORE,
    SENDS_EARLY,
    bytes_sent,
    facts_when_made,
    few_facts,
    is_made_silently,
    keeps_its_part,
    operations_of,
    round_robin,
    slices,
)

of_embeddings = pytest.mark.question("VocabParallelEmbedding")
of_losses = pytest.mark.question("vocab_parallel_cross_entropy")


# ---------------------------------------------------------------------------------------------- VocabParallelEmbedding


@of_embeddings
@pytest.mark.points(1)
def test_a_table_is_parted_by_rows(student, check, rng):
    """from_embedding gives rank r the r-th of N slices of the table's rows, as a parameter, and keeps no more."""
    ranks = 2

    def probe(table):
        from tensor_parallel import VocabParallelEmbedding

        def make():
            return VocabParallelEmbedding.from_embedding(
                torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)
            )

        layer, kept = inside.kept_by(make)
        names = [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
        return inside.a_tensor(layer.weight, "weight").detach(), names, kept

    table = randn(rng, 32, 16, dtype=torch.float64)
    team = student.on(ranks=ranks)
    weights, names, kept = zip(*team.run(probe, table), strict=True)

    check(list(weights), slices(table, ranks), what="the weights", mistakes={
        "rank r holds columns of the table; it should hold rows": slices(table, ranks, 1),
        "rank r holds the rows r, r + N, …; they should be a slice": round_robin(table, ranks),
        "each rank holds the whole table": [table] * ranks,
        "the slices are in the reverse order": slices(table, ranks)[::-1],
        "all ranks hold the first slice": slices(table, ranks)[:1] * ranks,
    })  # fmt: skip
    check(list(names), [["weight"]] * ranks, what="the names of the parameters")
    check.that(keeps_its_part(kept, table), KEEPS_MORE)
    check.that(not team.traffic, SENDS_EARLY)


@of_embeddings
@pytest.mark.points(2)
@pytest.mark.parametrize(("ranks", "dtype"), [(2, torch.int64), (4, torch.int64), (2, torch.int32)])
def test_each_rank_looks_up_all_ids(student, check, rng, ranks, dtype):
    """Each rank has the rows of all ids, whichever rank holds them: of the first and the last of each slice, too."""

    def probe(table, ids, more):
        from tensor_parallel import VocabParallelEmbedding

        layer = VocabParallelEmbedding.from_embedding(torch.nn.Embedding.from_pretrained(table))
        given = ids.clone()
        with torch.no_grad():
            return inside.listed([layer(ids.T), layer(more), layer(ids)]), torch.equal(ids, given)

    table = randn(rng, 12, 3, dtype=torch.float64)
    ids = torch.tensor(shuffled(rng, [*range(12)] * 2), dtype=dtype).view(4, 6)
    found = student.on(ranks=ranks).run(probe, table, ids, ids[0, 0])

    share, rows = 12 // ranks, table[ids.T.long()]
    place = ids.T.long()
    zeroed = [table * (torch.arange(12) // share == rank)[:, None] for rank in range(ranks)]
    first = sum(torch.where((place // share == r)[..., None], rows, table[r * share]) for r in range(ranks))
    last = sum(
        table[(place - r * share).clamp(0, share - 1) + r * share] for r in range(ranks)
    )  # ids of other ranks become the next one's that there is
    modulo = sum(table[place % share + r * share] for r in range(ranks))
    check.that(all(same is True for _, same in found), "the ids are changed in place")
    check([each[0][0] for each in found], [rows] * ranks, relative=1e-9, mistakes={
        "for ids of other ranks a rank adds its first row; it should add zeros": [first] * ranks,
        "for ids of other ranks a rank adds its nearest row; it should add zeros": [last] * ranks,
        "for ids of other ranks a rank adds the row id % (V / N); it should add zeros": [modulo] * ranks,
        "each rank returns its own rows and zeros for the others; they should be summed": [part[place] for part in zeroed],
        "the rows are averaged over the ranks; they should be summed": [rows / ranks] * ranks,
        "only rank 0 has all rows; each rank should": [rows, *[part[place] for part in zeroed[1:]]],
        "an id that is the first of a rank's slice is not found": [rows * (place % share != 0)[..., None]] * ranks,
        "an id that is the last of a rank's slice is not found": [rows * (place % share != share - 1)[..., None]] * ranks,
    })  # fmt: skip
    check(
        [each[0][1] for each in found], [table[ids[0, 0].long()]] * ranks, relative=1e-9, what="the row of a single id"
    )
    check(
        [each[0][2] for each in found], [rows.transpose(0, 1)] * ranks, relative=1e-9, what="the rows of contiguous ids"
    )


@of_embeddings
@pytest.mark.points(2)
def test_rows_get_the_gradients_of_their_own_ids(student, check, rng):
    """weight gets the r-th slice of the whole table's gradient; ids of other ranks add nothing to it."""

    def probe(table, ids):
        from tensor_parallel import VocabParallelEmbedding

        layer = VocabParallelEmbedding.from_embedding(torch.nn.Embedding.from_pretrained(table, freeze=False))
        rows = layer(ids)
        layer(torch.zeros_like(ids))  # another call lies between forward and backward
        return inside.gradients(rows, [layer.weight])[0]

    table, ids = randn(rng, 8, 3, dtype=torch.float64), torch.tensor(shuffled(rng, [0, 1, 3, 4, 4, 6, 7, 7, 7]))
    found = student.on(ranks=2).run(probe, table, ids)

    cotangent = torch.arange(27, dtype=torch.float64).cos().view(9, 3)
    truth = slices(torch.zeros(8, 3, dtype=torch.float64).index_add(0, ids, cotangent), 2)
    others = [torch.zeros(4, 3, dtype=torch.float64) for _ in range(2)]
    for rank in range(2):
        others[rank][0] = cotangent[ids // 4 != rank].sum(0)
    check(found, truth, relative=1e-9, what="the gradients of weight", mistakes={
        "ids of other ranks add to the gradient of a rank's first row": [a + b for a, b in zip(truth, others, strict=True)],
        "the gradient of weight is N times too large: that of the output should not be summed": [2 * part for part in truth],
        "the gradient of weight is divided by N": [part / 2 for part in truth],
        "weight gets no gradient, since nothing flows back through the sum": [0 * part for part in truth],
    })  # fmt: skip


@of_embeddings
@pytest.mark.points(2)
def test_the_table_is_not_gathered(student, check, rng):
    """As much is sent forward and backward for a large table as for a small one, of which a rank has one row."""

    def probe(size, ids):
        from tensor_parallel import VocabParallelEmbedding

        layer = VocabParallelEmbedding(size, 3)
        inside.mark()
        rows = inside.a_tensor(layer(ids))
        inside.total(rows).backward()
        inside.mark()
        return list(rows.shape)

    team, ids, sent, counts = student.on(ranks=2), torch.tensor(shuffled(rng, [0, 1, 1, 0, 1])), [], []
    for size in (2, 512):
        check(team.run(probe, size, ids), [[5, 3]] * 2, what="the shape of the rows")
        sent.append(bytes_sent(team.traffic, 2))
        counts.append(operations_of(team.traffic, 2))

    check.that(all(size is not None and size > 0 for size in sent[0]), "a rank sends nothing")
    check(sent[1], sent[0], otherwise="with a larger vocabulary more is sent; the rows of the ids should be enough")
    for fact in few_facts(sent[1], counts[1], 8 * 5 * 3 * 4):
        check.that(*fact)


@of_embeddings
@pytest.mark.points(1)
def test_a_parallel_embedding_copies_its_rows(student, check, rng):
    """Where the layer's table is changed in place, the Embedding stays as it is; a new one has different rows on each rank."""

    def probe(table):
        from tensor_parallel import VocabParallelEmbedding

        new, kept = inside.kept_by(lambda: VocabParallelEmbedding(20, 30))
        again, rude = inside.made_politely(lambda: VocabParallelEmbedding(20, 30))
        inside.mark()
        embedding = torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)
        layer = VocabParallelEmbedding.from_embedding(embedding)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(1.0)
            rows = inside.a_tensor(layer(torch.arange(8)))
        weight = inside.a_tensor(new.weight, "weight").detach()
        more = rude, inside.a_tensor(again.weight, "weight").detach(), new.weight.requires_grad
        return embedding.weight.detach(), embedding.weight.requires_grad, weight, rows, kept, *more

    table = randn(rng, 8, 3, dtype=torch.float64)
    team = student.on(ranks=2)
    given, learns, new, rows, kept, rude, again, is_learnt = zip(*team.run(probe, table), strict=True)

    sentence = "the given embedding changes with the layer: from_embedding should copy its rows"
    check(list(given), [table] * 2, otherwise=sentence)
    check.that(learns == (True, True), "the given embedding is frozen by from_embedding")
    check.that(all(weight.shape == (10, 30) for weight in new), "the shape of a new weight is wrong")
    check.that(not nearly(new[0], new[1]), "all ranks start with the same rows")
    for fact in facts_when_made(rude, new, again, is_learnt):
        check.that(*fact)
    check.that(all(0.7 < float(weight.std()) < 1.3 for weight in new), "new rows should be numbers of N(0, 1)")
    check(list(rows), [table + 1] * 2, what="the rows after the change", mistakes={
        "the parameter of the layer is not what its rows come from": [table] * 2
    })  # fmt: skip
    check.that(keeps_its_part(kept, torch.zeros(20, 30)), KEEPS_MORE)
    check.that(is_made_silently(team.traffic, 2), SENDS_EARLY)


@of_embeddings
@pytest.mark.points(1)
def test_rows_of_a_table_that_the_ranks_cannot_share_are_refused(student):
    """A num_embeddings that N does not divide is a ValueError on each rank."""

    def made_of(size):
        from tensor_parallel import VocabParallelEmbedding

        return callable(VocabParallelEmbedding.from_embedding(torch.nn.Embedding(size, 4)))

    two = student.on(ranks=2)
    two.accepts("tensor_parallel.VocabParallelEmbedding", 6, 5)
    two.raises(ValueError, "tensor_parallel.VocabParallelEmbedding", 7, 4, says=("num_embeddings", 7))
    two.accepts(made_of, 6)
    two.raises(ValueError, made_of, 7, says=("num_embeddings", 7))


# ---------------------------------------------------------------------------------------------- vocab_parallel_cross_entropy


def sharded_loss(logits, targets):
    """A probe: the loss on this rank."""
    from tensor_parallel import vocab_parallel_cross_entropy

    return inside.a_tensor(vocab_parallel_cross_entropy(inside.own_slice(logits), targets)).detach()


def log_softmax_of_own(logits, ranks):
    """(..., V): each rank's slice by itself."""
    return torch.cat([part.log_softmax(-1) for part in slices(logits, ranks, -1)], -1)


def chosen_of(scores, targets):
    """Of each row the number at its target."""
    return scores.gather(-1, targets.clamp(min=0)[..., None])[..., 0]


@of_losses
@pytest.mark.points(3)
@pytest.mark.parametrize(("ranks", "shape"), [(2, (6,)), (2, (3, 5)), (4, (2, 3, 4)), (2, (3, 1)), (2, (1,)), (2, ())])
def test_the_loss_is_that_of_all_logits(student, check, rng, ranks, shape):
    """The mean cross-entropy over the whole vocabulary, the same on each rank."""
    V = 8
    logits, targets = 2 * randn(rng, *shape, V, dtype=torch.float64), tokens(rng, V, *shape)
    targets.view(-1)[0] = V - 1  # not on rank 0

    losses = student.on(ranks=ranks).run(sharded_loss, logits, targets)

    truth = F.cross_entropy(logits.view(-1, V), targets.view(-1))
    share, lse, most = V // ranks, logits.logsumexp(-1), logits.amax(-1)
    own = [targets // share == rank for rank in range(ranks)]
    largest = [part.amax(-1) for part in slices(logits, ranks, -1)]
    unscaled = sum(
        (part - own_most[..., None]).exp().sum(-1)
        for part, own_most in zip(slices(logits, ranks, -1), largest, strict=True)
    ).log()  # fmt: skip
    mine = [(chosen_of(logits, targets) - largest[rank]) * own[rank] for rank in range(ranks)]
    check(losses, [truth] * ranks, relative=1e-9, mistakes={
        "the softmax runs over a rank's own slice; it should run over all logits": [
            -chosen_of(log_softmax_of_own(logits, ranks), targets).mean()
        ] * ranks,
        "each rank subtracts its own maximum; it should be the largest of all ranks": [(unscaled - sum(mine)).mean()] * ranks,
        "targets are taken as rows of the rank's own slice; its first id should be subtracted": [
            (lse - most - sum(chosen_of(part, targets % share) - most for part in slices(logits, ranks, -1))).mean()
        ] * ranks,
        "the target's logit is only counted on the rank that has it; it should be summed over the ranks": [
            (lse - most - (chosen_of(logits, targets) - most) * own[rank]).mean() for rank in range(ranks)
        ],
        "the losses are summed; they should be averaged": [truth * targets.numel()] * ranks,
        "the loss is divided by the number of ranks": [truth / ranks] * ranks,
        "the loss is N times too large": [truth * ranks] * ranks,
        "only rank 0 returns the loss; each rank should": [truth, *[0 * truth] * (ranks - 1)],
        "the logarithm of the sum is missing": [(lse.exp() - chosen_of(logits, targets)).mean()] * ranks,
        "the sign is wrong": [-truth] * ranks,
    })  # fmt: skip


@of_losses
@pytest.mark.points(2)
def test_only_targets_that_count_are_averaged(student, check, rng):
    """Targets of -100 count neither in the sum nor in the number; without others the loss is NaN."""
    logits, targets = randn(rng, 2, 5, 8, dtype=torch.float64), tokens(rng, 8, 2, 5)
    targets[0, 1] = targets[1, 2] = targets[1, 4] = -100

    team = student.on(ranks=2)
    losses = team.run(sharded_loss, logits, targets)
    empty = team.run(sharded_loss, logits, torch.full_like(targets, -100))

    each, lse = F.cross_entropy(logits.mT, targets, reduction="none"), logits.logsumexp(-1)
    real = targets != -100
    check(losses, [each.sum() / 7] * 2, relative=1e-9, mistakes={
        "the sum is divided by the number of all targets; -100 does not count": [each.sum() / 10] * 2,
        "targets of -100 count as if their logit were the largest; they should not count": [
            (lse - logits.amax(-1) - (chosen_of(logits, targets) - logits.amax(-1)) * real).mean()
        ] * 2,
        "targets of -100 count with the first logit; they should not count": [(lse - chosen_of(logits, targets)).mean()] * 2,
        "the mean of the rows' means is taken; all targets should weigh the same": [(each.sum(1) / real.sum(1)).mean()] * 2,
        "the loss is not a number where there is a -100": [each.sum() * math.nan] * 2,
    })  # fmt: skip
    nan = torch.full((), math.nan, dtype=torch.float64)
    check(empty, [nan] * 2, what="the loss without targets that count", mistakes={
        "the loss without targets that count is 0; it should be NaN": [0 * logits[0, 0, 0]] * 2
    })  # fmt: skip


@of_losses
@pytest.mark.points(2)
@pytest.mark.parametrize("high", [0, 1])
@pytest.mark.parametrize(("size", "rows"), [(2e3, "all"), (-2e3, "all"), (2e3, "some"), (0.0, "far")])
def test_large_logits_do_not_overflow(student, check, rng, size, rows, high):
    """In float32 the loss is right for logits of ± 2000, in all rows or some, and where one rank's are much larger than another's, or far above the target's."""
    side = 4 * (high if rows != "far" else 1 - high)  # the first id of the rank that has the targets
    logits, targets = randn(rng, 6, 8), torch.tensor(shuffled(rng, [side, side + 3, side + 1] * 2))
    sizes = torch.tensor(shuffled(rng, [size, -size, 0.0] * 2) if rows == "some" else [size] * 6)
    logits = (logits + sizes[:, None]).view(6, 2, 4)
    logits[:, 1 - high] -= 200

    losses = student.on(ranks=2).run(sharded_loss, logits.flatten(1), targets)

    truth = F.cross_entropy(logits.flatten(1).double(), targets)
    values = [float(loss) for loss in losses if isinstance(loss, torch.Tensor) and loss.numel() == 1]
    broken = len(values) == 2 and not all(map(math.isfinite, values))
    check(losses, [truth] * 2, dtype=torch.float32, relative=1e-3, mistakes={
        "large logits make the loss infinite or not a number: subtract the maximum": check.when(broken),
        "the loss is too small where the target's logit is far below the largest one, as if its distance had a limit": check.when(
            rows == "far" and len(values) == 2 and max(values) < 0.9 * float(truth)
        ),
    })  # fmt: skip


@of_losses
@pytest.mark.points(1)
def test_logits_of_minus_infinity(student, check, rng):
    """A logit of -inf has the probability 0, also where all of one rank's are: the loss and the gradients are those of the others."""

    def probe(logits, targets):
        from tensor_parallel import vocab_parallel_cross_entropy

        shard = inside.own_slice(logits).requires_grad_()
        loss = inside.a_tensor(vocab_parallel_cross_entropy(shard, targets))
        return loss.detach(), inside.gradients(loss, [shard], [torch.ones_like(loss)])[0]

    logits, targets = randn(rng, 4, 8, dtype=torch.float64), torch.tensor([7, 5, 2, 0])
    minus = torch.tensor([[1] * 4 + [0] * 4, [1, 1, 0, 0] * 2, [0] * 4 + [1] * 4, [0, 1] * 4])
    minus[1, 5] = 0  # no target's
    logits = logits.masked_fill(minus.bool(), -math.inf)
    found = student.on(ranks=2).run(probe, logits, targets)

    whole = logits.clone().requires_grad_()
    truth = F.cross_entropy(whole, targets)
    slope = torch.autograd.grad(truth, whole)[0]
    losses, slopes = [each[0] for each in found], [each[1] for each in found]
    check(losses, [truth.detach()] * 2, relative=1e-9, what="the loss", mistakes={
        "the loss is not a number where logits are -inf; their probability is 0": check.when(has_nan(losses))
    })  # fmt: skip
    check(slopes, slices(slope, 2, -1), relative=1e-9, what="the gradients of logits_shard", mistakes={
        "the gradients are not numbers where logits are -inf; they should be 0 there": check.when(has_nan(slopes))
    })  # fmt: skip


@of_losses
@pytest.mark.points(3)
def test_logits_get_their_slices_of_the_gradient(student, check, rng):
    """The gradient of 3 · loss at logits_shard is the r-th slice of the whole one; a second call in between changes nothing."""
    ranks = 2

    def probe(logits, targets, other):
        from tensor_parallel import vocab_parallel_cross_entropy

        shard = inside.own_slice(logits).requires_grad_()
        loss = 3 * vocab_parallel_cross_entropy(2 * shard, targets)
        vocab_parallel_cross_entropy(inside.own_slice(other), targets)
        return inside.gradients(loss, [shard])[0]

    logits, other = randn(rng, 2, 3, 8, dtype=torch.float64), randn(rng, 2, 3, 8, dtype=torch.float64)
    targets = torch.tensor(shuffled(rng, [0, 7, 3, 4, -100, 6])).view(2, 3)
    found = student.on(ranks=ranks).run(probe, logits, targets, other)

    real, hot = targets != -100, torch.zeros_like(logits).scatter(-1, targets.clamp(min=0)[..., None], 1.0)
    soft, real = (2 * logits).softmax(-1), real[..., None]
    truth, own = slices(6 / 5 * (soft - hot) * real, ranks, -1), log_softmax_of_own(2 * logits, ranks).exp()
    powers = (2 * (logits - logits.amax(-1, keepdim=True))).exp()  # not divided by their sum
    check(found, truth, relative=1e-9, what="the gradients of logits_shard", mistakes={
        "the gradient is N times too large": [ranks * part for part in truth],
        "the gradient is divided by the number of ranks": [part / ranks for part in truth],
        "the gradient is 3 times too small: it should be multiplied by that of the loss": [part / 3 for part in truth],
        "the gradient of the target's logit is missing": slices(6 / 5 * soft * real, ranks, -1),
        "the gradient of the target's logit alone comes back": slices(-6 / 5 * hot * real, ranks, -1),
        "the gradient is that of a softmax over the rank's own slice": slices(6 / 5 * (own - hot) * real, ranks, -1),
        "the gradient is divided by the number of all targets; -100 does not count": [part * 5 / 6 for part in truth],
        "the gradient is not divided by the number of targets": [part * 5 for part in truth],
        "targets of -100 give a gradient": slices(6 / 5 * (soft - hot * real), ranks, -1),
        "the gradient of the target's logit is N times too large": slices(6 / 5 * (soft - ranks * hot) * real, ranks, -1),
        "the softmax in the gradient is N times too large": slices(6 / 5 * (ranks * soft - hot) * real, ranks, -1),
        "the gradient has exp(logit - m) in the place of the probability; divide it by the sum of all ranks": slices(
            6 / 5 * (powers - hot) * real, ranks, -1
        ),
        "logits_shard gets no gradient": [0 * part for part in truth],
    })  # fmt: skip


@of_losses
@pytest.mark.points(3)
def test_logits_are_not_gathered(student, check, rng):
    """As much is sent forward and backward for a large vocabulary as for a small one, of which a rank has one logit of each target."""

    def probe(logits, targets):
        from tensor_parallel import vocab_parallel_cross_entropy

        shard = inside.own_slice(logits).requires_grad_()
        inside.mark()
        loss = inside.a_tensor(vocab_parallel_cross_entropy(shard, targets))
        loss.backward()
        inside.mark()
        return loss.detach()

    targets = torch.tensor(shuffled(rng, [0, 1, 1, 0, 1]))
    team, sent, operations, counts = student.on(ranks=2), [], [], []
    for size in (2, 512):
        logits = randn(rng, 5, size)
        losses = team.run(probe, logits, targets)
        sent.append(bytes_sent(team.traffic, 2))
        operations.append([message.operation for message in team.traffic])
        counts.append(operations_of(team.traffic, 2))
        for loss in losses:
            whole = isinstance(loss, torch.Tensor) and loss.numel() == 1 and bool(loss.isfinite())
            check.that(whole, "the loss is not a number")

    check.that(all(size is not None and size > 0 for size in sent[0]), "a rank sends nothing")
    to_one = any(name in ("gather", "send", "reduce") for name in operations[1])
    more = "more is sent for a larger vocabulary; a few numbers a target should be enough"
    check(sent[1], sent[0], otherwise=more, mistakes={
        "logits are sent to one rank, which does all the work; a few numbers a target should be enough": check.when(to_one),
        "the logits are gathered; a few numbers a target should be enough": check.when("all_gather" in operations[1]),
    })  # fmt: skip
    for fact in few_facts(sent[1], counts[1], 5 * 16 * 8):
        check.that(*fact)


@of_losses
@pytest.mark.points(1)
def test_the_loss_leaves_its_inputs_alone(student, check, rng):
    """Logits and targets stay as they are, whatever their layout in memory; the loss is in the dtype of the logits."""

    def probe(logits, targets):
        from tensor_parallel import vocab_parallel_cross_entropy

        shard = inside.own_slice(logits)
        before, ids = shard.clone(), targets.clone()
        with torch.no_grad():
            loss, (after, kept), rude = inside.manners(vocab_parallel_cross_entropy, shard, targets)
            own = vocab_parallel_cross_entropy(shard, ids)  # contiguous ones
        return loss, own, torch.equal(after, before) and torch.equal(shard, before), [kept, ids], rude

    logits, targets = randn(rng, 3, 5, 8), tokens(rng, 8, 3, 5)
    targets[0, 0] = -100
    for loss, own, same, kept, rude in student.on(ranks=2).run(probe, logits, targets):
        check.that(isinstance(loss, torch.Tensor) and bool((loss > 0).all()), "the loss is not a positive number")
        check(loss, own, relative=1e-4, otherwise="the layout of the logits in memory changes the loss")
        check(loss.dtype, torch.float32, otherwise="the loss of float32 logits is not float32")
        check.that(same, "logits_shard is changed in place")
        check(kept, [targets] * 2, otherwise="targets is changed in place")
        check(rude, "", mistakes=MANNERS)
