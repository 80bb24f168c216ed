"""Hidden tests of pretraining_objectives: prefix_mask and PrefixLanguageModel.

The model is tested by what it does: which tokens a logit depends on, with large random weights in float64.
"""

import pytest
import torch

from shared import MANNERS, dropout_facts, nearly, on_right_parts, tokens

MASK = pytest.mark.question("prefix_mask")
MODEL = pytest.mark.question("PrefixLanguageModel")


def seen(length, prefix):
    """(T, T) bool by definition: rows are queries."""
    return torch.tensor([[key <= query or key < prefix for key in range(length)] for query in range(length)])


def wrong_masks(length, prefix):
    """sentence -> what may be attended to."""
    place, all_of = torch.arange(length), torch.ones(length, length, dtype=torch.bool)
    query, key = place[:, None], place[None, :]
    return {
        "the mask is causal; the prefix should be seen by all positions": key <= query,
        "everything is seen; only the prefix should be seen in both directions": all_of,
        "the prefix is one token too long": (key <= query) | (key <= prefix),
        "the prefix is one token too short": (key <= query) | (key < prefix - 1),
        "positions after the prefix do not see it": ((key <= query) & (key >= prefix)) | ((query < prefix) & (key < prefix)),
        "positions of the prefix see everything; they should see the prefix": (key <= query) | (query < prefix),
        "positions after the prefix see all of the text": ((key < prefix) & (query < prefix)) | (query >= prefix),
        "positions after the prefix see the prefix and not what came since": (key < prefix) & all_of,
        "positions after the prefix do not see themselves": (key < query) | (key < prefix),
        "True and False are swapped: True should mean 'may attend'": ~((key <= query) | (key < prefix)),
        "rows and columns are swapped: rows should be queries": (query <= key) | (query < prefix),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- prefix_mask


@MASK
@pytest.mark.points(2)
@pytest.mark.parametrize(("length", "prefix"), [(7, 3), (9, 4), (5, 1), (6, 5)])
def test_all_positions_see_the_prefix(student, check, length, prefix):
    """True where j <= i or j < prefix_length."""
    mask = student.call("pretraining_objectives.prefix_mask", length, prefix)

    check(mask, seen(length, prefix), mistakes={
        **wrong_masks(length, prefix),
        "the mask is floating point; it should be boolean": seen(length, prefix).float(),
        "the mask holds what is added to the scores; it should be boolean": torch.zeros(length, length).masked_fill(
            ~seen(length, prefix), -torch.inf
        ),
    })  # fmt: skip


@MASK
@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "prefix"), [(5, 0), (5, 5), (5, 6), (4, 30), (1, 0), (1, 3)])
def test_a_prefix_may_be_empty_or_longer_than_the_text(student, check, length, prefix):
    """0 gives the causal mask; as long as the text or longer gives True everywhere."""
    mask = student.call("pretraining_objectives.prefix_mask", length, prefix)

    causal, everything = seen(length, 0), torch.ones(length, length, dtype=torch.bool)
    check(mask, everything if prefix else causal, mistakes={
        "the mask is causal although the prefix is as long as the text": check.when(prefix >= length, causal),
        "the mask has the length of the prefix; it should have that of the text": check.when(
            prefix > length and list(getattr(mask, "shape", [])) == [prefix, prefix]
        ),
        "everything is seen although there is no prefix": check.when(prefix == 0, everything),
    })  # fmt: skip


@MASK
@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "prefix"), [(4, -1), (6, -6)])
def test_a_negative_prefix_is_refused(student, length, prefix):
    """A negative prefix_length is a ValueError, for the mask as for the model."""

    def probe(prefix):
        from pretraining_objectives import PrefixLanguageModel

        PrefixLanguageModel(11, 16, 1, 4, prefix)

    student.accepts("pretraining_objectives.prefix_mask", length, 0)
    student.accepts(probe, 0)
    student.raises(ValueError, "pretraining_objectives.prefix_mask", length, prefix, says=("prefix_length", prefix))
    student.raises(ValueError, probe, prefix, says=("prefix_length", prefix))


# ---------------------------------------------------------------------------------------------- what a logit depends on

V, D, H = 13, 16, 4


