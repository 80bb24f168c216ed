"""Scaling laws: how large a model, and how much text, a budget of compute should buy, and what it takes to run the result.

N is the number of parameters, D the number of training tokens, C the floating-point operations (FLOPs) of the training:

    what a budget buys            compute_optimal_scaling                        Hoffmann et al. 2022 ("Chinchilla")
    the loss that it reaches      chinchilla_loss                                Hoffmann et al. 2022, section 3.3
    the law from measured runs    fit_chinchilla, isoflop_optimum                Hoffmann et al. 2022, sections 3.2 and 3.3
    what a model costs            estimate_data_requirements, estimate_compute_requirements, kv_cache_bytes, weight_bytes

Numbers are Python's: an int or a float is taken and returned, whichever it is, and nothing is rounded. Arguments that are not
positive, zero included, are a ValueError that names the argument.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

TOKENS_PER_PARAMETER = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # 2 in the forward pass, 4 in the backward pass
CORPUS_TOKENS = 1.4e12  # what Chinchilla was trained on
BYTES_PER_TRAINED_PARAMETER = 16  # weight and gradient in 16 bits, and in float32: weight, Adam's two moments

Values = float | np.ndarray | torch.Tensor
Numbers = Sequence[float] | np.ndarray | torch.Tensor


# ---------------------------------------------------------------------------------------------- checks and conversions


def _must_be_positive(name: str, value: float) -> None:
    if not value > 0:  # NaN is not positive either
        raise ValueError(f"{name} must be positive, not {value}")


def _as_power_base(name: str, value: Values) -> tuple[Values, str]:
    """A float, a floating-point array or a tensor, checked to be positive, and which of the three it is."""
    if isinstance(value, torch.Tensor):
        if not bool((value > 0).all()):
            raise ValueError(f"{name} must be positive, and a value of it is not")
        return value, "tensor"
    if isinstance(value, np.ndarray):
        if not bool((value > 0).all()):
            raise ValueError(f"{name} must be positive, and a value of it is not")
        if not np.issubdtype(value.dtype, np.floating):
            value = value.astype(np.float64)
        return value, "array"
    _must_be_positive(name, value)
    return float(value), "number"


def _as_vector(name: str, values: Numbers) -> np.ndarray:
    """A new float64 array (n,) of positive, finite numbers."""
    if isinstance(values, torch.Tensor):
        vector = values.detach().cpu().to(torch.float64).numpy().copy()
    elif isinstance(values, np.ndarray):
        vector = values.astype(np.float64)
    else:
        vector = np.array([float(value) for value in values], dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {vector.ndim}")
    for value in vector:
        if not value > 0 or math.isinf(value):
            raise ValueError(f"{name} must be positive and finite, not {value}")
    return vector


def _same_lengths(vectors: dict[str, np.ndarray]) -> None:
    lengths = {name: len(vector) for name, vector in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the lengths differ: {lengths}")


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
    _must_be_positive("compute_budget", compute_budget)
    flops_per_squared_parameter = FLOPS_PER_PARAMETER_AND_TOKEN * TOKENS_PER_PARAMETER  # C = 6 N · 20 N
    params = (compute_budget / flops_per_squared_parameter) ** 0.5
    tokens = TOKENS_PER_PARAMETER * params
    return params, tokens


def chinchilla_loss(params: Values, tokens: Values) -> Values:
    """The loss in nats a token that Hoffmann et al. 2022, appendix D.3, predict for N parameters and D tokens.

        L(N, D) = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28

    The first term is the entropy of text, the second what a small model lacks, the third what too little text costs.

    Args:
        params: N, a number, an array or a tensor.
        tokens: D, likewise. The two broadcast.

    Returns:
        A float for two numbers, else an array or a tensor like the input, in its dtype if that is a floating-point one.
        Gradients flow through tensors.

    Raises:
        ValueError: a value of params or tokens is not positive.
    """
    sizes, size_kind = _as_power_base("params", params)
    lengths, length_kind = _as_power_base("tokens", tokens)
    some_tensor = "tensor" in (size_kind, length_kind)
    some_array = "array" in (size_kind, length_kind)
    if some_tensor:  # an array beside a tensor becomes a tensor on its device
        device = sizes.device if size_kind == "tensor" else lengths.device
        if size_kind == "array":
            sizes = torch.from_numpy(sizes.copy()).to(device)
        if length_kind == "array":
            lengths = torch.from_numpy(lengths.copy()).to(device)

    lack_of_size = 406.4 / sizes**0.34
    lack_of_text = 410.7 / lengths**0.28
    loss = 1.69 + lack_of_size + lack_of_text

    if some_tensor:
        return loss
    if some_array:  # numpy makes scalars of arrays without dimensions
        dtypes = [value.dtype for value in (sizes, lengths) if isinstance(value, np.ndarray)]
        return np.asarray(loss, dtype=np.result_type(*dtypes))
    return float(loss)


# ---------------------------------------------------------------------------------------------- laws from measurements


# Inside the fit the law is E + A' exp(-alpha x) + B' exp(-beta y), x and y the logarithms of N and D minus their means, and what is
# sought are the logarithms of its five numbers: so all of them are positive, and all of a size near 1.


def _first_guesses(x: np.ndarray, y: np.ndarray, measured: np.ndarray, keep: int = 6) -> list[np.ndarray]:
    """For each pair of exponents on a grid, the law is linear in E, A' and B': the pairs with the least error, best first."""
    exponents = [0.05 * step for step in range(1, 21)]
    weights = 1 / measured  # errors count relative to the loss
    guesses = []
    for alpha in exponents:
        size_term = np.exp(-alpha * x)
        for beta in exponents:
            length_term = np.exp(-beta * y)
            columns = np.stack([np.ones_like(x), size_term, length_term], axis=1)
            weighted = columns * weights[:, None]
            solution = np.linalg.lstsq(weighted, np.ones_like(x), rcond=None)[0]
            smallest = 1e-3 * float(measured.min())
            positive = np.maximum(solution, smallest)  # the five are sought among positive numbers
            error = float(((weighted @ positive - 1) ** 2).sum())
            guess = np.log(np.array([*positive, alpha, beta]))
            guesses.append((error, guess))
    guesses.sort(key=lambda pair: pair[0])
    return [guess for _, guess in guesses[:keep]]


def _residuals(theta: np.ndarray, x: np.ndarray, y: np.ndarray, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The errors of ln L (n,), and their derivatives by the five logarithms (n, 5)."""
    E, A, B, alpha, beta = np.exp(theta)
    size_term = A * np.exp(-alpha * x)
    length_term = B * np.exp(-beta * y)
    predicted = E + size_term + length_term
    error = np.log(predicted) - log_loss
    by_E = np.full_like(x, E)
    by_A = size_term
    by_B = length_term
    by_alpha = -alpha * x * size_term
    by_beta = -beta * y * length_term
    jacobian = np.stack([by_E, by_A, by_B, by_alpha, by_beta], axis=1) / predicted[:, None]
    return error, jacobian


