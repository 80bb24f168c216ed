"""Hidden tests of text_classification.

Which encoder a classifier has is open, and so are its positions and what its head is made of. So models are compared with
themselves: with and without padding, with one token changed. For the mean all layers are taken away and the embeddings are
made so large that positions, whatever they are, vanish beside them.
"""

import pytest
import torch

question = pytest.mark.question

V, D, H, C, MAX_LEN = 13, 16, 2, 3, 24  # V is the size of nothing else: so the test finds the embeddings
CLASSIFIER, TAGGER = "TransformerClassifier", "TokenClassifier"


def tokens(rng, *shape):
    return torch.randint(0, V, shape, generator=rng)


CONSTANT = "the logits are the same for all texts"


def check_not_constant(check, logits):
    """What is compared with itself must be something: logits (B, C) of different texts differ."""
    check(same(logits[0], logits[1]), False, mistakes={CONSTANT: True})


def agree(check, value, expected, mistakes=None, within=1e-6, otherwise=None):
    """check in float64, but only to `within` of the size: some parts of a model may be worked out in float32."""
    terms = within / (8 * torch.finfo(torch.float64).eps)
    check(value, expected, terms=terms, mistakes=mistakes, otherwise=otherwise)


def same(one, other, within=1e-6):
    return one.shape == other.shape and bool((one - other).abs().max() <= within * other.abs().max())


