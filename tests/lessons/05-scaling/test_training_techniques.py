"""Hidden tests of training_techniques: mixed precision, and gradients that are accumulated.

They drive `inside.Tagger`, a model so small that `tagged` works out its loss and gradients beside it, in float64. What is no
matter of targets that do not count is tested without any.
"""

import pytest
import torch
import torch.nn.functional as F

from shared import randn, tokens
from training_techniques_helpers import D, V, gradients_found, labelled, plus, tagged, tagger_weights

MIXED = pytest.mark.question("MixedPrecisionTrainer")
ACCUMULATED = pytest.mark.question("train_with_gradient_accumulation")


# ---------------------------------------------------------------------------------------------- mixed precision


def mixed_steps(student, weights, batches, momentum=0.0, stale=False):
    """What a MixedPrecisionTrainer with SGD of lr 0.5 does with a Tagger in eval mode: a row for each batch.

    loss; calls of the model; updates; the weights after it; the batch after it. stale: gradients of ones are there at first.
    """

    def probe(weights, batches, momentum, stale):
        from training_techniques import MixedPrecisionTrainer

        model, rows = inside.Tagger(weights), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum)
        trainer, updates = MixedPrecisionTrainer(model, optimizer), inside.noting_updates(model, optimizer)
        if stale:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        for inputs, targets in batches:
            model.calls.clear()
            updates.clear()
            model.eval()
            state = inside.torch_state()
            loss = trainer.train_step(inputs, targets)
            rows.append({
                "loss": loss, "calls": list(model.calls), "updates": list(updates), "after": model.weights(),
                "batch": (inputs, targets), "changed": inside.torch_state() != state,
            })  # fmt: skip
        return rows, str(model(batches[0][0]).dtype)

    return student.run(probe, weights, batches, momentum, stale)


def one_update(row):
    """Facts: a call makes one update, in which the optimizer finds gradients."""
    found = [gradients_found(update) for update in row["updates"]]
    return [
        (bool(found), "the optimizer takes no step: call its step()"),
        (len(found) < 2, "the optimizer takes more than one step in one call"),
        (all(len(grads) == 3 for grads in found), "the optimizer finds no gradients; they should be there in its step"),
    ]


@MIXED
@pytest.mark.points(3)
@pytest.mark.parametrize("case", ["(B, T)", "(B,)", "one target"])
def test_a_mixed_step_has_the_gradients_of_the_mean_loss(student, check, rng, case):
    """Logits are compared with targets at the same place; -100 does not count; the mean loss is returned, and no more is done."""
    counts, T = {"(B, T)": ((5, 2, 4), 6), "(B,)": ((1, 1, 0, 1, 1, 0, 1), 1), "one target": ((0, 1), 3)}[case]
    weights, (inputs, targets) = tagger_weights(rng, torch.float32, sure=4.0), labelled(rng, counts, T)
    targets[1, targets[1] != -100] = 0  # a class like others
    if case == "(B,)":
        inputs, targets = inputs[:, 0], targets[:, 0]
    (row,), _ = mixed_steps(student, weights, [(inputs, targets)])

    for fact in one_update(row):
        check.that(*fact)
    check.that(type(row["loss"]) is float, "the loss is not a float: return loss.item()")

    def made(**wrong):
        return lambda: tagged(weights, [(inputs, targets)], mixed=True, **wrong)

    loss, gradients = made()()
    mistakes = {
        "the loss after the update is returned; it should be the one before": lambda: (
            tagged(row["after"], [(inputs, targets)], mixed=True)[0],
            gradients,
        ),
        "targets of -100 count in the number of targets; they should not": made(counts="all"),
        "the losses are added; it should be their mean": made(counts="sum"),
        "targets of 0 are left out; only those of -100 should be": made(real=lambda targets: targets > 0),
        "labels are smoothed; the loss should be the plain cross-entropy": made(smoothing=0.1),
        "gradients are clipped to 1; they should not be clipped": made(longest=1.0),
        "the loss is worked out in bfloat16; it should be in float32": made(coarse=True),
        "the model computes in float32; it should run under autocast": lambda: tagged(weights, [(inputs, targets)]),
        "targets of -100 are taken for targets of 0; they should not count": made(real=torch.ones_like, counts="all"),
    }
    if case == "(B, T)":
        mistakes |= {
            "the targets are shifted by one place; they should be compared with the logits at the same place": made(shift=1),
            "the mean is taken of each sequence first; all targets should have the same weight": made(counts="sequences"),
            "the sum of the losses is divided by the number of sequences; it should be by the number of targets": made(counts="rows"),
        }  # fmt: skip
    value = row["loss"], gradients_found(row["updates"][0])
    # bfloat16 rounds to 2⁻⁸: how precise the loss is has a test of its own.
    is_changed = not torch.equal(row["batch"][1], targets)
    check(value[0], loss, relative=0.004, mistakes={"the targets are changed in place": check.when(is_changed)} | {
        sentence: (lambda wrong=wrong: wrong()[0]) for sentence, wrong in mistakes.items()
    }, what="the loss")  # fmt: skip
    check(value[1], gradients, relative=0.02, scale=0.5, what="the gradients", mistakes={
        sentence: (lambda wrong=wrong: wrong()[1]) for sentence, wrong in mistakes.items()
    })  # fmt: skip


