"""Hidden tests of transformer: GPTModel and BERTModel, against transformers, and what all classes share."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from transformer_helpers import (
    CAUSAL_MISTAKES,
    DEPTH_MISTAKES,
    ENCODER,
    FF,
    GAIN,
    LAYER,
    LOGIT_MISTAKES,
    MASK_MISTAKES,
    MAX_LEN,
    D,
    H,
    V,
    agree,
    bert,
    comparison,
    decoder,
    encoder,
    gelu_tanh,
    given,
    gpt,
    known_layer,
    made_with,
    masks,
    norm,
    past,
    randn,
    style_mistakes,
    tables,
    tokens,
    waves,
    wide,
)

TYPES = 7  # token types of BERT: no 2 layers have so many norms that one tensor of all gains looks like a table


@pytest.fixture
def compare(student, check):
    return comparison(student, check)


# ---------------------------------------------------------------------------------------------- GPTModel, BERTModel


@pytest.mark.question("GPTModel")
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "d_ff"), [(3, MAX_LEN, 2, FF), (2, 5, 2, FF), (1, 1, 1, None)])
def test_gpt_is_a_causal_pre_norm_stack(compare, rng, B, T, layers, d_ff):
    """Token plus learned position, causal pre-norm layers with GELU, a last norm, logits by the token embedding."""
    rows = token, position = tables(rng, V, MAX_LEN, size=8.0)
    truth = partial(gpt, rows=rows, layers=layers, w=known_layer(d_ff or 4 * D))
    mistakes = {"the feed-forward uses exact GELU: here it is the tanh form": {"act": F.gelu}}
    mistakes |= style_mistakes(ENCODER, "pre") | CAUSAL_MISTAKES | DEPTH_MISTAKES | LOGIT_MISTAKES
    compare("GPTModel", (V, D, layers, H, d_ff, MAX_LEN), [(tokens(rng, B, T),)], truth, mistakes | {
        "the norm after the last layer is missing": {"last": lambda x, *_: x},
        "the positions are missing": {"rows": [token, 0 * position]},
        "positions are counted from 1": {"rows": [token, position.roll(-1, 0)]},
        "positions begin at 2, as behind a padding index; they should begin at 0": {"rows": [token, position.roll(-2, 0)]},
        "the positions are sinusoidal: here they are learned": {"rows": [token, waves(MAX_LEN)]},
    }, rows, within=5e-6)  # fmt: skip


@pytest.mark.question("GPTModel")
@pytest.mark.points(3)
def test_gpt_starts_like_that_of_transformers(student, check, rng):
    """Weights from N(0, 0.02), zero biases, and so a first loss near ln V; the output is tied to the token embedding."""

    def probe(ids):
        from transformer import GPTModel

        model = GPTModel(101, 64, 2, 4, None, 48, 0.0)
        weights = inside.trained(model)
        matrices = [
            weight for weight in weights if inside.is_matrix(weight) and weight.any()
        ]  # not biases in one tensor
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
    check(all(near), True, mistakes={"the weights do not start from N(0, 0.02)": False})
    check(biases_are_zero, True, mistakes={"the biases do not start at 0": False})
    check(abs(loss - math.log(101)) < 0.3, True, mistakes={"the first loss is far from ln V": False})


@pytest.mark.question("BERTModel")
@pytest.mark.points(5)
@pytest.mark.parametrize(("B", "T", "layers", "typed"), [(2, 5, 2, False), (1, 1, 1, True), (3, MAX_LEN, 2, True)])
def test_bert_is_three_embeddings_a_norm_and_a_post_norm_stack(compare, rng, B, T, layers, typed):
    """Token, position and type are added and normed; then post-norm layers with exact GELU, seeing in both directions."""
    rows = token, position, kinds = tables(rng, V, MAX_LEN, TYPES)
    call = tokens(rng, B, T), *([torch.randint(0, TYPES, (B, T), generator=rng)] if typed else [])
    mistakes = {"the feed-forward uses the tanh form of GELU: here it is exact": {"act": gelu_tanh}}
    mistakes |= style_mistakes(ENCODER) | DEPTH_MISTAKES
    compare("BERTModel", (*made_with(layers), 0.1, TYPES), [call], partial(bert, rows=rows, layers=layers), mistakes | {
        "there is no norm after the embeddings": {"first_norm": lambda x, *_: x},
        "the positions are missing": {"rows": [token, 0 * position, kinds]},
        "positions are counted from 1": {"rows": [token, position.roll(-1, 0), kinds]},
        "positions begin at 2, as behind a padding index; they should begin at 0": {"rows": [token, position.roll(-2, 0), kinds]},
        "the types are not added": {"rows": [token, position, 0 * kinds]},
        "token_type_ids is ignored": lambda ids, types=None: (ids,),
        "the second argument is taken for the attention mask: it is token_type_ids": lambda ids, types: (ids, None, types),
        "the model is causal": lambda ids, types=None: (ids, types, past(T)[None]),
        "token 0 is hidden though no mask was given": lambda ids, types=None: (ids, types, ids != 0),
    }, rows, within=5e-6)  # fmt: skip


@pytest.mark.question("BERTModel")
@pytest.mark.points(3)
def test_bert_never_attends_to_what_its_mask_hides(compare, rng):
    """attention_mask (B, T) is true or 1 at real tokens; the output there does not depend on the others."""
    rows, ids, types = tables(rng, V, MAX_LEN, TYPES), tokens(rng, 3, 7), torch.randint(0, TYPES, (3, 7), generator=rng)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, -3:] = mask[2, 1] = mask[2, -1] = False
    calls = [(ids, types, mask) for mask in (mask.long(), mask, mask.float())]
    compare("BERTModel", (*made_with(2), 0.1, TYPES), calls, partial(bert, rows=rows), MASK_MISTAKES | {
        "attention_mask is ignored": lambda ids, types, mask: (ids, types),
        "attention_mask is turned around: true means may attend": lambda ids, types, mask: (ids, types, mask == 0),
        "the second argument is taken for the attention mask: it is token_type_ids": lambda ids, types, mask: (
            ids, mask.long(), types
        ),
    }, rows, at=mask)  # fmt: skip


@pytest.mark.question("BERTModel")
@pytest.mark.points(1)
def test_a_sequence_without_real_tokens_harms_nobody(student, check, rng):
    """A row of attention_mask that hides everything gives no NaN, neither in the outputs nor in the gradients."""

    def probe(ids, types, mask, rows):
        from transformer import BERTModel

        model = inside.filled(BERTModel(13, 24, 2, 3, 32, 9, 0.1, len(rows[2])), rows)
        output = inside.a_tensor(model(ids, types, mask))
        output[mask != 0].sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return output, [bool(grad.isfinite().all()) for grad in grads]

    ids, types, mask = tokens(rng, 3, 6), torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 6, dtype=torch.int64)
    mask[1], mask[2, 4:] = 0, 0
    output, finite = student.run(probe, ids, types, mask, tables(rng, V, MAX_LEN, TYPES))

    assert getattr(output, "shape", None) == (3, 6, D), "the result does not have the shape (B, T, D)"
    nan = {"a query that may attend to nothing gives NaN": True}
    check(bool(output.isnan().any()), False, mistakes=nan)
    check(all(finite), True, mistakes={"the gradients are NaN where a query may attend to nothing": False})


@pytest.mark.question("BERTModel")
@pytest.mark.points(2)
def test_the_eps_of_berts_norms_is_tiny(student, check, rng):
    """The eps of all norms is 1e-12: with weights a thousand times smaller the norms still norm."""

    def probe(ids, rows):
        from transformer import BERTModel

        model = inside.filled(BERTModel(13, 24, 2, 3, 32, 9, 0.1, len(rows[2])), rows)
        for weight in model.parameters():
            weight.data.mul_(1e-3)
        return model(ids)

    ids, rows = tokens(rng, 2, 6), tables(rng, V, MAX_LEN, TYPES)
    result = student.run(probe, ids, rows)

    w, rows = known_layer(scale=1e-3, norm=(1e-3 * GAIN[0], GAIN[1])), [1e-3 * part for part in rows]
    truth = partial(bert, ids, rows=rows, first=w["self"]["norm"], w=w)
    agree(check, result, truth(), {
        f"the eps of the norms is {eps}: here it is 1e-12": lambda eps=eps: truth(eps=eps) for eps in (1e-5, 1e-6)
    })  # fmt: skip


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
    x, memory, ids, padded = (
        randn(rng, 2, 20, D),
        randn(rng, 2, 7, D),
        tokens(rng, 2, MAX_LEN),
        tokens(rng, 2, 7, pad=0),
    )
    inputs = {"x": x, "m": memory, "i": ids, "j": padded}
    extra = {
        "EncoderLayer": masks(rng, 2, 20, 20)[2:],
        "DecoderLayer": [masks(rng, 2, 20, 20)[2], masks(rng, 2, 20, 7)[2]],
    }
    extra |= {"Encoder": masks(rng, 2, MAX_LEN, MAX_LEN)[2:], "Decoder": masks(rng, 2, MAX_LEN, MAX_LEN)[2:]}
    return [
        (n, CLASSES[n][0], [inputs[key] for key in CLASSES[n][1]] + (extra.get(n, []) if masked else [])) for n in names
    ]


def what_is_missing(name, has, least):
    """Mistakes that numbers of weights show: in matrices, in tables with a row a token, in gains of norms."""
    return {
        f"all layers of {name} are one: each needs weights of its own": (
            lambda: given(2 * has[0] <= least[0] + MAX_LEN * D, has)
        ),
        f"{name} has fewer weights than it should have: something is shared, or not registered": (
            lambda: given(has[0] < least[0], has)
        ),
        f"an embedding of {name} is shared with the other one or with the output": lambda: given(
            has[1] < least[1], has
        ),
        f"a norm of {name} is shared: each sub-layer has one of its own": lambda: given(has[2] < least[2], has),
    }


@ALL
@pytest.mark.points(3)
def test_every_weight_is_there_and_learns(student, check, rng):
    """No layer, embedding or norm is shared, all weights learn and are saved; arguments have their names and defaults."""

    def probe(classes, vocab_size, defaults):
        return [
            inside.weight_facts(*described, vocab_size, names)
            for described, names in zip(classes, defaults, strict=True)
        ]

    told = student.run(probe, made(rng), V, [list(row[3]) for row in CLASSES.values()])

    for ((numbers, learning, with_a_row_a_token, gains), names, values, outputs), (name, row) in zip(
        told, CLASSES.items(), strict=True
    ):
        required, defaults, *least = row[2].split(), *row[3:-1], D * row[-1]
        has = [min(found, needed) for found, needed in zip((numbers, with_a_row_a_token, gains), least, strict=True)]
        check(has, least, mistakes=what_is_missing(name, has, least))
        # Of what has a ReLU a few numbers may rest; a sub-layer's matrix, or a third of a joint one, is more than 7 %.
        check(
            learning > 0.93 * least[0],
            True,
            mistakes={f"no gradient reaches a weight matrix of {name}, or a part of one": False},
        )
        told = [names[: len(required)], values]
        other_names = f"the arguments of {name} have other names or defaults than they should have"
        check(told, [required, defaults], otherwise=other_names)
        check(outputs[1], outputs[0], otherwise=f"the state of {name} does not hold all that it is made of")


def slopes(truth, rows, inputs, /, **wrong):
    """The gradients of Σ sin(n) · output[n] at the tables, zeros where none arrives."""
    rows = [table.clone().requires_grad_() for table in rows]
    output = truth(*inputs, **{"rows": rows} | {key: change(rows) for key, change in wrong.items()})
    total = (torch.arange(output.numel(), dtype=torch.float64).sin() * output.flatten()).sum()
    return list(torch.autograd.grad(total, rows, allow_unused=True, materialize_grads=True))


@ALL
@pytest.mark.points(2)
def test_embeddings_get_their_gradients(student, check, rng):
    """Tokens, learned positions and types learn; the token embedding of GPT through the output too, to which it is tied."""

    def probe(kinds):
        return [inside.table_gradients(*kind) for kind in kinds]

    def one_table(truth):
        return lambda *inputs, rows: truth(*inputs, rows=rows[0])

    ids, memory = tokens(rng, 2, 6, pad=0), wide(rng, 2, 4)  # without 0: nn.Embedding may be told that it is padding
    plain, three = tables(rng, V, MAX_LEN, size=2.0), tables(rng, V, MAX_LEN, TYPES)
    kinds = [
        ("Encoder", made_with(2), [ids], plain[:1]),
        ("Decoder", made_with(2), [ids, memory], plain[:1]),
        ("BERTModel", (*made_with(2), 0.1, TYPES), [ids], three),
        ("GPTModel", made_with(2), [tokens(rng, 2, 6)], plain),
    ]
    told = student.run(probe, kinds)

    truths = [one_table(encoder), one_table(decoder), bert, gpt]
    for (name, _, inputs, rows), found, truth in zip(kinds, told, truths, strict=True):
        whole, mistakes = slopes(truth, rows, inputs), {}
        if name == "GPTModel":
            (through_output, position), (inner, _) = (
                slopes(truth, rows, inputs, rows=lambda rows: [rows[0].detach(), rows[1]], output=lambda rows: rows[0]),
                slopes(truth, rows, inputs, output=lambda rows: rows[0].detach()),
            )
            without_0 = inner.index_fill(0, torch.tensor([0]), 0.0)
            mistakes = {
                "no gradient reaches the token embedding through the output: it is tied to it": [inner, position],
                "no gradient reaches the token embedding through the input": [through_output, position],
                "token 0 of GPTModel gets no gradient: it is no padding": [through_output + without_0, position],
            }
        mistakes |= {
            f"no gradient reaches the {what} embedding of {name}": [
                0 * table if k == n else table for n, table in enumerate(whole)
            ]
            for k, what in zip(range(len(rows)), ("token", "position", "type"), strict=False)
        }
        agree(check, found, whole, mistakes)


@ALL
@pytest.mark.points(2)
def test_dropout_acts_in_train_mode_only(student, check, rng):
    """By default there is dropout in train mode, drawn from torch's generator, and none in eval mode or with dropout=0.0."""

    def probe(classes):
        import transformer

        facts = {name: inside.dropout_facts(getattr(transformer, name), args, inputs) for name, args, inputs in classes}
        layers = [(getattr(transformer, name)(*args, dropout=1 - 1e-12), inputs) for name, args, inputs in classes[1:3]]
        rests = [inside.filled(model).train()(*(item.double() for item in inputs)) for model, inputs in layers]
        return facts, rests

    classes = made(rng)
    told, rests = student.run(probe, classes)

    for name in CLASSES:
        check(told[name], [True, False, True, True], mistakes={
            f"{name} has no dropout in train mode": [True, True, True, True],
            f"dropout of {name} is not switched off in eval mode": [True, False, False, True],
            f"the argument dropout of {name} does not reach every dropout: there is some with 0.0": [True, False, True, False],
            f"dropout of {name} is not switched off in eval mode or with 0.0": [True, False, False, False],
            f"the same seed does not give the same dropout of {name}: draw it from torch's generator": [False, False, True, True],
        })  # fmt: skip
    for (name, _, (x, *_)), rest, norms in zip(classes[1:3], rests, (2, 3), strict=True):  # all is dropped that may be
        expected = x.double()
        for _ in range(norms):
            expected = norm(expected)
        agree(check, rest, expected, {
            f"dropout of {name} drops x too: it acts on what a sub-layer gives, before that is added to x": 0 * expected
        })  # fmt: skip


