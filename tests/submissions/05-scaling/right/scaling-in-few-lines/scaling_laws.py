"""Scaling laws: how large a model, and how much text, a budget of compute should buy, and what it takes to run the result.

N is the number of parameters, D the number of training tokens, C the floating-point operations (FLOPs) of the training.
Arguments that are not positive, zero included, are a ValueError that names the argument.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import least_squares

TOKENS_PER_PARAMETER = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # 2 in the forward pass, 4 in the backward pass
CORPUS_TOKENS = 1.4e12  # what Chinchilla was trained on
BYTES_PER_TRAINED_PARAMETER = 16  # weight and gradient in 16 bits, and in float32: weight, Adam's two moments

Values = float | np.ndarray | torch.Tensor
Numbers = Sequence[float] | np.ndarray | torch.Tensor


def _positive(**values) -> None:
    for name, value in values.items():
        above = value > 0  # NaN is not
        if not (above.all() if isinstance(value, (np.ndarray, torch.Tensor)) else above):
            raise ValueError(f"{name} must be positive, got {value}")


def _runs(least: int, **columns: Numbers) -> list[np.ndarray]:
    """The columns as 1-D float64 arrays of their own: equally long, least or more, positive and finite."""
    arrays = {
        name: np.array(x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else x, dtype=np.float64)
        for name, x in columns.items()
    }
    shapes = {name: x.shape for name, x in arrays.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len({*shapes.values()}) > 1:
        raise ValueError(f"{', '.join(columns)} must be 1-D and equally long, got shapes {shapes}")
    if (runs := min(map(len, arrays.values()))) < least:
        raise ValueError(f"{', '.join(columns)}: at least {least} runs are needed, got {runs}")
    _positive(**arrays)
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise ValueError(f"{name} must be finite, got {x}")
    return list(arrays.values())


# ---------------------------------------------------------------------------------------------- budgets and losses


def compute_optimal_scaling(compute_budget: float) -> tuple[float, float]:
    """(N, D) with C = 6 N D and D = 20 N (Hoffmann et al. 2022, table 3). ValueError: compute_budget is not positive."""
    _positive(compute_budget=compute_budget)
    params = math.sqrt(compute_budget / (FLOPS_PER_PARAMETER_AND_TOKEN * TOKENS_PER_PARAMETER))
    return params, TOKENS_PER_PARAMETER * params


def chinchilla_loss(params: Values, tokens: Values) -> Values:
    """L(N, D) = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28 in nats a token (Hoffmann et al. 2022, appendix D.3).

    params and tokens are numbers, arrays or tensors, and broadcast. A float for two numbers, else an array or a tensor like the
    input, in its dtype if that is a floating-point one. ValueError: a value is not positive.
    """
    n, d = (x.item() if isinstance(x, np.generic) else x for x in (params, tokens))
    _positive(params=n, tokens=d)
    kinds = {type(x) for x in (n, d)}
    if tensors := [x for x in (n, d) if isinstance(x, torch.Tensor)]:
        n, d = (torch.as_tensor(x, device=tensors[0].device) if isinstance(x, np.ndarray) else x for x in (n, d))
        dtype = torch.result_type(n, d)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        n, d = (x if not isinstance(x, torch.Tensor) or x.is_floating_point() else x.to(dtype) for x in (n, d))
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    return loss if tensors else np.asarray(loss) if np.ndarray in kinds else float(loss)


# ---------------------------------------------------------------------------------------------- laws from measurements


def fit_chinchilla(params: Numbers, tokens: Numbers, losses: Numbers) -> dict[str, float]:
    """The law L(N, D) = E + A / N^alpha + B / D^beta that fits measured losses: least squares of ln L.

    A grid over the exponents, for each of which E, A and B are linear least squares, gives the first guess; all five are then
    fitted together, E, A and B as logarithms, which keeps them positive.

    Returns {"E", "A", "B", "alpha", "beta"}. ValueError: fewer than 5 runs, different lengths, or a value that is not positive.
    """
    n, d, loss = _runs(5, params=params, tokens=tokens, losses=losses)
    x, y, target = np.log(n), np.log(d), np.log(loss)
    x0, y0 = x.mean(), y.mean()
    x, y = x - x0, y - y0

    def linear(alpha, beta):  # relative errors, as in ln L
        columns = np.stack([np.ones_like(x), np.exp(-alpha * x), np.exp(-beta * y)], axis=1) / loss[:, None]
        factors = np.linalg.lstsq(columns, np.ones_like(x), rcond=None)[0]
        factors = factors.clip(1e-3 * loss.min())  # a law has three positive terms
        return np.square(columns @ factors - 1).sum(), np.array([*np.log(factors), alpha, beta])

    def residuals(law):
        e, a, b, alpha, beta = law
        return np.logaddexp(np.logaddexp(e, a - alpha * x), b - beta * y) - target

    exponents = np.linspace(0.05, 1.0, 20)
    guesses = sorted((linear(alpha, beta) for alpha in exponents for beta in exponents), key=lambda guess: guess[0])[:3]
    fits = (least_squares(residuals, guess, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=2000) for _, guess in guesses)
    e, a, b, alpha, beta = min(fits, key=lambda fit: fit.cost).x
    with np.errstate(over="ignore"):
        values = np.exp(e), np.exp(a + alpha * x0), np.exp(b + beta * y0), alpha, beta
    return dict(zip(("E", "A", "B", "alpha", "beta"), map(float, values), strict=True))


def isoflop_optimum(params: Numbers, losses: Numbers) -> float:
    """The N at the vertex of the least-squares parabola of the loss in log N (Hoffmann et al. 2022, section 3.2).

    ValueError: fewer than 3 runs (or different sizes), different lengths, a value that is not positive, or a parabola that opens
    downwards.
    """
    n, loss = _runs(3, params=params, losses=losses)
    if len(np.unique(n)) < 3:
        raise ValueError(f"params: a parabola needs 3 different sizes, got {n}")
    x = np.log(n)
    c2, c1, _ = np.polyfit(x - x.mean(), loss - loss.mean(), 2)
    if not c2 > 0:
        raise ValueError(f"losses: the parabola opens downwards, its second coefficient is {c2}")
    with np.errstate(over="ignore"):
        return float(np.exp(x.mean() - c1 / (2 * c2)))


# ---------------------------------------------------------------------------------------------- what a model costs


def estimate_data_requirements(size_in_billions: float) -> tuple[float, float]:
    """(epochs over a corpus of 1.4e12 tokens, tokens) at 20 tokens a parameter. ValueError: not positive."""
    _positive(size_in_billions=size_in_billions)
    tokens = TOKENS_PER_PARAMETER * size_in_billions * 1e9
    return tokens / CORPUS_TOKENS, tokens


def estimate_compute_requirements(size_in_billions: float) -> tuple[float, float]:
    """(6 N FLOPs a token, 16 bytes a parameter in GB of 1e9 bytes). ValueError: not positive."""
    _positive(size_in_billions=size_in_billions)
    return FLOPS_PER_PARAMETER_AND_TOKEN * size_in_billions * 1e9, BYTES_PER_TRAINED_PARAMETER * size_in_billions


def kv_cache_bytes(
    num_layers: int, num_kv_heads: int, head_dim: int, length: int, batch: int = 1, bytes_per_value: float = 2
) -> float:
    """Bytes of the cache: a key and a value for every layer, head, token and row. ValueError: an argument is not positive."""
    sizes = locals()
    _positive(**sizes)
    return 2 * math.prod(sizes.values())


def weight_bytes(params: float, bits: float) -> float:
    """params · bits / 8, not rounded. ValueError: an argument is not positive."""
    _positive(params=params, bits=bits)
    return params * bits / 8
