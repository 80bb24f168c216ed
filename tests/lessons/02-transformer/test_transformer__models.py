"""Hidden tests of transformer: GPTModel and BERTModel, against transformers, and what all classes share."""

import math
from functools import partial

import pytest
import torch

from shared import has_nan, randn, true_gradients
from transformer_helpers import (
    BERT_STEPS,
    FF,
    GAIN,
    GPT_STEPS,
    LAYER,
    MAX_LEN,
    TYPES,
    D,
    H,
    ModelSteps,
    V,
    bert,
    bert_made_with,
    decoder,
    encoder,
    gpt,
    known_layer,
    made_with,
    masks,
    norm,
    some_ids,
    tables,
    wide,
)

# ---------------------------------------------------------------------------------------------- GPTModel, BERTModel


@pytest.mark.question("GPTModel")
@pytest.mark.points(3)
def test_gpt_starts_like_that_of_transformers(student, check, rng):
    """Weights from N(0, 0.02), zero biases, and so a first loss near ln V; the output is tied to the token embedding."""

    def probe(ids):
        from transformer import GPTModel

        model = GPTModel(101, 64, 2, 4, None, 48, 0.0)
        weights = inside.weights_of(model)
        matrices = [w for w in weights if inside.is_matrix(w) and w.any()]  # not biases in one tensor
        vectors = [weight for weight in weights if not any(weight is matrix for matrix in matrices)]
        loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        biases_are_zero = all(bool(((vector == 0) | (vector == 1)).all()) for vector in vectors)
        spreads = [(w.numel(), w.dim(), float(w.mean()), float(w.std()), float(w.abs().max())) for w in matrices]
        return model.max_len, spreads, biases_are_zero, float(loss)

    ids = torch.randint(0, 101, (4, 40), generator=rng)
    max_len, spreads, biases_are_zero, loss = student.run(probe, ids)

    check(max_len, 48)
    right = (101 + 48) * 64 + 2 * (4 * 64 * 64 + 2 * 64 * 4 * 64)
    check(sum(numbers for numbers, *_ in spreads), right, mistakes={
        "the output is not tied to the token embedding; it should not have a weight of its own": right + 101 * 64,
    })  # fmt: skip
    # The spread of 3072 numbers strays by a tenth with a probability below 1e-13; GPT-2 halves some of 2 layers, and a
    # tensor of several matrices may hold both kinds. Uniform numbers all lie within 1.74 times their spread.
    near = [
        abs(mean) < 0.004
        and (abs(std / 0.02 - 1) < 0.1 or abs(std / 0.01 - 1) < 0.1 or (dims > 2 and 0.01 < std < 0.02))
        and largest > 1.8 * std
        for _, dims, mean, std, largest in spreads
    ]
    check.that(all(near), "the weights do not start from N(0, 0.02)")
    check.that(biases_are_zero, "the biases do not start at 0")
    check.that(abs(loss - math.log(101)) < 0.3, "the first loss is far from ln V")


@pytest.mark.question("BERTModel")
@pytest.mark.points(1)
def test_a_sequence_without_real_tokens_harms_nobody(student, check, rng):
    """A row of attention_mask that hides everything gives no NaN, neither in the outputs nor in the gradients."""

    def probe(args, ids, types, mask, rows):
        from transformer import BERTModel

        model = inside.with_known_weights(BERTModel(*args), rows)
        output = inside.a_tensor(model(ids, types, mask))
        output[mask != 0].sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return output, [bool(grad.isfinite().all()) for grad in grads]

    ids, types, mask = some_ids(rng, 3, 6), torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 6, dtype=torch.int64)
    mask[1], mask[2, 4:] = 0, 0
    output, finite = student.run(probe, bert_made_with(2), ids, types, mask, tables(rng, V, MAX_LEN, TYPES))

    check.that(output.shape == (3, 6, D), "the result does not have the shape (B, T, D)")
    check.that(not has_nan(output), "a query that may attend to nothing gives NaN")
    check.that(all(finite), "the gradients are NaN where a query may attend to nothing")


