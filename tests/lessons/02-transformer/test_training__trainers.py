"""Hidden tests of training: the two trainers.

They drive `inside.Toy`, a model so small that `toy_step` works out its loss and gradients beside it. What is no matter of
the loss itself is tested with rows that repeat one token, where a loss of padding or of the wrong tokens is right.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from shared import nearly, randn, single, tokens

TRAINER = pytest.mark.question("TransformerTrainer")
OPTIMIZED = pytest.mark.question("OptimizedTransformerTrainer")


# ---------------------------------------------------------------------------------------------- the toy

SRC, TGT, WIDTH = 7, 9, 5  # vocabularies of source and target, width of the toy


def toy_weights(rng, dtype=torch.float64, sure=1.0):
    shapes = {"src": (SRC, WIDTH), "tgt": (TGT, WIDTH), "weight": (TGT, WIDTH), "bias": (TGT,)}
    weights = {name: randn(rng, *shape, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return weights | {"weight": weights["weight"] * sure}


def token_batch(rng, lengths, Ts=4, pad=0):
    """(src, tgt): tgt has a row of each length (with the token in front), padded to the greatest."""
    tgt = torch.full((len(lengths), max(lengths)), pad)
    for row, length in zip(tgt, lengths, strict=True):
        row[:length] = 3 + tokens(rng, TGT - 3, length)
        row[0] = 1
    if pad:
        tgt[0, 1] = 0  # a token like others
    return 1 + tokens(rng, SRC - 1, len(lengths), Ts), tgt


def toy_step(w, batches, pad=0, *, smoothing=0.0, counts="real", predict=slice(1, None), longest=math.inf, factor=1.0, mixed=False):  # fmt: skip
    """The loss of inside.Toy over all batches together and its gradients: (float, {name: tensor}).

    counts: "real" tokens, "all" places with the padding, "each" place but its loss is 0 at padding, "sum" without a mean, or
    divided by the number of "sentences", the mean of the means of "batches" or "rows", or of batches weighted by
    "sequences". Gradients are clipped to longest and multiplied by factor. mixed: the last layer computes in bfloat16.
    """
    dtype = torch.float32 if mixed else torch.float64
    w = {name: weight.to(dtype, copy=True).requires_grad_() for name, weight in w.items()}
    top = bottom = 0.0
    for src, tgt in batches:
        hidden = torch.tanh(w["tgt"][tgt[:, :-1]] + w["src"][src].mean(1, keepdim=True))  # (B, Tt - 1, D)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = F.linear(hidden, w["weight"], w["bias"]).to(dtype)
        labels, ignored = tgt[:, predict], -1 if counts == "all" else pad
        loss = F.cross_entropy(
            logits.mT, labels, ignore_index=ignored, reduction="none", label_smoothing=smoothing
        )  # (B, Tt)
        real = (labels != ignored).sum(1)
        share = {"batches": 1, "sequences": len(src)}.get(counts)
        if share is not None:
            top, bottom = top + share * loss.sum() / real.sum(), bottom + share
        elif counts == "rows":
            top, bottom = top + (loss.sum(1) / real).sum(), bottom + len(src)
        else:
            places = {"each": loss.numel(), "sum": 0, "sentences": len(src)}
            top, bottom = top + loss.sum(), bottom + places.get(counts, real.sum())
    loss = top / (bottom or 1)
    gradients = torch.autograd.grad(loss, list(w.values()))
    factor *= min(1.0, longest / float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
    return loss.item(), {name: (gradient * factor).float() for name, gradient in zip(w, gradients, strict=True)}


def watched(student, weights, batches, pad=0, lr=None, optimized=None):
    """What a TransformerTrainer, or with settings `optimized` an OptimizedTransformerTrainer, does with a Toy in eval mode.

    rows, one a batch: loss, its type; weights before and after the call; calls: of the model; grads: what the optimizer
    found in each of its steps. Besides: lrs of the optimizer's groups, whether the call changed torch, the dtype of the
    model outside.
    """

    def probe(weights, batches, sizes, settings, optimized):
        import training

        def copied(model, of):  # {"src": …} of what `of` finds on each weight; None where there is nothing
            found = {name: of(parameter) for parameter, name in model.named_weights()}
            return {name: None if tensor is None else tensor.detach().clone() for name, tensor in found.items()}

        def watch(make):
            model = inside.Toy(weights)
            trainer = make(model)
            lrs = [float(group["lr"]) for group in trainer.optimizer.param_groups]
            rows, steps, first = [], [], [ids.clone() for ids in batches[0]]

            def look(optimizer, args, options):
                closure = args[1] if len(args) > 1 else options.get("closure")

                def seen_later():  # with a closure the optimizer finds the gradients only when it has called it
                    loss = closure()
                    steps.append(copied(model, lambda weight: weight.grad))
                    return loss

                if closure is not None:
                    return (optimizer, seen_later), {}
                steps.append(copied(model, lambda weight: weight.grad))
                return None

            trainer.optimizer.register_step_pre_hook(look)
            state = inside.torch_state()
            for src, tgt in batches:
                steps.clear()
                model.calls.clear()
                model.eval()  # as after an evaluation between two steps
                before = copied(model, lambda weight: weight)
                loss = trainer.train_step(src, tgt)
                rows.append({
                    "loss": loss, "before": before, "after": copied(model, lambda weight: weight),
                    "calls": list(model.calls), "grads": list(steps), "src": src, "tgt": tgt,
                })  # fmt: skip
            changed = inside.torch_state() != state
            return {"rows": rows, "lrs": lrs, "torch_changed": changed, "outside": model(*first).dtype}

        trainer = training.OptimizedTransformerTrainer if optimized else training.TransformerTrainer
        return watch(lambda model: trainer(model, *sizes, **settings))

    settings = {"pad_id": pad} | ({} if lr is None else {"lr": lr}) | (optimized or {})
    return student.run(probe, weights, batches, (SRC, TGT), settings, optimized is not None)


def in_a_row(gradients):
    """All gradients in one row: what cancels in one tensor is compared with the size of the others."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def found(row):
    """(loss, gradients) of a call that took one step of the optimizer."""
    return row["loss"], single(row["grads"][0]) if len(row["grads"]) == 1 else None


