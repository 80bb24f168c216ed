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
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.optimize import least_squares, nnls

TOKENS_PER_PARAMETER = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # 2 in the forward pass, 4 in the backward pass
CORPUS_TOKENS = 1.4e12  # what Chinchilla was trained on
BYTES_PER_TRAINED_PARAMETER = 16  # weight and gradient in 16 bits, and in float32: weight, Adam's two moments
BILLION = 1e9  # parameters; also the bytes of a GB

Values = float | np.ndarray | torch.Tensor
Numbers = Sequence[float] | np.ndarray | torch.Tensor


# ---------------------------------------------------------------------------------------------- checks


class Check:
    """Checks of arguments; all raise a ValueError that names the argument. NaN is not positive."""

    @staticmethod
    def positive(**numbers) -> None:
        for name, number in numbers.items():
            if not number > 0:
                raise ValueError(f"{name} must be positive, not {number}")

    @staticmethod
    def all_positive(**values) -> None:
        for name, value in values.items():
            positive = value > 0
            if not (positive if isinstance(positive, bool) else bool(positive.all())):
                raise ValueError(f"{name} must be positive everywhere")


# ---------------------------------------------------------------------------------------------- budgets and losses


@dataclass(frozen=True)
class PowerLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, params: Values, tokens: Values) -> Values:
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta


CHINCHILLA = PowerLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)


def compute_optimal_scaling(compute_budget: float) -> tuple[float, float]:
    """The model and the text that a training budget should be spent on: C = 6 N D with D = 20 N.

    Args:
        compute_budget: C in FLOPs.

    Returns:
        (params, tokens): N and D.

    Raises:
        ValueError: compute_budget is not positive.
    """
    Check.positive(compute_budget=compute_budget)
    params = math.sqrt(compute_budget / (FLOPS_PER_PARAMETER_AND_TOKEN * TOKENS_PER_PARAMETER))
    return params, TOKENS_PER_PARAMETER * params


def chinchilla_loss(params: Values, tokens: Values) -> Values:
    """The loss in nats a token that Hoffmann et al. 2022, appendix D.3, predict for N parameters and D tokens.

        L(N, D) = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28

    Args:
        params: N, a number, an array or a tensor.
        tokens: D, likewise. The two broadcast.

    Returns:
        A float for two numbers, else an array or a tensor like the input, in its dtype if that is a floating-point one.
        Gradients flow through tensors.

    Raises:
        ValueError: a value of params or tokens is not positive.
    """
    params, tokens = (value.item() if isinstance(value, np.generic) else value for value in (params, tokens))
    Check.all_positive(params=params, tokens=tokens)
    tensors = [value for value in (params, tokens) if isinstance(value, torch.Tensor)]
    if tensors:
        pair = [_on(value, tensors[0].device) for value in (params, tokens)]
        dtype = torch.result_type(*pair)
        return CHINCHILLA(*map(_wide_tensor, pair)).to(dtype if dtype.is_floating_point else torch.get_default_dtype())
    if isinstance(params, np.ndarray) or isinstance(tokens, np.ndarray):
        dtype = np.result_type(params, tokens)
        loss = CHINCHILLA(_wide_array(params), _wide_array(tokens))
        return np.asarray(loss, dtype=dtype if np.issubdtype(dtype, np.floating) else np.float64)
    return float(CHINCHILLA(params, tokens))


def _on(value: Values, device: torch.device) -> Values:
    """An array becomes a tensor, which it is to be combined with."""
    return torch.tensor(value, device=device) if isinstance(value, np.ndarray) else value


def _wide_tensor(value: Values) -> Values:
    """16 bits as float32, in which the terms are worked out; the rest as it is."""
    narrow = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if narrow else value


def _wide_array(value: Values) -> Values:
    narrow = isinstance(value, np.ndarray) and value.dtype == np.float16
    return value.astype(np.float32) if narrow else value


# ---------------------------------------------------------------------------------------------- laws from measurements


class Measurements:
    """Columns of measured runs in float64, equally long, positive and finite. Copies: what came in is not changed."""

    def __init__(self, at_least: int, **columns: Numbers) -> None:
        self.columns = {name: self._column(name, values) for name, values in columns.items()}
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{', '.join(lengths)} must be equally long, not {list(lengths.values())}")
        if min(lengths.values()) < at_least:
            raise ValueError(f"{', '.join(lengths)} need {at_least} runs or more, not {min(lengths.values())}")
        for name, column in self.columns.items():
            if not np.all((column > 0) & np.isfinite(column)):
                raise ValueError(f"{name} must be positive and finite")

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @staticmethod
    def _column(name: str, values: Numbers) -> np.ndarray:
        if isinstance(values, torch.Tensor):
            column = values.detach().to("cpu", torch.float64).numpy().copy()
        elif isinstance(values, np.ndarray):
            column = values.astype(np.float64)
        else:
            column = np.array([float(value) for value in values], dtype=np.float64)
        if column.ndim != 1:
            raise ValueError(f"{name} must be 1-D, not of shape {column.shape}")
        return column


