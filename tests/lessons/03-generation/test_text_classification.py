"""Hidden tests of text_classification: the two classes.

Which encoder a classifier has is open, and so are its positions and what its head is made of. So models are compared with
themselves: with and without padding, with one token changed. For the mean all layers are taken away and the embeddings are
made so large that positions, whatever they are, vanish beside them. All models but those of one test are without dropout.
"""

import pytest
import torch

from shared import MANNERS, dropout_facts, dtype_of, nearly, randn, tokens

V, D, H, C, MAX_LEN = 13, 16, 2, 3, 24  # V is the size of nothing else: so the test finds the embeddings
MASK_DTYPES = (torch.bool, torch.int64, torch.float32, torch.float64)
classifier = pytest.mark.question("TransformerClassifier")
tagger = pytest.mark.question("TokenClassifier")

CONSTANT = "the logits are the same for all texts"
PROBABILITIES = "probabilities are returned; it should be logits"
NO_SHAPE = "the shape of the logits is not (B, T, C)"
ZERO_HIDDEN = "without a mask token 0 is taken for padding; all tokens should be real"
ONES = "a mask of ones does not give the same logits as no mask; it should"
NOT_LOADED = "a model that loads the state_dict of another does not give its logits"
STRIDES = "ids with other strides, such as a transposed tensor, change the logits"
NUMBERS = "a mask of 0 and 1 does not give the same logits as one of booleans; it should"


def sizes(layers, **changed):
    """The arguments of a constructor, in their order."""
    usual = dict(vocab_size=V, d_model=D, num_layers=layers, num_heads=H, num_classes=C, max_len=MAX_LEN, dropout=0.0)
    return list((usual | changed).values())


def logits_of(name, arguments, calls, table=None):
    """A probe: the logits of a new model in float64 and eval mode for each call; table becomes its token embedding."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).double().eval()
    for weight in model.parameters():
        if table is not None and weight.shape in (table.shape, table.T.shape):
            weight.data.copy_(table if weight.shape == table.shape else table.T)
    with torch.no_grad():  # as it is used; torch's own encoder takes another path then
        return [inside.a_tensor(model(*call)) for call in calls]


def batch(*rows):
    return (torch.tensor(rows),)


def padded_texts(rng, lengths, width):
    """Random ids, also at padded places, and the mask; which ids are padding is not told by their value."""
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = tokens(rng, V, len(lengths), width)
    ids[:, 0], ids[-1, 0], ids[-1, -1] = ids[:, 0].clamp(min=1), 0, 0
    return ids, mask


def each_alone(ids, mask):
    """The texts, each without its padding. Their masks hide nothing, and say that all is real, whatever the ids are."""
    return [(row[keep][None], keep[keep][None]) for row, keep in zip(ids, mask, strict=True)]


def hides_zeros(alone, with_zeros, with_others):
    """Whether zeros behind a text change nothing, but other tokens do."""
    return nearly(with_zeros, alone, 1e-6) and not nearly(with_others, alone, 1e-6)


def wider(ids, mask):
    """With two more places of padding, so that even the longest text has some."""
    return torch.nn.functional.pad(ids, (0, 2), value=5), torch.nn.functional.pad(mask, (0, 2))


# ---------------------------------------------------------------------------------------------- what both classes share


def of_three_sizes(student, rng, name):
    """(logits, (B, T), number of classes, dtype) of three models."""

    def probe(name, vocab_size, cases):
        import text_classification

        kind, results = getattr(text_classification, name), []
        for ids, classes, dtype in cases:
            more = {} if classes is None else {"num_classes": classes}
            model = kind(vocab_size, d_model=16, num_layers=1, num_heads=2, **more).to(dtype).eval()
            results.append(inside.a_tensor(model(ids)))
        return results

    kinds = [((4, 6), None, torch.float32), ((1, 1), 4, torch.float64), ((5, 3), 1, torch.float32)]
    results = student.run(probe, name, V, [(tokens(rng, V, *shape), *others) for shape, *others in kinds])
    return [
        (logits, list(shape), classes or 2, dtype)
        for logits, (shape, classes, dtype) in zip(results, kinds, strict=True)
    ]


def gradients_at_tokens(name, arguments, ids, mask, vocab_size):
    """A probe: for each table of embeddings the size of the gradient of each token, for the logits of real places."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).double().eval()
    logits = inside.a_tensor(model(ids, mask))
    tables = [weight for weight in model.parameters() if weight.dim() == 2 and vocab_size in weight.shape]
    grads = inside.gradients(logits if logits.dim() == 2 else logits[mask], tables)
    return [grad.norm(dim=1 - list(grad.shape).index(vocab_size)) for grad in grads]