def own_or(truth, own, value):
    """(loss, gradients) of the student's own, where a value agrees with that and not with the truth."""

    def as_row(loss, gradients):  # None where they are none
        if type(loss) is float and gradients and all(isinstance(item, torch.Tensor) for item in gradients.values()):
            return torch.cat([torch.tensor([loss]), in_a_row(gradients)])
        return None

    rows = [as_row(*pair) for pair in (value, own, truth)]
    is_own = rows[0] is not None and rows[1] is not None and nearly(rows[0], rows[1], 1e-4) and bool(rows[1][1:].any())
    return own if is_own and not nearly(rows[0], rows[2], 1e-4) else truth


def logits_seen(row):
    """What the model gave for the micro-batch itself, should it have been called for earlier ones too."""
    calls = [call for call in row["calls"] if call["tgt"].equal(row["tgt"][:, :-1])] or row["calls"]
    return calls[0]["logits"] if calls else torch.empty(0)


def steps_taken(row):
    """Facts: a call takes one step of the optimizer."""
    return [
        (len(row["grads"]) != 0, "the optimizer takes no step: call optimizer.step()"),
        (len(row["grads"]) == 1, "the optimizer takes more than one step in one call"),
    ]


PER_SENTENCE = (
    "the sum of the losses is divided by the number of sequences; it should be divided by the number of tokens"
)
CLEARED = "the optimizer finds no gradients; they should not be cleared between backward and step"
LATE = "the loss after the update is returned; it should be the one before"


# ---------------------------------------------------------------------------------------------- TransformerTrainer


