"""Scaling laws: how large a model, and how much text, a budget of compute should buy, and what it takes to run the result.

N is the number of parameters, D the number of training tokens, C the floating-point operations (FLOPs) of the training:

    what a budget buys            compute_optimal_scaling                        Hoffmann et al. 2022 ("Chinchilla")
    the loss that it reaches      chinchilla_loss                                Hoffmann et al. 2022, section 3.3
    the law from measured runs    fit_chinchilla, isoflop_optimum                Hoffmann et al. 2022, sections 3.2 and 3.3
    what a model costs            estimate_data_requirements, estimate_compute_requirements, kv_cache_bytes, weight_bytes

Numbers are Python's: an int or a float is taken and returned, whichever it is, and nothing is rounded. Arguments that are not
positive, zero included, are a ValueError that names the argument.
"""

from collections.abc import Sequence

import numpy as np
import torch

TOKENS_PER_PARAMETER = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # 2 in the forward pass, 4 in the backward pass
CORPUS_TOKENS = 1.4e12  # what Chinchilla was trained on
BYTES_PER_TRAINED_PARAMETER = 16  # weight and gradient in 16 bits, and in float32: weight, Adam's two moments

Values = float | np.ndarray | torch.Tensor
Numbers = Sequence[float] | np.ndarray | torch.Tensor


def _check_positive(**arguments: Values) -> None:  # solution only
    for name, value in arguments.items():
        positive = value > 0  # of an array or a tensor: one bool a number
        if not (positive if isinstance(positive, bool) else positive.all()):
            raise ValueError(f"{name} must be positive, not {value}")


# ---------------------------------------------------------------------------------------------- budgets and losses


def compute_optimal_scaling(compute_budget: float) -> tuple[float, float]:
    """The model and the text that a training budget should be spent on: C = 6 N D with D = 20 N.

    Training a parameter on a token takes 6 FLOPs, and the best model sees about 20 tokens a parameter (Hoffmann et al. 2022,
    table 3).

    Args:
        compute_budget: C in FLOPs.

    Returns:
        (params, tokens): N and D.

    Raises:
        ValueError: compute_budget is not positive.
    """
    # student: put D = 20 N into C = 6 N D and solve for N
    _check_positive(compute_budget=compute_budget)
    params = (compute_budget / (FLOPS_PER_PARAMETER_AND_TOKEN * TOKENS_PER_PARAMETER)) ** 0.5
    return params, TOKENS_PER_PARAMETER * params


def chinchilla_loss(params: Values, tokens: Values) -> Values:
    """The loss in nats a token that Hoffmann et al. 2022, appendix D.3, predict for N parameters and D tokens.

        L(N, D) = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28

    The first term is the entropy of text, the second what a small model lacks, the third what too little text costs.

    Args:
        params: N, a number, an array or a tensor.
        tokens: D, likewise. The two broadcast.

    Returns:
        A float for two numbers, else an array or a tensor like the input, in its dtype if that is a floating-point one, and in
        float32 or float64 if it is not. A tensor without dimensions gives a tensor. Gradients flow through tensors. Neither
        params nor tokens is changed.

    Raises:
        ValueError: a value of params or tokens is not positive.
    """
    # student: one line; powers work on numbers, arrays and tensors alike
    _check_positive(params=params, tokens=tokens)
    return 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28


# ---------------------------------------------------------------------------------------------- laws from measurements


def _measurements(at_least: int, **lists: Numbers) -> list[np.ndarray]:  # solution only
    """The lists as float64 arrays of one length."""
    arrays = []
    for name, values in lists.items():
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().double()
        arrays.append(np.asarray(values, dtype=np.float64))
        _check_positive(**{name: arrays[-1]})
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"{', '.join(lists)} must have one length, not {lengths}")
    if lengths[0] < at_least:
        raise ValueError(f"{', '.join(lists)}: at least {at_least} points are needed, not {lengths[0]}")
    return arrays