@MIXED
@pytest.mark.points(1)
def test_products_are_in_bfloat16_and_weights_in_float32(student, check, rng):
    """The model's Linear gives bfloat16 while it is trained, and float32 outside; its weights are float32 all the time."""
    weights, batches = tagger_weights(rng, torch.float32), [labelled(rng, (4, 4), 4) for _ in range(2)]
    rows, outside = mixed_steps(student, weights, batches)

    seen = [call["logits"].dtype for row in rows for call in row["calls"]]
    check(seen, [torch.bfloat16] * 2, mistakes={
        "the model computes in float32; it should run under autocast": [torch.float32] * 2,
        "the model computes in float16 on the CPU; it should be in bfloat16": [torch.float16] * 2,
    })  # fmt: skip
    inside_step = [name for row in rows for call in row["calls"] for name in call["dtypes"]]
    check(inside_step, ["torch.float32"] * 6, otherwise="the weights are not float32 during the step")
    after = [weight.dtype for row in rows for weight in row["after"].values()]
    check(after, [torch.float32] * 6, otherwise="the weights are no longer float32 after the step")
    check(outside, "torch.float32", otherwise="autocast stays switched on after train_step")
    check.that(not any(row["changed"] for row in rows), "autocast, or another setting of torch, is changed")


@MIXED
@pytest.mark.points(1)
def test_the_loss_is_as_precise_as_float32(student, check, rng):
    """The cross-entropy of the model's bfloat16 logits is worked out in float32."""
    weights = tagger_weights(rng, torch.float32, sure=3.0)
    batches = [labelled(rng, (6,) * 9, 6) for _ in range(3)]  # one loss may be as precise by chance
    rows, _ = mixed_steps(student, weights, batches)

    pairs = [
        (row["calls"][0]["logits"].reshape(-1, V), targets.reshape(-1))
        for row, (_, targets) in zip(rows, batches, strict=True)
    ]
    check(
        [row["loss"] for row in rows],
        [float(F.cross_entropy(logits.double(), targets)) for logits, targets in pairs],
        dtype=torch.float32,
        terms=64,
        mistakes={
            "the loss is worked out in bfloat16; it should be in float32": lambda: [
                float(F.cross_entropy(logits.bfloat16(), targets)) for logits, targets in pairs
            ],
            "the losses are added; it should be their mean": lambda: [
                float(F.cross_entropy(logits.double(), targets, reduction="sum")) for logits, targets in pairs
            ],
        },
    )