@TRAINER
@pytest.mark.points(4)
@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("lengths", [(5, 3, 6, 2), (2,), (3, 4)], ids=str)
def test_a_step_learns_to_predict_the_next_token(student, check, rng, pad, lengths):
    """tgt[:, :-1] goes in, tgt[:, 1:] is predicted: the mean loss of the tokens that are not padding, and its gradients."""
    weights, (src, tgt) = toy_weights(rng, sure=4.0), token_batch(rng, lengths, pad=pad)  # gradients longer than 1
    row = watched(student, weights, [(src, tgt)], pad)["rows"][0]

    check.that(bool(row["calls"]), "the model is not called")
    for fact in steps_taken(row):
        check.that(*fact)
    check.that(type(row["loss"]) is float, "the loss is not a float: return loss.item()")
    seen = row["calls"][0]
    check(seen["src"], src)
    check(seen["tgt"], tgt[:, :-1], mistakes={
        "the model gets all of tgt; it should get tgt[:, :-1], since the last token is only predicted": tgt,
        "the model gets tgt[:, 1:], the tokens that it should predict; it should get tgt[:, :-1]": tgt[:, 1:],
    })  # fmt: skip

    def made(pad=pad, **wrong):
        return lambda: toy_step(weights, [(src, tgt)], pad, **wrong)

    loss, gradients = made()()
    check(found(row), (loss, gradients), names=("loss", "gradients"), dtype=torch.float32, mistakes={
        "the targets are the tokens that the model gets; they should be the next ones, tgt[:, 1:]": made(predict=slice(None, -1)),
        "padding is predicted too; targets of pad_id should not count": made(counts="all"),
        "pad_id is always 0; that should only be its default": made(pad=0),
        "padding counts in the number of tokens; it should not": made(counts="each"),
        "the losses are added; it should be their mean": made(counts="sum"),
        PER_SENTENCE: made(counts="sentences"),
        "the mean is taken of each sequence first; all tokens should have the same weight": made(counts="rows"),
        "labels are smoothed; the loss should be the plain cross-entropy": made(smoothing=0.1),
        "gradients are clipped to 1; they should not be clipped": made(longest=1.0),
        "gradients are clipped to 0.5; they should not be clipped": made(longest=0.5),
        LATE: lambda: (toy_step(row["after"], [(src, tgt)], pad)[0], gradients),
        CLEARED: (loss, dict.fromkeys(gradients)),
        "the gradients are zero in the optimizer's step; they should not be cleared or scaled to nothing after backward": (loss, {name: 0 * gradient for name, gradient in gradients.items()}),
    })  # fmt: skip


@TRAINER
@pytest.mark.points(2)
def test_each_step_has_its_own_gradients(student, check, rng):
    """The gradients of a step are those of its batch alone, whatever came before; batches may differ in size."""
    weights = toy_weights(rng)
    batches = [token_batch(rng, (3, 6, 4)), token_batch(rng, (5, 2), Ts=2), token_batch(rng, (4, 4, 2, 7), Ts=6)]
    rows = watched(student, weights, batches, lr=0.05)["rows"]

    sums = {name: 0 for name in weights}
    for row, pair in zip(rows, batches, strict=True):
        for fact in steps_taken(row):
            check.that(*fact)
        loss, gradients = toy_step(row["before"], [pair])
        alone = found(watched(student, row["before"], [pair], lr=0.05)["rows"][0])  # of a new trainer
        loss, gradients = own_or((loss, gradients), alone, found(row))
        sums = {name: sums[name] + gradients[name] for name in sums}
        check(found(row), (loss, gradients), names=("loss", "gradients"), dtype=torch.float32, mistakes={
            "gradients of earlier steps are still there: call zero_grad before backward": (loss, sums),
            LATE: (toy_step(row["after"], [pair])[0], gradients),
        })  # fmt: skip


