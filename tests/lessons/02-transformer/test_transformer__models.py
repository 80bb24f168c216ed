"""Hidden tests of transformer: GPTModel and BERTModel, against transformers, and what all classes share."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from shared import has_nan, randn, true_gradients, when
from transformer_helpers import (
    BERT_STEPS,
    CAUSAL_MISTAKES,
    DEPTH_MISTAKES,
    FF,
    GAIN,
    GPT_STEPS,
    LAYER,
    LOGIT_MISTAKES,
    MASK_MISTAKES,
    MAX_LEN,
    D,
    H,
    Steps,
    V,
    bert,
    compared,
    decoder,
    encoder,
    gelu_tanh,
    gpt,
    ids_of,
    known_layer,
    made_with,
    masks,
    norm,
    past,
    sinusoids,
    style_mistakes,
    tables,
    wide,
)

TYPES = 7  # token types of BERT: no 2 layers have so many norms that one tensor of all gains looks like a table
OF_BERT = (*made_with(2), 0.1, TYPES)
POSITION_MISTAKES = {
    "the positions are missing": {"learned": lambda table: 0 * table},
    "positions are counted from 1": {"learned": lambda table: table.roll(-1, 0)},
    "positions begin at 2, as behind a padding index; they should begin at 0": {"learned": lambda table: table.roll(-2, 0)},
    "the positions are sinusoidal; they should be learned": {"learned": lambda table: sinusoids(MAX_LEN)},
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- GPTModel, BERTModel


@pytest.mark.question("GPTModel")
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "d_ff"), [(3, MAX_LEN, 2, FF), (2, 5, 2, FF), (1, 1, 1, None)])
def test_gpt_is_a_causal_pre_norm_stack(student, check, rng, B, T, layers, d_ff):
    """Token plus learned position, causal pre-norm layers with GELU, a last norm, logits by the token embedding."""
    rows, calls = tables(rng, V, MAX_LEN, size=8.0), [(ids_of(rng, B, T),)]
    mistakes = {"the feed-forward uses exact GELU; it should use the tanh form": {"act": F.gelu}}
    mistakes |= style_mistakes("self", "ffn", style="pre") | CAUSAL_MISTAKES | DEPTH_MISTAKES | LOGIT_MISTAKES
    mistakes |= {"the norm after the last layer is missing": {"last_norm": lambda x, *_: x}} | POSITION_MISTAKES
    truth, made_of = gpt_of(rows, known_layer(d_ff or 4 * D)), (V, D, layers, H, d_ff, MAX_LEN)
    steps = GPT_STEPS | {"layers": layers}
    check(**compared(student, "GPTModel", made_of, calls, truth, mistakes, rows, within=5e-6, **steps))


def gpt_of(rows, w):
    return lambda do, *inputs: gpt(rows, do, *inputs, layers=[w] * do.layers)


@pytest.mark.question("GPTModel")
@pytest.mark.points(3)
def test_gpt_starts_like_that_of_transformers(student, check, rng):
    """Weights from N(0, 0.02), zero biases, and so a first loss near ln V; the output is tied to the token embedding."""

    def probe(ids):
        from transformer import GPTModel

        model = GPTModel(101, 64, 2, 4, None, 48, 0.0)
        weights = inside.trained(model)
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
        "the output is not tied to the token embedding: it has a weight of its own": right + 101 * 64,
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
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "typed"), [(2, 5, 2, False), (1, 1, 1, True), (3, MAX_LEN, 2, True)])
def test_bert_is_three_embeddings_a_norm_and_a_post_norm_stack(student, check, rng, B, T, layers, typed):
    """Token, position and type are added and normed; then post-norm layers with exact GELU, seeing in both directions."""
    rows = tables(rng, V, MAX_LEN, TYPES)
    call = ids_of(rng, B, T), *([torch.randint(0, TYPES, (B, T), generator=rng)] if typed else [])
    mistakes = {"the feed-forward uses the tanh form of GELU; it should use the exact form": {"act": gelu_tanh}}
    mistakes |= style_mistakes("self", "ffn") | DEPTH_MISTAKES | POSITION_MISTAKES | {
        "there is no norm after the embeddings": {"first_norm": lambda x, *_: x},
        "the types are not added": {"types": lambda table: 0 * table},
        "token_type_ids is ignored": lambda ids, types=None: (ids,),
        "the second argument is taken for the attention mask; it should be token_type_ids": lambda ids, types: (ids, None, types),
        "the model is causal": lambda ids, types=None: (ids, types, past(T)[None]),
        "token 0 is hidden though no mask was given": lambda ids, types=None: (ids, types, ids != 0),
    }  # fmt: skip
    made_of, steps = (*made_with(layers), 0.1, TYPES), BERT_STEPS | {"layers": layers}
    check(**compared(student, "BERTModel", made_of, [call], partial(bert, rows), mistakes, rows, within=5e-6, **steps))


@pytest.mark.question("BERTModel")
@pytest.mark.points(3)
def test_bert_never_attends_to_what_its_mask_hides(student, check, rng):
    """attention_mask (B, T) is true or 1 at real tokens; the output there does not depend on the others."""
    rows, ids = tables(rng, V, MAX_LEN, TYPES), ids_of(rng, 3, 7)
    types, mask = torch.randint(0, TYPES, (3, 7), generator=rng), torch.ones(3, 7, dtype=torch.bool)
    mask[1, -3:] = mask[2, 1] = mask[2, -1] = False
    calls = [(ids, types, mask) for mask in (mask.long(), mask, mask.float())]
    mistakes = MASK_MISTAKES | {
        "attention_mask is ignored": lambda ids, types, mask: (ids, types),
        "attention_mask is turned around: true means may attend": lambda ids, types, mask: (ids, types, mask == 0),
        "the second argument is taken for the attention mask; it should be token_type_ids": lambda ids, types, mask: (
            ids, mask.long(), types
        ),
    }  # fmt: skip
    truth = partial(bert, rows)
    check(**compared(student, "BERTModel", OF_BERT, calls, truth, mistakes, rows, at=mask, **BERT_STEPS))


@pytest.mark.question("BERTModel")
@pytest.mark.points(1)
def test_a_sequence_without_real_tokens_harms_nobody(student, check, rng):
    """A row of attention_mask that hides everything gives no NaN, neither in the outputs nor in the gradients."""

    def probe(args, ids, types, mask, rows):
        from transformer import BERTModel

        model = inside.filled(BERTModel(*args), rows)
        output = inside.a_tensor(model(ids, types, mask))
        output[mask != 0].sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return output, [bool(grad.isfinite().all()) for grad in grads]

    ids, types, mask = ids_of(rng, 3, 6), torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 6, dtype=torch.int64)
    mask[1], mask[2, 4:] = 0, 0
    output, finite = student.run(probe, OF_BERT, ids, types, mask, tables(rng, V, MAX_LEN, TYPES))

    check.that(output.shape == (3, 6, D), "the result does not have the shape (B, T, D)")
    check.that(not has_nan(output), "a query that may attend to nothing gives NaN")
    check.that(all(finite), "the gradients are NaN where a query may attend to nothing")


@pytest.mark.question("BERTModel")
@pytest.mark.points(2)
def test_the_eps_of_berts_norms_is_tiny(student, check, rng):
    """The eps of all norms is 1e-12: with weights a thousand times smaller the norms still norm."""

    def probe(args, ids, rows):
        from transformer import BERTModel

        model = inside.filled(BERTModel(*args), rows)
        for weight in model.parameters():
            weight.data.mul_(1e-3)
        return model(ids)

    ids, rows = ids_of(rng, 2, 6), tables(rng, V, MAX_LEN, TYPES)
    result = student.run(probe, OF_BERT, ids, rows)

    w, rows = known_layer(scale=1e-3, norm=(1e-3 * GAIN[0], GAIN[1])), [1e-3 * table for table in rows]

    def truth(**wrong):
        return bert(rows, Steps(**BERT_STEPS | wrong), ids, layers=[w, w], first=w["self"]["norm"])

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
    inputs |= {"i": ids_of(rng, 2, MAX_LEN), "j": ids_of(rng, 2, 7, pad=0)}
    extra = {
        "EncoderLayer": masks(rng, 2, 20, 20, 1)[2:],
        "DecoderLayer": [masks(rng, 2, 20, 20, 1)[2], masks(rng, 2, 20, 7, 1)[2]],
        "Encoder": masks(rng, 2, MAX_LEN, MAX_LEN, 1)[2:],
        "Decoder": masks(rng, 2, MAX_LEN, MAX_LEN, 1)[2:],
    }
    given = {name: [inputs[key] for key in CLASSES[name][1]] for name in names}
    return [(name, CLASSES[name][0], given[name] + (extra.get(name, []) if masked else [])) for name in names]


def what_is_missing(name, has, least):
    """Mistakes that numbers of weights show: in matrices, in tables with a row a token, in gains of norms."""
    return {
        f"all layers of {name} are the same one; each should have its own weights": when(2 * has[0] <= least[0] + MAX_LEN * D),
        f"{name} has fewer weights than it should have: something is shared, or not registered": when(has[0] < least[0]),
        f"an embedding of {name} is shared with the other one or with the output": when(has[1] < least[1]),
        f"a norm of {name} is shared; each sub-layer should have its own": when(has[2] < least[2]),
    }  # fmt: skip


@ALL
@pytest.mark.points(3)
def test_every_weight_is_there_and_learns(student, check, rng):
    """No layer, embedding or norm is shared, all weights learn and are saved; arguments have their names and defaults."""

    def probe(classes, vocab_size, defaults):
        pairs = zip(classes, defaults, strict=True)
        return [inside.weight_facts(*described, vocab_size, names) for described, names in pairs]

    told = student.run(probe, made(rng), V, [list(row[3]) for row in CLASSES.values()])

    for ((numbers, learning, with_a_row_a_token, gains), names, values, outputs), (name, row) in zip(
        told, CLASSES.items(), strict=True
    ):
        required, defaults, *least = row[2].split(), *row[3:-1], D * row[-1]
        has = [min(found, needed) for found, needed in zip((numbers, with_a_row_a_token, gains), least, strict=True)]
        check(has, least, mistakes=what_is_missing(name, has, least))
        # Of what has a ReLU a few numbers may rest; a sub-layer's matrix, or a third of a joint one, is more than 7 %.
        learns = learning > 0.93 * least[0]
        check.that(learns, f"no gradient reaches a weight matrix of {name}, or a part of one")
        named = f"the arguments of {name} have the wrong names or defaults"
        check([names[: len(required)], values], [required, defaults], otherwise=named)
        check(outputs[1], outputs[0], otherwise=f"the state of {name} does not hold all that it is made of")


def table_slopes(truth, rows, inputs, **right):
    """The gradients at the tables, zeros where none arrives; right: the steps of the model."""
    return true_gradients(lambda *inputs: truth(rows, Steps(**right), *inputs), *inputs, weights=rows)[1][-len(rows) :]


@ALL
@pytest.mark.points(2)
def test_embeddings_get_their_gradients(student, check, rng):
    """Tokens, learned positions and types learn; the token embedding of GPT through the output too, to which it is tied."""

    def probe(kinds):
        return [inside.table_gradients(*kind) for kind in kinds]

    def one_table(truth):
        return lambda rows, *inputs: truth(rows[0], *inputs)

    ids, memory = ids_of(rng, 2, 6, pad=0), wide(rng, 2, 4)  # without 0: nn.Embedding may be told that it is padding
    plain, three = tables(rng, V, MAX_LEN, size=2.0), tables(rng, V, MAX_LEN, TYPES)
    kinds = [
        ("Encoder", made_with(2), [ids], plain[:1]),
        ("Decoder", made_with(2), [ids, memory], plain[:1]),
        ("BERTModel", OF_BERT, [ids], three),
        ("GPTModel", made_with(2), [ids_of(rng, 2, 6)], plain),
    ]
    told = student.run(probe, kinds)

    truths = [(one_table(encoder), {}), (one_table(decoder), {}), (bert, BERT_STEPS), (gpt, GPT_STEPS)]
    for (name, _, inputs, rows), found, (truth, steps) in zip(kinds, told, truths, strict=True):
        whole = table_slopes(truth, rows, inputs, **steps)
        mistakes = tied(whole, rows, inputs) if name == "GPTModel" else {}
        mistakes |= {
            f"no gradient reaches the {what} embedding of {name}": [
                0 * table if k == n else table for n, table in enumerate(whole)
            ]
            for k, what in zip(range(len(rows)), ("token", "position", "type"), strict=False)
        }
        check(found, whole, relative=2e-5, mistakes=mistakes)


def tied(whole, rows, inputs):
    """How the gradient at GPT's tied table goes wrong: it is the sum of that through the input and that through the output."""
    token, position = rows

    def through_input(rows, do, ids):
        return gpt(rows, do, ids, output=token.detach())

    inner, at_position = table_slopes(through_input, rows, inputs, **GPT_STEPS)
    through_output = whole[0] - inner
    without_0 = inner.index_fill(0, torch.tensor([0]), 0.0)
    return {
        "no gradient reaches the token embedding through the output; it should, since the two are tied": [inner, at_position],
        "no gradient reaches the token embedding through the input": [through_output, at_position],
        "token 0 of GPTModel gets no gradient; it should, as it is not padding": [through_output + without_0, at_position],
    }  # fmt: skip


@ALL
@pytest.mark.points(2)
def test_dropout_acts_in_train_mode_only(student, check, rng):
    """By default there is dropout in train mode, drawn from torch's generator, and none in eval mode or with dropout=0.0."""

    def probe(classes):
        import transformer

        told = {}
        for name, args, inputs in classes:
            kind = getattr(transformer, name)
            runs, without = (
                inside.dropout_runs(inside.drawn(kind(*args)), *inputs),
                inside.drawn(kind(*args, dropout=0.0)),
            )
            told[name] = [run[0] for run in runs], without.train()(*inputs), without.eval()(*inputs)
        layers = [(getattr(transformer, name)(*args, dropout=1 - 1e-12), inputs) for name, args, inputs in classes[1:3]]
        return told, [inside.filled(layer).train()(*(item.double() for item in inputs)) for layer, inputs in layers]

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
