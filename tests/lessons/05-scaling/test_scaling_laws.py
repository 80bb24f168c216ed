"""Hidden tests of scaling_laws: budgets, the law, and what models cost. Fits have a file of their own."""

import math

import pytest
import torch

from shared import MANNERS, as_list, dtype_of, is_right, like_own, on_inputs, true_gradients

BUDGET = pytest.mark.question("compute_optimal_scaling")
LOSS = pytest.mark.question("chinchilla_loss")
ESTIMATES = pytest.mark.question("estimate_data_requirements, estimate_compute_requirements")
BYTES = pytest.mark.question("kv_cache_bytes, weight_bytes")

NOT_POSITIVE = [0.0, -2.5]


def number(value):
    """An int as a float: whether a number comes as one or the other is open."""
    return float(value) if type(value) is int else value


def positive(value):
    return type(value) in (int, float) and value > 0


def numbers(values):
    return [number(value) for value in as_list(values)]


def between(rng, low, high, *shape):
    return low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)


def one(rng, low, high):
    """A float between 10^low and 10^high."""
    return 10 ** float(between(rng, low, high))


# ---------------------------------------------------------------------------------------------- compute_optimal_scaling


@BUDGET
@pytest.mark.points(2)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (8, 9), (10, 11)])
def test_a_budget_is_spent_with_20_tokens_a_parameter(student, check, rng, low, high):
    """C = 6 N D with D = 20 N."""
    params = math.floor(one(rng, low, high)) + 0.73  # which is rounded up and cut off to other numbers
    tokens, budget = 20 * params, 120 * params**2

    found = student.call("scaling_laws.compute_optimal_scaling", budget)

    check(
        numbers(found),
        [params, tokens],
        names=("params", "tokens"),
        mistakes={
            "tokens come before params; params should be first": [tokens, params],
            "there are 20 parameters a token; there should be 20 tokens a parameter": [tokens, params],
            "the 6 of C = 6 N D is missing": [(budget / 20) ** 0.5, (budget * 20) ** 0.5],
            "C is taken for 2 N D, the forward pass alone; it should be 6 N D": [
                (budget / 40) ** 0.5,
                (budget * 10) ** 0.5,
            ],
            "the square root is missing in N = √(C / 120)": [budget / 120, budget / 6],
            "N is the square root of C, divided by 120; C / 120 should be under the root": [
                budget**0.5 / 120,
                budget**0.5 / 6,
            ],
            "N and D are the same; D should be 20 N": [(budget / 6) ** 0.5] * 2,
            "the numbers are rounded": check.when(budget < 1e4, [float(round(params)), float(round(tokens))]),
            "the numbers are cut off at the point": check.when(budget < 1e4, [float(int(params)), float(int(tokens))]),
            "params is rounded before tokens are worked out": [float(round(params)), 20.0 * round(params)],
            "params is cut off at the point before tokens are worked out": [float(int(params)), 20.0 * int(params)],
            "tokens are the whole budget divided by N; the 6 is missing there": [params, budget / params],
        },
    )


@BUDGET
@pytest.mark.points(1)
def test_a_budget_may_be_a_large_integer(student, check):
    """6 · 10^24 FLOPs, as a Python int, which has more than 64 bits."""

    def probe():
        from scaling_laws import compute_optimal_scaling

        return compute_optimal_scaling(10**26), compute_optimal_scaling(1e26)

    found, own = student.run(probe)

    own = numbers(own)
    truth = [(1e26 / 120) ** 0.5, (1e26 / 6 * 20) ** 0.5]
    fine = len(own) == 2 and all(type(each) is float and each > 0 for each in own) and own[0] != own[1]
    check(numbers(found), own if fine else truth, names=("params", "tokens"))


@BUDGET
@pytest.mark.points(1)
@pytest.mark.parametrize("budget", NOT_POSITIVE)
def test_a_budget_is_positive(student, budget):
    """A budget of zero or less is a ValueError."""
    student.accepts("scaling_laws.compute_optimal_scaling", 1e-3)
    student.raises(ValueError, "scaling_laws.compute_optimal_scaling", budget, says=("compute_budget", budget, "C"))