@TRAINER
@pytest.mark.points(2)
@pytest.mark.parametrize("lr", [None, 0.003])
def test_the_optimizer_is_like_adam(student, check, rng, lr):
    """The attribute optimizer has the lr that was given, 1e-4 by default, and moves every weight by about lr, as Adam does."""
    weights, pair = toy_weights(rng), token_batch(rng, (6, 6, 5))
    seen = watched(student, weights, [pair], lr=lr)

    row, rates, lr = seen["rows"][0], seen["lrs"], lr or 1e-4
    check(rates, [lr] * len(rates), dtype=torch.float32, mistakes={
        "lr is ignored": [1e-4] * len(rates),
        "the optimizer has the lr 0.001, AdamW's own default; it should get the trainer's lr": [1e-3] * len(rates),
    })  # fmt: skip
    for fact in steps_taken(row):
        check.that(*fact)
    gradients = found(row)[1]  # right or wrong
    has_all = all(isinstance(gradients[name], torch.Tensor) for name in weights)
    check.that(has_all and bool(in_a_row(gradients).any()), CLEARED)

    def probe(weights, gradients, lr):
        import contextlib

        from training import AdamW

        stepped = []
        with contextlib.suppress(Exception):  # other tests say what fails
            for start, gradient in zip(weights, gradients, strict=True):
                parameter = inside.strided(start).clone().requires_grad_()
                parameter.grad = gradient.clone()
                AdamW([{"params": [parameter], "lr": lr}]).step()
                stepped.append(parameter.detach().clone())
            return stepped

    gradients = {name: gradients[name].double() for name in weights}
    own = student.run(probe, list(weights.values()), list(gradients.values()), lr)
    if own is not None:  # where the student's AdamW is wrong, its own tests say so
        pairs = [(row["after"][name], weights[name], alone) for name, alone in zip(weights, own, strict=True)]
        if all(
            not alone.equal(start) and nearly((after - start) / lr, (alone - start) / lr, 1e-3)
            for after, start, alone in pairs
        ):
            return
    # An Adam that adds a decay of up to 0.01 to the gradient is like Adam too: it turns none of these around.
    steep = {name: gradient.abs() > 1e-3 + 0.02 * weights[name].abs() for name, gradient in gradients.items()}
    down = {name: (weights[name] - row["after"][name]) / lr * gradients[name].sign() for name in weights}
    down = torch.cat([down[name][steep[name]] for name in weights])  # in units of lr, against the gradient
    check.that(
        bool(down.abs().min() > 0),
        "some weights are not trained; the optimizer should have all parameters of the model",
    )
    check.that(bool(down.min() > 0), "weights move with their gradient; they should move against it")
    check.that(bool(down.min() > 0.5 and down.max() < 2), "weights do not move by about lr, as they should with AdamW")


@TRAINER
@pytest.mark.points(1)
def test_train_step_sets_train_mode_and_nothing_else(student, check, rng):
    """The model is in train mode while it is trained; src, tgt and torch's state stay as they are."""
    batches = [token_batch(rng, (3, 5)), token_batch(rng, (4, 2))]
    seen = watched(student, toy_weights(rng), batches)

    modes = [call["training"] for row in seen["rows"] for call in row["calls"]]
    check.that(bool(modes and all(modes)), "the model is not in train mode during train_step")
    after = [(row["src"], row["tgt"]) for row in seen["rows"]]
    check(after, batches, otherwise="src or tgt is changed in place; both should stay as they were")
    check.that(bool(not seen["torch_changed"]), "the global state of torch is changed")


# ---------------------------------------------------------------------------------------------- OptimizedTransformerTrainer

# (rows, length, length of the source) of batches with very different numbers of tokens
UNEQUAL = [(3, 7, 2), (2, 2, 3), (1, 4, 4), (4, 6, 2), (2, 3, 3), (2, 8, 4), (3, 5, 2)]


RAGGED = [(7, 3, 5), (2, 2), (4,), (6, 6, 6, 2)]  # lengths of rows, some of which are padded


def unequal_batches(rng, number):
    """Batches (src, tgt) whose rows repeat one token: a loss of padding or of the wrong tokens is right for these."""
    return [
        (1 + tokens(rng, SRC - 1, rows, Ts), (3 + tokens(rng, TGT - 3, rows, 1)).repeat(1, length))
        for rows, length, Ts in UNEQUAL[:number]
    ]


