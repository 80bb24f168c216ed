"""Hidden tests of llm_architectures: RMSNorm, SwiGLU, the models handed on, BERTForMaskedLM.

T5Model, LlamaModel and MixtureOfExperts are in test_llm_architectures__t5.py, __llama.py and __experts.py.
"""

import pytest
import torch
import torch.nn.functional as F

from llm_architectures_helpers import gated, rms
from shared import (
    MANNERS,
    dropout_facts,
    dtype_of,
    has_nan,
    like_own,
    linear_weights,
    on_inputs,
    randn,
    tokens,
    true_gradients,
)

NORM = pytest.mark.question("RMSNorm")
GATED = pytest.mark.question("SwiGLU")
BERT = pytest.mark.question("BERTForMaskedLM")

# ---------------------------------------------------------------------------------------------- RMSNorm


def rms_normed(x, weight, *eps):
    """A probe: the result of an RMSNorm with this weight and eps, if there is one."""
    from llm_architectures import RMSNorm

    layer = RMSNorm(x.shape[-1], *eps)
    layer.weight.data = weight
    return inside.a_tensor(layer(x)).detach()


def mean_square(x):
    return x.square().mean(-1, keepdim=True)


NORMS = {
    "x is divided by its length, the root of the sum of squares; it should be the root of their mean": lambda x, w: (
        x / x.norm(dim=-1, keepdim=True) * w
    ),
    "x is divided by the mean of the squares; it should be its root": lambda x, w: x / mean_square(x) * w,
    "x is multiplied by the root of the mean square; it should be divided by it": lambda x, w: (
        x * mean_square(x).sqrt() * w
    ),
    "the mean is subtracted, as in LayerNorm; it should not be": lambda x, w: F.layer_norm(x, x.shape[-1:]) * w,
    "the weight is not used": lambda x, w: rms(x),
    "the weight is added; it should be multiplied": lambda x, w: rms(x) + w,
    "the result is multiplied by 1 + weight": lambda x, w: rms(x, 1 + w),
    "the mean goes over all dimensions; it should go over the last one": lambda x, w: x / x.square().mean().sqrt() * w,
    "the mean goes over the first dimension; it should go over the last one": lambda x, w: (
        x / x.square().mean(0, keepdim=True).sqrt() * w
    ),
}


@NORM
@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 5, 7), (4,)])
def test_rows_are_divided_by_their_root_mean_square(student, check, rng, shape):
    """Each row is divided by the root of the mean of its squares, and multiplied by the weight."""
    x, weight = 2 * randn(rng, *shape, dtype=torch.float64) + 0.9, randn(rng, shape[-1], dtype=torch.float64)
    result = student.run(rms_normed, x, weight)

    check(result, rms(x, weight), relative=1e-5, mistakes=on_inputs(NORMS, x, weight))


@NORM
@pytest.mark.points(2)
@pytest.mark.parametrize("eps", [(), (0.3,), (1e-5,)])
def test_eps_is_added_to_the_mean_of_the_squares(student, check, rng, eps):
    """eps, 1e-6 by default, stands below the root; a row of zeros stays one."""
    x, weight = 2e-3 * randn(rng, 5, 6, dtype=torch.float64), randn(rng, 6, dtype=torch.float64)
    x[0], x[2] = 0.2 * x[0], 0.0
    result = student.run(rms_normed, x, weight, *eps)

    mean, used = x.square().mean(-1, keepdim=True), (*eps, 1e-6)[0]
    others = {f"eps is {other}; by default it should be 1e-6": rms(x, weight, other) for other in (1e-5, 1e-8, 1e-12)}
    ignored = {"the eps that is given is not used": rms(x, weight)}
    check(result, rms(x, weight, used), relative=1e-6, mistakes={
        "eps is added to the root; it should be added below it, to the mean of the squares": x / (mean.sqrt() + used) * weight,
        "eps is squared": rms(x, weight, used**2),
        "the mean of the squares is clamped to eps; eps should be added to it": x / mean.clamp(min=used).sqrt() * weight,
        "a row of zeros becomes NaN: eps is missing": check.when(has_nan(result)),
        **(ignored if eps else others),
    })  # fmt: skip


