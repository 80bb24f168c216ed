"""Hidden tests of training_techniques: LLMTrainer.

It trains `inside.Tagger`. Which items a batch has is random, so it is read from what the model got: no two items of the data
have the same inputs. Gradients are looked at where the optimizer takes a step, so that each has a test of its own: which
items there are in which order, the gradients of a batch, their length, and what AdamW makes of them. What is saved and loaded has
its tests in test_training_techniques__checkpoints.py.
"""

import math

import pytest
import torch

from training_techniques_helpers import full, gradients_found, items, plus, tagged, tagger_weights

pytestmark = pytest.mark.question("LLMTrainer")

NO_CLIPPING = {"max_grad_norm": 1e9}


def places_of(inputs, data):
    """The numbers of these inputs in the data; -1 where one is not there, or has another shape."""
    known = {tuple(row): place for place, row in enumerate(data[0].tolist())}
    return [known.get(tuple(row), -1) if isinstance(row, list) else -1 for row in inputs.tolist()]


def batches_of(calls, data):
    return [places_of(call["inputs"], data) for call in calls]


def batch_of(places, data):
    return data[0][places], data[1][places]


def epochs(student, weights, train, config, number=1, seed=1, dropout=0.0, order_only=False, stale=False):
    """inside.watched_epochs of a new trainer; torch has this seed before. stale: gradients of ones are there at first."""

    def probe(weights, train, config, number, seed, dropout, order_only, stale):
        torch.manual_seed(seed)
        trainer, model = inside.a_trainer(weights, train, train, config, dropout)
        for weight in model.parameters() if stale else ():
            weight.grad = torch.ones_like(weight)
        rows = inside.watched_epochs(trainer, model, number)
        for row in rows if order_only else ():  # a reply holds so many tensors and no more
            row |= {"calls": [{"inputs": call["inputs"]} for call in row["calls"]], "updates": []}
        return rows

    return student.run(probe, weights, train, config, number, seed, dropout, order_only, stale)


# ---------------------------------------------------------------------------------------------- which items, in which order