def _first_guesses(n: np.ndarray, d: np.ndarray, losses: np.ndarray) -> list[np.ndarray]:  # solution only
    """The ten best laws (e, a, b, α, β) on a grid of exponents, for each of which the other three are linear."""
    guesses = []
    for alpha in np.arange(0.1, 1.0, 0.05):
        for beta in np.arange(0.1, 1.0, 0.05):
            columns = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], axis=1)
            linear = np.linalg.lstsq(columns, losses)[0].clip(1e-3)  # no term may be negative
            guesses.append((np.square(columns @ linear - losses).sum(), [*linear, alpha, beta]))
    return [np.array(law) for _, law in sorted(guesses)[:10]]


def _descend(
    law: np.ndarray, n: np.ndarray, d: np.ndarray, losses: np.ndarray
) -> tuple[float, list[float]]:  # solution only
    """(error, law) at the bottom of the valley in which law lies: least squares by Levenberg and Marquardt."""
    error, damping, step = np.inf, 1e-3, np.zeros_like(law)
    for _ in range(300):
        e, a, b, alpha, beta = law + step
        model, data = a * np.exp(-alpha * n), b * np.exp(-beta * d)
        missing = losses - (e + model + data)
        if (law + step > 0).all() and np.square(missing).sum() < error:
            law, error, damping = law + step, np.square(missing).sum(), damping / 10
            # The slopes of the law along e, a, b, alpha and beta: for a small step it is linear.
            slopes = np.stack([np.ones_like(n), model / a, data / b, -n * model, -d * data], axis=1)
            target = np.concatenate([missing, np.zeros(5)])
        elif damping > 1e8:
            break  # not even the smallest step is better
        else:
            damping *= 3  # the step was too long
        short = np.sqrt(damping) * np.diag(np.linalg.norm(slopes, axis=0))
        step = np.linalg.lstsq(np.concatenate([slopes, short]), target)[0]
    return float(error), law.tolist()


def fit_chinchilla(params: Numbers, tokens: Numbers, losses: Numbers) -> dict[str, float]:
    """The law L(N, D) = E + A / N^alpha + B / D^beta that fits measured losses.

    What a fit of noisy losses minimizes is up to you; Hoffmann et al. 2022, section 3.3, take a Huber loss of ln L. On losses
    without noise, in float64, each of the five numbers is within 1 % of the truth, if the runs determine them, as do those on
    a grid of three or more params and three or more tokens (of a grid a row and a column, 5 runs, are enough), over a factor of
    1000 or more each, and the law is like those of language models: E from 1 to 3, A and B from 100 to 2000, both exponents
    from 0.2 to 0.5, and each of the two powers at least a thousandth of the loss in one of the runs (of a row and a column a
    hundredth, in one of those along which it changes). N and D may be counted in millions or billions; A and B are then others.

    Args:
        params: N of each run: a sequence, an array or a tensor, 1-D, of any dtype of numbers. It is not changed.
        tokens: D of each run, likewise.
        losses: the loss of each run, likewise.

    Returns:
        {"E", "A", "B", "alpha", "beta"}: floats.

    Raises:
        ValueError: there are fewer than 5 runs, the three have different lengths, or a value is not positive.
    """
    # student: the terms differ by orders of magnitude: work with logarithms of N and D, in float64, from a good first guess
    params, tokens, losses = _measurements(5, params=params, tokens=tokens, losses=losses)
    ln_n, ln_d = np.log(params), np.log(tokens)
    n, d = ln_n - ln_n.mean(), ln_d - ln_d.mean()  # now all five numbers are of a size near 1

    _, (e, a, b, alpha, beta) = min(_descend(law, n, d, losses) for law in _first_guesses(n, d, losses))
    return {
        "E": e,
        "A": a * float(np.exp(alpha * ln_n.mean())),
        "B": b * float(np.exp(beta * ln_d.mean())),
        "alpha": alpha,
        "beta": beta,
    }