@MIXED
@pytest.mark.points(1)
def test_each_mixed_step_has_its_own_gradients(student, check, rng):
    """Gradients that were there before do not count, in the first step and in later ones."""
    weights = tagger_weights(rng, torch.float32)
    batches = [labelled(rng, (4,) * rows, 4) for rows in (3, 5, 2)]
    rows, _ = mixed_steps(student, weights, batches, stale=True)
    alone = [
        mixed_steps(student, before, [pair])[0][0] for before, pair in zip(befores(weights, rows), batches, strict=True)
    ]

    earlier = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for row, own, pair in zip(rows, alone, batches, strict=True):
        for fact in [*one_update(row), *one_update(own)]:
            check.that(*fact)
        found, right = gradients_found(row["updates"][0]), gradients_found(own["updates"][0])
        true = tagged(row["updates"][0]["before"], [pair], mixed=True)[1]
        check(found, right, relative=0.01, scale=0.5, what="the gradients", mistakes={
            "gradients of earlier steps are still there: call zero_grad before backward": plus(earlier, true),
        })  # fmt: skip
        earlier = plus(earlier, true)


def befores(weights, rows):
    """The weights before each row."""
    return [weights, *(row["after"] for row in rows[:-1])]


@MIXED
@pytest.mark.points(1)
def test_a_mixed_step_without_targets_changes_nothing(student, check, rng):
    """Where all targets are -100 the loss is NaN, and neither weights nor optimizer move, be it with momentum."""
    weights = tagger_weights(rng, torch.float32)
    batches = [labelled(rng, (4, 4), 4), labelled(rng, (0, 0), 4), labelled(rng, (3, 3), 4)]
    rows, _ = mixed_steps(student, weights, batches, momentum=0.9)

    check.that(any(rows[0]["after"][name].ne(weights[name]).any().item() for name in weights), "nothing is trained")
    check.that(
        type(rows[1]["loss"]) is float and rows[1]["loss"] != rows[1]["loss"], "the loss of no target is not NaN"
    )
    has_nan = any(weight.isnan().any().item() for weight in rows[1]["after"].values())
    check.that(not has_nan, "a batch in which all targets are -100 makes the weights NaN")
    check(rows[1]["after"], rows[0]["after"], otherwise="a batch in which all targets are -100 moves the weights")
    check([len(row["updates"]) for row in rows], [1, 0, 1], what="how many steps the optimizer takes")


@MIXED
@pytest.mark.points(1)
def test_a_mixed_step_sets_train_mode_and_leaves_its_batch(student, check, rng):
    """The model is in train mode in each step; batch and targets stay as they are; the model is called once."""
    batches = [labelled(rng, (3, 4), 4), labelled(rng, (4, 2), 4)]
    rows, _ = mixed_steps(student, tagger_weights(rng, torch.float32), batches)

    check(
        [len(row["calls"]) for row in rows], [1, 1], otherwise="the model is called more than once in a step, or never"
    )
    check.that(all(row["calls"][0]["all"] for row in rows), "the model is not in train mode during train_step")
    check([row["batch"] for row in rows], batches, otherwise="batch or targets are changed in place")
    check([row["calls"][0]["inputs"] for row in rows], [inputs for inputs, _ in batches], what="what the model gets")


@MIXED
@pytest.mark.points(1)
def test_a_batch_is_whatever_the_model_takes(student, check, rng):
    """A dict with floats, too: the batch is for the model alone to look at."""

    def probe(weights, features, targets):
        from training_techniques import MixedPrecisionTrainer

        class OfFeatures(torch.nn.Linear):
            def forward(self, batch):
                return super().forward(batch["features"])

        model = OfFeatures(*reversed(weights["weight"].shape))
        model.load_state_dict({name: weights[name] for name in ("weight", "bias")})
        trainer = MixedPrecisionTrainer(model, torch.optim.SGD(model.parameters(), lr=0.5))
        return trainer.train_step({"features": features}, targets), model.bias

    weights, features, targets = tagger_weights(rng, torch.float32), randn(rng, 6, D), tokens(rng, V, 6)
    loss, bias = student.run(probe, weights, features, targets)

    logits = F.linear(features.double(), weights["weight"].double(), weights["bias"].double())
    check(loss, float(F.cross_entropy(logits, targets)), relative=0.02, what="the loss")
    step = 0.5 * (logits.softmax(-1) - F.one_hot(targets, V)).mean(0)
    check(bias, (weights["bias"] - step).float(), relative=0.02, scale=0.5, what="the bias after the step")


