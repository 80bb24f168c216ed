"""Hidden tests of pretraining_objectives: masked and causal language modeling.

Spans are in test_pretraining_objectives__spans.py, prefixes in test_pretraining_objectives__prefix.py. What is drawn is
compared by its law, at a false-alarm rate of 1e-9 of each call of wrong_law or wrong_share: the shares of 80, 10 and 10 %,
for example, are refused of right work once in 1e9 times. There are some 15 such calls, so that the whole suite refuses
right work less than once in 1e6 gradings, and each mistake that is named here passes even more seldom.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from shared import MANNERS, law, randn, randomness_facts, tokens, wrong_law, wrong_share

MLM = pytest.mark.question("MLMTrainer")
CLM = pytest.mark.question("CLMTrainer")
IGNORED = -100
SURE = 1 - 1e-9  # all are chosen, also where a probability of 1 is refused, which is tested by itself


def masked_by(sizes, *texts):
    """A probe: for each text masked and labels of one MLMTrainer(None, *sizes), each with a generator of its own but the first."""
    from pretraining_objectives import MLMTrainer

    trainer, seeds = MLMTrainer(None, *sizes), torch.randint(2**31, (len(texts),)).tolist()
    generators = [None, *(torch.Generator().manual_seed(seed) for seed in seeds[1:])]
    return [inside.listed(trainer.create_mlm_targets(*call)) for call in zip(texts, generators, strict=True)]


def no_label(labels):
    """What places without a label have: it is what most places have."""
    return labels.flatten().mode().values


def has_label(labels):
    """Which places have a label, whatever the others have."""
    return labels != no_label(labels)


def alike_places(chosen):
    """Facts about which places of a batch are chosen: where rows or tokens have no draws of their own, no count is right."""
    return [
        (not (chosen == chosen[:1]).all(), "all rows of a batch have the same places chosen"),
        (not (chosen == chosen[:, :1]).all(), "all tokens of a row are chosen, or none is"),
    ]


def alike_fates(fate, drawn, alike=0.95):
    """Facts about what becomes of the tokens of a batch (0 hidden, 1 kept, 2 drawn), and about the ids that are drawn.

    alike: the share of equal fates that is no chance; in a small vocabulary a drawn id may be the mask or the token itself.
    """
    facts = []
    if int(fate.flatten().bincount().max()) < alike * fate.numel():  # where all are hidden, no two differ
        facts += [
            (float((fate == fate[:, :1]).double().mean()) < alike, "all chosen tokens of a row become the same: hidden, random or kept"),
            (float((fate == fate[:1]).double().mean()) < alike, "the same becomes of the tokens in all rows of a batch"),
        ]  # fmt: skip
    ids = drawn[fate == 2]
    if len(ids):
        in_rows = [row[kinds == 2].unique() for row, kinds in zip(drawn, fate, strict=True)]
        in_places = [place[kinds == 2].unique() for place, kinds in zip(drawn.T, fate.T, strict=True)]
        facts += [
            (len(ids.unique()) > 1, "there is one random id for the whole batch; each token should have its own"),
            (max(map(len, in_rows)) > 1, "there is one random id for each row; each token should have its own"),
            (max(map(len, in_places)) > 1, "there is one random id for each place; each token should have its own"),
        ]
    return facts


def binomial(trials, p):
    """The law of how many of so many are chosen."""
    return law(*(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)))


def always(trials, count):
    """The law of a number that is always the same."""
    return law(*(k == count for k in range(trials + 1)))


def one_at_least(numbers):
    """The law of how many are chosen, if one is chosen where none was."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), numbers[:2].sum()[None], numbers[2:]])


# ---------------------------------------------------------------------------------------------- which tokens are chosen


