"""Hidden tests of data_parallel: the rows of a rank, and gradients that are averaged after backward."""

import pytest
import torch

from data_parallel_helpers import factor_of, fair, mean_of, times
from shared import MANNERS, nearly, randn, tokens

SHARDS = pytest.mark.question("shard_batch")
GRADIENTS = pytest.mark.question("all_reduce_gradients")


# ---------------------------------------------------------------------------------------------- shard_batch


def numbered(rng, *shape):
    """Random rows, of which each begins with its number."""
    batch = randn(rng, *shape)
    batch.view(len(batch), -1)[:, 0] = torch.arange(len(batch))
    return batch


def by_number(shards):
    """The rows of several shards in the order of their numbers."""
    rows = torch.cat(shards)
    return rows[rows.view(len(rows), -1)[:, 0].argsort(stable=True)]


def times_in_shards(batch, shards):
    """How often each row of the batch is in the shards; None where they have a row that is not of the batch."""
    rows = torch.cat(shards)
    same = (rows.reshape(len(rows), 1, -1) == batch.reshape(1, len(batch), -1)).all(-1)
    return same.sum(0).tolist() if bool(same.any(1).all()) else None


def rows_are_amiss(batch, shards):
    """Whether a row of the batch is missing or there twice, all rows being those of the batch."""
    return times_in_shards(batch, shards) not in (None, [1] * len(batch))


@SHARDS
@pytest.mark.points(3)
@pytest.mark.parametrize(("shape", "ranks"), [((8, 4), 2), ((12, 8), 4), ((8,), 4), ((9, 2, 3), 3)])
def test_every_row_belongs_to_one_rank(student, check, rng, shape, ranks):
    """The shards of all ranks have equally many rows, and are together the batch."""
    batch = numbered(rng, *shape)
    shards = [student.call("data_parallel.shard_batch", batch, rank, ranks) for rank in range(ranks)]

    rows, columns = shape[0] // ranks, shape[1] // ranks if len(shape) > 1 else 0
    check([tuple(shard.shape) for shard in shards], [(rows, *shape[1:])] * ranks, mistakes={
        "the columns are parted; the rows should be": [(shape[0], columns, *shape[2:])] * ranks,
        "each rank gets the whole batch; it should get its own rows": [shape] * ranks,
        "each rank gets world_size rows; it should get one world_size-th of them": [(ranks, *shape[1:])] * ranks,
        "each rank gets one row; it should get one world_size-th of them": [shape[1:]] * ranks,
    }, what="the shapes of the shards")  # fmt: skip
    first, last = batch[:rows], batch[-rows:]
    overlapping = [batch[rank : rank + rows] for rank in range(ranks)]
    check(by_number(shards), batch, mistakes={
        "all ranks get the same rows": lambda: by_number([first] * ranks),
        "all ranks get the last rows": lambda: by_number([last] * ranks),
        "the rows of the ranks overlap: rank r begins at row r, it should be at r times the size of a shard": lambda: (
            by_number(overlapping)
        ),
        "the shards are not together the batch: a row is missing, and another is on two ranks": check.when(
            rows_are_amiss(batch, shards)
        ),
    }, what="the rows of all shards")  # fmt: skip


@SHARDS
@pytest.mark.points(1)
def test_rank_and_world_size_are_the_arguments(student, check, rng):
    """Each process can ask for the rows of any rank, of any number of ranks."""
    batch = numbered(rng, 6, 2)

    def probe(batch):
        from data_parallel import shard_batch

        def shard(rank):
            try:
                return inside.a_tensor(shard_batch(batch, rank, 3))
            except (ValueError, IndexError):
                return "refused"

        return [shard(rank) for rank in range(3)]

    results = student.on(ranks=2).run(probe, batch)

    sizes = [[shard if isinstance(shard, str) else len(shard) for shard in shards] for shards in results]
    check(sizes, [[2] * 3] * 2, mistakes={
        "the size of the process group is used; it should be world_size": [[3, 3, "refused"]] * 2,
        "rank is compared with the size of the process group; it should be with world_size": [[2, 2, "refused"]] * 2,
    }, what="the sizes of the shards")  # fmt: skip
    for shards in results:
        same = all(torch.equal(shard, shards[0]) for shard in shards) and times_in_shards(batch, shards) is not None
        check(by_number(shards), batch, mistakes={
            "the rank of the process is used; it should be the rank that is given": check.when(same),
        }, what="the rows of all shards")  # fmt: skip