def drops(name, arguments, ids):
    """A probe: inside.dropout_runs at a rate of 0.5; and what train and eval mode give at a rate of 0."""
    import text_classification

    kind = getattr(text_classification, name)
    runs, without = inside.dropout_runs(kind(*arguments, dropout=0.5), ids), kind(*arguments, dropout=0.0)
    return runs, [inside.a_tensor(without.train(training)(ids)) for training in (True, False)]


DEFAULTS = {"d_model": 512, "num_layers": 6, "num_heads": 8, "num_classes": 2, "max_len": 512, "dropout": 0.1}


def conduct(name, models, ids, mask, names):
    """A probe: what one can see of a class from outside."""
    import inspect

    import text_classification

    kind = getattr(text_classification, name)
    defaults = {key: value.default for key, value in inspect.signature(kind).parameters.items() if key in names}
    model, other, *sized = (kind(*arguments).eval() for arguments in models)
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    seeded = all(torch.equal(*pair) for pair in pairs)
    logits, after, rude = inside.manners(model, ids, mask)
    other.load_state_dict(model.state_dict())
    counts = [sum(weight.numel() for weight in one.parameters()) for one in sized]
    return defaults, seeded, counts, [logits, other(ids, mask), model(ids, mask)], after, rude


def shape_at_length(name, arguments, length):
    """A probe: the shape of the logits of two texts."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).eval()
    return list(inside.a_tensor(model(torch.zeros(2, length, dtype=torch.long))).shape)


def in_bfloat16(name, arguments, ids, mask):
    """A probe: the logits of a model where the ids are, without a mask, and with masks of two kinds."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).to(ids.device, torch.bfloat16).eval()
    return [inside.a_tensor(model(ids, *more)) for more in ((), (mask,), (mask.long(),))]


# ---------------------------------------------------------------------------------------------- TransformerClassifier


@classifier
@pytest.mark.points(1)
def test_a_text_has_a_logit_for_each_class(student, check, rng):
    """The result is (B, C), logits in the model's dtype, for one token and one text, too."""
    for logits, (B, T), count, dtype in of_three_sizes(student, rng, "TransformerClassifier"):
        per_token = "there are logits for each token; there should be one row for each text"
        check(list(logits.shape), [B, count], mistakes={per_token: [B, T, count]})
        check(dtype_of(logits), dtype)
        check.that(bool(logits.isfinite().all()), "a logit is NaN or infinite")
        if count > 1:
            check.that(bool((logits.sum(-1) - 1).abs().max() > 1e-4), PROBABILITIES)
            check.that(bool(logits.logsumexp(-1).abs().max() > 1e-4), f"log-{PROBABILITIES}")