@MLM
@pytest.mark.points(1)
@pytest.mark.parametrize("options", [[0.15], [0.4], []])
def test_tokens_are_chosen_with_mask_prob(student, check, rng, options):
    """About mask_prob of the tokens have a label; 15 % if it is not given."""
    ids = tokens(rng, 998, 200, 200) + 1
    ((_, labels),) = student.run(masked_by, [1000, 999, *options], ids)

    p, chosen = options[0] if options else 0.15, has_label(labels)
    if chosen.any():
        for fact in alike_places(chosen):
            check.that(*fact)
    wrong = wrong_share(int(chosen.sum()), ids.numel(), p, "the wrong share of tokens is chosen", {
        "a share of 1 - mask_prob is chosen; it should be mask_prob": 1 - p,
        "tokens that stay as they are have no label; they should have one": 0.9 * p,
        "only hidden tokens have a label; all that were chosen should have one": 0.8 * p,
    } | ({"mask_prob is not used; the share is always 15 %": 0.15} if p != 0.15 else {}))  # fmt: skip
    check.that(not wrong, wrong)


@MLM
@pytest.mark.points(1)
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_none_or_all_may_be_chosen(student, check, rng, prob):
    """With mask_prob 0 nothing changes and no label counts; with 1 all tokens have a label."""
    ids = tokens(rng, 40, 30, 50) + 1
    ((masked, labels),) = student.run(masked_by, [1000, 999, prob], ids)

    if prob == 0:
        check(masked, ids, otherwise="tokens are changed although mask_prob is 0")
        check.that(not (labels == ids).any(), "tokens have a label although mask_prob is 0")
    else:
        check.that(bool(labels.any()), "all labels are zero")
        check.that(not (labels == IGNORED).any(), "some tokens have no label although mask_prob is 1")


@MLM
@pytest.mark.points(1)
def test_every_token_may_be_chosen(student, check, rng):
    """Wherever it is in the text and whatever it is: also 0, the first ids and the mask itself."""
    p, size, rows, length = 0.4, 10, 4000, 6
    ids = tokens(rng, size, rows, length)
    ((_, labels),) = student.run(masked_by, [size, size - 1, p], ids)

    chosen, told = has_label(labels), ids != no_label(labels)  # a token that is what others have as label tells nothing
    by_place = torch.stack([(chosen & told).sum(0), (~chosen & told).sum(0)], dim=1)
    by_id = torch.stack([ids[kind & told].bincount(minlength=size) for kind in (chosen, ~chosen)], dim=1)

    def but(count, *never, share=p):
        shares = torch.full((count,), share, dtype=torch.float64)
        shares[list(never)] = 0
        return torch.stack([shares, 1 - shares], dim=1)

    # The share is the one that was found: whether it is mask_prob has its own test.
    found = float((chosen & told).sum() / told.sum())
    check.that(0 < found < 1, "no token is chosen, or all are")
    any_place, any_id = but(length, share=found), but(size, share=found)
    mistakes = {  # of the places, and of the ids
        "the first token is never chosen": (but(length, 0), any_id),
        "the first and the last token are never chosen": (but(length, 0, -1), any_id),
        "tokens with the id 0 are never chosen": (any_place, but(size, 0)),
        "tokens that are mask_token_id already are never chosen": (any_place, but(size, -1)),
    }
    wrong = wrong_law([
        (by_place, any_place, {sentence: laws[0] for sentence, laws in mistakes.items()}),
        (by_id, any_id, {sentence: laws[1] for sentence, laws in mistakes.items()}),
    ], "some tokens are chosen more often than others")  # fmt: skip
    check.that(not wrong, wrong)