@NORM
@pytest.mark.points(2)
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float16, 0.004), (torch.bfloat16, 0.03)])
def test_16_bits_are_computed_in_float32(student, check, rng, dtype, relative, wide):
    """float16 does not overflow where the squares would; only the result is rounded, to the dtype of x."""
    x, weight = (400 * (randn(rng, 32, 64) + 1)).to(dtype), randn(rng, 64)
    weight = weight if wide else weight.to(dtype)
    result, own = (student.run(rms_normed, *given) for given in ((x, weight), (x.double(), weight.double())))

    x, weight = x.double(), weight.double()
    check(dtype_of(result), dtype, mistakes={"the result is float32; it should have the dtype of x": torch.float32})
    check(result.float(), rms(x, weight).float(), relative=relative, mistakes={
        "the squares are computed in 16 bits, where they overflow; they should be computed in float32": torch.zeros(32, 64),
    })  # fmt: skip

    def is_rounded(truth):
        return bool((result == truth.to(dtype)).float().mean() > 0.98)  # a tie may go to the other side

    def rounded(y):
        return y.to(dtype).double()

    early = {
        "the normed rows are rounded before they are multiplied by the weight; only the result should be": rounded(rms(x)) * weight,
        "the weight is rounded to the dtype of x; only the result should be": rms(x, rounded(weight)),
        "what x is multiplied by is rounded; only the result should be": x * rounded(1 / (mean_square(x) + 1e-6).sqrt()) * weight,
    }  # fmt: skip
    more = "more than the result is rounded to 16 bits; squares, mean and products should be float32"
    check(is_rounded(like_own(own, rms(x, weight))), True, otherwise=more, mistakes={
        sentence: check.when(is_rounded(wrong), False) for sentence, wrong in early.items()
    })  # fmt: skip