@classifier
@pytest.mark.points(3)
def test_the_logits_are_those_of_the_mean_over_the_tokens(student, check, rng):
    """Without layers, texts whose states have the same mean have the same logits: any order, any length, any tokens."""
    texts = {
        "abc": [8, 9, 10], "cab": [10, 8, 9], "c": [10], "b": [9], "twice": [8, 9, 10, 8, 9, 10], "long": [8, 9, 10] * 7, "cc": [10, 10],
        "12": [1, 2], "34": [3, 4], "65": [6, 5],
    }  # fmt: skip
    calls = {key: batch(text) for key, text in texts.items()} | {
        "many, few": batch([8, 8, 8, 8, 9], [9, 9, 9, 9, 10], [10, 10, 10, 10, 11], [11, 11, 11, 11, 12]),
        "few, many": batch([8, 9, 9, 9, 9], [9, 10, 10, 10, 10], [10, 11, 11, 11, 11], [11, 12, 12, 12, 12]),
    }
    # A table of embeddings, 1e8 in size, in which tokens 1 and 2 have the same mean as 3 and 4, and as 5 and 6. All rows have a
    # mean of 0 and the same length, so a layer norm multiplies all of them by the same number.
    basis = randn(rng, D, D, dtype=torch.float64)
    basis[:, 0] = 1.0
    basis = torch.linalg.qr(basis)[0].T[1:]  # (D - 1, D): orthonormal, and orthogonal to the row of ones
    table = randn(rng, V, D - 1, dtype=torch.float64) @ basis
    table[1:7:2], table[2:7:2] = basis[0] + basis[1:4], basis[0] - basis[1:4]
    table *= 1e8 / table.norm(dim=1, keepdim=True)
    results = student.run(logits_of, "TransformerClassifier", sizes(0), list(calls.values()), table)

    logits = dict(zip(calls, results, strict=True))
    check(logits["cab"], logits["abc"], relative=1e-5, mistakes={
        "only the first token is looked at; the mean should be over all": logits["c"],
        "only the last token is looked at; the mean should be over all": logits["b"],
    }, otherwise="the order of the tokens matters without any layer; it should not")  # fmt: skip
    for longer, text in (("twice", "abc"), ("long", "abc"), ("cc", "c")):
        grows = "the logits change with the length: divide the sum by the number of real tokens"
        check(logits[longer], logits[text], relative=1e-5, otherwise=grows)
    maximum = "how often a token occurs does not matter; it should: take the mean, not a maximum"
    check.that(not nearly(logits["many, few"], logits["few, many"], 1e-4), maximum)
    for pair in ("34", "65"):
        weighed = "the tokens do not count alike; the mean should be taken over them"
        check(logits[pair], logits["12"], relative=1e-5, otherwise=weighed)


@classifier
@pytest.mark.points(2)
def test_without_a_mask_every_token_is_real(student, check, rng):
    """No mask is the same as a mask of ones, whatever the ids are: 0 is a token like others."""
    ids = padded_texts(rng, [7, 7, 7], 7)[0]
    calls = [batch([8, 9]), batch([8, 9, 0, 0]), batch([8, 9, 5, 5]), (ids,), (ids, torch.ones_like(ids).bool())]
    *texts, plain, full = student.run(logits_of, "TransformerClassifier", sizes(2), calls)

    check.that(not hides_zeros(*texts), ZERO_HIDDEN)
    check.that(not nearly(plain[0], plain[1]), CONSTANT)
    check(full, plain, relative=1e-6, otherwise=ONES)


@classifier
@pytest.mark.points(2)
def test_padding_is_left_out_of_the_mean(student, check, rng):
    """Without layers, a padded text has the logits that it has alone."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    calls = [(ids, mask), (ids,), *each_alone(ids, mask)]
    padded, unmasked, *single = student.run(logits_of, "TransformerClassifier", sizes(0), calls)

    check.that(not nearly(single[0], single[1]), CONSTANT)
    check(padded, torch.cat(single), relative=1e-6, mistakes={
        "padding is counted in the mean; it should be left out": unmasked,
    }, otherwise="the mean over the real tokens depends on the padding; it should not")  # fmt: skip


@classifier
@pytest.mark.points(3)
def test_padding_changes_nothing(student, check, rng):
    """With two layers a padded text has the logits that it has alone, whatever is in the padding and how much there is."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    calls = [(ids,), (ids, mask), (ids.masked_fill(~mask, 0), mask), wider(ids, mask), *each_alone(ids, mask)]
    unmasked, *results = student.run(logits_of, "TransformerClassifier", sizes(2), calls)

    single = torch.cat(results[3:])
    check.that(not nearly(single[0], single[1]), CONSTANT)
    for padded in results[:3]:
        seen = "padding changes the logits: the attention looks at it, or the mean counts it"
        check(padded, single, relative=1e-6, mistakes={"the mask is ignored": unmasked}, otherwise=seen)