# ---------------------------------------------------------------------------------------------- chinchilla_loss


def law_of_chinchilla(params, tokens, *, entropy=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28):
    return entropy + A / params**alpha + B / tokens**beta


LAWS = {  # sentence -> the law with a mistake
    "params and tokens are exchanged": lambda n, d: law_of_chinchilla(d, n),
    "the exponents are exchanged: 0.34 belongs to params, 0.28 to tokens": lambda n, d: law_of_chinchilla(
        n, d, alpha=0.28, beta=0.34
    ),
    "406.4 and 410.7 are exchanged: 406.4 belongs to params": lambda n, d: law_of_chinchilla(n, d, A=410.7, B=406.4),
    "the entropy of text, 1.69, is missing": lambda n, d: law_of_chinchilla(n, d, entropy=0.0),
    "the entropy is 1.61; it should be 1.69": lambda n, d: law_of_chinchilla(n, d, entropy=1.61),
    "both exponents are 0.34; that of tokens should be 0.28": lambda n, d: law_of_chinchilla(n, d, beta=0.34),
    "both exponents are 0.28; that of params should be 0.34": lambda n, d: law_of_chinchilla(n, d, alpha=0.28),
    "the powers multiply; they should divide": lambda n, d: law_of_chinchilla(n, d, alpha=-0.34, beta=-0.28),
    "params are taken in billions": lambda n, d: law_of_chinchilla(n / 1e9, d),
    "params and tokens are taken in billions": lambda n, d: law_of_chinchilla(n / 1e9, d / 1e9),
    "the two terms are multiplied; they should be added": lambda n, d: 1.69 + 406.4 / n**0.34 * 410.7 / d**0.28,
    "the term of tokens is missing": lambda n, d: 1.69 + 406.4 / n**0.34,
    "the term of params is missing": lambda n, d: 1.69 + 410.7 / d**0.28,
    "the loss is in bits; it should be in nats": lambda n, d: law_of_chinchilla(n, d) / 0.6931471805599453,
    "A and B are under the power too; only params and tokens should be": lambda n, d: (
        1.69 + (406.4 / n) ** 0.34 + (410.7 / d) ** 0.28
    ),
}


def law_of(own, n, d):
    """The law with the mistake that these losses of the student have, where it is one of LAWS: it has tests of its own."""
    return next(
        (each for each in (law_of_chinchilla, *LAWS.values()) if is_right(as_tensor(own), as_tensor(each(n, d)))),
        law_of_chinchilla,
    )


def as_tensor(value):
    return torch.tensor(value, dtype=torch.float64) if type(value) is float else value


@LOSS
@pytest.mark.points(2)
@pytest.mark.parametrize(("low", "high"), [(5, 6), (9, 12)])
def test_the_loss_of_two_numbers(student, check, rng, low, high):
    """L = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28, a float."""
    params, tokens = one(rng, low, high), one(rng, low + 0.5, high + 0.5)

    loss = student.call("scaling_laws.chinchilla_loss", params, tokens)

    a_tensor = {"two numbers give a tensor; they should give a float": check.when(isinstance(loss, torch.Tensor))}
    check(loss, law_of_chinchilla(params, tokens), mistakes=a_tensor | on_inputs(LAWS, params, tokens))