def depends(sizes, prefix, texts, right):
    """A probe: for each text (B, T) [query, key]: whether the logits at a place change with the token at another one."""

    def use():
        from pretraining_objectives import PrefixLanguageModel

        model, found = PrefixLanguageModel(*sizes, prefix_length=prefix).double().eval(), []
        inside.draw_weights(model)

        def logits(ids):
            torch.manual_seed(4)  # whether something is dropped in eval mode has its own test
            return inside.a_tensor(model(ids))

        with torch.no_grad():
            for ids in texts:
                plain, columns = logits(ids), []
                for place in range(ids.shape[1]):
                    other = ids.clone()
                    other[:, place] = (other[:, place] + 1) % sizes[0]
                    columns.append((logits(other) - plain).abs().amax((0, 2)) > 1e-9)
                found.append(torch.stack(columns, dim=1))
        return found

    return inside.use_of(use, "pretraining_objectives", "PrefixLanguageModel", right)


def places_seen(student, prefix, *texts):
    """(T, T) bool of the last text, [query, key]: whether logits depend on a token. Those before it are tried first.

    If it is wrong with the student's own prefix_mask, which has its own tests, a right one takes its place.
    """
    right = seen(texts[-1].shape[1], prefix)
    found = on_right_parts(
        student, depends, (V, D, 2, H), prefix, list(texts), fine=lambda found: torch.equal(found[-1], right)
    )
    return found[-1]


@MODEL
@pytest.mark.points(3)
@pytest.mark.parametrize(("length", "prefix"), [(7, 3), (8, 5)])
def test_logits_depend_on_what_the_mask_lets_them_see(student, check, rng, length, prefix):
    """On the whole prefix and on all tokens up to their own, and on nothing else."""
    # A short text first: what is kept of it must not change the next.
    found = places_seen(student, prefix, tokens(rng, V, 2, 2), tokens(rng, V, 3, length))

    itself = torch.eye(length, dtype=torch.bool)  # by way of the residual connections

    def after_two_layers(mask):
        once = (mask | itself).float()
        return once @ once > 0

    check(found, seen(length, prefix), what="what logits depend on [place, token]", mistakes={
        sentence: after_two_layers(mask) for sentence, mask in wrong_masks(length, prefix).items()
    } | {"a position does not see other positions": itself})  # fmt: skip


@MODEL
@pytest.mark.points(2)
@pytest.mark.parametrize(("length", "prefix"), [(4, 9), (4, 4), (1, 6)])
def test_a_text_shorter_than_the_prefix_is_seen_both_ways(student, check, rng, length, prefix):
    """All logits depend on all tokens."""
    found = places_seen(student, prefix, tokens(rng, V, 2, 12), tokens(rng, V, 3, length))

    check(found, torch.ones(length, length, dtype=torch.bool), mistakes={
        "a text that is shorter than the prefix is seen causally; it should be seen in both directions": seen(length, 0),
    }, what="what logits depend on [place, token]")  # fmt: skip


@MODEL
@pytest.mark.points(1)
def test_without_a_prefix_the_model_is_causal(student, check, rng):
    """prefix_length 0: a logit depends on the tokens up to its own."""
    found = places_seen(student, 0, tokens(rng, V, 3, 5))

    check(found, seen(5, 0), what="what logits depend on [place, token]", mistakes={
        "everything is seen although there is no prefix": torch.ones(5, 5, dtype=torch.bool),
    })  # fmt: skip


@MODEL
@pytest.mark.points(2)
def test_the_prefix_has_64_tokens_and_16_heads_unless_said(student, check, rng):
    """With 70 tokens the first sees the 64th and not the 65th; 16 heads give what the model gives without a number."""

    def probe(ids, right):
        def use():
            from pretraining_objectives import PrefixLanguageModel

            def made(*options):
                torch.manual_seed(7)
                model = PrefixLanguageModel(13, 16, 1, *options).double().eval()
                inside.draw_weights(model)
                return model

            model, others = made(), ids.repeat(5, 1)
            for row, place in enumerate((1, 62, 63, 64, 69)):
                others[row, place] = (others[row, place] + 1) % 13

            def logits(model, ids):
                torch.manual_seed(8)
                return inside.a_tensor(model(ids)).detach()

            plain, *changed = (logits(model, row[None]) for row in torch.cat([ids, others]))
            sees = [(row - plain)[0, 0].abs().max().item() > 1e-12 for row in changed]
            return sees, plain, logits(made(16), ids)

        return inside.use_of(use, "pretraining_objectives", "PrefixLanguageModel", right)

    # prefix_mask has its own tests: if it is wrong, a right one takes its place.
    right = [True, True, True, False, False]
    first_sees, plain, with_16 = on_right_parts(
        student, probe, tokens(rng, 13, 1, 70), fine=lambda found: found[0] == right
    )

    check(first_sees, right, what="whether the first token sees those at 1, 62, 63, 64, 69", mistakes={
        "there is no prefix where prefix_length is not given": [False] * 5,
        "the prefix is one token too short": [True, True, False, False, False],
        "the prefix is one token too long": [True, True, True, True, False],
        "the first token sees everything; it should see the prefix": [True] * 5,
    })  # fmt: skip
    check(plain, with_16, otherwise="there are not 16 heads where num_heads is not given")