@pytest.mark.question("BERTModel")
@pytest.mark.points(2)
def test_the_eps_of_berts_norms_is_tiny(student, check, rng):
    """The eps of all norms is 1e-12: with weights a thousand times smaller the norms still norm."""

    def probe(args, ids, rows):
        from transformer import BERTModel

        model = inside.with_known_weights(BERTModel(*args), rows)
        for weight in model.parameters():
            weight.data.mul_(1e-3)
        return model(ids)

    ids, rows = some_ids(rng, 2, 6), tables(rng, V, MAX_LEN, TYPES)
    result = student.run(probe, bert_made_with(2), ids, rows)

    w, rows = known_layer(scale=1e-3, norm=(1e-3 * GAIN[0], GAIN[1])), [1e-3 * table for table in rows]

    def truth(**wrong):
        return bert(rows, ModelSteps(**BERT_STEPS | wrong), ids, w=w, first=w["self"]["norm"])

    mistakes = {f"the eps of the norms is {eps}; it should be 1e-12": partial(truth, eps=eps) for eps in (1e-5, 1e-6)}
    check(result, truth(), relative=2e-5, mistakes=mistakes)


# ---------------------------------------------------------------------------------------------- what all classes share

ENCODER_LAYER, DECODER_LAYER = 4 * D * D + 2 * D * FF, 8 * D * D + 2 * D * FF  # numbers in their matrices
STACK = {"max_len": 5000, "dropout": 0.1}
ORIGINAL = {"d_model": 512, "num_layers": 6, "num_heads": 8, "d_ff": 2048, **STACK, "pad_id": 0}
GPT_SMALL = {"d_model": 768, "num_layers": 12, "num_heads": 8, "d_ff": None, "max_len": 1024, "dropout": 0.1}
BERT_BASE = {**GPT_SMALL, "num_heads": 12, "d_ff": 3072, "max_len": 512, "type_vocab_size": 2}
# Arguments, inputs, names of the first arguments, defaults of the others; then what the model must have at least:
# numbers in matrices, matrices with a row a token, gains of norms.
CLASSES = {
    "PositionwiseFeedForward": ((D, FF), "x", "d_model d_ff", {"dropout": 0.1}, 2 * D * FF, 0, 0),
    "EncoderLayer": (LAYER, "x", "d_model num_heads d_ff", {"dropout": 0.1}, ENCODER_LAYER, 0, 2),
    "DecoderLayer": (LAYER, "xm", "d_model num_heads d_ff", {"dropout": 0.1}, DECODER_LAYER, 0, 3),
    "Encoder": (made_with(2), "i", "vocab_size d_model num_layers num_heads d_ff", STACK, 2 * ENCODER_LAYER, 1, 4),
    "Decoder": (made_with(2), "im", "vocab_size d_model num_layers num_heads d_ff", STACK, 2 * DECODER_LAYER, 1, 6),
    "Transformer": (
        (V, *made_with(2)), "ij", "src_vocab_size tgt_vocab_size", ORIGINAL, 2 * (ENCODER_LAYER + DECODER_LAYER), 3, 10
    ),
    "GPTModel": (made_with(2), "i", "vocab_size", GPT_SMALL, 2 * ENCODER_LAYER + MAX_LEN * D, 1, 5),
    "BERTModel": (made_with(2), "i", "vocab_size", BERT_BASE, 2 * ENCODER_LAYER + MAX_LEN * D, 1, 5),
}  # fmt: skip
ALL = pytest.mark.question("All classes")