@classifier
@pytest.mark.points(2)
def test_a_mask_is_boolean_or_holds_numbers(student, check, rng):
    """A mask of 0 and 1 of any dtype is the same as one of booleans."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    calls = [(ids, mask.to(dtype)) for dtype in MASK_DTYPES]
    of_booleans, *of_numbers = student.run(logits_of, "TransformerClassifier", sizes(2), calls)

    check.that(not nearly(of_booleans[0], of_booleans[1]), CONSTANT)
    for logits in of_numbers:
        check(logits, of_booleans, relative=1e-6, otherwise=NUMBERS)


@classifier
@pytest.mark.points(1)
def test_a_classifier_learns_from_every_real_token(student, check, rng):
    """The gradient reaches the embedding of each real token, and nothing in it is NaN."""
    ids = (torch.randperm(V - 1, generator=rng) + 1).view(3, 4)  # without 0, which may have been made a padding_idx
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = student.run(gradients_at_tokens, "TransformerClassifier", sizes(1), ids, mask, V)

    check.that(len(found) > 0, "the model has no embedding with a row for each token")
    size = torch.stack(found).amax(dim=0)
    check.that(not bool(size.isnan().any()), "there is a NaN in the gradient")
    check.that(bool((size[ids[mask]] > 0).all()), "no gradient reaches the embeddings of some tokens")


@classifier
@pytest.mark.points(1)
def test_a_classifier_drops_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode, with the probability `dropout`, and never in eval mode."""
    runs, pair = student.run(drops, "TransformerClassifier", sizes(1)[:-1], tokens(rng, V, 4, 6))

    for fact in dropout_facts(runs):
        check.that(*fact)
    check.that(torch.allclose(*pair, atol=1e-5), "there is dropout although `dropout` is 0")


@classifier
@pytest.mark.points(1)
def test_a_classifier_leaves_all_else_alone(student, check, rng):
    """The arguments are the ones listed; the state can be loaded; inputs and torch stay as they were."""
    mask = torch.arange(6) < torch.tensor([[6], [2], [5]])
    inputs, models = [tokens(rng, V, 3, 6), mask], [sizes(layers) for layers in (2, 2, 0, 1, 2)]
    seen = student.run(conduct, "TransformerClassifier", models, *inputs, list(DEFAULTS))

    defaults, seeded, (few, more, most), logits, after, rude = seen
    strided, reloaded, plain = logits
    check(defaults, {key: DEFAULTS[key] for key in defaults}, what="the defaults")
    check.that(few < more < most, "num_layers is ignored, or the layers are in a plain list")
    check.that(torch.allclose(reloaded, plain, atol=1e-4), NOT_LOADED)
    check.that(not torch.allclose(plain[0], plain[1], atol=1e-6), CONSTANT)
    check.that(torch.allclose(strided, plain, atol=1e-4), STRIDES)
    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check(after, inputs, otherwise="forward changes its inputs")
    check(rude, "", mistakes=MANNERS)


@classifier
@pytest.mark.points(1)
def test_a_classifier_refuses_bad_sizes(student):
    """ValueError for more than max_len tokens, and for a d_model that num_heads does not divide."""
    for layers in (0, 1):
        student.run(shape_at_length, "TransformerClassifier", sizes(layers, max_len=7), 7)  # as long as can be
        for length in (8, 40):
            case, says = (
                ("TransformerClassifier", sizes(layers, max_len=7), length),
                ("max_len", "input_ids", length, 7),
            )
            student.raises(ValueError, shape_at_length, *case, says=says)
    case = "TransformerClassifier", sizes(1, num_heads=3), 5
    student.raises(ValueError, shape_at_length, *case, says=("num_heads", "d_model", 3, 16))


@pytest.mark.gpu
@classifier
@pytest.mark.points(1)
def test_a_classifier_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 the logits are there, too."""
    texts = padded_texts(rng, [3, 6], 6)
    results = student.on(device=device, timeout=60).run(in_bfloat16, "TransformerClassifier", [V, 16, 1, 2], *texts)

    for logits in results:
        check(list(logits.shape), [2, 2])
        check(logits, logits.clone(), dtype=torch.bfloat16)  # it was on the device
        check.that(bool(logits.isfinite().all()), "a logit is NaN or infinite")


# ---------------------------------------------------------------------------------------------- TokenClassifier


@tagger
@pytest.mark.points(1)
def test_each_token_has_a_logit_for_each_class(student, check, rng):
    """The result is (B, T, C), logits in the model's dtype, for one token and one text, too."""
    for logits, (B, T), count, dtype in of_three_sizes(student, rng, "TokenClassifier"):
        per_text = "there is one row of logits for each text; there should be one for each token"
        check(list(logits.shape), [B, T, count], mistakes={per_text: [B, count]})
        check(dtype_of(logits), dtype)
        check.that(bool(logits.isfinite().all()), "a logit is NaN or infinite")
        if count > 1:
            check.that(bool((logits.sum(-1) - 1).abs().max() > 1e-4), PROBABILITIES)
            check.that(bool(logits.logsumexp(-1).abs().max() > 1e-4), f"log-{PROBABILITIES}")