def runs(name, arguments, calls, table=None):
    """A probe: the logits of a new model in float64 and eval mode for each call; table becomes its token embedding."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).double().eval()
    for weight in model.parameters():
        if table is not None and weight.shape in (table.shape, table.T.shape):
            weight.data.copy_(table if weight.shape == table.shape else table.T)
    with torch.no_grad():  # as it is used; torch's own encoder takes another path then
        return [inside.a_tensor(model(*call)) for call in calls]


def facts(name, arguments, ids, mask, defaults):
    """A probe: what one can see of a class from outside, without comparing logits."""
    import contextlib
    import inspect
    import io

    import text_classification

    kind = getattr(text_classification, name)
    parameters = inspect.signature(kind).parameters
    model, other = kind(*arguments).eval(), kind(*arguments).eval()
    state = [torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()]
    printed = io.StringIO()
    strided = [item.T.contiguous().T for item in (ids, mask)]
    with contextlib.redirect_stdout(printed):
        logits = inside.a_tensor(model(*strided))
    first = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    seeded = all(torch.equal(*pair) for pair in first)
    other.load_state_dict(model.state_dict())
    real = mask != 0 if logits.dim() == 3 else slice(None)  # what is at padded places does not matter
    sizes = []
    for layers in (0, 1, 2):
        other_model = kind(*arguments[:2], layers, *arguments[3:])
        sizes.append(sum(weight.numel() for weight in other_model.parameters()))
    return {
        "defaults": {key: parameters[key].default for key in defaults if key in parameters},
        "reloaded": torch.allclose(other(ids, mask)[real], logits[real], atol=1e-4),
        "strided": torch.allclose(model(ids, mask)[real], logits[real], atol=1e-4),
        "constant": torch.allclose(logits[0], logits[1], atol=1e-6),
        "inputs": strided,
        "seeded": seeded,
        "torch_changed": state
        != [torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()],
        "printed": printed.getvalue() != "",
        "sizes": sizes,
    }


def dropout_facts(name, arguments, ids):
    """A probe: whether two runs give the same with dropout 0.5 in train mode, in eval mode; with dropout 0, in both."""
    import text_classification

    kind = getattr(text_classification, name)
    model, without = kind(*arguments, dropout=0.5), kind(*arguments, dropout=0.0)
    train = [inside.a_tensor(model.train()(ids)) for _ in range(2)]
    off = [model.eval()(ids) for _ in range(2)]
    pair = without.train()(ids), without.eval()(ids)
    return [torch.equal(*train), torch.equal(*off), torch.allclose(*pair, atol=1e-5)]


def gradients(name, arguments, ids, mask, vocab_size):
    """A probe: for each token the size of the gradient at its embedding, for the logits of real places only."""
    import text_classification

    model = getattr(text_classification, name)(*arguments).double().eval()
    logits = inside.a_tensor(model(ids, mask))
    if logits.dim() == 3:
        logits = logits[mask]
    if logits.requires_grad:
        (logits * torch.arange(1.0, 1 + logits.numel()).view(logits.shape).sin()).sum().backward()
    sizes = []
    for weight in model.parameters():
        if weight.dim() == 2 and vocab_size in weight.shape:
            grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            sizes.append(grad.norm(dim=1 - list(weight.shape).index(vocab_size)))
    return sizes


def check_gradients(student, check, rng, name):
    order = torch.randperm(V - 1, generator=rng) + 1  # without 0, which may have been made a padding_idx
    ids = order.view(3, 4).clone()
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = student.run(gradients, name, (V, D, 1, H, C, MAX_LEN, 0.0), ids, mask, V)

    assert found, "the model has no embedding with a row for each token"
    assert not any(grad.isnan().any() for grad in found), "there is a NaN in the gradient"
    size = torch.stack(found).amax(dim=0)
    reached, padding = bool((size[ids[mask]] > 0).all()), bool((size[ids[~mask]] > 1e-9).any())
    check(reached, True, mistakes={"no gradient reaches the embeddings of some tokens": False})
    check(padding, False, mistakes={"a gradient reaches the padding's embeddings": True})


def check_manners(student, check, rng, name):
    mask = (torch.arange(6) < torch.tensor([[6], [2], [5]])).long()
    ids = tokens(rng, 3, 6)
    defaults = {"d_model": 512, "num_layers": 6, "num_heads": 8, "num_classes": 2, "max_len": 512, "dropout": 0.1}
    seen = student.run(facts, name, (V, D, 2, H, C, MAX_LEN, 0.1), ids, mask, list(defaults))

    check(seen["defaults"], {key: defaults[key] for key in seen["defaults"]})
    few, more, most = seen["sizes"]
    check(few < more < most, True, mistakes={"num_layers is ignored, or the layers are in a plain list": False})
    check(seen["reloaded"], True, mistakes={"a model that loads another one's state_dict gives other logits": False})
    check(seen["constant"], False, mistakes={CONSTANT: True})
    check(seen["strided"], True, mistakes={"ids that lie otherwise in memory give other logits": False})
    check(seen["inputs"], [ids, mask], mistakes={})
    check(seen["torch_changed"], False, mistakes={"forward changes a setting of torch": True})
    check(seen["printed"], False, mistakes={"forward prints": True})
    check(seen["seeded"], False, mistakes={"all models start with the same weights: no seed may be set": True})


def check_dropout(student, check, rng, name):
    train, off, without = student.run(dropout_facts, name, (V, D, 1, H, C, MAX_LEN), tokens(rng, 4, 6))

    check(train, False, mistakes={"dropout does nothing in train mode": True})
    check(off, True, mistakes={"there is dropout in eval mode": False})
    check(without, True, mistakes={"there is dropout although dropout is 0": False})


def check_errors(student, name):
    def at_length(name, arguments, length):
        import text_classification

        model = getattr(text_classification, name)(*arguments).eval()
        return list(inside.a_tensor(model(torch.zeros(2, length, dtype=torch.long))).shape)

    for layers in (0, 1):
        student.run(at_length, name, (V, D, layers, H, C, 7), 7)  # as long as can be
        for length in (8, 40):
            student.raises(
                ValueError, at_length, name, (V, D, layers, H, C, 7), length, says=("max_len", "input_ids", length, 7)
            )
    student.raises(ValueError, at_length, name, (V, 16, 1, 3, C, 7), 5, says=("num_heads", "d_model", 3, 16))


def check_shapes(student, check, rng, name, per_token):
    def probe(name, vocab_size, cases):
        import text_classification

        kind, results = getattr(text_classification, name), []
        for ids, classes, dtype in cases:
            more = {} if classes is None else {"num_classes": classes}
            model = kind(vocab_size, d_model=16, num_layers=1, num_heads=2, **more).to(dtype).eval()
            results.append(model(ids))
        return results

    cases = [
        (tokens(rng, 4, 6), None, torch.float32),
        (tokens(rng, 1, 1), 4, torch.float64),
        (tokens(rng, 5, 3), 1, torch.float32),
    ]
    results = student.run(probe, name, V, cases)

    for logits, (ids, classes, dtype) in zip(results, cases, strict=True):
        B, T = ids.shape
        count = classes or 2
        assert isinstance(logits, torch.Tensor), "the result is no tensor"
        right, other = [B, T, count], [B, count]
        right, other = (right, other) if per_token else (other, right)
        text = "the logits are a text's, not each token's" if per_token else "the logits are each token's, not a text's"
        check(list(logits.shape), right, mistakes={text: other})
        check(logits.dtype, dtype)
        assert logits.isfinite().all(), "a logit is NaN or infinite"
    first = results[0].double()
    kinds = {"a probability": (first.sum(-1) - 1), "a log-probability": first.logsumexp(-1)}
    for kind, gap in kinds.items():
        check(bool(gap.abs().max() < 1e-4), False, mistakes={f"the result is {kind}: logits are asked for": True})


# ---------------------------------------------------------------------------------------------- TransformerClassifier


@question(CLASSIFIER)
@pytest.mark.points(1)
def test_a_text_has_a_logit_for_each_class(student, check, rng):
    """The result is (B, C), logits in the model's dtype, for one token and one text, too."""
    check_shapes(student, check, rng, CLASSIFIER, per_token=False)