def _levenberg_marquardt(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, log_loss: np.ndarray, iterations: int = 300
) -> tuple[float, np.ndarray]:
    """Least squares of the errors of ln L from one start: (their sum of squares, the five logarithms)."""
    damping = 1e-3
    error, jacobian = _residuals(theta, x, y, log_loss)
    cost = float((error * error).sum())
    for _ in range(iterations):
        scale = np.sqrt((jacobian * jacobian).sum(axis=0)) + 1e-12
        system = np.concatenate([jacobian, math.sqrt(damping) * np.diag(scale)])
        right = np.concatenate([-error, np.zeros(5)])
        step = np.linalg.lstsq(system, right, rcond=None)[0]
        step = np.clip(step, -1.0, 1.0)
        trial = np.clip(theta + step, -30.0, 30.0)
        trial = np.minimum(trial, np.array([30.0, 30.0, 30.0, 2.0, 2.0]))  # exponents above e² are no law
        trial_error, trial_jacobian = _residuals(trial, x, y, log_loss)
        trial_cost = float((trial_error * trial_error).sum())
        if math.isfinite(trial_cost) and trial_cost < cost:
            moved = float(np.abs(trial - theta).max())
            theta, error, jacobian, cost = trial, trial_error, trial_jacobian, trial_cost
            damping = max(damping / 5, 1e-15)
            if moved < 1e-13:
                break
        else:
            damping = damping * 4
            if damping > 1e12:
                break
    return cost, theta


def fit_chinchilla(params: Numbers, tokens: Numbers, losses: Numbers) -> dict[str, float]:
    """The law L(N, D) = E + A / N^alpha + B / D^beta that fits measured losses.

    What a fit of noisy losses minimizes is up to you; Hoffmann et al. 2022, section 3.3, take a Huber loss of ln L. On losses
    without noise, in float64, each of the five numbers is within 1 % of the truth, if the runs determine them, as do those on
    a grid of three or more params and three or more tokens (of a grid a row and a column, 5 runs, are enough), over a factor of
    1000 or more each, and the law is like those of language models: E from 1 to 3, A and B from 100 to 2000, both exponents
    from 0.2 to 0.5.

    Args:
        params: N of each run: a sequence, an array or a tensor, 1-D. It is not changed.
        tokens: D of each run, likewise.
        losses: the loss of each run, likewise.

    Returns:
        {"E", "A", "B", "alpha", "beta"}: floats.

    Raises:
        ValueError: there are fewer than 5 runs, the three have different lengths, or a value is not positive.
    """
    sizes = _as_vector("params", params)
    lengths = _as_vector("tokens", tokens)
    measured = _as_vector("losses", losses)
    _same_lengths({"params": sizes, "tokens": lengths, "losses": measured})
    if len(measured) < 5:
        raise ValueError(f"params, tokens and losses: five numbers need at least 5 runs, not {len(measured)}")

    log_size = np.log(sizes)
    log_length = np.log(lengths)
    mean_log_size = log_size.mean()
    mean_log_length = log_length.mean()
    x = log_size - mean_log_size
    y = log_length - mean_log_length
    log_loss = np.log(measured)

    best_cost, best = math.inf, None
    for start in _first_guesses(x, y, measured):
        cost, found = _levenberg_marquardt(start, x, y, log_loss)
        if best is None or cost < best_cost:
            best_cost, best = cost, found

    E, A_centered, B_centered, alpha, beta = (float(value) for value in np.exp(best))
    A = A_centered * math.exp(alpha * float(mean_log_size))  # A / N^alpha = A_centered · exp(-alpha x)
    B = B_centered * math.exp(beta * float(mean_log_length))
    return {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta}