@tagger
@pytest.mark.points(3)
def test_the_logits_of_a_token_come_from_its_own_state(student, check, rng):
    """Without layers a token's logits depend on nothing else; with layers, on the tokens of both sides."""
    ids = torch.randperm(V, generator=rng)[:6][None]
    first, last = ids.clone(), ids.clone()
    first[0, 0], last[0, 5] = ((ids[0, [0, 5]] + 1 + tokens(rng, V - 1, 2)) % V).tolist()
    calls = [(ids,), (first,), (last,)]
    plain, *changed = student.run(logits_of, "TokenClassifier", sizes(0), calls)
    deep, *deep_changed = student.run(logits_of, "TokenClassifier", sizes(1), calls)

    check.that(plain.shape == deep.shape == (1, 6, C), NO_SHAPE)
    for place, value in zip((0, 5), changed, strict=True):
        others = [t for t in range(6) if t != place]
        depends = "a token's logits depend on other tokens although there is no layer; they should not"
        check(value[:, others], plain[:, others], relative=1e-6, otherwise=depends)
        own = "a token's logits do not depend on the token"
        check.that(not nearly(value[:, place], plain[:, place], 1e-6), own)
    blind = "a token's logits do not depend on what comes {} it; an encoder should look both ways"
    check.that(not nearly(deep_changed[0][:, 5], deep[:, 5], 1e-6), blind.format("before"))
    check.that(not nearly(deep_changed[1][:, 0], deep[:, 0], 1e-6), blind.format("after"))


@tagger
@pytest.mark.points(2)
def test_padding_changes_no_real_token(student, check, rng):
    """At real places a padded text has the logits that it has alone, whatever is in the padding and how much there is."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    calls = [(ids,), (ids, mask), (ids.masked_fill(~mask, 0), mask), wider(ids, mask), *each_alone(ids, mask)]
    results = student.run(logits_of, "TokenClassifier", sizes(2), calls)

    check.that(all(logits.dim() == 3 and logits.shape[-1] == C for logits in results), NO_SHAPE)
    unmasked, *padded, wide = results[:4]
    single = torch.cat([logits[0] for logits in results[4:]])
    check.that(not nearly(single[0], single[3], 1e-6), CONSTANT)
    narrow = "the result is as wide as the longest text; it should be as wide as input_ids"
    check(list(wide.shape), [4, 9, C], mistakes={narrow: [4, 7, C]})
    for logits in (*padded, wide[:, :7]):
        check(list(logits.shape), [4, 7, C])
        ignored, changes = {"the mask is ignored": unmasked[mask]}, "padding changes the logits of real tokens"
        check(logits[mask], single, relative=1e-6, mistakes=ignored, otherwise=changes)


@tagger
@pytest.mark.points(1)
def test_a_token_classifier_takes_no_mask_and_masks_of_any_kind(student, check, rng):
    """No mask is the same as a mask of ones, whatever the ids are; a mask of 0 and 1 is the same as one of booleans."""
    padded, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    masks = [(padded, mask.to(dtype)) for dtype in MASK_DTYPES]
    ids = padded_texts(rng, [7, 7, 7], 7)[0]
    calls = [batch([8]), batch([8, 0, 0]), batch([8, 5, 5]), (ids,), (ids, torch.ones_like(ids).bool()), *masks]
    results = student.run(logits_of, "TokenClassifier", sizes(1), calls)

    check.that(all(logits.dim() == 3 for logits in results), NO_SHAPE)
    plain, full, of_booleans, *of_numbers = results[3:]
    check.that(not hides_zeros(*(logits[:, :1] for logits in results[:3])), ZERO_HIDDEN)
    check(full, plain, relative=1e-6, otherwise=ONES)
    for logits in of_numbers:
        check(logits[mask], of_booleans[mask], relative=1e-6, otherwise=NUMBERS)


@tagger
@pytest.mark.points(1)
def test_a_token_classifier_learns_from_every_real_token(student, check, rng):
    """The gradient of the real tokens' logits reaches their embeddings, and nothing in it is NaN."""
    ids = (torch.randperm(V - 1, generator=rng) + 1).view(3, 4)  # without 0, which may have been made a padding_idx
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = student.run(gradients_at_tokens, "TokenClassifier", sizes(1), ids, mask, V)

    check.that(len(found) > 0, "the model has no embedding with a row for each token")
    size = torch.stack(found).amax(dim=0)
    check.that(not bool(size.isnan().any()), "there is a NaN in the gradient")
    check.that(bool((size[ids[mask]] > 0).all()), "no gradient reaches the embeddings of some tokens")