@LOSS
@pytest.mark.points(1)
def test_the_loss_of_integers(student, check):
    """Integers give floating-point numbers, too: 7 billion parameters, 140 billion tokens, as ints, tensors and arrays."""
    path, sizes = "scaling_laws.chinchilla_loss", (7_000_000_000, 140_000_000_000)

    def probe(params, tokens):
        from scaling_laws import chinchilla_loss

        return torch.as_tensor(chinchilla_loss(params.numpy(), tokens.numpy()))

    loss = student.call(path, *sizes)
    own = student.call(path, *map(float, sizes))
    several = torch.tensor([[sizes[0], 1000], [sizes[1], 3000]])

    of_sizes = law_of(own, *map(float, sizes))
    check(loss, of_sizes(*map(float, sizes)), what="the loss of two ints")
    for kind, losses in (("tensors", student.call(path, *several)), ("arrays", student.run(probe, *several))):
        dtype = dtype_of(losses)
        whole = dtype is not None and not dtype.is_floating_point
        check(
            losses,
            of_sizes(*several.double()),
            dtype=torch.float64 if dtype == torch.float64 else torch.float32,
            what=f"the losses of {kind} of int64",
            mistakes={"the losses of integers are integers; they should be floating-point numbers": check.when(whole)},
        )


@LOSS
@pytest.mark.points(2)
def test_the_loss_of_tensors_is_elementwise(student, check, rng):
    """Each loss is that of its own N and D, in float64 where these are."""
    params, tokens = 10 ** between(rng, 3, 6, 3, 4), 10 ** between(rng, 3, 6, 3, 4)

    losses = student.call("scaling_laws.chinchilla_loss", params, tokens)

    truth = law_of_chinchilla(params, tokens)
    check(
        losses,
        truth,
        mistakes=on_inputs(LAWS, params, tokens)
        | {
            "the losses are flattened; they should have the shape of the inputs": truth.flatten(),
            "the mean of the losses is returned; each should be": truth.mean(),
            "the sum of the losses is returned; each should be": truth.sum(),
            "the loss is worked out in float32; it should be in the dtype of the inputs": law_of_chinchilla(
                params.float(), tokens.float()
            ).double(),
        },
    )


@LOSS
@pytest.mark.points(1)
def test_params_and_tokens_broadcast(student, check, rng):
    """(3, 1) and (4,) give (3, 4); a number and a tensor give a tensor."""
    params, tokens = 10 ** between(rng, 3, 6, 3, 1), 10 ** between(rng, 3, 6, 4)
    path = "scaling_laws.chinchilla_loss"

    own = student.call(path, params.expand(3, 4), tokens.expand(3, 4))
    table, row, column = (student.call(path, *each) for each in ((params, tokens), (1e4, tokens), (params, 1e4)))
    own_row, own_column = (
        student.call(path, torch.full((4,), 1e4, dtype=torch.float64), tokens),
        student.call(path, params, torch.full((3, 1), 1e4, dtype=torch.float64)),
    )

    check(table, like_own(own, law_of_chinchilla(params, tokens)), what="a table")
    check(row, like_own(own_row, law_of_chinchilla(1e4, tokens)), what="the loss of one number and several tokens")
    check(
        column, like_own(own_column, law_of_chinchilla(params, 1e4)), what="the loss of several params and one number"
    )


@LOSS
@pytest.mark.points(1)
def test_the_loss_of_float32_is_float32(student, check, rng):
    """Tensors keep their dtype, those of 16 bits too, whose values are rounded a hundred times as coarsely."""
    params, tokens = 10 ** between(rng, 3, 4.5, 5), 10 ** between(rng, 3, 4.5, 5)

    own = student.call("scaling_laws.chinchilla_loss", params, tokens)
    truth = like_own(own, law_of_chinchilla(params, tokens))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        losses = student.call("scaling_laws.chinchilla_loss", params.to(dtype), tokens.to(dtype))
        short, wide = dtype != torch.float32, dtype_of(losses) in (torch.float32, torch.float64)
        mistakes = {
            "the losses of float32 are float64; they should have the dtype of the inputs": check.when(
                wide and not short
            ),
            "the losses of 16 bits are float32 or float64; they should have the dtype of the inputs": check.when(
                wide and short
            ),
        }
        check(losses, truth, dtype=dtype, relative=0.03 if short else None, mistakes=mistakes)