@SHARDS
@pytest.mark.points(1)
@pytest.mark.parametrize(("rows", "ranks"), [(7, 2), (10, 4), (6, 4), (2, 4)])
def test_rows_that_do_not_divide(student, check, rng, rows, ranks):
    """Sizes differ by one and no row is lost, or each rank gets a ValueError."""
    batch = numbered(rng, rows, 2)
    student.accepts("data_parallel.shard_batch", torch.zeros(2 * ranks, 2), ranks - 1, ranks)

    def probe(batch, ranks):
        from data_parallel import shard_batch

        def shard(rank):
            try:
                return inside.a_tensor(shard_batch(batch, rank, ranks))
            except ValueError:
                return "refused"

        return [shard(rank) for rank in range(ranks)]

    shards = student.run(probe, batch, ranks)
    refused = [isinstance(shard, str) for shard in shards]
    check.that(all(refused) or not any(refused), "only some ranks raise a ValueError; all of them should, or none")
    if any(refused):
        return
    sizes = sorted(len(shard) for shard in shards)
    few, more = divmod(rows, ranks)
    check(sizes, [few] * (ranks - more) + [few + 1] * more, mistakes={
        "rows are left out where they do not divide; sizes should differ by one": [few] * ranks,
        "one rank gets all rows that are left over; sizes should differ by one": [*[few] * (ranks - 1), few + more],
        "each rank but the last is filled up (torch.chunk); sizes should differ by one": sorted(
            max(0, min(-(-rows // ranks), rows - rank * -(-rows // ranks))) for rank in range(ranks)
        ),
        "each rank gets one row more, so that some are on two ranks": [few + 1] * ranks,
    }, what="the sizes of the shards")  # fmt: skip
    check(by_number(shards), batch, mistakes={
        "a row is on two ranks, and another on none": check.when(rows_are_amiss(batch, shards)),
    }, what="the rows of all shards")  # fmt: skip


@SHARDS
@pytest.mark.points(1)
def test_rows_of_any_dtype_are_left_as_they_are(student, check, rng):
    """Ids stay int64; a batch whose numbers are not in order in memory is parted alike; it is not changed."""

    def probe(batch):
        from data_parallel import shard_batch

        def shard(*given):
            return inside.a_tensor(shard_batch(*given))

        return [inside.manners(shard, batch, rank, 2) for rank in range(2)]

    for batch in (tokens(rng, 9, 6, 4), randn(rng, 6, 4, dtype=torch.float64)):
        batch[:, 0] = torch.arange(6)
        results = student.run(probe, batch)

        shards = [shard for shard, _, _ in results]
        check([shard.dtype for shard in shards], [batch.dtype] * 2, mistakes={
            "the shards are float32; they should have the dtype of the batch": [torch.float32] * 2,
        }, what="the dtypes of the shards")  # fmt: skip
        check(by_number(shards), batch, mistakes={
            "the shards are not together the batch": check.when(rows_are_amiss(batch, shards)),
        }, what="the rows of all shards")  # fmt: skip
        for _, (after, _, _), rude in results:
            check(after, batch, otherwise="the batch is changed in place")
            check(rude, "", mistakes=MANNERS)


@SHARDS
@pytest.mark.points(1)
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_out_of_range_is_refused(student, ranks):
    """A rank below 0, or not below world_size, is a ValueError."""
    batch = torch.zeros(8, 2)

    for rank in (0, ranks - 1):
        student.accepts("data_parallel.shard_batch", batch, rank, ranks)
    for rank in (ranks, -1, ranks + 3, -ranks):
        student.raises(ValueError, "data_parallel.shard_batch", batch, rank, ranks, says=("rank", rank))


# ---------------------------------------------------------------------------------------------- all_reduce_gradients


def averaged(student, ranks, weights, grads, missing=()):
    """What all_reduce_gradients makes of grads[rank], lists of tensors, on each rank: (gradients, weights) afterwards.

    missing: pairs (rank, place) of gradients that a rank does not have.
    """

    def probe(weights, grads, missing):
        from data_parallel import all_reduce_gradients

        rank = torch.distributed.get_rank()
        model = torch.nn.ParameterList([weight.clone() for weight in weights])
        for place, (weight, grad) in enumerate(zip(model, grads[rank], strict=True)):
            if (rank, place) not in missing:
                weight.grad = grad.clone()
        all_reduce_gradients(model)
        return inside.grads_of(model), [weight.detach() for weight in model]

    return student.run(probe, weights, grads, [tuple(pair) for pair in missing])


@GRADIENTS
@pytest.mark.points(3)
@pytest.mark.parametrize(("ranks", "dtype"), [(2, torch.float64), (4, torch.float32)])
def test_gradients_become_their_mean(student, check, rng, ranks, dtype):
    """The sum over the ranks, divided by their number, on all ranks."""
    shapes = [(3, 2), (), (4,), (1, 2, 3)]
    weights = [randn(rng, *shape, dtype=dtype) for shape in shapes]
    grads = [[randn(rng, *shape, dtype=dtype) for shape in shapes] for _ in range(ranks)]
    results = averaged(student.on(ranks=ranks), ranks, weights, grads)

    mean = mean_of(grads)
    double = [[grad.double() for grad in own] for own in grads]
    check([found for found, _ in results], [mean] * ranks, dtype=dtype, mistakes={
        "gradients are added up over the ranks, but not divided by their number": [times(ranks, mean)] * ranks,
        "the sum is divided by the number of ranks twice": [times(1 / ranks, mean)] * ranks,
        "the sum is divided by 2, whatever the number of ranks is": [times(ranks / 2, mean)] * ranks,
        "each rank keeps its own gradients": double,
        "all ranks get the gradients of rank 0": [double[0]] * ranks,
        "only rank 0 gets the mean": [mean, *double[1:]],
        "only rank 0 gets the mean, and the others are divided": [mean, *(times(1 / ranks, own) for own in double[1:])],
        "gradients become the largest of all ranks": [
            [torch.stack(each).amax(0) for each in zip(*double, strict=True)]
        ] * ranks,
    })  # fmt: skip


@GRADIENTS
@pytest.mark.points(2)
def test_a_gradient_that_some_ranks_lack_counts_as_zero(student, check, rng):
    """A rank without it takes part all the same, and has the mean afterwards."""
    ranks = 2
    grads = [[randn(rng, 3, dtype=torch.float64) for _ in range(4)] for _ in range(ranks)]
    plain = averaged(student.on(ranks=ranks), ranks, grads[0], grads)
    missing = [(0, 0), (1, 2)]
    results = averaged(student.on(ranks=ranks), ranks, grads[0], grads, missing)

    factor = factor_of([found for found, _ in plain][0], mean_of(grads), ranks)
    given = [[torch.zeros(3) if (r, n) in missing else grads[r][n] for n in range(4)] for r in range(ranks)]
    mean = times(factor, mean_of(given))
    alone = [times(2 if n in (0, 2) else 1, [mean[n]])[0] for n in range(4)]
    shifted = [[grads[0][n] for n in (1, 2, 3)], [grads[1][n] for n in (0, 1, 3)]]
    mixed = times(factor, mean_of(shifted))
    check([found for found, _ in results], [mean] * ranks, mistakes={
        "the sum is divided by the number of ranks that have a gradient; it should be by the number of all": [alone] * ranks,
        "a rank that lacks a gradient skips it, so that gradients of different parameters are added": [
            [None, *mixed],
            [mixed[0], mixed[1], None, mixed[2]],
        ],
        "a rank that lacks a gradient does not get the mean; it should": [
            [None, *mean[1:]],
            [mean[0], mean[1], None, mean[3]],
        ],
        "a gradient that only some ranks have is left alone; it should be averaged with zero": [
            [None, mean[1], grads[0][2], mean[3]],
            [grads[1][0], mean[1], None, mean[3]],
        ],
    })  # fmt: skip


@GRADIENTS
@pytest.mark.points(1)
def test_a_gradient_that_no_rank_has(student, check, rng):
    """It is None or zero afterwards, the others are averaged, and the weights are what they were."""
    grads = [[randn(rng, 3, dtype=torch.float64) for _ in range(3)] for _ in range(2)]
    results = averaged(student.on(ranks=2), 2, grads[1], grads, missing=[(0, 1), (1, 1)])

    for found, weights in results:
        check.that(
            found[1] is None or not bool(found[1].any()),
            "a gradient that no rank has is neither None nor zero afterwards",
        )
        own = any(torch.equal(found[n], grads[rank][n]) for n in (0, 2) for rank in range(2))
        check.that(not own, "the gradients before or behind one that no rank has are not averaged")
        check(weights, grads[1], otherwise="the parameters are changed; only their gradients should be")


@GRADIENTS
@pytest.mark.points(1)
def test_gradients_keep_their_dtype_and_layout(student, check, rng):
    """A gradient is averaged in its own dtype; so is one of a weight whose numbers are not in order in memory."""

    def probe(double, single):
        from data_parallel import all_reduce_gradients

        rank = torch.distributed.get_rank()
        model = torch.nn.ParameterList([inside.strided(double[0]), single[0].clone()])
        model[0].grad, model[1].grad = inside.strided(double[rank]), single[rank].clone()
        all_reduce_gradients(model)
        return inside.grads_of(model)

    double, single = randn(rng, 2, 3, 4, dtype=torch.float64), randn(rng, 2, 200)
    two = student.on(ranks=2)
    results = two.run(probe, double, single)

    truth = [double.mean(0), single.mean(0)]
    factor = factor_of(results[0], [truth[0], truth[1].double()], 2)
    check(results, [times(factor, truth)] * 2, mistakes={
        "gradients are averaged in float32; each should be in its own dtype": [
            [factor * double.float().mean(0).double(), factor * truth[1]]
        ] * 2,
    })  # fmt: skip
    own = 12 * 8 + 200 * 4  # bytes
    check.that(
        max(sum(message.bytes for message in two.traffic if message.rank == rank) for rank in range(2)) <= 1.25 * own,
        "more is sent than the gradients have in their own dtypes; each should be averaged in its own, and sent once",
    )


@GRADIENTS
@pytest.mark.points(1)
def test_a_tied_weight_is_averaged_once(student, check, rng):
    """A weight of two layers has one gradient, which is divided once and sent once."""

    def probe(grads):
        from data_parallel import all_reduce_gradients

        model = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False).double() for _ in range(3)))
        model[1].weight = model[0].weight
        for layer, grad in zip(model[1:], grads[torch.distributed.get_rank()], strict=True):
            layer.weight.grad = grad.clone()
        all_reduce_gradients(model)
        return inside.grads_of(model)

    grads, two = randn(rng, 2, 2, 8, 8, dtype=torch.float64), student.on(ranks=2)
    results = two.run(probe, grads)

    tied, single = grads.mean(0)
    factor = factor_of([results[0][1]], [single], 2)
    check(results, [times(factor, [tied, single])] * 2, mistakes={
        "the gradient of a tied weight is divided twice": [[factor * tied / 2, factor * single]] * 2,
        "the gradient of a tied weight is averaged twice": [[factor**2 * tied, factor * single]] * 2,
        "the gradient of a tied weight is added up twice": [[2 * factor * tied, factor * single]] * 2,
    })  # fmt: skip
    check.that(
        max(sum(m.bytes for m in two.traffic if m.rank == rank) for rank in range(2)) <= 1.25 * 2 * 512,
        "the gradient of a tied weight is sent twice",
    )