def twins(rng):
    """A table of embeddings, 1e8 in size, in which tokens 1 and 2 have the same mean as 3 and 4 (and as 5 and 6).

    All rows have a mean of 0 and the same length, so a layer norm multiplies all of them by the same number.
    """
    basis = torch.randn(D, D, generator=rng, dtype=torch.float64)
    basis[:, 0] = 1.0
    basis = torch.linalg.qr(basis)[0].T[1:]  # (D - 1, D): orthonormal, and orthogonal to the row of ones
    middle, sides = basis[0], basis[1:4]
    table = torch.randn(V, D - 1, generator=rng, dtype=torch.float64) @ basis
    table[1:7:2], table[2:7:2] = middle + sides, middle - sides
    return 1e8 * table / table.norm(dim=1, keepdim=True)


@question(CLASSIFIER)
@pytest.mark.points(4)
def test_the_logits_are_those_of_the_mean_over_the_tokens(student, check, rng):
    """Without layers, texts whose states have the same mean have the same logits: any order, any length, any tokens."""
    texts = {
        "abc": [8, 9, 10], "cab": [10, 8, 9], "c": [10], "b": [9], "twice": [8, 9, 10, 8, 9, 10], "long": [8, 9, 10] * 7, "cc": [10, 10],
        "12": [1, 2], "34": [3, 4], "65": [6, 5],
    }  # fmt: skip
    several = {
        "many, few": [[8, 8, 8, 8, 9], [9, 9, 9, 9, 10], [10, 10, 10, 10, 11], [11, 11, 11, 11, 12]],
        "few, many": [[8, 9, 9, 9, 9], [9, 10, 10, 10, 10], [10, 11, 11, 11, 11], [11, 12, 12, 12, 12]],
        "alone": [[8], [9], [10], [11]],
        "with 0": [[0, 0, 0, 0, 8], [0, 0, 0, 0, 9], [0, 0, 0, 0, 10], [0, 0, 0, 0, 11]],
    }
    texts = {key: [text] for key, text in texts.items()} | several
    calls = [(torch.tensor(batch),) for batch in texts.values()]
    results = student.run(runs, CLASSIFIER, (V, D, 0, H, C, MAX_LEN), calls, twins(rng))

    logits = dict(zip(texts, results, strict=True))
    agree(check, logits["cab"], logits["abc"], within=1e-5, mistakes={
        "only the first token is looked at: the mean is over all": logits["c"],
        "only the last token is looked at: the mean is over all": logits["b"],
    }, otherwise="the order of the tokens matters without any layer")  # fmt: skip
    for longer, text in (("twice", "abc"), ("long", "abc"), ("cc", "c")):
        grows = "the logits change with the length: the sum is to be divided by the number of real tokens"
        agree(check, logits[longer], logits[text], within=1e-5, otherwise=grows)
    apart = not same(logits["many, few"], logits["few, many"], 1e-4)
    check(apart, True, mistakes={"how often a token occurs does not matter: a maximum is taken, not the mean": False})
    for pair in ("34", "65"):
        weighed = "the tokens do not count alike: something other than the mean is taken"
        agree(check, logits[pair], logits["12"], within=1e-5, otherwise=weighed)
    ignored = same(logits["with 0"], logits["alone"], 1e-4)
    check(ignored, False, mistakes={"token 0 is taken for padding: without a mask all tokens are real": True})


def wider(ids, mask):
    """With two more places of padding, so that even the longest text has some."""
    return torch.nn.functional.pad(ids, (0, 2), value=5), torch.nn.functional.pad(mask, (0, 2))