class LawFit:
    """Separable least squares of relative errors: given the exponents the law is linear in E, A and B.

    The search is in the two exponents alone: a grid, then Gauss-Newton from its best places. The terms are powers of
    N and D over their geometric means, so that all is of a size near 1.
    """

    GRID = np.linspace(0.025, 1.2, 48)
    STARTS = 4
    LIMITS = (1e-3, 4.0)  # of an exponent

    def __init__(self, params: np.ndarray, tokens: np.ndarray, losses: np.ndarray) -> None:
        log_params, log_tokens = np.log(params), np.log(tokens)
        self.center_params, self.center_tokens = log_params.mean(), log_tokens.mean()
        self.x, self.y = log_params - self.center_params, log_tokens - self.center_tokens
        self.losses = losses

    def coefficients(self, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """(E, A', B') >= 0 of the best law with these exponents, and its relative errors."""
        terms = np.stack([np.ones_like(self.x), np.exp(-alpha * self.x), np.exp(-beta * self.y)], axis=1)
        terms /= self.losses[:, None]
        sizes = np.linalg.norm(terms, axis=0)
        scaled, ones = terms / sizes, np.ones_like(self.x)
        numbers = np.linalg.lstsq(scaled, ones, rcond=None)[0]
        if (numbers < 0).any():
            numbers = nnls(scaled, ones)[0]
        return numbers / sizes, scaled @ numbers - 1

    def error(self, exponents: np.ndarray) -> np.ndarray:
        return self.coefficients(*exponents)[1]

    def solve(self) -> PowerLaw:
        pairs = [(alpha, beta) for alpha in self.GRID for beta in self.GRID]
        costs = [float(np.square(self.error(pair)).sum()) for pair in pairs]
        starts = [pairs[at] for at in np.argsort(costs)[: self.STARTS]]
        found = [
            least_squares(self.error, start, jac="3-point", bounds=self.LIMITS, ftol=1e-15, xtol=1e-15, gtol=1e-15)
            for start in starts
        ]
        alpha, beta = map(float, min(found, key=lambda result: result.cost).x)
        E, a, b = map(float, self.coefficients(alpha, beta)[0])
        return PowerLaw(
            E=E,
            A=a * math.exp(alpha * self.center_params),
            B=b * math.exp(beta * self.center_tokens),
            alpha=alpha,
            beta=beta,
        )


def fit_chinchilla(params: Numbers, tokens: Numbers, losses: Numbers) -> dict[str, float]:
    """The law L(N, D) = E + A / N^alpha + B / D^beta that fits measured losses, by least squares of the relative errors.

    On losses without noise, in float64, each of the five numbers is within 1 % of the truth, if the runs determine them.

    Args:
        params: N of each run: a sequence, an array or a tensor, 1-D. It is not changed.
        tokens: D of each run, likewise.
        losses: the loss of each run, likewise.

    Returns:
        {"E", "A", "B", "alpha", "beta"}: floats.

    Raises:
        ValueError: there are fewer than 5 runs, the three have different lengths, or a value is not positive.
    """
    runs = Measurements(5, params=params, tokens=tokens, losses=losses)
    return asdict(LawFit(runs["params"], runs["tokens"], runs["losses"]).solve())


def isoflop_optimum(params: Numbers, losses: Numbers) -> float:
    """The best model size for one budget: the vertex of the parabola through the losses of several sizes.

    The parabola is that of the loss in log N, by least squares. Its vertex counts also where it is outside of the measured sizes.

    Args:
        params: N of each run, in any order: a sequence, an array or a tensor, 1-D. It is not changed.
        losses: the loss of each run, likewise.

    Returns:
        The N with the least loss.

    Raises:
        ValueError: there are fewer than 3 runs (or different sizes), the two have different lengths, a value is not
            positive, or the parabola opens downwards.
    """
    runs = Measurements(3, params=params, losses=losses)
    if len(np.unique(runs["params"])) < 3:
        raise ValueError("params must have 3 different sizes or more")
    logs = np.log(runs["params"])
    center = logs.mean()
    x = logs - center
    width = np.abs(x).max()
    powers = np.stack([np.ones_like(x), x / width, np.square(x / width)], axis=1)
    _, slope, bend = np.linalg.lstsq(powers, runs["losses"] - runs["losses"].mean(), rcond=None)[0]
    if not bend > 0:
        raise ValueError("losses must lie on a parabola that opens upwards")
    with np.errstate(over="ignore"):
        best = float(np.exp(center - width * slope / (2 * bend)))
    if not 0 < best < math.inf:
        raise ValueError("losses lie on a straight line, which has no vertex")
    return best


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
    Check.positive(size_in_billions=size_in_billions)
    tokens = TOKENS_PER_PARAMETER * size_in_billions * BILLION
    return tokens / CORPUS_TOKENS, tokens


def estimate_compute_requirements(size_in_billions: float) -> tuple[float, float]:
    """What training a model of this size takes: FLOPs for each token, and memory for the model and its optimizer.

    Args:
        size_in_billions: parameters / 1e9; need not be an integer.

    Returns:
        (6 N FLOPs a token, memory in GB), with GB = 1e9 bytes.

    Raises:
        ValueError: size_in_billions is not positive.
    """
    Check.positive(size_in_billions=size_in_billions)
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * size_in_billions * BILLION
    return flops, BYTES_PER_TRAINED_PARAMETER * size_in_billions  # 1e9 parameters, and 1e9 bytes in a GB


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
    Check.positive(
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
    Check.positive(params=params, bits=bits)
    return params * bits / 8