def made(rng, names=tuple(CLASSES), masked=False):
    """(class, its arguments, inputs) for each; with masks where the inputs may have some."""
    inputs = {"x": randn(rng, 2, 20, D), "m": randn(rng, 2, 7, D)}
    inputs |= {"i": some_ids(rng, 2, MAX_LEN), "j": some_ids(rng, 2, 7, pad=0)}
    extra = {
        "EncoderLayer": masks(rng, 2, 20, 20, 1)[2:],
        "DecoderLayer": [masks(rng, 2, 20, 20, 1)[2], masks(rng, 2, 20, 7, 1)[2]],
        "Encoder": masks(rng, 2, MAX_LEN, MAX_LEN, 1)[2:],
        "Decoder": masks(rng, 2, MAX_LEN, MAX_LEN, 1)[2:],
    }
    given = {name: [inputs[key] for key in CLASSES[name][1]] for name in names}
    return [(name, CLASSES[name][0], given[name] + (extra.get(name, []) if masked else [])) for name in names]


@ALL
@pytest.mark.points(3)
def test_every_weight_is_there_and_learns(student, check, rng):
    """No layer, embedding or norm is shared, all weights learn and are saved; arguments have their names and defaults."""

    def probe(classes, vocab_size, defaults):
        import inspect

        import transformer

        def facts(name, args, inputs):
            kind = getattr(transformer, name)
            model, other = kind(*args).eval(), kind(*args).eval()
            gains = sum(weight.numel() for weight in model.parameters() if (weight == 1).all())  # in one tensor or many
            # With small first weights a ReLU would be left without work.
            output = inside.a_tensor(inside.randomized(model, vocab_size)(*inputs))
            (output * torch.randn(output.shape)).sum().backward()
            weights = [weight for weight in inside.weights_of(model) if inside.is_matrix(weight)]
            matrices = [weight for weight in weights if vocab_size not in weight.shape]
            learning = sum(int((weight.grad != 0).sum()) for weight in matrices if weight.grad is not None)
            tables = sum(vocab_size in weight.shape and weight.dim() > 1 for weight in model.parameters())
            other.load_state_dict(model.state_dict())
            numbers = sum(weight.numel() for weight in matrices)
            parameters = [(key, parameter.default) for key, parameter in inspect.signature(kind).parameters.items()]
            values = {key: default for key, default in parameters if key in defaults[name]}
            return (numbers, tables, gains), learning, [key for key, _ in parameters], values, [output, other(*inputs)]

        return [facts(*described) for described in classes]

    told = student.run(probe, made(rng), V, {name: list(row[3]) for name, row in CLASSES.items()})

    for (numbers, learning, names, values, outputs), (name, row) in zip(told, CLASSES.items(), strict=True):
        required, defaults, *least = row[2].split(), *row[3:-1], D * row[-1]
        has = [min(found, needed) for found, needed in zip(numbers, least, strict=True)]
        check(has, least, mistakes={
            f"all layers of {name} are the same one; each should have its own weights": check.when(
                2 * has[0] <= least[0] + MAX_LEN * D
            ),
            f"{name} has fewer weights than it should have: something is shared, or not registered": check.when(
                has[0] < least[0]
            ),
            f"an embedding of {name} is shared with the other one or with the output": check.when(has[1] < least[1]),
            f"a norm of {name} is shared; each sub-layer should have its own": check.when(has[2] < least[2]),
        })  # fmt: skip
        # Of what has a ReLU a few numbers may rest; a sub-layer's matrix, or a third of a joint one, is more than 7 %.
        learns = learning > 0.93 * least[0]
        check.that(learns, f"no gradient reaches a weight matrix of {name}, or a part of one")
        named = f"the arguments of {name} have the wrong names or defaults"
        check([names[: len(required)], values], [required, defaults], otherwise=named)
        check(outputs[1], outputs[0], otherwise=f"the state of {name} does not hold all that it is made of")


