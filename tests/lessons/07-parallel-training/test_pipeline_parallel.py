"""Hidden tests of pipeline_parallel: the plans. What a stage does with them is in test_pipeline_parallel__stage.py."""

import pytest

from pipeline_parallel_helpers import BACKWARD, FORWARD, finished, plan_of

pytestmark = pytest.mark.question("schedules")

GPIPE, ONE_F_ONE_B = "pipeline_parallel.gpipe_schedule", "pipeline_parallel.one_f_one_b_schedule"


def passes(plan, direction):
    """The microbatches of each stage's forward or backward passes, in their order; None where it is not a plan."""
    try:
        return [[m for way, m in steps if way == direction] for steps in plan]
    except (TypeError, ValueError):
        return None


def most_kept(steps):
    """The largest number of microbatches that have run forward and not yet backward."""
    kept = most = 0
    for direction, _ in steps:
        kept += 1 if direction == FORWARD else -1
        most = max(most, kept)
    return most


def turned(plan, S, M):
    """What a wrong order of the lists gives: one for each microbatch."""
    return [[(direction, m)] * S for m in range(M) for direction in (FORWARD, BACKWARD)]


# ---------------------------------------------------------------------------------------------- GPipe


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(2, 3), (4, 2), (3, 5), (1, 1), (1, 4), (5, 1)])
def test_gpipe_plans_each_pass_once(student, check, S, M):
    """There is a list for each stage, with each microbatch once forward and once backward."""
    plan = student.call(GPIPE, S, M)

    check([sorted(steps) for steps in plan], [sorted(steps) for steps in plan_of("GPipe", S, M)], mistakes={
        "the microbatches are numbered from 1; they should be from 0": [
            sorted((direction, m + 1) for direction, m in steps) for steps in plan_of("GPipe", S, M)
        ],
        "there is one list; there should be one for each stage": [sorted(plan_of("GPipe", 1, M)[0])],
        "there is a list for each microbatch; there should be one for each stage": [
            sorted(steps) for steps in plan_of("GPipe", M, S)
        ],
        "the passes are called F and B; they should be called forward and backward": [
            sorted((direction[0].upper(), m) for direction, m in steps) for steps in plan_of("GPipe", S, M)
        ],
        "the tuples have the microbatch first; they should have the direction first": [
            sorted((m, direction) for direction, m in steps) for steps in plan_of("GPipe", S, M)
        ],
        "there are only forward passes": [[(FORWARD, m) for m in range(M)]] * S,
        "the last microbatch is missing": [sorted(steps) for steps in plan_of("GPipe", S, M - 1)],
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(2, 3), (4, 2), (3, 5)])
def test_gpipe_runs_all_forward_first(student, check, S, M):
    """A stage runs all forward passes, in their order, before the first backward pass."""
    plan = student.call(GPIPE, S, M)

    check.that(all(len(steps) >= 2 for steps in plan) and len(plan) >= 2, "the plan has too few passes")
    ways = [[way for way, _ in steps] for steps in plan]
    check(ways, [[FORWARD] * (len(steps) // 2) + [BACKWARD] * (len(steps) // 2) for steps in plan], mistakes={
        "forward and backward passes alternate; all forward passes should come first": [[FORWARD, BACKWARD] * M] * S,
        "the plan is that of 1F1B": [[way for way, _ in steps] for steps in plan_of("1F1B", S, M)],
        "the backward passes come first": [[BACKWARD] * M + [FORWARD] * M] * S,
    }, what="the directions")  # fmt: skip
    first = min(m for _, m in plan[0])
    orders = passes(plan, FORWARD)
    check(orders, [list(range(first, first + len(order))) for order in orders], mistakes={
        "the forward passes go from the last microbatch to the first": [list(range(M))[::-1]] * S,
    }, what="the order of the forward passes")  # fmt: skip


# ---------------------------------------------------------------------------------------------- 1F1B


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(2, 4), (4, 6), (3, 3), (1, 3)])
def test_1f1b_plans_each_pass_once_and_in_order(student, check, S, M):
    """Each stage runs microbatches 0 to M - 1 forward, and 0 to M - 1 backward, in this order."""
    plan = student.call(ONE_F_ONE_B, S, M)

    check.that(len(plan) == S, "there should be a list for each stage")
    right = [list(range(M))] * S
    check(passes(plan, FORWARD), right, what="the order of the forward passes", mistakes={
        "no pass is called forward": [[]] * S,
        "the last microbatch is missing": [list(range(M - 1))] * S,
        "the microbatches are numbered from 1; they should be from 0": [list(range(1, M + 1))] * S,
    })  # fmt: skip
    backward = passes(plan, BACKWARD)
    check(backward, right, what="the order of the backward passes", mistakes={
        "the last backward passes are missing on the stages before the last": [
            list(range(M - min(S - stage - 1, M))) for stage in range(S)
        ],
        "the microbatch that ran forward last runs backward first; the first one should": [list(range(M))[::-1]] * S,
    } | {
        "each stage runs the latest microbatch backward; it should be the earliest that has not yet": [
            latest_first(S, M, stage) for stage in range(S)
        ],
    })  # fmt: skip