@NORM
@pytest.mark.points(1)
def test_the_norm_has_one_weight_that_learns(student, check, rng):
    """`weight` (D,) is all there is; it starts with ones; x and the weight get their gradients."""

    def probe(x, weight):
        from llm_architectures import RMSNorm

        layer = RMSNorm(6).double()
        state = {name: value.detach().clone() for name, value in layer.named_parameters()}
        layer.weight.data = weight
        x.requires_grad_()
        return state, inside.gradients(layer(x), [x, layer.weight])

    x, weight = 2 * randn(rng, 2, 3, 6, dtype=torch.float64), randn(rng, 6, dtype=torch.float64)
    state, grads = student.run(probe, x, weight)

    check(state, {"weight": torch.ones(6, dtype=torch.float64)}, what="the parameters at the start", mistakes={
        "the weight starts with zeros; it should start with ones": {"weight": torch.zeros(6, dtype=torch.float64)},
    })  # fmt: skip
    _, (of_x, of_weight) = true_gradients(lambda x: rms(x, weight), x, weights=[weight])
    check(grads, [of_x, of_weight], relative=1e-5, names=("the gradient of x", "the gradient of weight"), mistakes={
        "no gradient goes through the mean of the squares": [
            torch.arange(36).double().cos().view(2, 3, 6) * weight.detach() / (mean_square(x.detach()) + 1e-6).sqrt(),
            of_weight,
        ],
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- SwiGLU

GATES = {
    "silu is used on up; it should be used on gate": lambda x, g, u, d: gated(x, u, g, d),
    "the gate is a sigmoid; it should be silu": lambda x, g, u, d: gated(x, g, u, d, torch.sigmoid),
    "the gate is a GELU; it should be silu": lambda x, g, u, d: gated(x, g, u, d, F.gelu),
    "the gate is a tanh form of GELU; it should be silu": lambda x, g, u, d: gated(x, g, u, d, lambda y: F.gelu(y, approximate="tanh")),
    "the gate is a ReLU; it should be silu": lambda x, g, u, d: gated(x, g, u, d, torch.relu),
    "silu is used on the product; it should be used on gate": lambda x, g, u, d: F.silu((x @ g.T) * (x @ u.T)) @ d.T,
    "gate and up are added; they should be multiplied": lambda x, g, u, d: (F.silu(x @ g.T) + x @ u.T) @ d.T,
    "up is not used": lambda x, g, u, d: F.silu(x @ g.T) @ d.T,
    "x is added; SwiGLU should have no residual connection": lambda x, g, u, d: x + gated(x, g, u, d),
}  # fmt: skip


@GATED
@pytest.mark.points(3)
@pytest.mark.parametrize("shape", [(2, 3, 6), (5, 6), (6,)])
def test_the_gate_decides_what_passes(student, check, rng, shape):
    """down(silu(gate(x)) · up(x)), for x of any number of dimensions."""

    def probe(x, weights):
        from llm_architectures import SwiGLU

        layer = SwiGLU(6, 10).double()
        for name, weight in weights.items():
            getattr(layer, name).weight.data = weight
        return inside.a_tensor(layer(x)).detach()

    x = randn(rng, *shape, dtype=torch.float64)
    gate, up, down = (linear_weights(rng, *sizes, False, torch.float64)[0] for sizes in ((6, 10), (6, 10), (10, 6)))
    result = student.run(probe, x, {"gate": gate, "up": up, "down": down})

    check(result, gated(x, gate, up, down), mistakes=on_inputs(GATES, x, gate, up, down))


@GATED
@pytest.mark.points(1)
def test_there_are_three_matrices_without_biases(student, check, rng):
    """gate and up (d_ff, D), down (D, d_ff), no bias; all of them and x get their gradients."""

    def probe(x):
        from llm_architectures import SwiGLU

        layer = SwiGLU(6, 10).double()
        named = dict(layer.named_parameters())
        x.requires_grad_()
        weights = [named[name] for name in sorted(named)]
        grads = inside.gradients(layer(x), [x, *weights])
        return {name: list(weight.shape) for name, weight in named.items()}, [w.detach() for w in weights], grads

    x = randn(rng, 3, 6, dtype=torch.float64)
    shapes, weights, grads = student.run(probe, x)

    right = {"gate.weight": [10, 6], "up.weight": [10, 6], "down.weight": [6, 10]}
    check(shapes, right, mistakes={
        "the Linears have biases; they should have none": right | {"gate.bias": [10], "up.bias": [10], "down.bias": [6]},
        "gate and up are one matrix; they should be two Linears": {"gate_up.weight": [20, 6], "down.weight": [6, 10]},
    }, what="the shapes of the weights")  # fmt: skip
    _, truth = true_gradients(lambda x: gated(x, weights[1], weights[2], weights[0]), x, weights=weights)
    check(grads, truth, what="the gradients of x, down, gate and up")


# ---------------------------------------------------------------------------------------------- GPTModel, BERTModel


@pytest.mark.question("GPTModel and BERTModel")
@pytest.mark.points(1)
def test_the_models_of_lesson_2_are_handed_on(student, check):
    """llm_architectures.GPTModel and BERTModel are those of transformer.py."""

    def probe():
        import llm_architectures
        import transformer

        names = ("GPTModel", "BERTModel")
        return [getattr(llm_architectures, name, None) is getattr(transformer, name) for name in names]

    for same, name in zip(student.run(probe), ("GPTModel", "BERTModel"), strict=True):
        check.that(same, f"{name} is not the one of transformer.py: import it from there")


# ---------------------------------------------------------------------------------------------- BERTForMaskedLM

SIZES = (11, 16, 2, 2, 24, 6, 0.1, 3)  # V, D, layers, H, d_ff, max_len, dropout, token types
V, MAX_LEN, TYPES = 11, 6, 3


@BERT
@pytest.mark.points(2)
def test_a_place_sees_all_real_tokens_on_both_sides(student, check, rng):
    """Logits (B, T, V); each depends on every real token and every type; what attention_mask hides changes nothing."""

    def probe(sizes, ids, types, mask):
        from llm_architectures import BERTForMaskedLM

        model = BERTForMaskedLM(*sizes).double().eval()
        inside.draw_weights(model)
        plain, changes = inside.a_tensor(model(ids, types, mask)), []
        for row, other, size in ((ids, 0, sizes[0]), (types, 1, sizes[-1])):
            for place in range(ids.shape[1]):
                inputs = [ids, types]
                inputs[other] = row.clone()
                inputs[other][:, place] = (row[:, place] + 1) % size
                changes.append((model(*inputs, mask) - plain).abs().amax(-1))
        ones, zeros = torch.ones_like(ids), torch.zeros_like(ids)
        same = [(model(ids), model(ids, zeros, ones)), (plain, model(ids, types, mask.bool()))]
        return plain.detach(), torch.stack(changes), [[one.detach() for one in pair] for pair in same]

    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    ids = tokens(rng, V, 2, 6)
    ids[0, 2] = 0  # a token like any other
    logits, changes, same = student.run(probe, SIZES, ids, tokens(rng, TYPES, 2, 6), mask)

    check(dtype_of(logits), torch.float64, mistakes={"the logits of a float64 model are float32": torch.float32})
    check(list(logits.shape), [2, 6, V], mistakes={
        "the states are returned; there should be logits (B, T, V)": [2, 6, 16],
        "there are logits for one place of each text; there should be some for each place": [2, V],
    }, what="the shape of the logits")  # fmt: skip
    check.that(not bool((logits.sum(-1) - 1).abs().max() < 1e-6), "the result is a softmax; it should be logits")
    check.that(not bool(logits.logsumexp(-1).abs().max() < 1e-6), "the result is a log_softmax; it should be logits")
    real = mask.bool()
    seen = real[:, :, None] & real[:, None]  # (B, changed place, T)
    hidden = ~real[:, :, None] & real[:, None]
    of_ids, of_types = changes.view(2, 6, 2, 6).transpose(1, 2)
    later = torch.ones(6, 6, dtype=torch.bool).tril(-1)  # the changed place comes after the place that looks
    check.that(bool((of_ids[seen & later] > 1e-9).all()), "a place does not see tokens that come later")
    check.that(bool((of_ids[seen & ~later] > 1e-9).all()), "a place does not see itself, or tokens before it")
    check.that(bool((of_ids[hidden] < 1e-9).all()), "hidden tokens change the logits of real ones")
    check.that(bool((of_types[seen] > 1e-9).all()), "token_type_ids have no effect")
    check.that(bool((of_types[hidden] < 1e-9).all()), "the types of hidden tokens change what the others get")
    check(
        same[0][0],
        same[0][1],
        terms=4096,
        otherwise="without token_type_ids and attention_mask, 0 and 1 should be used",
    )
    check(same[1][1], same[1][0], terms=4096, otherwise="a mask of True and False differs from one of 1 and 0")


@BERT
@pytest.mark.points(1)
def test_the_output_looks_at_one_place(student, check, rng):
    """Without layers, the logits at a place depend on its own token and on no other."""

    def probe(sizes, ids):
        from llm_architectures import BERTForMaskedLM

        model = BERTForMaskedLM(*sizes).double().eval()
        inside.draw_weights(model)
        plain, changes = inside.a_tensor(model(ids)), []
        for place in range(ids.shape[1]):
            other = ids.clone()
            other[:, place] = (other[:, place] + 1) % sizes[0]
            changes.append((model(other) - plain).abs().amax((0, 2)))
        return torch.stack(changes)

    changes = student.run(probe, (V, 16, 0, *SIZES[3:]), tokens(rng, V, 2, 6))

    own = torch.eye(6, dtype=torch.bool)
    check.that(bool((changes[own] > 1e-9).all()), "the logits at a place do not depend on its own state")
    check.that(bool((changes[~own] < 1e-9).all()), "the output layer mixes places; it should look at each one alone")


@BERT
@pytest.mark.points(2)
def test_all_arguments_reach_the_encoder(student, check):
    """The arguments are those of BERTModel, with the same names and defaults, and come through to it."""

    def probe(sizes):
        import inspect

        from llm_architectures import BERTForMaskedLM
        from transformer import BERTModel

        given = list(inspect.signature(BERTForMaskedLM).parameters.values())
        named = None if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in given) else given
        with inside.noting_instances(BERTModel) as made:
            model = BERTForMaskedLM(**sizes).eval()
        seen = [arguments for _, arguments in made]
        logits = model(torch.zeros(1, sizes["max_len"], dtype=torch.int64), torch.full((1, sizes["max_len"]), 2))
        return named and [[p.name, p.default] for p in named[1:]], seen, inside.says_something(logits)

    names = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_len", "dropout", "type_vocab_size")
    named, seen, used = student.run(probe, dict(zip(names, SIZES, strict=True)))

    defaults = [768, 12, 12, 3072, 512, 0.1, 2]
    if named:
        right = [[name, default] for name, default in zip(names[1:], defaults, strict=True)]
        check(
            named, right, otherwise="the arguments have the wrong names or defaults; they should be those of BERTModel"
        )
    check.that(used, "the logits are the same everywhere")
    for arguments in seen[:1]:
        for name, size in zip(names, SIZES, strict=True):
            check(arguments.get(name), size, otherwise=f"{name} does not reach BERTModel")


@BERT
@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("heads", "length", "words"), [(3, 4, ("num_heads", "d_model", 3)), (2, 7, ("max_len", "length", 7))]
)
def test_sizes_that_do_not_fit_bert_are_refused(student, heads, length, words):
    """D not divisible by H, and a text that is longer than max_len, are a ValueError."""

    def probe(sizes, length):
        from llm_architectures import BERTForMaskedLM

        return BERTForMaskedLM(*sizes).eval()(torch.zeros(1, length, dtype=torch.int64))

    student.accepts(probe, SIZES, min(length, MAX_LEN))
    student.raises(ValueError, probe, (*SIZES[:3], heads, *SIZES[4:]), length, says=words)