def isoflop_optimum(params: Numbers, losses: Numbers) -> float:
    """The best model size for one budget: the vertex of the parabola through the losses of several sizes.

    All runs had the same C, so that a larger model saw less text. The parabola is that of the loss in log N, by least squares
    (Hoffmann et al. 2022, section 3.2). Its vertex counts also where it is outside of the measured sizes.

    Args:
        params: N of each run, in any order: a sequence, an array or a tensor, 1-D. It is not changed.
        losses: the loss of each run, likewise.

    Returns:
        The N with the least loss.

    Raises:
        ValueError: there are fewer than 3 runs, the two have different lengths, a value is not positive, or the parabola opens
            downwards. (Whether losses on a straight line have a vertex is for rounding to say.)
    """
    sizes = _as_vector("params", params)
    measured = _as_vector("losses", losses)
    _same_lengths({"params": sizes, "losses": measured})
    if len(measured) < 3:
        raise ValueError(f"params and losses: a parabola needs at least 3 runs, not {len(measured)}")

    log_size = np.log(sizes)
    mean_log_size = float(log_size.mean())
    x = log_size - mean_log_size
    z = measured - measured.mean()

    # Polynomials that are orthogonal on these x (1, x and x² - slope · x - level): each coefficient is a quotient of its own.
    sum_x2 = float((x * x).sum())
    if sum_x2 == 0.0 or len(np.unique(x)) < 3:
        raise ValueError("params: a parabola needs at least 3 different sizes")
    slope = float((x * x * x).sum()) / sum_x2
    level = sum_x2 / len(x)
    parabola = x * x - slope * x - level
    curvature = float((parabola * z).sum()) / float((parabola * parabola).sum())
    tilt = float((x * z).sum()) / sum_x2
    if not curvature > 0:
        raise ValueError(f"losses: the parabola through them opens downwards (a curvature of {curvature})")

    vertex = slope / 2 - tilt / (2 * curvature)  # where tilt + curvature · (2 x - slope) is 0
    exponent = vertex + mean_log_size
    if exponent > 709:  # more than a float can hold
        return math.inf
    return math.exp(exponent)


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
    _must_be_positive("size_in_billions", size_in_billions)
    params = size_in_billions * 1e9
    tokens = TOKENS_PER_PARAMETER * params
    epochs = tokens / CORPUS_TOKENS
    return epochs, tokens


def estimate_compute_requirements(size_in_billions: float) -> tuple[float, float]:
    """What training a model of this size takes: FLOPs for each token, and memory for the model and its optimizer.

    16 bytes a parameter are 2 for the weight and 2 for the gradient in 16 bits, 4 for the weight in float32, and 4 for each of
    Adam's two moments (Rajbhandari et al. 2020, "ZeRO", section 3.1). Activations come on top.

    Args:
        size_in_billions: parameters / 1e9; need not be an integer.

    Returns:
        (6 N FLOPs a token, memory in GB), with GB = 1e9 bytes.

    Raises:
        ValueError: size_in_billions is not positive.
    """
    _must_be_positive("size_in_billions", size_in_billions)
    params = size_in_billions * 1e9
    flops_per_token = FLOPS_PER_PARAMETER_AND_TOKEN * params
    memory_in_gb = BYTES_PER_TRAINED_PARAMETER * size_in_billions  # 1e9 parameters of a byte each are a GB
    return flops_per_token, memory_in_gb


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
    arguments = {
        "num_layers": num_layers,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "length": length,
        "batch": batch,
        "bytes_per_value": bytes_per_value,
    }
    product = 2  # keys and values
    for name, value in arguments.items():
        _must_be_positive(name, value)
        product = product * value
    return product


def weight_bytes(params: float, bits: float) -> float:
    """Bytes of the weights of a model: params · bits / 8, not rounded.

    Args:
        params: how many weights.
        bits: of each; 1.58 for ternary weights and 4.5 for int4 with a scale a group need not be integers.

    Raises:
        ValueError: an argument is not positive.
    """
    _must_be_positive("params", params)
    _must_be_positive("bits", bits)
    return params * bits / 8