@MLM
@pytest.mark.points(2)
def test_tokens_are_chosen_independently(student, check, rng):
    """The number of chosen tokens is binomial; neighbours, and rows of a batch, have nothing to do with each other."""
    p, rows, length, calls = 0.4, 4000, 8, 400
    ids, small = tokens(rng, 998, rows, length) + 1, tokens(rng, 998, 1, 3) + 1
    (_, labels), *others = student.run(masked_by, [1000, 999, p], ids, *[small] * calls)

    chosen = has_label(labels)
    for fact in alike_places(chosen):
        check.that(*fact)
    places = torch.cat([other != no_label(labels) for _, other in others])
    check.that(not (places == places[:1]).all(), "each call chooses the same places")
    of_rows = chosen.sum(1).bincount(minlength=length + 1)
    of_calls = places.sum(1).bincount(minlength=small.numel() + 1)
    found = float(chosen.double().mean())
    right, right_small = binomial(length, found), binomial(small.numel(), found)
    mistakes = {  # of the rows, and of the calls with one row
        "each row has the same number of chosen tokens; each token should have a draw of its own": (
            always(length, 3),
            always(small.numel(), 1),
        ),
        "each row has at least one chosen token; it may have none": (
            one_at_least(binomial(length, p)),
            one_at_least(binomial(small.numel(), p)),
        ),
        "each batch has the same number of chosen tokens; each token should have a draw of its own": (
            right,
            always(small.numel(), 1),
        ),
        "each batch has at least one chosen token; it may have none": (right, one_at_least(binomial(small.numel(), p))),
    }
    wrong = wrong_law([
        (of_rows, right, {sentence: laws[0] for sentence, laws in mistakes.items()}),
        (of_calls, right_small, {sentence: laws[1] for sentence, laws in mistakes.items()}),
    ], "the number of chosen tokens in a row does not follow the binomial law; each token should have a draw of its own")  # fmt: skip
    check.that(not wrong, wrong)
    product = law(found * found, found * (1 - found), (1 - found) * found, (1 - found) ** 2)
    for pairs, sentence in (
        ((chosen[:, ::2], chosen[:, 1::2]), "neighbouring tokens are not chosen independently"),
        ((chosen[::2], chosen[1::2]), "rows of a batch are not chosen independently"),
    ):
        first, second = pairs
        counts = (
            torch.stack([(first == a) & (second == b) for a in (True, False) for b in (True, False)]).flatten(1).sum(1)
        )
        wrong = wrong_law([(counts, product, {})], sentence)
        check.that(not wrong, wrong)


# ---------------------------------------------------------------------------------------------- what becomes of them
#
# With mask_prob 1 all tokens are chosen, so labels are not needed.


@MLM
@pytest.mark.points(3)
def test_eight_in_ten_are_hidden(student, check):
    """80 % become mask_token_id, 10 % any id of the vocabulary, 10 % stay."""
    size, mask, own = 6, 4, 2
    ids = torch.full((300, 200), own)
    ((masked, _),) = student.run(masked_by, [size, mask, SURE], ids)

    fate = torch.where(masked == mask, 0, torch.where(masked == own, 1, 2))
    for fact in alike_fates(fate, masked):
        check.that(*fact)
    hidden, kept = int((fate == 0).sum()), int((fate == 1).sum())

    def split(hides, keeps, draws, to_mask=1 / size, to_own=1 / size):
        return law(hides + draws * to_mask, keeps + draws * to_own, draws * (1 - to_mask - to_own))

    wrong = wrong_law([(torch.tensor([hidden, kept, masked.numel() - hidden - kept]), split(0.8, 0.1, 0.1), {
        "all chosen tokens are hidden; 80 % should be": split(1, 0, 0),
        "no chosen token stays as it is; 10 % should": split(0.8, 0, 0.2),
        "no chosen token stays as it is; 90 % are hidden": split(0.9, 0, 0.1),
        "no chosen token becomes a random id; 20 % stay": split(0.8, 0.2, 0),
        "a tenth of the 20 % that are not hidden becomes a random id; it should be half of them": split(0.8, 0.18, 0.02),
        "80 % become a random id and 10 % are hidden; it should be the other way round": split(0.1, 0.1, 0.8),
        "10 % of all chosen tokens become a random id, also of those that are hidden already": split(0.72, 0.18, 0.1),
        "a random id is never the token itself; each id of the vocabulary should be possible": split(
            0.8, 0.1, 0.1, to_mask=1 / (size - 1), to_own=0
        ),
        "a random id is never mask_token_id; each id of the vocabulary should be possible": split(
            0.8, 0.1, 0.1, to_mask=0, to_own=1 / (size - 1)
        ),
        "random ids are drawn from V - 1 ids; each id of the vocabulary should be possible": split(
            0.8, 0.1, 0.1, to_mask=1 / (size - 1), to_own=1 / (size - 1)
        ),
        "a random id is never mask_token_id nor the token itself; each id of the vocabulary should be possible": split(
            0.8, 0.1, 0.1, to_mask=0, to_own=0
        ),
    })], "the shares of hidden, random and kept tokens are wrong")  # fmt: skip
    check.that(not wrong, wrong)