@LOSS
@pytest.mark.points(1)
def test_the_loss_of_arrays_is_an_array(student, check, rng):
    """Arrays of numpy give an array of their dtype, also beside a number, are not changed, and are checked like tensors."""
    params, tokens = 10 ** between(rng, 3, 4.5, 2, 3), 10 ** between(rng, 3, 4.5, 2, 3)

    def probe(params, tokens, dtype):
        import numpy
        from scaling_laws import chinchilla_loss

        given = params.to(dtype).numpy(), tokens.to(dtype).numpy()
        before = [each.copy() for each in given]
        losses = chinchilla_loss(*given)
        same = all((one == other).all() for one, other in zip(before, given, strict=True))
        return torch.tensor(losses) if isinstance(losses, numpy.ndarray) else type(losses).__name__, same

    def beside_a_number(sizes, number):
        import numpy
        from scaling_laws import chinchilla_loss

        found = chinchilla_loss(number, sizes.numpy()), chinchilla_loss(sizes.numpy(), number)
        return [torch.tensor(each) if isinstance(each, numpy.ndarray) else type(each).__name__ for each in found]

    def refused(params, tokens):
        from scaling_laws import chinchilla_loss

        return chinchilla_loss(params.numpy(), tokens.numpy()).tolist()

    own = student.call("scaling_laws.chinchilla_loss", params, tokens)

    truth = like_own(own, law_of_chinchilla(params, tokens))
    for dtype in (torch.float64, torch.float32, torch.float16):
        losses, same = student.run(probe, params, tokens, dtype)
        check(
            losses,
            truth,
            dtype=dtype,
            relative=0.01 if dtype == torch.float16 else None,
            what=f"the losses of {str(dtype)[6:]}",
            mistakes={"arrays give a tensor; they should give an array": check.when(losses == "Tensor")},
        )
        check.that(same, "an array that was given is changed in place")
    law, found = law_of(own, params, tokens), student.run(beside_a_number, params, 1e4)
    check(found, [law(1e4, params), law(params, 1e4)], names=("a number and an array", "an array and a number"))
    for bad in NOT_POSITIVE:
        some = params.clone()
        some[1, 1] = bad
        student.raises(ValueError, refused, some, tokens, says=("params", bad, "parameters", "N"))
        student.raises(ValueError, refused, tokens, some, says=("tokens", bad, "D"))


@LOSS
@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(4,), ()], ids=["several", "0-d"])
def test_the_loss_has_gradients(student, check, rng, shape):
    """The slopes along N and D, with which one can search for the best model; a tensor without dimensions has them, too."""

    def probe(params, tokens):
        from scaling_laws import chinchilla_loss

        inputs = [params.requires_grad_(), tokens.requires_grad_()]
        losses, alone = chinchilla_loss(*inputs), (chinchilla_loss(params, 50.0), chinchilla_loss(50.0, tokens))
        if not all(isinstance(each, torch.Tensor) for each in (losses, *alone)):
            return losses if isinstance(losses, float) else type(losses).__name__, None
        both = inside.gradients(losses, inputs)
        return both, [inside.gradients(each, [given])[0] for each, given in zip(alone, inputs, strict=True)]

    params, tokens = between(rng, 1, 20, *shape), between(rng, 1, 20, *shape)

    own = student.call("scaling_laws.chinchilla_loss", params, tokens)
    grads, alone = student.run(probe, params, tokens)

    _, truth = true_gradients(law_of(own, params, tokens), params, tokens)
    check(
        grads,
        truth,
        names=("the gradient of params", "the gradient of tokens"),
        mistakes={
            "gradients do not flow through the loss": [torch.zeros_like(params), torch.zeros_like(tokens)],
            "a tensor without dimensions gives a number; it should give a tensor": check.when(isinstance(grads, float)),
            "no gradient flows to params": [torch.zeros_like(params), truth[1]],
            "no gradient flows to tokens": [truth[0], torch.zeros_like(tokens)],
        },
    )
    check(
        alone,
        truth,
        names=("the gradient of params", "the gradient of tokens"),
        otherwise="the gradient of params or tokens is another one where the other is a number",
    )