@BERT
@pytest.mark.points(1)
def test_all_of_bert_learns(student, check, rng):
    """Every matrix of the encoder and of the output gets a gradient from the logits, and all are parameters."""

    def probe(sizes, ids, types):
        from llm_architectures import BERTForMaskedLM
        from transformer import BERTModel

        model, encoder = BERTForMaskedLM(*sizes).eval(), BERTModel(*sizes)
        logits = inside.a_tensor(model(ids, types))
        weights, count = inside.matrices(model)
        grads = inside.gradients(logits, weights) if logits.requires_grad else [torch.zeros(1)] * len(weights)
        return [bool(grad.any()) for grad in grads], count, inside.matrices(encoder)[1]

    reached, count, of_encoder = student.run(probe, SIZES, tokens(rng, V, 2, MAX_LEN), tokens(rng, TYPES, 2, MAX_LEN))

    check.that(count >= of_encoder, "the encoder's weights are not parameters of the model")
    check.that(any(reached), "no gradient reaches the weights")
    check.that(all(reached), "no gradient reaches some of the weights")


@BERT
@pytest.mark.points(1)
def test_bert_drops_in_train_mode_only(student, check, rng):
    """The dropout is that of the argument: in train mode there is some, in eval mode and with dropout=0.0 there is none."""

    def probe(sizes, ids):
        from llm_architectures import BERTForMaskedLM
        from transformer import BERTModel

        model = BERTForMaskedLM(*sizes)
        runs = inside.dropout_runs(model, ids)
        for part in model.train().modules():
            if isinstance(part, BERTModel):
                part.eval()
        steady = torch.equal(model(ids), model(ids))
        without = BERTForMaskedLM(*sizes[:6], 0.0, sizes[-1])
        same = without.train()(ids), without.eval()(ids)
        first, second = (BERTForMaskedLM(*sizes).eval()(ids) for _ in range(2))
        return (
            [[one.detach() for one in run] for run in runs],
            [one.detach() for one in same],
            torch.equal(first, second),
            steady,
        )

    runs, same, seeded, steady = student.run(probe, SIZES, tokens(rng, V, 4, MAX_LEN))

    for fact in dropout_facts(runs):
        check.that(*fact)
    check(same[0], same[1], terms=4096, otherwise="something is dropped with dropout=0.0")
    check.that(steady, "the output layer drops something; it should drop nothing")
    check.that(not seeded, "all models start with the same weights: do not set a seed")


