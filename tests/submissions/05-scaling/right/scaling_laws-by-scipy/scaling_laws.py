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
    from scipy.optimize import least_squares, nnls

    n, d, y = column("params", params).log(), column("tokens", tokens).log(), column("losses", losses)
    if not len(n) == len(d) == len(y) or len(n) < 5:
        raise ValueError(f"{len(n)} params, {len(d)} tokens, {len(y)} losses")
    middle_n, middle_d = n.mean(), d.mean()
    n, d = n - middle_n, d - middle_d

    def first(alpha, beta):
        terms = torch.stack([torch.ones_like(n), (-alpha * n).exp(), (-beta * d).exp()], dim=1)
        found, missing = nnls((terms / y[:, None]).numpy(), torch.ones_like(y).numpy())
        return missing, [math.log(max(each, 1e-3)) for each in found] + [alpha, beta]

    def residuals(x):
        e, a, b, alpha, beta = torch.tensor(x, dtype=torch.float64)
        return (torch.stack([e.expand_as(n), a - alpha * n, b - beta * d]).logsumexp(0) - y.log()).numpy()

    options = {"x_scale": "jac", "loss": "huber", "f_scale": 1e-3, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    fits = []
    for _, start in sorted(first(alpha / 20, beta / 20) for alpha in range(3, 13) for beta in range(3, 13))[:12]:
        fits.append(least_squares(residuals, start, max_nfev=300, **options))
        if fits[-1].cost < 1e-20:
            break
    e, a, b, alpha, beta = map(float, min(fits, key=lambda fit: fit.cost).x)
    A, B = math.exp(a + alpha * float(middle_n)), math.exp(b + beta * float(middle_d))
    return {"beta": beta, "alpha": alpha, "B": B, "A": A, "E": math.exp(e)}


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