@MLM
@pytest.mark.points(2)
def test_random_ids_are_uniform(student, check):
    """Each id from 0 to V - 1 is drawn equally often."""
    size, mask, own = 7, 3, 2
    ((masked, _),) = student.run(masked_by, [size, mask, SURE], torch.full((300, 200), own))

    others = [0, 1, 4, 5, 6]  # neither the token nor the mask, which come by other ways as well
    counts = masked.flatten().clamp(0, size - 1).bincount(minlength=size)
    check.that(int(masked.min()) >= 0 and int(masked.max()) < size, "a random id is not in the vocabulary")
    fate = torch.where(masked == mask, 0, torch.where(masked == own, 1, 2))
    for fact in alike_fates(fate, masked):
        check.that(*fact)
    wrong = wrong_law([(counts[others], law(1, 1, 1, 1, 1), {
        "the id 0 is never drawn": law(0, 1, 1, 1, 1),
        "the last id is never drawn": law(1, 1, 1, 1, 0),
    })], "some ids are drawn more often than others")  # fmt: skip
    check.that(not wrong, wrong)


@MLM
@pytest.mark.points(2)
def test_each_chosen_token_has_draws_of_its_own(student, check):
    """What becomes of one token says nothing about its neighbour or about the next row; nor does its random id."""
    size, mask, own, rows, length, calls = 1000, 999, 500, 400, 40, 400
    small = torch.full((1, 5), own)
    (masked, _), *others = student.run(masked_by, [size, mask, SURE], torch.full((rows, length), own), *[small] * calls)

    fate = torch.where(masked == mask, 0, torch.where(masked == own, 1, 2))
    for fact in alike_fates(fate, masked, alike=0.995):
        check.that(*fact)
    shares = fate.flatten().bincount(minlength=3).double() / fate.numel()
    for first, second, sentence in (
        (fate[:, ::2], fate[:, 1::2], "what becomes of a chosen token depends on its neighbour"),
        (fate[::2], fate[1::2], "what becomes of a chosen token depends on the row before"),
    ):
        counts = (3 * first + second).flatten().bincount(minlength=9)
        # The shares are those that were found: the test is about pairs, and its false alarms become fewer by that.
        wrong = wrong_law([(counts, shares.outer(shares).flatten(), {})], sentence)
        check.that(not wrong, wrong)
    hidden = torch.stack([(other == mask).sum() for other, _ in others]).bincount(minlength=small.numel() + 1)
    wrong = wrong_law([(hidden, binomial(small.numel(), float(shares[0])), {
        "exactly 80 % of the chosen tokens are hidden each time; each token should have a draw of its own": law(
            0, 0, 0, 0, size - 1, 1  # the fifth may be drawn, and be the mask
        ),
    })], "the number of hidden tokens does not follow the binomial law; each token should have a draw of its own")  # fmt: skip
    check.that(not wrong, wrong)


# ---------------------------------------------------------------------------------------------- labels


@MLM
@pytest.mark.points(2)
def test_labels_are_the_original_ids(student, check, rng):
    """Chosen tokens have their original id as label, those that stay too; all others have -100."""
    size, mask = 1000, 999
    ids = tokens(rng, 998, 100, 60) + 1
    ((masked, labels),) = student.run(masked_by, [size, mask, 0.4], ids)

    changed = masked != ids
    check.that(bool(changed.any()), "no token is changed")
    check(labels[changed], ids[changed], mistakes={
        "labels hold what the model reads; they should hold the original ids": masked[changed],
        "tokens that are changed have the label -100; they should have the original id": torch.full_like(ids[changed], IGNORED),
    }, what="labels of changed tokens")  # fmt: skip
    check.that(bool((labels == IGNORED).any()), "no label is -100; that of all tokens that were not chosen should be")
    rest = labels[labels != ids]
    check(rest, torch.full_like(rest, IGNORED), what="labels of tokens that were not chosen")
    check.that(
        bool(((labels == ids) & ~changed).any()), "tokens that stay as they are have no label; they should have one"
    )