@pytest.mark.points(2)
@pytest.mark.parametrize(("number", "size"), [(12, 4), (11, 4), (3, 5), (21, None), (5, 1)])
def test_an_epoch_has_each_item_once(student, check, rng, number, size):
    """In batches of batch_size, 8 by default, of which the last may be smaller."""
    train = full(rng, number)
    (row,) = epochs(student, tagger_weights(rng), train, {} if size is None else {"batch_size": size})

    batches, size = batches_of(row["calls"], train), size or 8
    check.that(bool(batches), "the model is not called")
    seen = sorted(sum(batches, []))
    check.that(-1 not in seen, "the model gets inputs that are not in train_dataset, or in the wrong shape")
    sizes = [min(size, number - start) for start in range(0, number, size)]
    check(sorted(map(len, batches), reverse=True), sorted(sizes, reverse=True), what="the sizes of the batches", mistakes={
        "the last batch is left out where it is smaller": [size] * (number // size),
        "each item is a batch; batches should have batch_size items": [1] * number,
        "batch_size is not 8 by default": check.when(size == 8 and number == 21),
        "the whole dataset is one batch": [number],
    })  # fmt: skip
    check(seen, list(range(number)), otherwise="an epoch does not have each item once")


@pytest.mark.points(2)
def test_the_order_is_new_in_each_epoch(student, check, rng):
    """Items are shuffled, not batches; another epoch has another order, and so has another seed."""
    train, weights = full(rng, 40), tagger_weights(rng)
    rows = epochs(student, weights, train, {"batch_size": 10}, 3, order_only=True)
    (other,) = epochs(student, weights, train, {"batch_size": 10, "seed": 5}, order_only=True)

    first, second, third = (batches_of(row["calls"], train) for row in rows)
    check.that(sorted(sum(first, [])) == list(range(40)), "an epoch does not have each item once")
    check.that(sum(first, []) != list(range(40)), "the training data are not shuffled")
    check.that(first != second or second != third, "all epochs have the same order")
    in_sets = [sorted(map(sorted, batches)) for batches in (first, second)]
    check.that(in_sets[0] != in_sets[1], "only the batches change places; their items should be shuffled too")
    check.that(any(batch != sorted(batch) for batch in first), "the items of a batch are in the order of the dataset")
    check.that(first != second and second != third and first != third, "two epochs have the same order")
    order = sum(first, [])
    turned = {tuple(order[k:] + order[:k]) for k in range(40)}
    check.that(tuple(range(40)) not in turned, "the order only begins at another item; it should be random")
    check.that(batches_of(other["calls"], train) != first, "config's seed has no influence on the order")


@pytest.mark.points(2)
def test_a_seed_gives_the_same_run_whatever_else_is_drawn(student, check, rng):
    """Order and dropout follow from config's seed, which is 0 by default, and not from torch's random state."""
    train, weights = full(rng, 12), tagger_weights(rng)
    runs = [epochs(student, weights, train, config, 2, seed=seed, dropout=0.5) for config, seed in (({}, 3), ({}, 4), ({"seed": 0}, 4), ({"seed": 1}, 4))]  # fmt: skip
    orders = [[batches_of(row["calls"], train) for row in run] for run in runs]
    losses = [[row["loss"] for row in run] for run in runs]

    check.that(
        all(type(loss) is float and loss > 0 for run in losses for loss in run), "the losses are not positive floats"
    )
    check(
        orders[1], orders[0], otherwise="the order depends on torch's random state; it should follow from config's seed"
    )
    check.that(losses[1] == losses[0], "dropout depends on torch's random state; it should follow from config's seed")
    check.that(losses[2] == losses[0], "the seed is not 0 by default")
    check.that(losses[3] != losses[0], "config's seed has no influence")
    quiet = epochs(student, weights, train, {}, 1)[0]["loss"]
    check.that(quiet != losses[0][0], "dropout is not active while the model is trained")
    # One item and hardly any step: two epochs differ by what is dropped alone.
    one, still = full(rng, 1, T=12), {"batch_size": 1, "lr": 1e-12, "weight_decay": 0.0}
    first, second = (row["loss"] for row in epochs(student, weights, one, still, 2, dropout=0.5))
    check.that(abs(first - second) > 1e-6, "every epoch drops the same; dropout should be drawn anew")


@pytest.mark.points(1)
def test_a_seed_may_be_large(student, check, rng):
    """2^62 and 2^62 + 1 are two seeds."""

    def probe(weights, train, seeds):
        losses = []
        for seed in seeds:
            trainer, _ = inside.a_trainer(weights, train, train, {"seed": seed, "batch_size": 2, "lr": 0.1})
            try:
                losses.append(trainer.train_epoch())
            except (OverflowError, RuntimeError, ValueError):
                losses.append("an error")
        return losses

    small, one, other = student.run(probe, tagger_weights(rng), full(rng, 20), (1, 2**62, 2**62 + 1))

    check.that(type(small) is float, "the loss is not a float")
    check.that("an error" not in (one, other), "a seed of 2^62 is an error; all seeds below 2^63 should do")
    check.that(one != other, "the seeds 2^62 and 2^62 + 1 give the same run: an int should not become a float")


# ---------------------------------------------------------------------------------------------- updates


@pytest.mark.points(2)
@pytest.mark.parametrize("case", ["all targets count", "-100 in uneven numbers"])
def test_a_batch_gives_the_gradients_of_its_mean_loss(student, check, rng, case):
    """Each update has the gradients of the mean loss of its batch's targets that count, and of nothing from before."""
    uneven = case != "all targets count"
    train = items(rng, (4, 1, 2, 4, 3, 1, 4, 2, 1, 4, 2, 3)) if uneven else full(rng, 12)
    if uneven:
        train[1][0] = 0  # a class like others
    weights = tagger_weights(rng, sure=3.0)
    (row,) = epochs(student, weights, train, {"batch_size": 4, "lr": 0.05} | NO_CLIPPING, stale=True)

    updates, batches = row["updates"], batches_of(row["calls"], train)
    check.that(bool(updates), "the optimizer takes no step")
    check(len(updates), 3, what="the number of updates")
    check.that(len(batches) == 3 and -1 not in sum(batches, []), "an update does not have one batch of the data")
    check.that(all(call["all"] for call in row["calls"]), "the model is not in train mode while it is trained")
    earlier = {name: torch.ones_like(weight).float() for name, weight in weights.items()}
    for update, places in zip(updates, batches, strict=True):
        pair = batch_of(places, train)

        def made(pair=pair, update=update, **wrong):
            return lambda: tagged(update["before"], [pair], **wrong)[1]

        truth = made()()
        check(gradients_found(update), truth, scale=1.0, what="the gradients", mistakes={
            "gradients from before are still there: call zero_grad before backward": plus(earlier, truth),
            "the losses are added; it should be their mean": made(counts="sum"),
            "targets of -100 count in the number of targets; they should not": made(counts="all"),
            "the mean is taken of each sequence first; all targets should have the same weight": made(counts="sequences"),
            "the sum of the losses is divided by the number of sequences; it should be by the number of targets": made(counts="rows"),
            "targets of 0 are left out; only those of -100 should be": made(real=lambda targets: targets > 0),
            "the targets are shifted by one place; they should be compared with the logits at the same place": made(shift=1),
            "gradients are clipped to 1 whatever max_grad_norm is": made(longest=1.0),
            "labels are smoothed; the loss should be the plain cross-entropy": made(smoothing=0.1),
        })  # fmt: skip
        earlier = plus(earlier, truth)


@pytest.mark.points(2)
@pytest.mark.parametrize("longest", [0.2, None])
def test_gradients_are_clipped_together(student, check, rng, longest):
    """To max_grad_norm, 1 by default, where they are longer; shorter ones stay."""
    weights, train = tagger_weights(rng, sure=5.0), full(rng, 6, T=3)
    config = {"batch_size": 2, "lr": 0.01}
    (own,) = epochs(student, weights, train, config | NO_CLIPPING)
    (row,) = epochs(student, weights, train, config | ({} if longest is None else {"max_grad_norm": longest}))
    small = {name: weight * 0.02 for name, weight in weights.items()}
    (short,) = epochs(student, small, train, config | {"max_grad_norm": 9.0})
    longest = longest or 1.0

    check.that(len(own["updates"]) == len(row["updates"]) == len(short["updates"]) == 3, "there are not three updates")
    raw = gradients_found(own["updates"][0])
    check.that(len(raw) == 3 and bool(raw["bias"].any()), "the optimizer finds no gradients")
    norms = {name: float(grad.norm()) for name, grad in raw.items()}
    total = math.hypot(*norms.values())
    true = tagged(weights, [batch_of(batches_of(row["calls"], train)[0], train)])[1]
    lengths = {name: float(grad.norm()) for name, grad in true.items()}
    length = math.hypot(*lengths.values())
    factor = min(1.0, longest / total)
    found = gradients_found(row["updates"][0])
    check(found, {name: grad * factor for name, grad in raw.items()}, relative=1e-4, what="the gradients", mistakes={
        "the gradients are not clipped": true,
        "max_grad_norm is always 1; that should only be its default": {n: g * min(1.0, 1.0 / length) for n, g in true.items()},
        "each gradient is clipped by itself; all of them should get the same factor": {n: g * min(1.0, longest / lengths[n]) for n, g in true.items()},
        "every value is clipped; the length of all gradients together should be": {n: g.clamp(-longest, longest) for n, g in true.items()},
    })  # fmt: skip
    kept = gradients_found(short["updates"][0])
    length = math.hypot(*(float(grad.norm()) for grad in kept.values()))
    check.that(length < 8.9, "short gradients are made longer; they should stay as they are")


@pytest.mark.points(2)
@pytest.mark.parametrize("given", [{"lr": 0.02, "weight_decay": 0.5}, {}, {"weight_decay": 0.0}], ids=str)
def test_the_optimizer_is_adamw(student, check, rng, given):
    """The gradients that it finds move the weights as AdamW does, by lr and weight_decay of config or 1e-3 and 0.01."""
    weights, train = tagger_weights(rng), full(rng, 8)
    config = {"batch_size": 2} | given
    (row,) = epochs(student, weights, train, config)

    updates = row["updates"]
    check(len(updates), 4, what="the number of updates")
    grads = [update["grads"] for update in updates]
    check.that(
        all(isinstance(g, torch.Tensor) for one in grads for g in one.values()), "the optimizer finds no gradients"
    )
    lr, decay = given.get("lr", 1e-3), given.get("weight_decay", 0.01)
    moved = {name: (updates[-1]["after"][name] - weights[name]).double() for name in weights}

    def made(kind=torch.optim.AdamW, **settings):
        def change():
            leaves = {name: weight.double().clone().requires_grad_() for name, weight in weights.items()}
            optimizer = kind(leaves.values(), **({"lr": lr, "weight_decay": decay} | settings))
            for one in grads:
                for name, leaf in leaves.items():
                    leaf.grad = one[name].double()
                optimizer.step()
            return {name: leaf.detach() - weights[name].double() for name, leaf in leaves.items()}

        return change

    check(moved, made()(), relative=1e-3, what="how far the weights move", mistakes={
        "lr is ignored": made(lr=1e-3),
        "weight_decay is ignored": made(weight_decay=0.01),
        "there is no weight decay": made(weight_decay=0.0),
        "weight_decay is added to the gradients, as in Adam; it should be AdamW's": made(torch.optim.Adam),
        "the optimizer is SGD; it should be AdamW": made(torch.optim.SGD),
    })  # fmt: skip


@pytest.mark.points(1)
def test_a_frozen_parameter_waits(student, check, rng):
    """A parameter that needs no gradient stays as it is while the others are trained, and is trained once it needs one."""

    def probe(weights, train, config):
        trainer, model = inside.a_trainer(weights, train, train, config, frozen=("bias",))
        losses, seen = [trainer.train_epoch()], [model.weights()]
        model.out.bias.requires_grad_(True)
        losses.append(trainer.train_epoch())
        return losses, [*seen, model.weights()]

    weights, train = tagger_weights(rng), full(rng, 6)
    losses, (first, second) = student.run(probe, weights, train, {"batch_size": 3, "lr": 0.05, "weight_decay": 0.1})

    check.that(all(type(loss) is float for loss in losses), "the loss is not a float")
    check.that(not torch.equal(first["table"], weights["table"]), "nothing is trained where one parameter is frozen")
    check(first["bias"], weights["bias"], otherwise="a frozen parameter is changed")
    check.that(
        not torch.equal(second["bias"], first["bias"]),
        "a parameter that was frozen when the trainer was made is never trained; the optimizer should have all of them",
    )


@pytest.mark.points(1)
def test_a_batch_without_targets_makes_no_update(student, check, rng):
    """Where all targets of a batch are -100 weights and optimizer stay; where no target counts in an epoch the loss is NaN."""
    train = items(rng, (4, 0, 4, 0, 4, 0, 4))
    weights = tagger_weights(rng)
    (row,) = epochs(student, weights, train, {"batch_size": 1, "lr": 0.01})
    (none,) = epochs(student, weights, items(rng, (0, 0, 0)), {"batch_size": 2})

    has_nan = any(weight.isnan().any().item() for update in row["updates"] for weight in update["after"].values())
    check.that(not has_nan, "a batch in which all targets are -100 makes the weights NaN")
    check(len(row["updates"]), 4, what="the number of updates", mistakes={
        "a batch in which all targets are -100 makes an update; it should not": 7,
    })  # fmt: skip
    check(len(none["updates"]), 0, otherwise="a batch in which all targets are -100 makes an update; it should not")
    check.that(isinstance(none["loss"], float) and none["loss"] != none["loss"], "the loss of no target is not NaN")


@pytest.mark.points(2)
@pytest.mark.parametrize("counts", [(4,) * 11, (4, 1, 1, 4, 0, 1, 1, 4, 2, 1, 4)], ids=["all count", "-100"])
def test_the_loss_of_an_epoch_is_the_mean_of_its_targets(student, check, rng, counts):
    """Each target that counts has the same weight, with the loss from before the update of its batch."""
    train, weights = items(rng, counts), tagger_weights(rng, sure=2.0)
    (row,) = epochs(student, weights, train, {"batch_size": 4, "lr": 0.1})

    updates, batches = row["updates"], [batch_of(places, train) for places in batches_of(row["calls"], train)]
    check.that(type(row["loss"]) is float, "the loss is not a float")
    check.that(len(updates) == len(batches) > 1, "there are not several updates of a batch each")
    number = [int((targets != -100).sum()) for _, targets in batches]
    own, after, places = ([tagged(update[when], [pair], divided)[0] for update, pair in zip(updates, batches, strict=True)] for when, divided in (("before", "targets"), ("after", "targets"), ("before", "all")))  # fmt: skip
    mean = sum(loss * n for loss, n in zip(own, number, strict=True)) / sum(number)
    rows = [len(targets) for _, targets in batches]  # of what the model got: which items that are is tested elsewhere
    check(row["loss"], mean, relative=1e-5, what="the loss", mistakes={
        "the mean of the batches' means is returned; all targets should have the same weight": sum(own) / len(own),
        "batches are weighted by their items; they should be weighted by their targets that count": sum(loss * n for loss, n in zip(own, rows, strict=True)) / sum(rows),
        "the sum of the losses is returned; it should be their mean": mean * sum(number),
        "the sum of the batches' means is returned; it should be the mean of all targets": sum(own),
        "the loss of the last batch is returned; it should be the mean of all targets": own[-1],
        "the losses after the updates are returned; it should be those from before": sum(loss * n for loss, n in zip(after, number, strict=True)) / sum(number),
        "targets of -100 count in the number of targets of the loss; they should not": mean * sum(number) / (4 * sum(rows)),
        "the sum of the batches' means is divided by the number of items": sum(own) / sum(rows),
        "the loss of the whole dataset after the epoch is returned; it should be that before each update": tagged(updates[-1]["after"], [train])[0],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- validate and train


@pytest.mark.points(2)
@pytest.mark.parametrize("counts", [(4,) * 10, (4, 1, 1, 4, 0, 1, 1, 4, 2, 1)], ids=["all count", "-100"])
def test_validate_is_the_mean_of_all_targets(student, check, rng, counts):
    """The mean loss of all targets of val_dataset that count, each item once, whatever the batches; NaN if there are none."""

    def probe(weights, train, val, config):
        trainer, model = inside.a_trainer(weights, train, val, config)
        return trainer.validate(), [call["inputs"] for call in model.calls]

    train, val, weights = full(rng, 3), items(rng, counts), tagger_weights(rng, sure=2.0)
    loss, inputs = student.run(probe, weights, train, val, {"batch_size": 4})
    nothing = {"all targets are -100": (0, 0, 0), "val_dataset is empty": ()} if 0 in counts else {}
    nan = [student.run(probe, weights, train, items(rng, none), {"batch_size": 4})[0] for none in nothing.values()]

    check.that(type(loss) is float, "the loss is not a float")
    seen = sorted(sum((places_of(each, val) for each in inputs), []))
    needed = [
        place for place in range(10) if counts[place] or place in seen
    ]  # an item without targets may be passed over
    check.that(seen == needed, "validate does not run the model on each item of val_dataset once")
    count, total = int((val[1] != -100).sum()), tagged(weights, [val], "sum")[0]
    parts = [(val[0][k : k + 4], val[1][k : k + 4]) for k in (0, 4, 8)]
    check(loss, total / count, relative=1e-5, what="the loss", mistakes={
        "the mean of the batches' means is returned; all targets should have the same weight": lambda: tagged(weights, parts, "batches")[0],
        "the sum of the losses is returned; it should be their mean": total,
        "targets of -100 count in the number of targets; they should not": total / val[1].numel(),
        "the loss of train_dataset is returned; it should be that of val_dataset": lambda: tagged(weights, [train])[0],
        "the loss of the last batch is returned; it should be the mean of all targets": lambda: tagged(weights, parts[-1:])[0],
        "the sum of the batches' means is returned; it should be the mean of all targets": lambda: 3 * tagged(weights, parts, "batches")[0],
        "batches are weighted by their items; they should be weighted by their targets that count": lambda: sum(tagged(weights, [part])[0] * len(part[0]) for part in parts) / 10,
    })  # fmt: skip
    for kind, loss in zip(nothing, nan, strict=True):
        check.that(isinstance(loss, float) and loss != loss, f"the loss is not NaN though {kind}")


@pytest.mark.points(1)
def test_a_dataset_gives_its_items_by_number_alone(student, check, rng):
    """train_epoch and validate ask for the numbers from 0 to length - 1, and never run over a dataset to its end."""

    def probe(weights, data):
        class Numbered(inside.Items):
            def __getitem__(self, place):
                if not 0 <= place < len(self):
                    raise RuntimeError(f"item {place} of {len(self)} items")  # no IndexError, which would end a loop
                return super().__getitem__(place)

        trainer, model = inside.a_trainer(weights, data, data, {})
        other = type(trainer)(model, Numbered(*data), Numbered(*data), {})
        return trainer.validate(), other.validate(), other.train_epoch()

    own, numbered, trained = student.run(probe, tagger_weights(rng), full(rng, 5))

    check(
        numbered,
        own,
        dtype=torch.float64,
        otherwise="the loss of a dataset that only gives items by number is another one",
    )
    check.that(type(trained) is float, "the loss is not a float")


@pytest.mark.points(2)
def test_validate_gives_every_submodule_its_mode_back(student, check, rng):
    """The model is in eval mode meanwhile; afterwards each submodule is in the mode in which it was, all alike or not."""

    def probe(weights, data):
        trainer, model = inside.a_trainer(weights, data, data, {}, dropout=0.5)
        found = []
        for mode in ("train", "eval", "mixed", "other way round"):
            model.train(mode != "eval")
            for number, part in enumerate(model.modules()):
                if mode in ("mixed", "other way round"):
                    part.training = (number % 2 == 0) == (mode == "mixed")
            before = [part.training for part in model.modules()]
            model.calls.clear()
            trainer.validate()
            after = [part.training for part in model.modules()]
            found.append((any(call["any"] for call in model.calls), after == before))

        class Broken(inside.Items):
            def __getitem__(self, place):
                raise RuntimeError("this dataset has no items")

        broken = type(trainer)(model, Broken(*data), Broken(*data), {})
        model.train()
        try:
            broken.validate()
        except RuntimeError:
            pass
        return found, [part.training for part in model.modules()]

    found, after_error = student.run(probe, tagger_weights(rng), full(rng, 3))

    check.that(not any(training for training, _ in found), "the model is not in eval mode during validate")
    check.that(found[0][1], "the model stays in eval mode after validate; it should be in train mode again")
    check.that(found[1][1], "a model in eval mode is in train mode after validate")
    check.that(all(own for _, own in found), "submodules do not have their own modes back after validate")
    check.that(all(after_error), "where val_dataset raises an error the model stays in eval mode after validate")


@pytest.mark.points(1)
def test_validate_trains_nothing(student, check, rng):
    """Weights, gradients and optimizer stay as they are, no graph is made, and training goes on as without it."""

    def probe(weights, data, often):
        def gradients(model):  # an empty tensor where there is none
            return [torch.empty(0) if w.grad is None else w.grad.clone() for w in model.parameters()]

        trainer, model = inside.a_trainer(weights, data, data, {"batch_size": 2, "lr": 0.05}, dropout=0.5)
        losses, same, recorded = [], [], []
        for number in range(2):
            torch.manual_seed(number)
            losses.append(trainer.train_epoch())
            before, grads = inside.state_of(trainer), gradients(model)
            model.calls.clear()
            for _ in range(often):
                trainer.validate()
            recorded += [call["recorded"] for call in model.calls]
            after = inside.state_of(trainer)
            same.append(all(map(torch.equal, before[0] + before[1], after[0] + after[1])) and before[2] == after[2])
            same.append(all(map(torch.equal, grads, gradients(model))))
        return losses, same, any(recorded)

    weights, data = tagger_weights(rng), full(rng, 9)
    losses, same, recorded = student.run(probe, weights, data, 3)
    without, _, _ = student.run(probe, weights, data, 0)

    check.that(same[0] and same[2], "validate changes the weights, the optimizer's state or the epoch")
    check.that(same[1] and same[3], "validate changes the gradients")
    check.that(not recorded, "validate makes a graph; it should run under no_grad")
    check(losses, without, otherwise="validate between two epochs changes the losses of training")


@pytest.mark.points(2)
def test_train_tells_the_losses_of_each_further_epoch(student, check, rng):
    """One dict an epoch, of this call alone: train_loss and val_loss, which is that after the epoch; epoch counts on."""

    def probe(weights, train, val, config):
        trainer, _ = inside.a_trainer(weights, train, val, config)
        counted = [trainer.epoch]
        histories = []
        for number in (2, 0, 1):
            torch.manual_seed(number)
            histories.append(trainer.train(number))
            counted.append(trainer.epoch)
        other, _ = inside.a_trainer(weights, train, val, config)
        by_hand = [[other.validate()]]
        for seed in (2, None, 1):
            if seed:
                torch.manual_seed(seed)
            by_hand.append([other.train_epoch(), other.validate()])
        return histories, counted, by_hand

    config = {"batch_size": 4, "lr": 0.05}
    histories, counted, by_hand = student.run(probe, tagger_weights(rng), full(rng, 8), full(rng, 5), config)

    is_list = all(isinstance(history, list) for history in histories)
    check.that(
        is_list and all(isinstance(row, dict) for history in histories for row in history),
        "train does not return a list of dicts",
    )
    check([len(history) for history in histories], [2, 0, 1], what="the number of dicts that are returned", mistakes={
        "train returns the dicts of earlier calls too; it should only be those of its own epochs": [2, 2, 3],
        "num_epochs is the number of epochs in all; it should be that of further epochs": [2, 0, 0],
        "train returns the dict of the last epoch alone": [1, 0, 1],
    })  # fmt: skip
    rows = sum(histories, [])
    check([sorted(row) for row in rows], [["train_loss", "val_loss"]] * 3, what="the keys")
    (first,), *after = by_hand
    check([[row["train_loss"], row["val_loss"]] for row in rows], after, dtype=torch.float64, what="train_loss and val_loss", mistakes={
        "val_loss is from before the epoch; it should be that after it": [[loss, val] for (loss, _), val in zip(after, [first, after[0][1], after[1][1]], strict=True)],
        "val_loss is the training loss": [[loss, loss] for loss, _ in after],
        "train_loss and val_loss are swapped": [[val, loss] for loss, val in after],
    })  # fmt: skip
    check(counted, [0, 2, 2, 3], what="epoch")
    check.that(len({loss for loss, _ in after}) == 3, "nothing is trained")


# ---------------------------------------------------------------------------------------------- the caller's things


@pytest.mark.points(2)
def test_the_callers_random_state_stays(student, check, rng):
    """torch's random state is after each method what it was before; other settings of torch, config and data are, too."""

    def probe(weights, data, config):
        import os
        import tempfile

        torch.manual_seed(20)
        torch.rand(3)
        moved, state, given = [], inside.torch_state(), dict(config)

        def noting(name, call):
            before = torch.get_rng_state()
            result = call()
            if not torch.equal(before, torch.get_rng_state()):
                moved.append(name)
                torch.set_rng_state(before)
            return result

        trainer, model = inside.a_trainer(weights, data, data, config, 0.3)
        torch.manual_seed(20)
        torch.rand(3)
        noting("making a trainer", lambda: type(trainer)(model, inside.Items(*data), inside.Items(*data), config))
        noting("train_epoch", trainer.train_epoch)
        noting("validate", trainer.validate)
        noting("train", lambda: trainer.train(1))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.pt")
            noting("save", lambda: trainer.save(path))
            noting("load", lambda: trainer.load(path))
        after = trainer.epoch
        return moved, inside.torch_state() == state, config == given, data, after

    data = full(rng, 9)
    moved, same, config_kept, after, epoch = student.run(probe, tagger_weights(rng), data, {"batch_size": 4, "seed": 6})

    check(epoch, 2, what="epoch")
    for name in ("making a trainer", "train_epoch", "validate", "train", "save", "load"):
        check.that(name not in moved, f"{name} changes torch's random state; it should be as it was")
    check.that(same, "a setting of torch is changed")
    check.that(config_kept, "config is changed in place")
    check(after, data, otherwise="the items of a dataset are changed in place")


@pytest.mark.points(1)
def test_a_wrong_config_is_refused(student, check, rng):
    """An unknown key and a batch_size below 1 are ValueErrors."""

    def probe(weights, data, config):
        inside.a_trainer(weights, data, data, config)

    weights, data = tagger_weights(rng), full(rng, 3)
    for config in ({"lr": 0.1}, {"batch_size": 1}):
        student.accepts(probe, weights, data, config)
    student.raises(ValueError, probe, weights, data, {"learning_rate": 0.1}, says=("learning_rate", "config", "key"))
    for size in (0, -1):
        student.raises(ValueError, probe, weights, data, {"batch_size": size}, says=("batch_size", size))


@pytest.mark.gpu
@pytest.mark.points(1)
def test_a_run_is_where_its_model_is(student, check, rng, device):
    """Items on the CPU are moved to a model on the GPU, and a run that is saved there goes on there."""

    def probe(weights, *data):
        data = tuple(each.cpu() for each in data)
        (trainer, model), (other, _) = (inside.a_trainer(weights, data, data, {}) for _ in range(2))
        before = trainer.validate()
        trainer.train_epoch()
        answer = inside.load_bytes(other, inside.saved_bytes(trainer))
        return before, answer, [one.validate() for one in (trainer, other)], list(model.weights().values())

    weights, data = tagger_weights(rng), full(rng, 9)
    before, answer, (ours, loaded), trained = student.on(device=device, timeout=60).run(probe, weights, *data)

    check(before, tagged(weights, [data])[0], dtype=torch.float64, relative=1e-5, what="the loss of validate")
    check(answer, "loaded", what="what becomes of a load on the GPU")
    check.that(abs(ours - loaded) <= 1e-6, "a run that is loaded on the GPU has the wrong weights")
    for weight in trained:
        check(weight, weight.clone())  # it was on the device