def latest_first(S, M, stage):
    """The order of backward passes that take what ran forward last."""
    ahead = min(S - stage - 1, M)
    return [*range(ahead, M), *reversed(range(ahead))]


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(2, 4), (4, 6), (4, 4)])
def test_1f1b_can_be_carried_out(student, check, S, M):
    """No pass waits for one that waits for it: the plans of the stages fit together."""
    plan = student.call(ONE_F_ONE_B, S, M)

    check.that(passes(plan, BACKWARD) is not None and any(passes(plan, BACKWARD)), "no pass is called backward")
    stuck = finished(plan, 1, 1) is None
    check.that(not stuck, "the stages wait for each other for ever: a pass needs one that is later in the plan")


@pytest.mark.points(3)
@pytest.mark.parametrize(("S", "M"), [(4, 8), (2, 5), (3, 4)])
def test_1f1b_keeps_few_microbatches(student, check, S, M):
    """Stage s keeps at most S - s microbatches that have run forward and not yet backward."""
    plan = student.call(ONE_F_ONE_B, S, M)

    enough = len(plan) == S and all(len(steps) >= M for steps in plan)
    enough = enough and all(passes(plan, FORWARD) or ()) and all(passes(plan, BACKWARD) or ())
    check.that(enough and passes(plan, FORWARD) is not None, "the plan has too few passes in one of the directions")
    kept = [most_kept(steps) for steps in plan]
    too_many = [max(count - (S - stage), 0) for stage, count in enumerate(kept)]
    check(too_many, [0] * S, mistakes={
        "all microbatches are kept at some time, as with GPipe": check.when(kept == [M] * S),
        "stage s keeps S - s + 1 microbatches; it should keep S - s at most": check.when(kept == [S - s + 1 for s in range(S)]),
        "stage s keeps s + 1 microbatches; it should keep S - s at most": check.when(kept == [s + 1 for s in range(S)]),
        "each stage keeps S microbatches; stage s should keep S - s at most": check.when(kept == [S] * S),
        "each stage keeps 2 microbatches; stage s should keep S - s at most": check.when(kept == [2] * S),
    }, otherwise="a stage keeps more than S - s microbatches")  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.parametrize(("S", "M"), [(2, 3), (4, 5), (1, 4)])
def test_the_last_stage_of_1f1b_alternates(student, check, S, M):
    """The last stage runs each microbatch backward right after forward."""
    plan = student.call(ONE_F_ONE_B, S, M)

    ways = [way for way, _ in plan[-1]]
    check(ways, [FORWARD, BACKWARD] * (len(ways) // 2), what="the last stage", mistakes={
        "it runs all microbatches forward first": [FORWARD] * M + [BACKWARD] * M,
        "it runs one forward pass too many before the first backward pass": [FORWARD, *[FORWARD, BACKWARD] * (M - 1), BACKWARD],
    })  # fmt: skip
    check.that(len(ways) == 2 * M, "the last stage should have 2 · M passes")