@MIXED
@pytest.mark.points(1)
def test_strided_logits_and_targets_will_do(student, check, rng):
    """Logits and targets that are not contiguous in memory are taken as others are."""

    def probe(weights, inputs, targets):
        from training_techniques import MixedPrecisionTrainer

        class Turned(inside.Tagger):
            def forward(self, inputs):
                return inside.strided(super().forward(inputs))

        model = Turned(weights)
        trainer = MixedPrecisionTrainer(model, torch.optim.SGD(model.parameters(), lr=0.5))
        return trainer.train_step(inputs, inside.strided(targets))

    weights, (inputs, targets) = tagger_weights(rng, torch.float32), labelled(rng, (3, 4, 2), 4)
    loss = student.run(probe, weights, inputs, targets)

    truth = tagged(weights, [(inputs, targets)], mixed=True)[0]
    check(loss, truth, relative=0.004, otherwise="logits or targets that are not contiguous give another loss")


@MIXED
@pytest.mark.gpu
@pytest.mark.points(1)
def test_mixed_precision_on_a_gpu_keeps_small_gradients(student, check, device, rng):
    """On a GPU the model's Linear gives float16, and gradients too small for it are not lost: the loss is scaled."""

    def probe(weights, inputs, targets):
        from training_techniques import MixedPrecisionTrainer

        model = inside.Tagger(weights).to(inputs.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        trainer, updates = MixedPrecisionTrainer(model, optimizer), inside.noting_updates(model, optimizer)
        for _ in range(12):  # a scaler may begin too large and pass over steps
            trainer.train_step(inputs, targets)
        kept = bool((updates[-1]["grads"]["bias"] != 0).all()) if updates else False
        return str(model.calls[0]["logits"].dtype), len(updates), kept

    weights = tagger_weights(rng, torch.float32, sure=0.01)
    weights["bias"] = torch.zeros(V)
    weights["bias"][4] = 17.5  # so sure that gradients are some 1e-8: zero in float16 unless they are scaled
    dtype, steps, kept = student.run(probe, weights, tokens(rng, V, 3, 4), torch.full((3, 4), 4))

    check(dtype, "torch.float16", what="the dtype of the logits on a GPU", mistakes={
        "the model computes in bfloat16; on a GPU it should be float16 with a scaler": "torch.bfloat16",
    })  # fmt: skip
    check.that(bool(steps), "the scaler never lets a step through")
    check.that(kept, "small gradients become zero in float16: scale the loss with a GradScaler")


# ---------------------------------------------------------------------------------------------- gradient accumulation

# Of each batch: how many targets count in each row, and T.
FULL = [
    ((6,) * 2, 6),
    ((4,) * 3, 4),
    ((3,) * 4, 3),
    ((12,), 12),
    ((2,) * 6, 2),
    ((4,) * 3, 4),
    ((1,) * 12, 1),
    ((6,) * 2, 6),
]
SIX = [((4, 2), 6), ((1, 3, 2), 4), ((6,), 9), ((1, 1, 1, 1, 2), 2)]
UNEVEN = [(6, 2, 6), (1, 0, 0), (4, 0, 3), (0, 0, 0), (6, 6, 6), (2, 0, 0)]  # T is 6


def accumulated(student, weights, batches, steps=None, as_generator=False, stale=False):
    """What train_with_gradient_accumulation with SGD of lr 0.3 and momentum 0.5 does with a Tagger in eval mode."""

    def probe(weights, batches, steps, as_generator, stale):
        import weakref

        from training_techniques import train_with_gradient_accumulation

        model, kept, held = inside.Tagger(weights), [], []

        def look(layer, args):
            """How many inputs of the last layer are there yet, that of the batch before aside: a graph holds its own."""
            held.append(sum(earlier() is not None for earlier in kept[:-1]))
            kept.append(weakref.ref(args[0]))

        model.out.register_forward_pre_hook(look)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
        updates = inside.noting_updates(model, optimizer)
        if stale:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        model.eval()
        data = (pair for pair in batches) if as_generator else batches
        state = inside.torch_state()
        loss = train_with_gradient_accumulation(model, data, optimizer, *([] if steps is None else [steps]))
        changed = inside.torch_state() != state
        return {
            "loss": loss, "updates": updates, "after": model.weights(), "calls": model.calls, "events": model.events,
            "batches": batches, "changed": changed, "held": held,
        }  # fmt: skip

    return student.run(probe, weights, batches, steps, as_generator, stale)


def groups_of(batches, size):
    return [batches[start : start + size] for start in range(0, len(batches), size)]


AS_MEANS = "the means of the batches are averaged; all targets of a group should have the same weight"
BY_N = "each batch's mean loss is divided by accumulation_steps; all targets of a group should have the same weight"
MEANS_ADDED = "the gradients of the batches' means are added; all targets of a group should have the same weight"


def group_mistakes(before, group, steps, earlier):
    """sentence -> the gradients of a group; earlier: those that were there before."""

    def made(part=group, **wrong):
        return lambda: tagged(before, part, **wrong)[1]

    places = sum(targets.numel() for _, targets in group)
    rows = sum(len(targets) for _, targets in group)
    return {
        AS_MEANS: made(counts="batches"),
        BY_N: made(counts="batches", factor=len(group) / steps),
        MEANS_ADDED: made(counts="batches", factor=len(group)),
        "only the last batch of a group counts; the gradients of all should": made(group[-1:]),
        "only the last batch of a group counts, divided by accumulation_steps": made(group[-1:], factor=1 / steps),
        "only the first batch of a group counts; the gradients of all should": made(group[:1]),
        "the losses are added; their sum should be divided by the number of targets that count": made(counts="sum"),
        "the sum of the losses is divided by accumulation_steps; it should be by the number of targets that count": made(counts="sum", factor=1 / steps),
        "the sum of the losses is divided by the number of sequences; it should be by the number of targets that count": made(counts="rows"),
        "targets of -100 count in the number of targets; they should not": made(counts="all"),
        "batches are weighted by their sequences; they should be weighted by their targets that count": lambda: weighted(before, group, [len(t) / rows for _, t in group]),
        "batches are weighted by all their places; they should be weighted by their targets that count": lambda: weighted(before, group, [t.numel() / places for _, t in group]),
        "gradients from before are still there: call zero_grad for each group": lambda: plus(earlier, made()()),
        "targets of 0 are left out; only those of -100 should be": made(real=lambda targets: targets > 0),
        "the targets are shifted by one place; they should be compared with the logits at the same place": made(shift=1),
        "gradients are clipped to 1; they should not be clipped": made(longest=1.0),
    }  # fmt: skip


def weighted(before, group, shares):
    """The batches' mean gradients with these weights."""
    total = {name: 0.0 for name in before}
    for pair, share in zip(group, shares, strict=True):
        total = plus(total, tagged(before, [pair], factor=share)[1])
    return total


def zeros(weights):
    return {name: torch.zeros_like(weight).float() for name, weight in weights.items()}


@ACCUMULATED
@pytest.mark.points(3)
@pytest.mark.parametrize(("steps", "number"), [(2, 4), (3, 6), (None, 8), (1, 3)])
def test_a_group_makes_the_update_of_one_batch(student, check, rng, steps, number):
    """In float64, the gradients of a group are those of one batch of all its targets; here each batch has 12 of them."""
    weights, batches = tagger_weights(rng, sure=4.0), [labelled(rng, *sizes) for sizes in FULL[:number]]
    seen = accumulated(student, weights, batches, steps)

    groups = groups_of(batches, steps or 4)
    for fact in updates_made(seen, groups, batches, steps or 4):
        check.that(*fact)
    earlier = zeros(weights)
    for update, group in zip(seen["updates"], groups, strict=True):
        truth = tagged(update["before"], group)[1]
        mistakes = group_mistakes(update["before"], group, steps or 4, earlier)
        check(gradients_found(update), truth, scale=1.0, mistakes=mistakes, what="the gradients")
        exact = [grad.dtype for grad in update["grads"].values()]
        check(exact, [torch.float64] * 3, otherwise="the gradients of a float64 model are not float64")
        earlier = plus(earlier, truth)


def updates_made(seen, groups, batches, steps):
    """Facts about how many updates there are."""
    found = len(seen["updates"])
    return [
        (found != 0, "the optimizer takes no step"),
        (found != len(batches) or steps == 1, "every batch makes an update; only every group should"),
        (found != len(batches) // 4 or steps == 4, "accumulation_steps is always 4; that should only be its default"),
        (found == len(groups) or len(batches) != 8, "accumulation_steps is not 4 by default"),
        (found == len(groups), "the number of updates is wrong; there should be one for each group"),
    ]


@ACCUMULATED
@pytest.mark.points(2)
def test_targets_that_do_not_count_have_no_weight_in_a_group(student, check, rng):
    """-100 counts neither in the losses nor in the number of targets; here each batch has 6 targets that count."""
    weights, batches = tagger_weights(rng, sure=4.0), [labelled(rng, *sizes) for sizes in SIX]
    batches[1][1][0][batches[1][1][0] != -100] = 0  # a class like others
    seen = accumulated(student, weights, batches, 2)

    groups = groups_of(batches, 2)
    for fact in updates_made(seen, groups, batches, 2):
        check.that(*fact)
    for update, group in zip(seen["updates"], groups, strict=True):
        mistakes = group_mistakes(update["before"], group, 2, zeros(weights))
        check(
            gradients_found(update),
            tagged(update["before"], group)[1],
            scale=1.0,
            mistakes=mistakes,
            what="the gradients",
        )


@ACCUMULATED
@pytest.mark.points(3)
def test_batches_weigh_as_much_as_their_targets_that_count(student, check, rng):
    """Batches of one shape in which targets count in very different numbers, none in one of them; all groups are whole."""
    weights, batches = tagger_weights(rng, sure=4.0), [labelled(rng, counts, 6) for counts in UNEVEN]
    seen = accumulated(student, weights, batches, 3)

    groups = groups_of(batches, 3)
    for fact in updates_made(seen, groups, batches, 3):
        check.that(*fact)
    for update, group in zip(seen["updates"], groups, strict=True):
        has_nan = any(grad.isnan().any().item() for grad in gradients_found(update).values())
        mistakes = {"a batch without targets makes the gradients NaN": check.when(has_nan)}
        mistakes |= group_mistakes(update["before"], group, 3, zeros(weights))
        check(
            gradients_found(update),
            tagged(update["before"], group)[1],
            scale=1.0,
            mistakes=mistakes,
            what="the gradients",
        )


@ACCUMULATED
@pytest.mark.points(1)
@pytest.mark.parametrize(("steps", "number"), [(3, 7), (4, 6), (5, 2), (2, 3)])
def test_the_last_group_may_be_shorter(student, check, rng, steps, number):
    """Its update is that of one batch of the targets that it has; here all batches have equally many."""
    weights, batches = tagger_weights(rng, sure=4.0), [labelled(rng, (3, 3), 3) for _ in range(number)]
    seen = accumulated(student, weights, batches, steps)

    groups = groups_of(batches, steps)
    check(len(seen["updates"]), len(groups), what="the number of updates", mistakes={
        "a last group that is shorter makes no update; it should make one": len(batches) // steps,
        "every batch makes an update; only every group should": len(batches),
        "accumulation_steps is always 4; that should only be its default": len(groups_of(batches, 4)),
    })  # fmt: skip
    before, last = seen["updates"][-1]["before"], groups[-1]
    check(gradients_found(seen["updates"][-1]), tagged(before, last)[1], scale=1.0, what="the last gradients", mistakes={
        "the last group is divided by accumulation_steps, though it has fewer batches": lambda: tagged(
            before, last, factor=len(last) / steps
        )[1],
        "the losses are added; their sum should be divided by the number of targets that count": lambda: tagged(before, last, "sum")[1],
    })  # fmt: skip


@ACCUMULATED
@pytest.mark.points(2)
@pytest.mark.parametrize("sizes", ["rows in full", "-100 in uneven numbers"])
def test_the_mean_loss_of_all_targets_is_returned(student, check, rng, sizes):
    """Each target that counts has the same weight, with the loss from before its group's update."""
    full = sizes == "rows in full"
    weights = tagger_weights(rng, sure=2.0)
    batches = [labelled(rng, *size) for size in FULL[:6]] if full else [labelled(rng, counts, 6) for counts in UNEVEN]
    seen = accumulated(student, weights, batches, 3)

    loss, groups, updates = seen["loss"], groups_of(batches, 3), seen["updates"]
    check.that(type(loss) is float, "the loss is not a float")
    check.that(len(updates) == len(groups), "the number of updates is wrong; there should be one for each group")
    count = [sum(int((targets != -100).sum()) for _, targets in group) for group in groups]

    def mean(when="before", counts="targets", over=groups, by=count):
        own = [tagged(update[when], group, counts)[0] for update, group in zip(updates, over, strict=True)]
        return sum(loss * n for loss, n in zip(own, by, strict=True)) / sum(by)

    def of_batches(counts="targets"):
        return [[tagged(update["before"], [pair], counts)[0] for pair in group if (pair[1] != -100).any()] for update, group in zip(updates, groups, strict=True)]  # fmt: skip

    ones = [1] * len(groups)
    check(loss, mean(), dtype=torch.float64, relative=1e-5, what="the loss", mistakes={
        "the mean of the batches' means is returned; all targets should have the same weight": lambda: sum(sum(of_batches(), [])) / len(sum(of_batches(), [])),
        "the mean of the groups' means is returned; all targets should have the same weight": lambda: mean(by=ones),
        "the sum of the losses is returned; it should be their mean": lambda: mean() * sum(count),
        "the sum of the batches' means is returned; it should be the mean of all targets": lambda: sum(sum(of_batches(), [])),
        "the sum of the losses is divided by the number of batches; it should be by the number of targets": lambda: mean() * sum(count) / len(batches),
        "the mean loss of the last batch is returned; it should be that of all targets": lambda: of_batches()[-1][-1],
        "the mean loss of the last group is returned; it should be that of all targets": lambda: tagged(updates[-1]["before"], groups[-1])[0],
        "the mean loss is divided by accumulation_steps": lambda: mean() / 3,
        "each batch's mean loss is divided by accumulation_steps, and these are averaged": lambda: sum(sum(of_batches(), [])) / len(batches) / 3,
        "the losses after the updates are returned; it should be those from before": lambda: mean("after"),
        "targets of -100 count in the number of targets of the loss; they should not": lambda: mean() * sum(count) / sum(targets.numel() for _, targets in batches),
    })  # fmt: skip


@ACCUMULATED
@pytest.mark.points(2)
def test_a_group_without_targets_makes_no_update(student, check, rng):
    """Where all targets of a group are -100 the optimizer takes no step, be it with momentum, and the loss is that of the others."""
    weights = tagger_weights(rng)
    batches = [labelled(rng, counts, 4) for counts in ((4, 4), (4, 4), (0, 0), (0, 0), (4, 4), (4, 4))]
    seen = accumulated(student, weights, batches, 2)
    nothing = accumulated(student, weights, batches[2:4], 2)
    empty = accumulated(student, weights, [], 2)

    has_nan = any(weight.isnan().any().item() for weight in seen["after"].values())
    check.that(not has_nan, "a group in which all targets are -100 makes the weights NaN")
    check(len(seen["updates"]), 2, what="the number of updates", mistakes={
        "a group in which all targets are -100 makes an update; it should not": 3,
        "a group in which all targets are -100 ends the training": 1,
    })  # fmt: skip
    alone = accumulated(student, weights, batches[:2] + batches[4:], 2)
    check(seen["after"], alone["after"], otherwise="a group in which all targets are -100 changes later updates")
    check(seen["loss"], alone["loss"], dtype=torch.float64, relative=1e-5, what="the loss")
    for kind, other in (("all targets are -100", nothing), ("there are no batches", empty)):
        check(other["after"], weights, otherwise=f"the weights move although {kind}")
        check.that(
            isinstance(other["loss"], float) and other["loss"] != other["loss"], f"the loss is not NaN though {kind}"
        )


@ACCUMULATED
@pytest.mark.points(1)
def test_a_batch_runs_backward_before_the_next_one(student, check, rng):
    """The model gets one batch at a time, in their order, and each goes backward, and is forgotten, before the next one comes."""
    batches = [labelled(rng, (4,) * rows, 4) for rows in (3, 2, 4, 1, 5, 2)]
    seen = accumulated(student, tagger_weights(rng), batches, 3)

    shapes = [tuple(call["inputs"].shape) for call in seen["calls"]]
    rows = [tuple(inputs.shape) for inputs, _ in batches]
    check.that(len(shapes) >= len(rows), "the batches of a group are joined; the model should get one at a time")
    check(shapes, rows, otherwise="the model does not get each batch once, in their order")
    check([call["inputs"] for call in seen["calls"]], [inputs for inputs, _ in batches], what="what the model gets")
    check(seen["events"], ["forward", "backward"] * len(batches), mistakes={
        "the losses of a group run backward together; each batch should before the next runs forward": [
            kind for group in groups_of(batches, 3) for kind in ["forward"] * len(group) + ["backward"] * len(group)
        ],
    }, what="the order of forward and backward")  # fmt: skip
    check.that(not any(seen["held"]), "what was saved for the gradients of earlier batches stays in memory")


@ACCUMULATED
@pytest.mark.points(1)
def test_gradients_from_before_do_not_count_in_a_group(student, check, rng):
    """What is in .grad when training begins, and what the last group left there, is not added."""
    weights, batches = tagger_weights(rng), [labelled(rng, (3, 3), 3) for _ in range(4)]
    seen = accumulated(student, weights, batches, 2, stale=True)
    own = accumulated(student, weights, batches[:2], 2)

    check.that(len(seen["updates"]) == 2 and len(own["updates"]) == 1, "the number of updates is wrong")
    first, earlier = (
        gradients_found(seen["updates"][0]),
        {name: torch.ones_like(w).float() for name, w in weights.items()},
    )
    check(first, gradients_found(own["updates"][0]), what="the gradients", mistakes={
        "gradients from before are still there: call zero_grad for each group": lambda: plus(earlier, tagged(weights, batches[:2])[1]),
    }, otherwise="gradients from before the call change the first update")  # fmt: skip


@ACCUMULATED
@pytest.mark.points(1)
def test_any_iterable_of_batches_is_run_through_once(student, check, rng):
    """A generator does; targets of shape (B,) do; batches and settings of torch stay as they are; the model is in train mode."""
    batches = [
        (inputs[:, 0], targets[:, 0]) for inputs, targets in (labelled(rng, (1,) * n, 1) for n in (5, 2, 4, 3, 6))
    ]
    weights = tagger_weights(rng)
    seen = accumulated(student, weights, batches, 2, as_generator=True)
    own = accumulated(student, weights, batches, 2)

    check(seen["after"], own["after"], otherwise="a generator of batches is trained on differently from a list")
    check.that(bool((own["after"]["bias"] != weights["bias"]).any()), "nothing is trained")
    check(seen["batches"], batches, otherwise="inputs or targets are changed in place")
    check.that(all(call["all"] for call in seen["calls"]), "the model is not in train mode")
    check.that(not seen["changed"], "a setting of torch is changed")


@ACCUMULATED
@pytest.mark.points(1)
def test_no_step_of_accumulation_is_refused(student):
    """accumulation_steps below 1 is a ValueError."""

    def probe(weights, batches, steps):
        from training_techniques import train_with_gradient_accumulation

        model = inside.Tagger(weights)
        train_with_gradient_accumulation(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), steps)

    weights = {"table": torch.ones(V, D), "weight": torch.ones(V, D), "bias": torch.ones(V)}
    pair = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64)
    student.accepts(probe, weights, [pair, pair], 1)
    for steps in (0, -1):
        student.raises(ValueError, probe, weights, [pair, pair], steps, says=("accumulation_steps", steps))