@MODEL
@pytest.mark.points(1)
def test_the_order_of_the_prefix_counts(student, check, rng):
    """Two tokens of the prefix that change places change the logits of other tokens."""

    def probe(ids, swapped):
        from pretraining_objectives import PrefixLanguageModel

        model = PrefixLanguageModel(13, 16, 2, 4, 4).double().eval()
        inside.draw_weights(model)
        rows = []
        for row in (ids, swapped):
            torch.manual_seed(9)
            rows.append(inside.a_tensor(model(row)).detach())
        return bool((rows[0] - rows[1])[:, [0, 3, 4, 5, 6]].abs().max() > 1e-9)

    ids = torch.randperm(13, generator=rng)[None, :7]
    changed = student.run(probe, ids, ids[:, [0, 2, 1, 3, 4, 5, 6]])

    check.that(changed, "logits do not depend on the order of the tokens that they see; positions should make them")


# ---------------------------------------------------------------------------------------------- a model


@MODEL
@pytest.mark.points(1)
def test_there_are_num_layers_layers(student, check):
    """Logits are (B, T, V), also of one token; each layer has weights of its own, which learn."""

    def probe(shapes):
        from pretraining_objectives import PrefixLanguageModel

        models = [PrefixLanguageModel(13, 16, layers, 4, prefix_length=3) for layers in (1, 2, 4)]
        sizes = [sum(weight.numel() for weight in model.parameters() if weight.requires_grad) for model in models]
        logits = [inside.a_tensor(models[1](torch.zeros(shape, dtype=torch.long))) for shape in shapes]
        return sizes, [list(found.shape) for found in logits], bool(logits[-1].any())

    shapes = [[1, 1], [2, 3], [3, 9]]
    (one, two, four), found, some = student.run(probe, shapes)

    check(found, [[*shape, 13] for shape in shapes], what="the shapes of the logits", mistakes={
        "there are logits for the last place only": [[shape[0], 13] for shape in shapes],
        "the result has the width d_model; it should have that of the vocabulary": [[*shape, 16] for shape in shapes],
    })  # fmt: skip
    check.that(
        two > one, "layers share their weights, are not registered as modules, or there is always the same number"
    )
    check.that(some, "all logits are zero")
    check(four - two, 2 * (two - one), what="the weights of two more layers")


@MODEL
@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "prefix"), [(6, 3), (3, 5)])
def test_gradients_reach_all_matrices(student, check, rng, length, prefix):
    """Every matrix has a part in the logits, so that it gets a gradient."""

    def probe(ids, prefix):
        from pretraining_objectives import PrefixLanguageModel

        model = PrefixLanguageModel(13, 16, 2, 4, prefix).double().eval()
        inside.draw_weights(model)
        weights = [weight for weight in model.parameters() if weight.dim() > 1 and weight.requires_grad]
        return [bool(grad.any()) for grad in inside.gradients(model(ids), weights)]

    reached = student.run(probe, tokens(rng, V, 2, length), prefix)

    check.that(any(reached), "no gradient flows back to the weights")
    check.that(all(reached), "no gradient flows back to some of the weights")


@MODEL
@pytest.mark.points(2)
def test_a_prefix_model_reads_1024_tokens(student, check):
    """max_len is at least 1024, and a text of max_len tokens has logits; one token more is a ValueError, more texts are not."""

    def probe():
        from pretraining_objectives import PrefixLanguageModel

        model = PrefixLanguageModel(5, 4, 1, 1).eval()
        logits = inside.a_tensor(model(torch.full((1, 1024), 3)))
        many = model(torch.zeros(model.max_len + 1, 2, dtype=torch.long)) if model.max_len <= 5000 else logits
        return model.max_len, list(logits.shape), bool(logits.isfinite().all() and many.isfinite().all())

    def too_long(max_len):
        from pretraining_objectives import PrefixLanguageModel

        PrefixLanguageModel(5, 4, 1, 1).eval()(torch.full((1, max_len + 1), 3))

    max_len, shape, finite = student.run(probe)

    check.that(type(max_len) is int and max_len >= 1024, "max_len is less than 1024, or not an int")
    check(shape, [1, 1024, 5])
    check.that(finite, "a logit is NaN or infinite")
    if max_len <= 5000:  # what has no limit of its own may take any length
        student.raises(ValueError, too_long, max_len, says=("input_ids", "max_len", "length", max_len, max_len + 1))