@OPTIMIZED
@pytest.mark.points(3)
@pytest.mark.parametrize(("N", "calls"), [(2, 4), (3, 7), (None, 4)])
def test_n_micro_batches_make_one_update(student, check, rng, N, calls):
    """The N-th call updates with the gradient of all N micro-batches as one batch, every token weighing the same."""
    weights, batches = toy_weights(rng, sure=4.0), unequal_batches(rng, calls)  # gradients longer than 1
    settings = {"use_gradient_accumulation": True} | ({} if N is None else {"accumulation_steps": N})
    rows = watched(student, weights, batches, lr=0.05, optimized=settings)["rows"]

    N = N or 4
    check([len(row["grads"]) for row in rows], [int(k % N == N - 1) for k in range(calls)], mistakes={
        "every call updates the weights; only every N-th should": [1] * calls,
        "no call updates the weights": [0] * calls,
        "the update comes with the first call of N; it should come with the last": [int(k % N == 0) for k in range(calls)],
        "the update comes a call late; it should come with the N-th call": [int(k % (N + 1) == N) for k in range(calls)],
        "accumulation_steps is always 4; that should only be its default": [int(k % 4 == 3) for k in range(calls)],
        "only the first N calls end in an update; every N calls should": [int(k == N - 1) for k in range(calls)],
    })  # fmt: skip
    before = {name: 0 for name in weights}
    for k in range(N - 1, calls, N):
        window, start = batches[k - N + 1 : k + 1], rows[k]["before"]

        def made(window=window, start=start, **wrong):
            return lambda: toy_step(start, window, **wrong)[1]

        truth = made()()
        places = [tgt[:, 1:].numel() for _, tgt in batches[: k + 1]]
        check(found(rows[k])[1], truth, dtype=torch.float32, mistakes={
            "the micro-batches' means are averaged; they should be weighted by tokens": made(counts="batches"),
            "the gradients of the means are added; the means should be weighted by tokens": made(counts="batches", factor=N),
            "only the last micro-batch counts; the gradients of all N should": made(window[-1:]),
            "only the last micro-batch counts, divided by N; the gradients of all N should": made(window[-1:], factor=1 / N),
            "only the last micro-batch counts, weighted by its tokens; the gradients of all N should": made(window[-1:], factor=places[-1] / sum(places[-N:])),
            "micro-batches are weighted by their sequences; they should be weighted by their tokens": made(counts="sequences"),
            "the gradients are sums over the tokens; they should be divided by the number of tokens": made(counts="sum"),
            "the sum is divided by N; it should be divided by the number of tokens": made(counts="sum", factor=1 / N),
            PER_SENTENCE: made(counts="sentences"),
            "gradients from before the last update are still there: call zero_grad after it": {
                name: before[name] + truth[name] for name in truth
            },
            "the number of tokens is not reset after an update": made(factor=sum(places[-N:]) / sum(places)),
            "gradients are clipped to 1; they should not be clipped": made(longest=1.0),
        })  # fmt: skip
        before = {name: before[name] + truth[name] for name in truth}


@OPTIMIZED
@pytest.mark.points(1)
def test_padding_does_not_count_in_micro_batches(student, check, rng):
    """The next tokens are predicted; targets of pad_id count neither in the losses nor in the number of tokens."""
    weights, batches = toy_weights(rng), [token_batch(rng, (7, 3, 5), pad=2), token_batch(rng, (2, 4), pad=2)]
    settings = {"use_gradient_accumulation": True, "accumulation_steps": 2}
    rows = watched(student, weights, batches, 2, lr=0.05, optimized=settings)["rows"]

    for fact in steps_taken(rows[1]):
        check.that(*fact)

    def made(pad=2, **wrong):
        losses = [toy_step(weights, [pair], pad, **wrong)[0] for pair in batches]
        return losses, toy_step(weights, batches, pad, **wrong)[1]

    value = [row["loss"] for row in rows], found(rows[1])[1]
    check(value, made(), names=("losses", "gradients"), dtype=torch.float32, mistakes={
        "pad_id is always 0; that should only be its default": lambda: made(0),
        "padding counts in the number of tokens; it should not": lambda: made(counts="each"),
        "padding counts in the number of tokens of the gradients; it should not": lambda: (made()[0], made(counts="each")[1]),
        "padding counts in the number of tokens of the loss; it should not": lambda: (made(counts="each")[0], made()[1]),
        "padding is predicted too; targets of pad_id should not count": lambda: made(counts="all"),
        "the targets are the tokens that the model gets; they should be the next ones, tgt[:, 1:]": lambda: made(predict=slice(None, -1)),
    })  # fmt: skip