# ---------------------------------------------------------------------------------------------- conduct


@pytest.mark.question("RMSNorm")
@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["RMSNorm", "SwiGLU", "BERTForMaskedLM"])
def test_the_parts_change_nothing_else(student, check, rng, name):
    """Inputs may be non-contiguous and stay as they are; float32 stays float32; nothing is printed or set."""

    def probe(name, sizes, x):
        import llm_architectures

        layer = getattr(llm_architectures, name)(*sizes).eval()
        result, (after, *_), rude = inside.manners(layer, x)
        plain = inside.a_tensor(layer(x))
        fine = inside.left_alone(layer, x), inside.says_something(plain)
        return inside.a_tensor(result).detach(), plain.detach(), after, rude, *fine

    x = tokens(rng, V, 4, MAX_LEN) if name == "BERTForMaskedLM" else randn(rng, 4, 3, 8)
    sizes = {"RMSNorm": (8,), "SwiGLU": (8, 12), "BERTForMaskedLM": SIZES}[name]
    result, plain, after, rude, alone, used = student.run(probe, name, sizes, x)

    check(after, x, otherwise="the input is changed in place")
    check.that(alone, "the input is changed in place where no gradients are kept")
    check(rude, "", mistakes=MANNERS)
    check(dtype_of(result), torch.float32)
    check.that(used, "the result is the same everywhere")
    check(result, plain, terms=4096, otherwise="an input that is not contiguous gives another result")