def padded_texts(rng, lengths, width):
    """Random ids, also at padded places, and the mask; which ids are padding is not told by their value."""
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return tokens(rng, len(lengths), width), mask


@question(CLASSIFIER)
@pytest.mark.points(3)
def test_padding_is_left_out_of_the_mean(student, check, rng):
    """Without layers, a padded text has the logits that it has alone."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    alone = [(row[keep][None],) for row, keep in zip(ids, mask, strict=True)]
    padded, unmasked, *single = student.run(runs, CLASSIFIER, (V, D, 0, H, C, MAX_LEN), [(ids, mask), (ids,), *alone])

    check_not_constant(check, torch.cat(single))
    agree(check, padded, torch.cat(single), mistakes={
        "padding is counted in the mean": unmasked,
    }, otherwise="the mean over the real tokens depends on the padding")  # fmt: skip


@question(CLASSIFIER)
@pytest.mark.points(4)
def test_padding_changes_nothing(student, check, rng):
    """With two layers a padded text has the logits that it has alone; the mask is boolean, or holds 0 and 1."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    alone = [(row[keep][None],) for row, keep in zip(ids, mask, strict=True)]
    masks = [(ids, mask.to(dtype)) for dtype in (torch.bool, torch.int64, torch.float32, torch.float64)]
    others = (ids.masked_fill(~mask, 0), mask.long()), wider(ids, mask)
    results = student.run(
        runs, CLASSIFIER, (V, D, 2, H, C, MAX_LEN), [(ids,), (ids[2:3], mask[2:3]), *alone, *masks, *others]
    )

    unmasked, full, single, padded = results[0], results[1], torch.cat(results[2:6]), results[6:]
    check_not_constant(check, single)
    agree(check, full, single[2:3], otherwise="a mask of ones is not the same as no mask")
    for value in padded:
        seen = "padding changes the logits: the attention looks at it, or the mean counts it"
        agree(check, value, single, mistakes={"the mask is ignored": unmasked}, otherwise=seen)


@question(CLASSIFIER)
@pytest.mark.points(2)
def test_a_classifier_learns_from_every_real_token(student, check, rng):
    """The gradient reaches the embedding of each real token, and not that of padding."""
    check_gradients(student, check, rng, CLASSIFIER)


@question(CLASSIFIER)
@pytest.mark.points(1)
def test_a_classifier_drops_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode, with the probability `dropout`, and never in eval mode."""
    check_dropout(student, check, rng, CLASSIFIER)


@question(CLASSIFIER)
@pytest.mark.points(1)
def test_a_classifier_leaves_all_else_alone(student, check, rng):
    """The arguments are the ones listed; the state can be loaded; inputs and torch stay as they were."""
    check_manners(student, check, rng, CLASSIFIER)


@question(CLASSIFIER)
@pytest.mark.points(1)
def test_a_classifier_refuses_bad_sizes(student):
    """ValueError for more than max_len tokens, and for a d_model that num_heads does not divide."""
    check_errors(student, CLASSIFIER)


def on_gpu(name, ids, mask, vocab_size):
    """A probe: logits in bfloat16 with masks of two kinds."""
    import text_classification

    model = getattr(text_classification, name)(vocab_size, 16, 1, 2).to(ids.device, torch.bfloat16).eval()
    return [model(ids), model(ids, mask), model(ids, mask.long())]


def check_gpu(student, check, rng, device, name, shape):
    ids, mask = padded_texts(rng, [3, 6], 6)
    results = student.on(device=device, timeout=60).run(on_gpu, name, ids, mask, V)

    for logits in results:
        check(list(logits.shape), shape)
        check(logits, logits.clone(), dtype=torch.bfloat16)
        assert logits.isfinite().all(), "a logit is NaN or infinite"


@pytest.mark.gpu
@question(CLASSIFIER)
@pytest.mark.points(1)
def test_a_classifier_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 the logits are there, too."""
    check_gpu(student, check, rng, device, CLASSIFIER, [2, 2])


# ---------------------------------------------------------------------------------------------- TokenClassifier


@question(TAGGER)
@pytest.mark.points(1)
def test_each_token_has_a_logit_for_each_class(student, check, rng):
    """The result is (B, T, C), logits in the model's dtype, for one token and one text, too."""
    check_shapes(student, check, rng, TAGGER, per_token=True)