@GRADIENTS
@pytest.mark.points(2)
def test_frozen_parameters_take_no_part(student, check, rng):
    """A parameter that requires no gradient gets none, keeps one that it has, and nothing is sent for it."""

    def probe(grads, left):
        from data_parallel import all_reduce_gradients

        model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(64, 64)).double()
        model[1].requires_grad_(False)
        model[0].weight.grad = grads[torch.distributed.get_rank()].clone()
        model[1].bias.grad = left[torch.distributed.get_rank()].clone()
        all_reduce_gradients(model)
        return inside.grads_of(model)

    grads, two = randn(rng, 2, 2, 3, dtype=torch.float64), student.on(ranks=2)
    left = randn(rng, 2, 64, dtype=torch.float64)  # of a time when it was not frozen
    results = two.run(probe, grads, left)

    check.that(
        all(not torch.equal(found[0], grads[rank]) for rank, found in enumerate(results)),
        "the gradients of a model that is frozen in part are not averaged",
    )
    check.that(all(found[1] is None for found in results), "a frozen parameter gets a gradient; it should have none")
    check([found[2] for found in results], list(left), mistakes={
        "a gradient that a frozen parameter still has is averaged; it should be left alone": [left.mean(0)] * 2,
        "a gradient that a frozen parameter still has is removed; it should be left alone": [None] * 2,
        "a gradient that a frozen parameter still has becomes zero; it should be left alone": [0 * left[0]] * 2,
    }, what="the gradient that a frozen parameter still has")  # fmt: skip
    check.that(
        sum(message.bytes for message in two.traffic) < 64 * 64,
        "something is sent for frozen parameters; nothing should be",
    )


@GRADIENTS
@pytest.mark.points(2)
def test_no_rank_does_the_work_of_all(student, check, rng):
    """Gradients are averaged by all_reduce; each rank sends them once, and nothing else of their size."""
    ranks, shapes = 4, [(16, 8), (8, 16)]
    weights = [randn(rng, *shape) for shape in shapes]
    four = student.on(ranks=ranks)
    grads = [[randn(rng, *shape) for shape in shapes] for _ in range(ranks)]
    results = averaged(four, ranks, weights, grads)

    size = sum(weight.numel() * 4 for weight in weights)
    for fact in fair(four.traffic, ranks, size, size, len(shapes)):
        check.that(*fact)
    mean = mean_of(grads)
    right = times(factor_of(results[0][0], mean, ranks), mean)
    check.that(
        all(nearly(found, right) for found, _ in results),
        "what is sent does not become the mean of the gradients, so it counts for nothing",
    )