@OPTIMIZED
@pytest.mark.points(2)
def test_each_micro_batch_returns_its_own_loss(student, check, rng):
    """Every call returns the mean loss of its own tokens, as a float; the weights stay put until the update."""
    weights, batches = toy_weights(rng), unequal_batches(rng, 5)
    settings = {"use_gradient_accumulation": True, "accumulation_steps": 3}
    rows = watched(student, weights, batches, lr=0.05, optimized=settings)["rows"]

    for row in (rows[0], rows[1], rows[3], rows[4]):
        check(row["after"], row["before"], otherwise="weights change before the update")
    are_floats = all(type(row["loss"]) is float for row in rows)
    check.that(are_floats, "the loss is not a float: return loss.item() in every call")

    own = [toy_step(row["before"], [pair])[0] for row, pair in zip(rows, batches, strict=True)]
    so_far = [sum(own[k - k % 3 : k + 1]) for k in range(5)]
    check([row["loss"] for row in rows], own, dtype=torch.float32, mistakes={
        "the loss is divided by N; it should be the micro-batch's own": [loss / 3 for loss in own],
        "the mean of the losses so far is returned; it should be the micro-batch's own loss": [loss / (k % 3 + 1) for k, loss in enumerate(so_far)],
        "the sum of the losses so far is returned; it should be the micro-batch's own loss": so_far,
        "the sum over the tokens is returned; it should be their mean": lambda: [
            toy_step(row["before"], [pair], counts="sum")[0] for row, pair in zip(rows, batches, strict=True)
        ],
        "only the N-th call returns a loss; every call should": [loss * (k % 3 == 2) for k, loss in enumerate(own)],
    })  # fmt: skip
    modes = [call["training"] for row in rows for call in row["calls"]]
    check.that(bool(modes and all(modes)), "the model is not in train mode during train_step")


@OPTIMIZED
@pytest.mark.points(2)
@pytest.mark.parametrize("settings", [
    {"use_mixed_precision": False}, {"accumulation_steps": 2}, {"use_gradient_accumulation": True, "accumulation_steps": 1},
], ids=["nothing", "steps only", "one step"])  # fmt: skip
def test_without_accumulation_every_call_updates(student, check, rng, settings):
    """Without use_gradient_accumulation, or with one step, every call is a batch of its own, as in TransformerTrainer."""
    weights, batches = toy_weights(rng, sure=4.0), [token_batch(rng, lengths, pad=2) for lengths in RAGGED]
    seen = watched(student, weights, batches, 2, lr=0.003, optimized=settings)

    N = settings.get("accumulation_steps", 4)
    check([len(row["grads"]) for row in seen["rows"]], [1] * 4, mistakes={
        "gradients are accumulated though use_gradient_accumulation is False": [int(k % N == N - 1) for k in range(4)],
        "no call updates the weights": [0] * 4,
    })  # fmt: skip
    for row, pair in zip(seen["rows"], batches, strict=True):
        alone = watched(student, row["before"], [pair], 2, lr=0.003)["rows"][0]  # of a TransformerTrainer
        loss, gradients = own_or(toy_step(row["before"], [pair], 2), found(alone), found(row))
        check(found(row), (loss, gradients), names=("loss", "gradients"), dtype=torch.float32, mistakes={
            "pad_id is always 0; that should only be its default": toy_step(row["before"], [pair], 0),
            "labels are smoothed; the loss should be the plain cross-entropy": toy_step(row["before"], [pair], 2, smoothing=0.1),
            "gradients are clipped to 1; they should not be clipped": toy_step(row["before"], [pair], 2, longest=1.0),
            "gradients are divided by accumulation_steps without use_gradient_accumulation": toy_step(
                row["before"], [pair], 2, factor=1 / N
            ),
            LATE: (toy_step(row["after"], [pair], 2)[0], gradients),
        })  # fmt: skip
    check(seen["lrs"], [0.003] * len(seen["lrs"]), dtype=torch.float32, mistakes={
        "lr is ignored": [1e-4] * len(seen["lrs"]), "the optimizer has the lr 0.001, AdamW's own default; it should get the trainer's lr": [1e-3] * len(seen["lrs"]),
    })  # fmt: skip