@MLM
@pytest.mark.points(1)
def test_tokens_that_are_not_chosen_stay(student, check, rng):
    """The model reads a token without a label as it is."""
    ids = tokens(rng, 998, 100, 60) + 1
    ((masked, labels),) = student.run(masked_by, [1000, 999, 0.3], ids)

    rest = ~has_label(labels)
    check.that(bool((masked != ids).any()), "no token is changed")
    check(masked[rest], ids[rest], mistakes={
        "tokens that were not chosen are hidden": torch.full_like(ids[rest], 999),
        "some tokens that were not chosen are changed": check.when(0 < int((masked[rest] != ids[rest]).sum()) < int(rest.sum()) / 2),
    }, what="tokens that were not chosen")  # fmt: skip


# ---------------------------------------------------------------------------------------------- conduct


@MLM
@pytest.mark.points(2)
def test_mlm_draws_from_the_generator(student, check, rng):
    """All randomness comes from generator, or from torch's own if there is none."""

    def probe(ids, sure):
        from pretraining_objectives import MLMTrainer

        seen = []

        def both(generator):  # by a new trainer: what is kept from call to call is tested elsewhere
            masked, labels = inside.listed(MLMTrainer(None, 1000, 999, 0.5).create_mlm_targets(ids.clone(), generator))
            return masked, masked if torch.equal(labels, ids) else labels

        def hidden(generator):
            masked, _ = MLMTrainer(None, 1000, 999, sure).create_mlm_targets(ids.clone(), generator)
            seen.append(0 < int((masked == 999).sum()) < masked.numel())
            return masked == 999

        return [inside.randomness(both), inside.randomness(hidden), all(seen)]

    both, hidden, some_stay = student.run(probe, tokens(rng, 998, 20, 30), SURE)

    for fact in randomness_facts(both, "places and ids"):
        check.that(*fact)
    for fact in (
        randomness_facts(hidden, "hidden tokens") if some_stay else []
    ):  # where all are hidden, nothing is drawn
        check.that(*fact)


@MLM
@pytest.mark.points(1)
def test_mlm_leaves_input_ids_alone(student, check, rng):
    """input_ids, which need not be contiguous, stay as they are; nothing is printed, torch is not seeded."""

    def probe(ids, token, sure):
        from pretraining_objectives import MLMTrainer

        pair, (after, *_), rude = inside.manners(MLMTrainer(None, 1000, 999, 0.5).create_mlm_targets, ids)
        single, always = [token.clone() for _ in range(200)], MLMTrainer(None, 1000, 999, sure)
        for text in single:  # some are not hidden, but drawn or kept
            always.create_mlm_targets(text)
        return after, torch.stack(single), rude, bool(inside.listed(pair)[0].any())

    ids, token = tokens(rng, 998, 20, 30), tokens(rng, 998, 1, 1)
    after, single, rude, some = student.run(probe, ids, token, SURE)

    check.that(some, "the result is all zeros")
    check(after, ids, what="input_ids after the call", otherwise="input_ids are changed in place")
    check(single, token.expand(200, 1, 1), otherwise="input_ids are changed in place where nothing is hidden")
    check(rude, "", mistakes=MANNERS)