@LOSS
@pytest.mark.points(1)
@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_params_and_tokens_are_positive(student, bad):
    """A number of params or tokens that is zero or less is a ValueError."""
    student.accepts("scaling_laws.chinchilla_loss", 1e-3, 1e9)
    student.accepts("scaling_laws.chinchilla_loss", 1e9, 1e-3)
    student.raises(ValueError, "scaling_laws.chinchilla_loss", bad, 1e9, says=("params", bad, "parameters", "N"))
    student.raises(ValueError, "scaling_laws.chinchilla_loss", 1e9, bad, says=("tokens", bad, "D"))


@LOSS
@pytest.mark.points(1)
@pytest.mark.parametrize("bad", NOT_POSITIVE)
def test_all_params_and_tokens_of_a_tensor_are_positive(student, bad):
    """One value that is not is enough."""
    good, some, small = torch.full((3,), 1e3), torch.tensor([1e3, bad, 2e3]), torch.tensor([1e3, 1e-3, 2e3])

    student.accepts("scaling_laws.chinchilla_loss", small, good)
    student.accepts("scaling_laws.chinchilla_loss", good, small)
    student.raises(ValueError, "scaling_laws.chinchilla_loss", some, good, says=("params", bad, "parameters", "N"))
    student.raises(ValueError, "scaling_laws.chinchilla_loss", good, some, says=("tokens", bad, "D"))


@LOSS
@pytest.mark.points(1)
def test_the_loss_leaves_its_inputs_alone(student, check, rng):
    """params and tokens are not changed in place, nothing is printed, and no setting of torch changes."""
    params, tokens = 10 ** between(rng, 3, 6, 2, 3), 10 ** between(rng, 3, 6, 2, 3)

    def probe(params, tokens):
        from scaling_laws import chinchilla_loss

        result, after, rude = inside.manners(chinchilla_loss, params, tokens)
        return inside.a_tensor(result).shape == params.shape, after, rude

    shaped, after, rude = student.run(probe, params, tokens)

    check.that(shaped, "the losses do not have the shape of the inputs")
    check(after, [params, tokens], names=("params", "tokens"), otherwise="an input is changed in place")
    check(rude, "", mistakes=MANNERS)


# ---------------------------------------------------------------------------------------------- estimates


SIZES = [7.0, 0.117, 175.0, 70, 2.53e-9]  # in billions; 0.1, 0.002, 2.5 and 1 epochs, and 50.6 tokens


def epochs_and_tokens(size, *, each=20e9, corpus=1.4e12):
    return each * size / corpus, each * size