@OPTIMIZED
@pytest.mark.points(3)
@pytest.mark.parametrize("accumulate", [False, True])
def test_mixed_precision_computes_in_bfloat16(student, check, rng, accumulate):
    """The model's Linear gives bfloat16; weights, gradients and loss are float32, and the update is right."""
    weights, batches = toy_weights(rng, torch.float32, sure=4.0), [token_batch(rng, lengths) for lengths in RAGGED]
    settings = {"use_gradient_accumulation": accumulate, "accumulation_steps": 2}
    rows = watched(student, weights, batches, lr=1e-6, optimized=settings | {"use_mixed_precision": True})["rows"]
    full = watched(student, weights, batches, lr=1e-6, optimized=settings)["rows"]  # the same in float32

    def loss_of(logits, tgt):  # NaN where logits have another shape
        if logits.dim() != 3 or logits.shape[:2] != tgt[:, 1:].shape:
            return math.nan
        return F.cross_entropy(logits.double().mT, tgt[:, 1:], ignore_index=0).item()

    logits = [logits_seen(row) for row in rows]
    check([item.dtype for item in logits], [torch.bfloat16] * 4, mistakes={
        "mixed precision does not reach the model; its Linear should give bfloat16": [torch.float32] * 4,
        "the model computes in float16; on the CPU it should be bfloat16": [torch.float16] * 4,
    })  # fmt: skip
    in_float32 = all(call["weight_dtype"] == torch.float32 for row in rows for call in row["calls"])
    check.that(in_float32, "the weights are turned into bfloat16; they should stay float32")
    moved = max(float((row["after"][name] - row["before"][name]).abs().max()) for row in rows for name in weights)
    # By next to nothing, with this lr; in 16 bits weights of 12 are 0.03 apart.
    check.that(moved < 4e-3, "the weights are rounded to 16 bits; they should stay float32")

    losses = [row["loss"] for row in rows]
    rounded = all(torch.tensor(loss).bfloat16().item() == loss for loss in losses)
    check.that(not rounded, "the loss is computed in bfloat16; it should be float32")
    exact = [toy_step(row["before"], [pair])[0] for row, pair in zip(full, batches, strict=True)]
    if nearly(torch.tensor([row["loss"] for row in full]), torch.tensor(exact), 1e-3):  # if not, other tests say so
        truth = [loss_of(item, tgt) for item, (_, tgt) in zip(logits, batches, strict=True)]
        check(losses, truth, dtype=torch.float32, terms=16, scale=1.0)  # a sure prediction's loss is a small difference

    check(
        [len(row["grads"]) for row in rows],
        [len(row["grads"]) for row in full],
        otherwise="mixed precision changes which calls update the weights",
    )
    for k, (row, exact) in enumerate(zip(rows, full, strict=True)):
        for gradients, others in zip(row["grads"], exact["grads"], strict=True):
            in_float32 = all(g.dtype == torch.float32 for g in gradients.values())
            check.that(in_float32, "the gradients are not float32; they should be")
            window = batches[k - 1 if accumulate else k : k + 1]
            seen, own = in_a_row(gradients), in_a_row(others)
            truth = in_a_row(toy_step(row["before"], window, mixed=True)[1])
            is_wrong = not nearly(own, in_a_row(toy_step(exact["before"], window)[1]), 1e-3)
            if is_wrong and nearly(seen, own, 0.25):
                truth = own  # wrong without mixed precision too, which other tests say
            check(seen.bfloat16(), truth, dtype=torch.bfloat16, terms=2, mistakes={
                "gradients are clipped to 1; they should not be clipped": truth / max(1.0, truth.norm().item()),
                "the gradients are still multiplied by a scaler's factor: unscale them before the step": check.when(
                    bool(seen.norm() > 30 * truth.norm())
                ),
            })  # fmt: skip