@tagger
@pytest.mark.points(1)
def test_a_token_classifier_drops_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode, with the probability `dropout`, and never in eval mode."""
    runs, pair = student.run(drops, "TokenClassifier", sizes(1)[:-1], tokens(rng, V, 4, 6))

    for fact in dropout_facts(runs):
        check.that(*fact)
    check.that(torch.allclose(*pair, atol=1e-5), "there is dropout although `dropout` is 0")


@tagger
@pytest.mark.points(1)
def test_a_token_classifier_leaves_all_else_alone(student, check, rng):
    """The arguments are the ones listed; the state can be loaded; inputs and torch stay as they were."""
    mask = torch.arange(6) < torch.tensor([[6], [2], [5]])
    inputs, models = [tokens(rng, V, 3, 6), mask], [sizes(layers) for layers in (2, 2, 0, 1, 2)]
    seen = student.run(conduct, "TokenClassifier", models, *inputs, list(DEFAULTS))

    defaults, seeded, (few, more, most), logits, after, rude = seen
    strided, reloaded, plain = (item[mask] for item in logits)  # what is at padded places does not matter
    check(defaults, {key: DEFAULTS[key] for key in defaults}, what="the defaults")
    check.that(few < more < most, "num_layers is ignored, or the layers are in a plain list")
    check.that(torch.allclose(reloaded, plain, atol=1e-4), NOT_LOADED)
    check.that(not torch.allclose(plain[0], plain[1], atol=1e-6), CONSTANT)
    check.that(torch.allclose(strided, plain, atol=1e-4), STRIDES)
    check.that(not seeded, "all models start with the same weights: do not set a seed")
    check(after, inputs, otherwise="forward changes its inputs")
    check(rude, "", mistakes=MANNERS)


@tagger
@pytest.mark.points(1)
def test_a_token_classifier_refuses_bad_sizes(student):
    """ValueError for more than max_len tokens, and for a d_model that num_heads does not divide."""
    for layers in (0, 1):
        student.run(shape_at_length, "TokenClassifier", sizes(layers, max_len=7), 7)  # as long as can be
        for length in (8, 40):
            case, says = ("TokenClassifier", sizes(layers, max_len=7), length), ("max_len", "input_ids", length, 7)
            student.raises(ValueError, shape_at_length, *case, says=says)
    case = "TokenClassifier", sizes(1, num_heads=3), 5
    student.raises(ValueError, shape_at_length, *case, says=("num_heads", "d_model", 3, 16))


@pytest.mark.gpu
@tagger
@pytest.mark.points(1)
def test_a_token_classifier_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 the logits are there, too."""
    texts = padded_texts(rng, [3, 6], 6)
    results = student.on(device=device, timeout=60).run(in_bfloat16, "TokenClassifier", [V, 16, 1, 2], *texts)

    for logits in results:
        check(list(logits.shape), [2, 6, 2])
        check(logits, logits.clone(), dtype=torch.bfloat16)  # it was on the device
        check.that(bool(logits.isfinite().all()), "a logit is NaN or infinite")