TEXTS = {  # sentence -> estimate_data_requirements with a mistake
    "tokens come before epochs; epochs should be first": lambda size: epochs_and_tokens(size)[::-1],
    "epochs are 1.4e12 / tokens; they should be tokens / 1.4e12": lambda size: (1.4e12 / (20e9 * size), 20e9 * size),
    "size_in_billions is not multiplied by 1e9": lambda size: epochs_and_tokens(size, each=20),
    "tokens are in billions": lambda size: epochs_and_tokens(size, each=20, corpus=1.4e3),
    "the 20 tokens a parameter are missing": lambda size: epochs_and_tokens(size, each=1e9),
    "epochs are rounded up": lambda size: (math.ceil(20e9 * size / 1.4e12), 20e9 * size),
    "epochs are cut off at the point": lambda size: (20e9 * size // 1.4e12, 20e9 * size),
    "tokens are rounded": lambda size: (20e9 * size / 1.4e12, round(20e9 * size)),
    "tokens are cut off at the point": lambda size: (20e9 * size / 1.4e12, int(20e9 * size)),
    "epochs are at least 1; they should not be cut": lambda size: (max(1, 20e9 * size / 1.4e12), 20e9 * size),
    "epochs are tokens / 1e12; the corpus has 1.4e12": lambda size: epochs_and_tokens(size, corpus=1e12),
    "tokens are 1.4e12 however large the model is": lambda size: (20e9 * size / 1.4e12, 1.4e12),
    "the corpus is 300e9 tokens; it should be 1.4e12": lambda size: epochs_and_tokens(size, corpus=300e9),
}


def flops_and_memory(size, *, flops=6e9, memory=16.0):
    return flops * size, memory * size


TRAININGS = {  # sentence -> estimate_compute_requirements with a mistake
    "memory comes before FLOPs; FLOPs should be first": lambda size: flops_and_memory(size)[::-1],
    "the FLOPs are those of the whole training; they should be those of a token": lambda size: (
        6e9 * size * 20e9 * size,
        16 * size,
    ),
    "FLOPs are 2 N, of the forward pass alone; training takes 6 N": lambda size: flops_and_memory(size, flops=2e9),
    "size_in_billions is not multiplied by 1e9 for the FLOPs": lambda size: flops_and_memory(size, flops=6),
    "memory is in bytes; it should be in GB": lambda size: flops_and_memory(size, memory=16e9),
    "memory is in GiB, of 2^30 bytes; GB should be 1e9 bytes": lambda size: flops_and_memory(size, memory=16e9 / 2**30),
    "memory is divided by 1e9 twice": lambda size: flops_and_memory(size, memory=16e-9),
    "memory is that of float32 weights, 4 bytes a parameter; it should be 16": lambda size: flops_and_memory(
        size, memory=4
    ),
    "memory is that of 16-bit weights, 2 bytes a parameter; it should be 16": lambda size: flops_and_memory(
        size, memory=2
    ),
    "memory is 12 bytes a parameter, for weight and moments in float32; it should be 16": lambda size: flops_and_memory(
        size, memory=12
    ),
    "memory is 18 bytes a parameter, with gradients in float32; it should be 16": lambda size: flops_and_memory(
        size, memory=18
    ),
    "memory is 20 bytes a parameter; it should be 16": lambda size: flops_and_memory(size, memory=20),
    "memory is rounded": lambda size: (6e9 * size, round(16 * size)),
}


def for_all_sizes(formula):
    return [list(map(float, formula(size))) for size in SIZES]


@ESTIMATES
@pytest.mark.points(2)
def test_the_text_that_a_model_needs(student, check):
    """20 tokens a parameter, and how many epochs over 1.4e12 tokens that is, first."""
    found = [student.call("scaling_laws.estimate_data_requirements", size) for size in SIZES]

    check(
        [numbers(each) for each in found],
        for_all_sizes(epochs_and_tokens),
        names=[f"epochs and tokens for {size:g} billion parameters" for size in SIZES],
        mistakes={sentence: for_all_sizes(wrong) for sentence, wrong in TEXTS.items()},
    )


@ESTIMATES
@pytest.mark.points(2)
def test_what_training_takes(student, check):
    """6 N FLOPs a token, and 16 bytes a parameter in GB of 1e9 bytes."""
    found = [student.call("scaling_laws.estimate_compute_requirements", size) for size in SIZES]

    check(
        [numbers(each) for each in found],
        for_all_sizes(flops_and_memory),
        names=[f"FLOPs and memory for {size:g} billion parameters" for size in SIZES],
        mistakes={sentence: for_all_sizes(wrong) for sentence, wrong in TRAININGS.items()},
    )


@ESTIMATES
@pytest.mark.points(1)
@pytest.mark.parametrize("size", NOT_POSITIVE)
def test_the_text_is_of_a_model_that_has_a_size(student, size):
    """estimate_data_requirements: a size of zero or less is a ValueError."""
    student.accepts("scaling_laws.estimate_data_requirements", 1e-3)
    student.raises(ValueError, "scaling_laws.estimate_data_requirements", size, says=("size_in_billions", size))


@ESTIMATES
@pytest.mark.points(1)
@pytest.mark.parametrize("size", NOT_POSITIVE)
def test_training_is_of_a_model_that_has_a_size(student, size):
    """estimate_compute_requirements: a size of zero or less is a ValueError."""
    student.accepts("scaling_laws.estimate_compute_requirements", 1e-3)
    student.raises(ValueError, "scaling_laws.estimate_compute_requirements", size, says=("size_in_billions", size))


# ---------------------------------------------------------------------------------------------- bytes


@BYTES
@pytest.mark.points(2)
@pytest.mark.parametrize(
    "sizes", [(3, 5, 7, 11, 13, 34), (2, 3, 1, 1, 1, 1), (126, 8, 128, 131072, 64, 2)], ids=["primes", "one", "large"]
)
def test_the_cache_of_keys_and_values(student, check, sizes):
    """A key and a value for each layer, head, token and row."""
    found = student.call("scaling_laws.kv_cache_bytes", *sizes)

    layers, heads, width, length, batch, each = map(float, sizes)
    truth = 2 * layers * heads * width * length * batch * each
    check(
        number(found),
        truth,
        mistakes={
            "the 2 for keys and values is missing": truth / 2,
            "the cache is counted in bits": truth * 8,
            "the cache is counted in GB; it should be in bytes": truth / 1e9,
            "batch is not used": truth / batch,
            "bytes_per_value is not used": truth / each,
            "bytes_per_value is not used; 2 should only be its default": truth / each * 2,
            "length is squared; that would be the scores": truth * length,
            "num_kv_heads is squared: head_dim is already that of one head": truth * heads,
            "num_kv_heads is missing": truth / heads,
            "num_layers is missing": truth / layers,
            "head_dim is missing": truth / width,
            "length is missing": truth / length,
            "bytes_per_value is taken for bits": truth / 8,
        },
    )


@BYTES
@pytest.mark.points(1)
def test_the_cache_is_of_one_row_in_16_bits_if_nothing_is_said(student, check):
    """batch is 1 and bytes_per_value is 2 by default; both have these names."""
    path, sizes = "scaling_laws.kv_cache_bytes", (3, 5, 7, 11)

    found = (
        student.call(path, *sizes),
        student.call(path, *sizes, 3),
        student.call(path, *sizes, bytes_per_value=8, batch=3),
    )
    own = student.call(path, *sizes, 1, 2), student.call(path, *sizes, 3, 2), student.call(path, *sizes, 3, 8)

    truth = [factor * 3.0 * 5 * 7 * 11 for factor in (4, 12, 48)]
    for value, same, right, which in zip(
        found, own, truth, ("by default", "with a batch", "with both by name"), strict=True
    ):
        check(
            number(value),
            number(same) if positive(same) else right,
            what=f"the bytes {which}",
            mistakes={
                "bytes_per_value is 4 by default; it should be 2": 2 * right,
                "bytes_per_value comes before batch; batch should be first": check.when(
                    which == "with a batch", right / 2
                ),
            },
        )


@BYTES
@pytest.mark.points(1)
def test_a_value_may_have_less_than_a_byte(student, check):
    """bytes_per_value = 0.5 is int4; bytes are not rounded."""
    path, sizes, each = "scaling_laws.kv_cache_bytes", (3, 5, 7, 11, 1), (0.125, 0.375)

    found = [student.call(path, *sizes, size) for size in each]
    own = student.call(path, *sizes, 4.0)

    whole = number(own) / 4 if positive(own) else 2.0 * 3 * 5 * 7 * 11
    truth = [whole * size for size in each]
    check(
        numbers(found),
        truth,
        names=("the bytes", "the bytes"),
        mistakes={
            "the bytes are rounded": [float(round(size)) for size in truth],
            "the bytes are cut off at the point": [float(math.floor(size)) for size in truth],
            "the bytes are rounded up": [float(math.ceil(size)) for size in truth],
            "bytes_per_value is made an integer": [0.0, 0.0],
            "a value has at least one byte; bytes_per_value may be less": [whole, whole],
        },
    )


@BYTES
@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["num_layers", "num_kv_heads", "head_dim", "length", "batch", "bytes_per_value"])
def test_sizes_of_a_cache_are_positive(student, name):
    """An argument of kv_cache_bytes that is zero or less is a ValueError."""
    sizes = {"num_layers": 2, "num_kv_heads": 3, "head_dim": 4, "length": 5, "batch": 6, "bytes_per_value": 7}

    student.accepts("scaling_laws.kv_cache_bytes", kwargs=sizes | {name: 1})
    for bad in (0, -1):
        student.raises(ValueError, "scaling_laws.kv_cache_bytes", kwargs=sizes | {name: bad}, says=(name, bad))