@OPTIMIZED
@pytest.mark.points(2)
@pytest.mark.parametrize("mixed", [True, False])
def test_mixed_precision_ends_with_the_step(student, check, rng, mixed):
    """Outside of train_step the model and torch are as before; without use_mixed_precision they are inside too."""
    weights, batches = toy_weights(rng, torch.float32), unequal_batches(rng, 2)
    seen = watched(student, weights, batches, optimized={"use_mixed_precision": mixed})

    check([logits_seen(row).dtype for row in seen["rows"]], [torch.bfloat16 if mixed else torch.float32] * 2, mistakes={
        "the model computes in bfloat16 though use_mixed_precision is False": [torch.bfloat16] * 2,
        "mixed precision does not reach the model; its Linear should give bfloat16": [torch.float32] * 2,
    })  # fmt: skip
    check(
        seen["outside"], torch.float32, mistakes={"the model gives bfloat16 outside of train_step too": torch.bfloat16}
    )
    in_float32 = all(weight.dtype == torch.float32 for weight in seen["rows"][-1]["after"].values())
    check.that(bool(in_float32), "the weights are no longer float32")
    check.that(
        bool(not seen["torch_changed"]), "autocast, or something else of torch, stays switched on after train_step"
    )


@OPTIMIZED
@pytest.mark.gpu
@pytest.mark.points(1)
def test_mixed_precision_on_a_gpu_is_float16_with_a_scaler(student, check, rng):
    """On a GPU the model's Linear gives float16, and gradients too small for it are not lost."""

    def probe(weights, src, tgt):
        from training import OptimizedTransformerTrainer

        model = inside.Toy(weights)
        trainer = OptimizedTransformerTrainer(
            model, len(weights["src"]), len(weights["tgt"]), 0.0, use_mixed_precision=True
        )
        steps = []
        trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(model.out.bias.grad.clone()))
        for _ in range(12):  # a scaler may begin too large and pass over steps
            trainer.train_step(src, tgt)
        return str(model.calls[0]["logits"].dtype), len(steps), bool((steps[-1] != 0).all()) if steps else False

    weights, (src, tgt) = toy_weights(rng, torch.float32, sure=0.01), token_batch(rng, (5, 5))
    tgt[:, 1:] = 4
    weights["bias"] = torch.zeros(TGT)
    weights["bias"][4] = 17.5  # so sure that gradients are some 1e-8: zero in float16 unless they are scaled
    dtype, steps, kept = student.run(probe, weights, src, tgt)

    check(
        dtype,
        "torch.float16",
        mistakes={"the model computes in bfloat16; on a GPU it should be float16 with a scaler": "torch.bfloat16"},
    )
    check.that(bool(steps), "the scaler never lets a step through")
    check.that(bool(kept), "small gradients become zero in float16: scale the loss with a GradScaler")


# ---------------------------------------------------------------------------------------------- defaults


@pytest.mark.question("Defaults")
@pytest.mark.points(1)
def test_arguments_have_their_defaults(student, check):
    """Arguments that are left out are those of the handout, wherever a signature names them."""
    expected = {
        "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        "cosine_schedule": {"min_lr": 0.0},
        "CosineAnnealingWarmupScheduler": {"min_lr": 0.0},
        "label_smoothed_cross_entropy": {"smoothing": 0.1, "ignore_index": -100},
        "TransformerTrainer": {"lr": 1e-4, "pad_id": 0},
        "OptimizedTransformerTrainer": {
            "lr": 1e-4, "pad_id": 0, "use_mixed_precision": False, "use_gradient_accumulation": False, "accumulation_steps": 4,
        },
    }  # fmt: skip

    def probe(names):
        import inspect

        import training

        training.cosine_schedule(1, 1, 2, 1.0)  # a signature alone is worth nothing
        training.label_smoothed_cross_entropy(torch.zeros(1, 3), torch.tensor([1]))
        found = {}
        for name, keys in names.items():
            parameters = inspect.signature(getattr(training, name)).parameters
            found[name] = {key: parameters[key].default for key in keys if key in parameters}
        return found

    found = student.run(probe, {name: list(defaults) for name, defaults in expected.items()})
    for name, defaults in expected.items():
        for key, value in found[name].items():
            known = isinstance(value, (bool, int, float, tuple)) and value == defaults[key]
            check.that(bool(known), f"{key} of {name} does not have the handout's default")
    check.that(bool(all(found[name] for name in expected)), "the arguments do not have the names of the handout")
