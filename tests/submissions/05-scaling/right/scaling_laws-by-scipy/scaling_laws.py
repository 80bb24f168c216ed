import math

import torch


def positive(name, value):
    if not bool(torch.all(torch.as_tensor(value) > 0)):
        raise ValueError(f"{name}={value}")


def compute_optimal_scaling(compute_budget):
    positive("compute_budget", float(compute_budget))
    params = math.sqrt(compute_budget / 120)
    return [params, compute_budget / 6 / params]


def chinchilla_loss(params, tokens):
    positive("params", params)
    positive("tokens", tokens)
    return 1.69 + 406.4 * params**-0.34 + 410.7 * tokens**-0.28


def column(name, values):
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    values = torch.tensor([float(value) for value in values], dtype=torch.float64)
    positive(name, values)
    return values


def fit_chinchilla(params, tokens, losses):
    from scipy.optimize import least_squares

    n, d, y = column("params", params).log(), column("tokens", tokens).log(), column("losses", losses).log()
    if not len(n) == len(d) == len(y) or len(n) < 5:
        raise ValueError(f"{len(n)} params, {len(d)} tokens, {len(y)} losses")

    def residuals(x):
        e, a, b, alpha, beta = torch.tensor(x, dtype=torch.float64)
        return (torch.stack([e.expand_as(n), a - alpha * n, b - beta * d]).logsumexp(0) - y).numpy()

    options = {"x_scale": "jac", "loss": "huber", "f_scale": 1e-3, "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    starts = [[0.5, a, b, 0.3, 0.3] for a in (5.0, 7.0) for b in (5.0, 7.0)]
    best = min((least_squares(residuals, start, max_nfev=300, **options) for start in starts), key=lambda found: found.cost)
    e, a, b, alpha, beta = map(float, best.x)
    return {"beta": beta, "alpha": alpha, "B": math.exp(b), "A": math.exp(a), "E": math.exp(e)}


def isoflop_optimum(params, losses):
    x, y = column("params", params).log10(), column("losses", losses)
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"{len(x)} params and {len(y)} losses")
    middle = x.mean()
    powers = torch.stack([(x - middle) ** k for k in range(3)], dim=1)
    _, slope, curvature = torch.linalg.solve(powers.T @ powers, powers.T @ y).tolist()
    if curvature < 0:
        raise ValueError(f"the losses have no minimum: the curvature is {curvature}")
    return 10 ** (float(middle) - slope / 2 / curvature)


def estimate_data_requirements(size_in_billions):
    positive("size_in_billions", size_in_billions)
    return size_in_billions / 70, size_in_billions * 20_000_000_000


def estimate_compute_requirements(size_in_billions):
    positive("size_in_billions", size_in_billions)
    return 6 * size_in_billions * 10**9, 16 * size_in_billions


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, length, batch=1, bytes_per_value=2):
    for name, value in locals().copy().items():
        positive(name, value)
    return math.prod((2, num_layers, num_kv_heads, head_dim, length, batch)) * bytes_per_value


def weight_bytes(params, bits):
    positive("params", params)
    positive("bits", bits)
    return bits / 8 * params