@pytest.mark.points(3)
@pytest.mark.parametrize(("S", "M", "f", "b"), [(4, 6, 1, 2), (2, 4, 1, 1), (3, 5, 2, 3)])
def test_1f1b_leaves_no_larger_bubble(student, check, S, M, f, b):
    """With passes of f and b all is done after (M + S - 1) · (f + b)."""
    plan = student.call(ONE_F_ONE_B, S, M)

    check.that(
        len(plan) == S and all(len(steps) == 2 * M for steps in plan), "the plan should have 2 · M passes a stage"
    )
    check(finished(plan, f, b), (M + S - 1) * (f + b), what="the time until all is done", mistakes={
        "one microbatch runs after the other: no two stages work at the same time": S * M * (f + b),
        "each stage runs one forward pass too few before its first backward pass": finished(plan_ahead(S, M, less=1), f, b),
        "the stages wait for each other for ever": None,
    })  # fmt: skip


def plan_ahead(S, M, less):
    """1F1B whose stages run fewer microbatches ahead than they could."""
    plan = []
    for stage in range(S):
        ahead = max(S - stage - 1 - less, 0)
        pairs = [((FORWARD, n), (BACKWARD, n - ahead)) for n in range(M + ahead)]
        plan.append([step for pair in pairs for step in pair if 0 <= step[1] < M])
    return plan


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(4, 2), (4, 1), (5, 3)])
def test_1f1b_with_fewer_microbatches_than_stages(student, check, S, M):
    """With M < S each stage still runs each microbatch once in each direction, in time."""
    student.accepts(ONE_F_ONE_B, S, M)
    plan = student.call(ONE_F_ONE_B, S, M)

    right = [sorted(steps) for steps in plan_of("1F1B", S, M)]
    check([sorted(steps) for steps in plan], right, mistakes={
        "there are forward passes of microbatches that do not exist": check.when(
            any(m >= M for order in passes(plan, FORWARD) or () for m in order)
        ),
        "some backward passes are missing": check.when(
            any(passes(plan, FORWARD) or ()) and any(len(order) < M for order in passes(plan, BACKWARD))
        ),
    })  # fmt: skip
    check(finished(plan, 1, 1) is None, False, otherwise="the stages wait for each other for ever")


# ---------------------------------------------------------------------------------------------- the bubble, and what is refused


@pytest.mark.points(2)
@pytest.mark.parametrize(("S", "M"), [(4, 8), (2, 1), (1, 5), (8, 3)])
def test_the_bubble_is_a_share_of_all_the_time(student, check, S, M):
    """It is (S - 1) / (M + S - 1)."""
    fraction = student.call("pipeline_parallel.bubble_fraction", S, M)

    check(fraction, (S - 1) / (M + S - 1), mistakes={
        "(S - 1) / M is the bubble over the time of work; it should be over all the time": (S - 1) / M,
        "S and M are exchanged": (M - 1) / (M + S - 1),
        "it is M / (M + S - 1), the share of work; it should be that of the bubble": M / (M + S - 1),
        "the bubble is divided by M + S; it should be by M + S - 1": (S - 1) / (M + S),
        "it is S / (M + S - 1); one stage less waits": S / (M + S - 1),
        "it is in percent; it should be a number from 0 to 1": 100 * (S - 1) / (M + S - 1),
        "it is (S - 1) / S, the bubble of a single microbatch": (S - 1) / S,
        "the division drops what is behind the point": (S - 1) // (M + S - 1),
    })  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["gpipe_schedule", "one_f_one_b_schedule", "bubble_fraction"])
def test_no_stages_or_microbatches_are_refused(student, name):
    """A number below 1 is a ValueError."""
    for S, M, says in (
        (0, 3, "num_stages"),
        (-1, 3, "num_stages"),
        (3, 0, "num_microbatches"),
        (3, -2, "num_microbatches"),
    ):
        student.accepts(f"pipeline_parallel.{name}", max(S, 1), max(M, 1))
        student.raises(ValueError, f"pipeline_parallel.{name}", S, M, says=says)