@ALL
@pytest.mark.points(2)
def test_nothing_else_happens(student, check, rng):
    """Inputs stay as they are and may be non-contiguous, torch's settings stay, nothing is printed, tensors follow the device."""

    def probe(classes):
        import transformer

        told = {}
        for name, args, inputs in classes:
            kind = getattr(transformer, name)
            model, _, *making = inside.manners(kind, *args)
            output = inside.a_tensor(model.eval()(*inputs))
            told[name] = output, inside.manners(model, *inputs), making, inside.on_meta(model, *inputs)
        return told

    classes = made(rng, masked=True)
    told = student.run(probe, classes)

    for name, _, inputs in classes:
        output, (result, after, *calling), making, on_meta = told[name]
        torch_changed, printed = (
            bool(in_making or in_calling) for in_making, in_calling in zip(making, calling, strict=True)
        )
        check(after, inputs, otherwise=f"{name} changes an input in place")
        check(result, output, otherwise=f"{name} gives another result for non-contiguous inputs")
        check([torch_changed, printed, on_meta == "mixes devices"], [False, False, False], mistakes={
            f"{name} changes the seed, the default dtype or another setting of torch": [True, False, False],
            f"{name} prints something": [False, True, False],
            f"{name} makes a tensor that is not on the device of its inputs": [False, False, True],
        })  # fmt: skip


@ALL
@pytest.mark.points(2)
def test_sizes_that_do_not_fit_are_refused(student, rng):
    """d_model that num_heads does not divide, and more than max_len positions, are ValueErrors."""

    def run(name, args, inputs):
        import transformer

        getattr(transformer, name)(*args).eval()(*inputs)

    long = ("max_len", "ids", "input_ids", "src", "tgt", "x", MAX_LEN + 1, MAX_LEN)
    for name, args, inputs in made(rng, list(CLASSES)[1:]):
        heads = args.index(H)
        student.raises(
            ValueError,
            run,
            name,
            (*args[:heads], 5, *args[heads + 1 :]),
            inputs,
            says=("d_model", "num_heads", "n_head", D, 5),
        )
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
    told = {
        name: [str(getattr(o, "came_from", "cpu")), o.dtype, bool(o.isfinite().all())] for name, o in outputs.items()
    }
    check(told, right)