@MODEL
@pytest.mark.points(1)
def test_a_prefix_model_drops_nothing_in_eval_mode(student, check, rng):
    """In eval mode two calls give the same, and a row has the same logits alone. Whether there is dropout is open."""

    def probe(ids):
        from pretraining_objectives import PrefixLanguageModel

        model = PrefixLanguageModel(13, 16, 2, 4, 3)
        inside.draw_weights(model)
        runs = [[run.detach() for run in runs] for runs in inside.dropout_runs(model, ids)]
        return runs, torch.cat([model(row[None]) for row in ids]).detach()

    runs, alone = student.run(probe, tokens(rng, V, 4, 9))

    quiet, repeated, _ = dropout_facts(runs)
    (logits,) = runs[-1]
    for fact in (quiet, repeated, (bool(logits.any()), "all logits are zero")):
        check.that(*fact)
    sums_to_1 = bool((logits >= 0).all()) and nearly(logits.sum(-1), torch.ones(4, 9), 1e-3)
    check.that(not sums_to_1, "the results are probabilities; they should be logits, before any softmax")
    check(alone, logits, terms=4096, otherwise="a row has different logits in a batch and alone")


@MODEL
@pytest.mark.points(1)
@pytest.mark.parametrize(("width", "heads", "allowed"), [(16, 3, (16, 4)), (10, 4, (8, 4))])
def test_heads_that_do_not_fit_are_refused(student, width, heads, allowed):
    """D that is not divisible by H is a ValueError."""

    def probe(width, heads):
        from pretraining_objectives import PrefixLanguageModel

        PrefixLanguageModel(13, width, 1, heads)

    student.accepts(probe, *allowed)
    student.raises(ValueError, probe, width, heads, says=("d_model", "num_heads", width, heads))


@MODEL
@pytest.mark.points(1)
def test_a_prefix_model_does_nothing_else(student, check, rng):
    """input_ids stay as they are, torch's seed too; ids of 32 bits do, and so do float64 weights."""

    def probe(ids):
        from pretraining_objectives import PrefixLanguageModel

        torch.manual_seed(5)
        first, second = (PrefixLanguageModel(13, 16, 1, 4, 3).eval() for _ in range(2))
        differ = not torch.equal(first(ids), second(ids))
        logits, (after, *_), rude = inside.manners(first, ids)
        torch.manual_seed(20)  # as manners does
        short, dtype = first(ids.int()).detach(), first.double()(ids).dtype
        first.train()(ids)
        return differ, after, rude, logits.detach(), short, dtype, all(part.training for part in first.modules())

    ids = tokens(rng, V, 3, 6)
    differ, after, rude, logits, short, dtype, in_training = student.run(probe, ids)

    check.that(differ, "all models start with the same weights: do not set a seed")
    check(after, ids, what="input_ids after the call", otherwise="input_ids are changed in place")
    check(rude, "", mistakes=MANNERS)
    check(short, logits, terms=4096, otherwise="the logits depend on whether ids have 32 or 64 bits")
    check(dtype, torch.float64, otherwise="the logits of a model in float64 have the wrong dtype")
    check.that(in_training, "forward puts the model, or a part of it, into eval mode; its mode should stay as it is")


@pytest.mark.gpu
@MODEL
@pytest.mark.points(1)
def test_a_prefix_model_follows_its_inputs_to_the_gpu(student, check, rng, device):
    """On the GPU in bfloat16 the logits are there, too."""

    def probe(ids):
        from pretraining_objectives import PrefixLanguageModel

        return PrefixLanguageModel(13, 16, 1, 4, 3).to(ids.device, torch.bfloat16).eval()(ids).detach()

    logits = student.on(device=device, timeout=60).run(probe, tokens(rng, V, 3, 6))

    check(logits, logits.clone(), dtype=torch.bfloat16)  # it was on the device
    check.that(bool(logits.isfinite().all()), "a logit is NaN or infinite")