@MLM
@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(1, 1), (7,), (1, 9), (2, 3, 5)])
def test_any_shape_is_masked(student, check, rng, shape):
    """Results have the shape and dtype of input_ids, which may have one or three dimensions."""
    ids = tokens(rng, 998, *shape) + 1
    ((masked, labels),) = student.run(masked_by, [1000, 999, SURE], ids)

    check([list(masked.shape), list(labels.shape)], [list(shape)] * 2, names=("masked", "labels"), what="the shapes")
    check(labels.long(), ids, what="labels")
    check([masked.dtype, labels.dtype], [torch.int64] * 2, names=("masked", "labels"), what="the dtypes", mistakes={
        "labels are floating point; they should have the dtype of input_ids": [torch.int64, torch.float32],
    })  # fmt: skip


@MLM
@pytest.mark.points(1)
@pytest.mark.parametrize("prob", [1.5, -0.1])
def test_a_share_of_tokens_is_from_0_to_1(student, prob):
    """mask_prob below 0 or above 1 is a ValueError."""
    student.accepts("pretraining_objectives.MLMTrainer", None, 10, 9, 1.0 if prob > 1 else 0.0)
    student.raises(ValueError, "pretraining_objectives.MLMTrainer", None, 10, 9, prob, says=("mask_prob", prob))


@pytest.mark.question("all trainers")
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["MLMTrainer", "CLMTrainer", "SpanCorruptionTrainer"])
def test_the_model_is_only_stored(student, check, kind):
    """It is the attribute model, of whatever kind, and is neither called nor changed."""

    def probe(kind):
        import pretraining_objectives

        make = getattr(pretraining_objectives, kind)
        sizes = [10] if kind == "CLMTrainer" else [10, 9]
        model = torch.nn.Linear(2, 2).eval()
        before = [weight.clone() for weight in model.parameters()]
        trainer = make(model, *sizes)
        same = all(map(torch.equal, before, model.parameters()))
        odd = object()
        return (
            trainer.model is model,
            same,
            model.training,
            make(None, *sizes).model is None,
            make(odd, *sizes).model is odd,
        )

    stored, same, training, nothing, anything = student.run(probe, kind)

    check.that(stored, "the attribute model is not the model that was given")
    check.that(same, "the weights of model are changed")
    check.that(not training, "model is put into train mode; it should be left alone")
    check.that(nothing and anything, "a model that is not a module, None for example, is not stored")


# ---------------------------------------------------------------------------------------------- losses


def loss_of(kind, logits, labels, strided=False):
    """A probe: the loss, as the trainer of this kind has it, the gradients of the logits, and the labels after the call."""
    import pretraining_objectives

    trainer = (
        pretraining_objectives.MLMTrainer(None, 7, 6) if kind == "mlm" else pretraining_objectives.CLMTrainer(None, 7)
    )
    if strided:
        logits, labels = inside.strided(logits), inside.strided(labels)
    loss = inside.a_tensor(getattr(trainer, f"compute_{kind}_loss")(logits.requires_grad_(), labels))
    return loss.detach(), inside.gradients(loss, [logits])[0], labels


def losses(logits, labels):
    """The negative log-likelihoods of all places, 0 where there is no label, and where there is one."""
    logs, real = logits.double().log_softmax(-1), labels != IGNORED
    return -logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * real, real


def mixed_up(logits, labels):
    """As it is often done: (B, T, V) viewed as (B, V, T)."""
    return F.cross_entropy(logits.double().reshape(logits.shape[0], -1, logits.shape[1]), labels)


def wrong_losses(logits, labels):
    each, real = losses(logits, labels)
    twice, _ = losses(logits.double().log_softmax(-1).exp(), labels)
    ahead, later = losses(logits[:, :-1], labels[:, 1:])
    joined, next_ones = losses(logits.flatten(0, 1)[:-1], labels.flatten()[1:])
    return {
        "the losses are summed; it should be their mean": each.sum(),
        "the sum is divided by the number of all places; it should be that of labels": each.mean(),
        "the mean of each row is taken, and the mean of these; all labels should count the same": (
            each.sum(1) / real.sum(1)
        ).mean(),
        "labels are shifted against the logits; they should not be": ahead.sum() / later.sum(),
        "the texts are joined and their labels shifted, from one text into the next; they should not be shifted": joined.sum()
        / next_ones.sum(),
        "the softmax is applied twice: cross_entropy takes logits": twice.sum() / real.sum(),
        "the logits are viewed as (B, V, T), which mixes them up: flatten them to (B·T, V)": mixed_up(logits, labels),
        "the perplexity is returned; it should be the loss": (each.sum() / real.sum()).exp(),
        "labels of 0 are left out": (each * (labels != 0)).sum() / (real & (labels != 0)).sum(),
        "the loss is worked out in bfloat16; it should be in the dtype of the logits": F.cross_entropy(
            logits.flatten(0, 1).bfloat16(), labels.flatten()
        ).to(logits.dtype),
    }