@question(TAGGER)
@pytest.mark.points(3)
def test_the_logits_of_a_token_come_from_its_own_state(student, check, rng):
    """Without layers a token's logits depend on nothing else; with layers, on the tokens of both sides."""

    def probe(vocab_size, calls):
        from text_classification import TokenClassifier

        models = [TokenClassifier(vocab_size, 16, layers, 2, 3).double().eval() for layers in (0, 1)]
        return [[inside.a_tensor(model(*call)) for call in calls] for model in models]

    ids = torch.randperm(V, generator=rng)[:6][None]
    changed = []
    for place in (0, 5):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1 + torch.randint(0, V - 1, (), generator=rng)) % V
        changed.append((other,))
    (plain, *plain_changed), (deep, *deep_changed) = student.run(probe, V, [(ids,), *changed])

    assert plain.shape == deep.shape == (1, 6, 3), "the shape of the logits is not (B, T, C)"
    for place, value in zip((0, 5), plain_changed, strict=True):
        others = [t for t in range(6) if t != place]
        depends = "a token's logits depend on other tokens although there is no layer"
        agree(check, value[:, others], plain[:, others], otherwise=depends)
        apart = not same(value[:, place], plain[:, place])
        check(apart, True, mistakes={"a token's logits do not depend on the token": False})
    blind = "a token's logits do not depend on what comes {}: an encoder looks both ways"
    check(not same(deep_changed[0][:, 5], deep[:, 5]), True, mistakes={blind.format("before it"): False})
    check(not same(deep_changed[1][:, 0], deep[:, 0]), True, mistakes={blind.format("after it"): False})


@question(TAGGER)
@pytest.mark.points(3)
def test_padding_changes_no_real_token(student, check, rng):
    """At real places a padded text has the logits that it has alone; the mask is boolean, or holds 0 and 1."""
    ids, mask = padded_texts(rng, [3, 1, 7, 5], 7)
    ids[2, 1] = ids[3, 0] = 0
    alone = [(row[keep][None],) for row, keep in zip(ids, mask, strict=True)]
    masks = [(ids, mask.to(dtype)) for dtype in (torch.bool, torch.int64, torch.float32, torch.float64)]
    results = student.run(
        runs, TAGGER, (V, D, 2, H, C, MAX_LEN), [(ids,), (ids[2:3], mask[2:3]), *alone, *masks, wider(ids, mask)]
    )

    assert all(r.dim() == 3 and r.shape[-1] == C for r in results), "the shape of the logits is not (B, T, C)"
    unmasked, full, single, padded = results[0], results[1], torch.cat([r[0] for r in results[2:6]]), results[6:]
    check_not_constant(check, single)
    wide = padded.pop()
    check(
        list(wide.shape), [4, 9, C], mistakes={"the result is as wide as the longest text, not as input_ids": [4, 7, C]}
    )
    padded.append(wide[:, :7])
    agree(check, full[0], results[4][0], otherwise="a mask of ones is not the same as no mask")
    for value in padded:
        check(list(value.shape), [4, 7, C])
        ignored, changes = {"the mask is ignored": unmasked[mask]}, "padding changes the logits of real tokens"
        agree(check, value[mask], single, mistakes=ignored, otherwise=changes)


@question(TAGGER)
@pytest.mark.points(1)
def test_a_token_classifier_learns_from_every_real_token(student, check, rng):
    """The gradient of the real tokens' logits reaches their embeddings, and not those of padding."""
    check_gradients(student, check, rng, TAGGER)


@question(TAGGER)
@pytest.mark.points(1)
def test_a_token_classifier_drops_in_train_mode_only(student, check, rng):
    """Dropout acts in train mode, with the probability `dropout`, and never in eval mode."""
    check_dropout(student, check, rng, TAGGER)


@question(TAGGER)
@pytest.mark.points(1)
def test_a_token_classifier_leaves_all_else_alone(student, check, rng):
    """The arguments are the ones listed; the state can be loaded; inputs and torch stay as they were."""
    check_manners(student, check, rng, TAGGER)


@question(TAGGER)
@pytest.mark.points(1)
def test_a_token_classifier_refuses_bad_sizes(student):
    """ValueError for more than max_len tokens, and for a d_model that num_heads does not divide."""
    check_errors(student, TAGGER)


@pytest.mark.gpu
@question(TAGGER)
@pytest.mark.points(1)
def test_a_token_classifier_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 the logits are there, too."""
    check_gpu(student, check, rng, device, TAGGER, [2, 6, 2])