def isoflop_optimum(params: Numbers, losses: Numbers) -> float:
    """The best model size for one budget: the vertex of the parabola through the losses of several sizes.

    All runs had the same C, so that a larger model saw less text. The parabola is that of the loss in log N, by least squares
    (Hoffmann et al. 2022, section 3.2), and is worked out in float64 whatever the dtypes: losses may differ in their sixth digit
    only. Its vertex counts also where it is outside of the measured sizes.

    Args:
        params: N of each run, in any order: a sequence, an array or a tensor, 1-D, of any dtype of numbers. It is not changed.
        losses: the loss of each run, likewise.

    Returns:
        The N with the least loss.

    Raises:
        ValueError: there are fewer than 3 runs, the two have different lengths, a value is not positive, or the parabola opens
            downwards. (Whether losses on a straight line have a vertex is for rounding to say.)
    """
    # student: fit c0 + c1 · x + c2 · x² for x = log N; subtract the mean of x first, so that float64 is enough
    params, losses = _measurements(3, params=params, losses=losses)
    ln_n = np.log(params)
    curvature, slope, _ = np.polyfit(ln_n - ln_n.mean(), losses, 2)
    if curvature <= 0:
        raise ValueError(f"losses must have a minimum, but the parabola of losses={losses.tolist()} opens downwards")
    return float(np.exp(ln_n.mean() - slope / (2 * curvature)))


# ---------------------------------------------------------------------------------------------- what a model costs


def estimate_data_requirements(size_in_billions: float) -> tuple[float, float]:
    """The text that a model of this size should see, at 20 tokens a parameter.

    Args:
        size_in_billions: parameters / 1e9; need not be an integer.

    Returns:
        (epochs, tokens), in this order: epochs = tokens / 1.4e12 is how often that text is in the corpus of Chinchilla.

    Raises:
        ValueError: size_in_billions is not positive.
    """
    # student: tokens first
    _check_positive(size_in_billions=size_in_billions)
    tokens = TOKENS_PER_PARAMETER * size_in_billions * 1e9
    return tokens / CORPUS_TOKENS, tokens


def estimate_compute_requirements(size_in_billions: float) -> tuple[float, float]:
    """What training a model of this size takes: FLOPs for each token, and memory for the model and its optimizer.

    16 bytes a parameter are 2 for the weight and 2 for the gradient in 16 bits, 4 for the weight in float32, and 4 for each of
    Adam's two moments (Rajbhandari et al. 2019, "ZeRO", section 3.1). Activations come on top.

    Args:
        size_in_billions: parameters / 1e9; need not be an integer.

    Returns:
        (6 N FLOPs a token, memory in GB), with GB = 1e9 bytes.

    Raises:
        ValueError: size_in_billions is not positive.
    """
    # student: both are N times a constant; mind the units
    _check_positive(size_in_billions=size_in_billions)
    params = size_in_billions * 1e9
    return FLOPS_PER_PARAMETER_AND_TOKEN * params, BYTES_PER_TRAINED_PARAMETER * params / 1e9


def kv_cache_bytes(
    num_layers: int,
    num_kv_heads: int,
    head_dim: int,
    length: int,
    batch: int = 1,
    bytes_per_value: float = 2,
) -> float:
    """Bytes of the cache of keys and values with which a model generates: one of each, for every layer, head, token and row.

    Args:
        num_layers: of the model.
        num_kv_heads: heads that have keys and values of their own; fewer than query heads in grouped-query attention.
        head_dim: numbers in a key, and as many in a value.
        length: tokens in the cache.
        batch: rows.
        bytes_per_value: 4 for float32, 2 for 16 bits, 0.5 for int4.

    Returns:
        Bytes, not rounded.

    Raises:
        ValueError: an argument is not positive.
    """
    # student: a product, with a 2 for keys and values
    _check_positive(
        num_layers=num_layers,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        length=length,
        batch=batch,
        bytes_per_value=bytes_per_value,
    )
    return 2 * num_layers * num_kv_heads * head_dim * length * batch * bytes_per_value


def weight_bytes(params: float, bits: float) -> float:
    """Bytes of the weights of a model: params · bits / 8, not rounded.

    Args:
        params: how many weights.
        bits: of each; 1.58 for ternary weights and 4.5 for int4 with a scale a group need not be integers.

    Raises:
        ValueError: an argument is not positive.
    """
    # student: 8 bits are a byte
    _check_positive(params=params, bits=bits)
    return params * bits / 8