def some_labels(rng, size):
    """(3, 5) labels of which the rows have 1, 3 and 5 that count, and a 0 among them."""
    labels = tokens(rng, size, 3, 5)
    labels[0, :4], labels[1, 1:3], labels[2, 2] = IGNORED, IGNORED, 0
    return labels


@MLM
@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mlm_loss_is_the_mean_over_the_labels(student, check, rng, dtype):
    """Cross-entropy, over the labels that are not -100, in the dtype of the logits."""
    logits, labels = 2 * randn(rng, 3, 5, 7, dtype=dtype), some_labels(rng, 7)
    loss, *_ = student.run(loss_of, "mlm", logits, labels)

    each, real = losses(logits, labels)
    check(loss, each.sum() / real.sum(), dtype=dtype, mistakes=wrong_losses(logits, labels))


@CLM
@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_clm_loss_does_not_shift(student, check, rng, dtype):
    """Cross-entropy of logits and targets at the same place, over the targets that are not -100."""
    logits, targets = 2 * randn(rng, 3, 5, 7, dtype=dtype), tokens(rng, 7, 3, 5)
    targets[2, 2] = 0
    loss, *_ = student.run(loss_of, "clm", logits, targets)

    each, real = losses(logits, targets)
    check(loss, each.sum() / real.sum(), dtype=dtype, mistakes=wrong_losses(logits, targets))


@CLM
@pytest.mark.points(1)
def test_clm_loss_leaves_ignored_targets_out(student, check, rng):
    """A target of -100, padding for example, does not count."""
    logits, targets = 2 * randn(rng, 3, 5, 7, dtype=torch.float64), some_labels(rng, 7)
    loss, *_ = student.run(loss_of, "clm", logits, targets)

    each, real = losses(logits, targets)
    check(loss, each.sum() / real.sum(), mistakes=wrong_losses(logits, targets))


@pytest.mark.question("all trainers")
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("mlm", (3, 5)), ("clm", (3, 5)), ("mlm", (6,)), ("clm", (2, 1, 3, 1)), ("mlm", ()), ("clm", ())],
)
def test_losses_have_gradients(student, check, rng, kind, shape):
    """(softmax - one-hot) / number of labels; the logits, which need not be contiguous, may be (T, V) or (V,)."""
    logits, labels = 2 * randn(rng, *shape, 7, dtype=torch.float64), tokens(rng, 6, *shape) + 1
    if shape == (3, 5):
        labels[:, 2] = IGNORED  # as many in each row: the mean of means is wrong elsewhere
    loss, grad, after = student.run(loss_of, kind, logits, labels, True)

    each, real = losses(logits, labels)
    right = (logits.softmax(-1) - F.one_hot(labels.clamp(min=0), 7)) * real[..., None] / real.sum()
    # A loss that is a multiple of the right one is wrong elsewhere: here its gradients should be the same multiple.
    factor = float(loss / (each.sum() / real.sum()))
    check.that(math.isfinite(factor) and factor != 0, "the loss is zero or not finite")
    check(
        grad / factor, right, relative=1e-9, mistakes={"no gradient flows back to the logits": torch.zeros_like(right)}
    )
    check(after, labels, what="labels after the call", otherwise="labels are changed in place")