@BYTES
@pytest.mark.points(1)
def test_the_bytes_of_weights(student, check):
    """params · bits / 8, not rounded."""
    weights = [(7e9, 16), (3, 4), (7, 3), (3, 3), (1000, 4.5), (1e9, 1.58)]

    found = [student.call("scaling_laws.weight_bytes", *each) for each in weights]

    formulas = {  # sentence -> the bytes
        "the weights are counted in bits; it should be in bytes": lambda n, bits: n * bits,
        "bits are taken for bytes and multiplied by 8": lambda n, bits: n * bits * 8,
        "the bytes are in GB": lambda n, bits: n * bits / 8 / 1e9,
        "the bytes are cut off at the point": lambda n, bits: math.floor(n * bits / 8),
        "the bytes are rounded up": lambda n, bits: math.ceil(n * bits / 8),
        "the bytes are rounded": lambda n, bits: round(n * bits / 8),
        "bits / 8 is cut off at the point": lambda n, bits: n * (bits // 8),
        "bits / 8 is rounded up for each weight; it should not be rounded": lambda n, bits: n * math.ceil(bits / 8),
        "bits are made an integer": lambda n, bits: n * int(bits) / 8,
    }
    check(
        numbers(found),
        [n * bits / 8 for n, bits in weights],
        names=[f"the bytes of {n:g} weights of {bits} bits" for n, bits in weights],
        mistakes={sentence: [float(wrong(*each)) for each in weights] for sentence, wrong in formulas.items()},
    )


@BYTES
@pytest.mark.points(1)
@pytest.mark.parametrize("bad", [0, -1])
def test_params_and_bits_are_positive(student, bad):
    """params or bits of zero or less are a ValueError."""
    student.accepts("scaling_laws.weight_bytes", 1, 4)
    student.accepts("scaling_laws.weight_bytes", 100, 1)
    student.raises(ValueError, "scaling_laws.weight_bytes", bad, 4, says=("params", bad, "parameters"))
    student.raises(ValueError, "scaling_laws.weight_bytes", 100, bad, says=("bits", bad))


# ---------------------------------------------------------------------------------------------- names of arguments


@pytest.mark.question("All functions")
@pytest.mark.points(1)
def test_arguments_have_their_names(student, check):
    """All functions can be called with the names that their signatures have."""
    sizes = [1e7, 1e8, 1e9, 1e10]
    losses = [3.0, 2.5, 2.6, 3.5]
    runs = {
        "params": [n for n in sizes for _ in range(3)],
        "tokens": [1e9, 1e10, 1e11] * 4,
        "losses": [2 + 300 / n**0.3 + 500 / d**0.25 for n in sizes for d in (1e9, 1e10, 1e11)],
    }
    calls = {
        "compute_optimal_scaling": {"compute_budget": 1e20},
        "chinchilla_loss": {"params": 1e8, "tokens": 1e10},
        "fit_chinchilla": runs,
        "isoflop_optimum": {"params": sizes, "losses": losses},
        "estimate_data_requirements": {"size_in_billions": 3.0},
        "estimate_compute_requirements": {"size_in_billions": 3.0},
        "weight_bytes": {"params": 100, "bits": 4},
    }

    for name, arguments in calls.items():
        positional = student.call(f"scaling_laws.{name}", *arguments.values())
        named = student.call(f"scaling_laws.{name}", **arguments)
        values = list(positional.values()) if isinstance(positional, dict) else as_list(positional)
        check.that(any(map(positive, values)), f"{name} returns zeros or nothing that can be compared")
        check(named, positional, relative=1e-5, otherwise=f"{name} gives another result when its arguments are named")