@ALL
@pytest.mark.points(2)
def test_embeddings_get_their_gradients(student, check, rng):
    """Tokens, learned positions and types learn; the token embedding of GPT through the output too, to which it is tied."""

    def probe(kinds):
        import transformer

        def at_tables(name, args, inputs, tables):
            model = inside.with_known_weights(getattr(transformer, name)(*args), tables)
            grads = [grad.squeeze() for grad in inside.gradients(model(*inputs), inside.weights_of(model))]
            turned = [grad for both in grads if both.dim() == 2 for grad in (both, both.T)]
            return [next((g for g in turned if g.shape == table.shape), torch.zeros_like(table)) for table in tables]

        return [at_tables(*kind) for kind in kinds]

    def table_slopes(truth, rows, inputs, **right):  # zeros where none arrives; right: the steps of the model
        whole = partial(truth, rows, ModelSteps(**right))
        return true_gradients(whole, *inputs, weights=rows)[1][-len(rows) :]

    def one_table(truth):
        return lambda rows, *inputs: truth(rows[0], *inputs)

    ids, memory = (
        some_ids(rng, 2, 6, pad=0),
        wide(rng, 2, 4),
    )  # without 0: nn.Embedding may be told that it is padding
    plain, three = tables(rng, V, MAX_LEN, size=2.0), tables(rng, V, MAX_LEN, TYPES)
    kinds = [
        ("Encoder", made_with(2), [ids], plain[:1]),
        ("Decoder", made_with(2), [ids, memory], plain[:1]),
        ("BERTModel", bert_made_with(2), [ids], three),
        ("GPTModel", made_with(2), [some_ids(rng, 2, 6)], plain),
    ]
    told = student.run(probe, kinds)

    def tied(whole, rows, inputs):
        token, at_position = rows[0].detach(), whole[1]
        inner = table_slopes(partial(gpt, output=token), rows, inputs, **GPT_STEPS)[0]
        through_output, without_0 = whole[0] - inner, inner.index_fill(0, torch.tensor([0]), 0.0)
        return {
            "no gradient reaches the token embedding through the output; it should, since the two are tied": [inner, at_position],
            "no gradient reaches the token embedding through the input": [through_output, at_position],
            "token 0 of GPTModel gets no gradient; it should, as it is not padding": [through_output + without_0, at_position],
        }  # fmt: skip

    truths = [(one_table(encoder), {}), (one_table(decoder), {}), (bert, BERT_STEPS), (gpt, GPT_STEPS)]
    for (name, _, inputs, rows), found, (truth, steps) in zip(kinds, told, truths, strict=True):
        whole = table_slopes(truth, rows, inputs, **steps)
        mistakes = tied(whole, rows, inputs) if name == "GPTModel" else {}
        for k, what in zip(range(len(rows)), ("token", "position", "type"), strict=False):
            without = [0 * table if k == n else table for n, table in enumerate(whole)]
            mistakes[f"no gradient reaches the {what} embedding of {name}"] = without
        check(found, whole, relative=2e-5, mistakes=mistakes)


@ALL
@pytest.mark.points(2)
def test_dropout_acts_in_train_mode_only(student, check, rng):
    """By default there is dropout in train mode, drawn from torch's generator, and none in eval mode or with dropout=0.0."""

    def probe(classes):
        import transformer

        told = {}
        for name, args, inputs in classes:
            kind = getattr(transformer, name)
            model, without = inside.randomized(kind(*args)), inside.randomized(kind(*args, dropout=0.0))
            runs = inside.dropout_runs(model, *inputs)
            told[name] = [run[0] for run in runs], without.train()(*inputs), without.eval()(*inputs)
        layers = [(getattr(transformer, name)(*args, dropout=1 - 1e-12), inputs) for name, args, inputs in classes[1:3]]
        return told, [
            inside.with_known_weights(layer).train()(*(item.double() for item in inputs)) for layer, inputs in layers
        ]

    classes = made(rng)
    told, rests = student.run(probe, classes)

    for name in CLASSES:
        (first, same_seed, other_seed, quiet, quiet_again), *without = told[name]
        check.that(not torch.equal(first, other_seed), f"{name} has no dropout in train mode")
        check.that(torch.equal(quiet, quiet_again), f"dropout of {name} is not switched off in eval mode")
        reached = torch.allclose(*without, atol=1e-5)
        check.that(reached, f"the argument dropout of {name} does not reach every dropout: there is some with 0.0")
        seeded = f"the same seed does not give the same dropout of {name}: draw it from torch's generator"
        check.that(torch.equal(first, same_seed), seeded)
    for (name, _, (x, *_)), rest, norms in zip(classes[1:3], rests, (2, 3), strict=True):  # all is dropped that may be
        expected = x.double()
        for _ in range(norms):
            expected = norm(expected)
        late = f"dropout of {name} drops x too; it should act on a sub-layer's output, before it is added to x"
        check(rest, expected, relative=2e-5, mistakes={late: 0 * expected})