@pytest.mark.question("all trainers")
@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_a_loss_of_no_labels_is_nan(student, check, rng, kind):
    """As that of cross_entropy: a mean of nothing is not 0, which would look like a perfect model."""
    logits, labels = randn(rng, 2, 3, 7), torch.full((2, 3), IGNORED)
    nothing, *_ = student.run(loss_of, kind, logits, labels)
    labels[:, 1] = 4
    one, *_ = student.run(loss_of, kind, logits, labels)

    check.that(bool(one.isfinite().all()), "the loss of one label in each row is not finite")
    check.that(bool(nothing.isnan().all()), "the loss is a number although all labels are -100; it should be NaN")


# ---------------------------------------------------------------------------------------------- CLM targets


def clm_targets(ids):
    """A probe: inputs and targets of CLMTrainer, and input_ids after the call."""
    from pretraining_objectives import CLMTrainer

    pair, (after, *_), rude = inside.manners(CLMTrainer(None, 50).create_clm_targets, ids)
    return inside.listed(pair), after, rude


@CLM
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3, 7), (1, 2)])
def test_clm_targets_are_one_place_ahead(student, check, rng, shape):
    """Inputs are all tokens but the last, targets all but the first."""
    ids = torch.randperm(49, generator=rng)[: shape[0] * shape[1]].view(shape) + 1
    ids[0, 1] = 0  # a target
    pair, _, _ = student.run(clm_targets, ids)

    first, last = ids[:, :-1], ids[:, 1:]
    pad = torch.full_like(ids[:, :1], IGNORED)
    check(pair, [first, last], names=("inputs", "targets"), mistakes={
        "inputs and targets are swapped": [last, first],
        "targets are not shifted; they should be one place ahead": [first, first],
        "the inputs have all tokens; the last one has no target": [ids, last],
        "the inputs have all tokens, and the targets end with -100": [ids, torch.cat([last, pad], 1)],
        "the inputs have all tokens, and the targets begin again behind the last": [ids, ids.roll(-1, 1)],
        "inputs and targets are both the text": [ids, ids],
        "targets of 0 become -100; no id stands for padding": [first, last.masked_fill(last == 0, IGNORED)],
    })  # fmt: skip


@CLM
@pytest.mark.points(1)
def test_a_text_of_one_token_has_no_target(student, check):
    """(B, 1) gives two tensors (B, 0), where (B, 2) gives two (B, 1)."""
    two, _, _ = student.run(clm_targets, torch.tensor([[3, 5], [4, 6]]))
    pair, _, _ = student.run(clm_targets, torch.tensor([[3], [4]]))

    check.that(bool(two[0].any()), "inputs are all zeros")
    check(pair, [torch.zeros(2, 0, dtype=torch.int64)] * 2, names=("inputs", "targets"))


@CLM
@pytest.mark.points(1)
def test_clm_leaves_input_ids_alone(student, check, rng):
    """input_ids, which need not be contiguous, stay as they are; nothing is printed."""
    ids = tokens(rng, 50, 4, 6)
    pair, after, rude = student.run(clm_targets, ids)

    check.that(bool(pair[0].any()), "inputs are all zeros")
    check(after, ids, what="input_ids after the call", otherwise="input_ids are changed in place")
    check(rude, "", mistakes=MANNERS)


# ---------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.question("all trainers")
@pytest.mark.points(1)
def test_targets_stay_on_the_gpu(student, check, rng, device):
    """Targets are on the device of input_ids."""

    def probe(ids):
        from pretraining_objectives import CLMTrainer, MLMTrainer, SpanCorruptionTrainer

        mlm, clm, span = MLMTrainer(None, 99, 98), CLMTrainer(None, 99), SpanCorruptionTrainer(None, 99, 98)
        results = [mlm.create_mlm_targets(ids), clm.create_clm_targets(ids), span.create_span_targets(ids)]
        return [item for pair in [*results, span.create_sentinel_targets(ids, 99)] for item in pair]

    for result in student.on(device=device, timeout=60).run(probe, tokens(rng, 98, 4, 40)):
        check(result, result.clone())  # it was on the device