@ALL
@pytest.mark.points(2)
def test_nothing_else_happens(student, check, rng):
    """Inputs stay as they are and may be non-contiguous, torch's settings stay, nothing is printed, tensors follow the device."""

    def probe(classes):
        import contextlib

        import transformer

        told = {}
        for name, args, inputs in classes:
            model, _, rude = inside.manners(getattr(transformer, name), *args)
            output = inside.a_tensor(model.eval()(*inputs))
            result, after, rude_too = inside.manners(model, *inputs)
            on_meta = ""
            with contextlib.suppress(RuntimeError, TypeError):  # what cannot run without numbers is not told about
                on_meta = inside.on_meta(model.to("meta"), *inputs)
            told[name] = output, result, after, rude or rude_too, on_meta
        return told

    classes = made(rng, masked=True)
    told = student.on(timeout=30).run(probe, classes)

    for name, _, inputs in classes:
        output, result, after, rude, on_meta = told[name]
        check(after, inputs, otherwise=f"{name} changes an input in place")
        check(result, output, otherwise=f"{name} gives a different result for non-contiguous inputs")
        check(rude, "", mistakes={
            f"{name} changes the seed, the default dtype or another setting of torch": "changes torch",
            f"{name} prints something": "prints",
        })  # fmt: skip
        check.that(on_meta == "", f"{name} makes a tensor that is not on the device of its inputs")


@ALL
@pytest.mark.points(2)
def test_sizes_that_do_not_fit_are_refused(student, rng):
    """d_model that num_heads does not divide, and more than max_len positions, are ValueErrors."""

    def run(name, args, inputs):
        import transformer

        getattr(transformer, name)(*args).eval()(*inputs)

    long = ("max_len", "ids", "input_ids", "src", "tgt", "x", MAX_LEN + 1, MAX_LEN)
    for name, args, inputs in made(rng, list(CLASSES)[1:]):
        student.accepts(run, name, args, inputs)  # ids of MAX_LEN positions
        uneven = [5 if argument is H else argument for argument in args]
        student.raises(ValueError, run, name, uneven, inputs, says=("d_model", "num_heads", "n_head", D, 5))
        for place in [n for n, letter in enumerate(CLASSES[name][1]) if letter in "ij"]:
            longer = [*inputs[:place], torch.ones(2, MAX_LEN + 1, dtype=torch.int64), *inputs[place + 1 :]]
            student.raises(ValueError, run, name, args, longer, says=long)


@ALL
@pytest.mark.points(1)
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_run_on_the_gpu(student, check, rng, device, dtype):
    """All classes follow their inputs to the GPU, in bfloat16 too."""

    def probe(classes, device, dtype):
        import transformer

        models = [getattr(transformer, name)(*args).to(device, dtype).eval() for name, args, _ in classes]
        calls = [[item.to(dtype) if item.is_floating_point() else item for item in inputs] for _, _, inputs in classes]
        return {name: model(*inputs) for model, inputs, (name, _, _) in zip(models, calls, classes, strict=True)}

    outputs = student.run(probe, made(rng), device.type, dtype)

    right = {name: [device.type, dtype, True] for name in CLASSES}
    found = {n: [str(getattr(o, "came_from", "cpu")), o.dtype, bool(o.isfinite().all())] for n, o in outputs.items()}
    check(found, right)
