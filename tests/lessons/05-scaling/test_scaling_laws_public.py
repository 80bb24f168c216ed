"""Public tests of scaling_laws: small cases by hand, and figures that you find in the papers. The hidden tests look closer."""

import pytest
import torch


def test_a_budget_buys_a_model_and_its_text(student, check):
    """6 · 10 · 200 = 12000 FLOPs: 10 parameters see 20 tokens each."""
    check(student.call("scaling_laws.compute_optimal_scaling", 12000.0), (10.0, 200.0), names=("params", "tokens"))


def test_the_loss_of_numbers_is_a_number(student, check):
    """Chinchilla itself: 70e9 parameters and 1.4e12 tokens."""
    check(student.call("scaling_laws.chinchilla_loss", 70e9, 1.4e12), 1.93665, within=1e-5)


def test_the_loss_of_tensors_is_a_tensor(student, check):
    """Powers that come out even: (2^50)^0.34 = 2^17 and (2^50)^0.28 = 2^14."""
    powers = torch.tensor([1.0, 2.0**50], dtype=torch.float64)

    result = student.call("scaling_laws.chinchilla_loss", powers, powers)

    check(result, torch.tensor([1.69 + 406.4 + 410.7, 1.69 + 406.4 / 2**17 + 410.7 / 2**14], dtype=torch.float64))


def test_the_law_is_found_again(student, check):
    """Losses of a law with simple numbers, on a grid of 4 sizes and 4 lengths of text."""
    params = [size for size in (1e7, 1e8, 1e9, 1e10) for _ in range(4)]
    tokens = [1e9, 1e10, 1e11, 1e12] * 4
    losses = [2 + 300 / n**0.3 + 500 / d**0.25 for n, d in zip(params, tokens, strict=True)]

    law = student.call("scaling_laws.fit_chinchilla", params, tokens, losses)

    check(sorted(law), ["A", "B", "E", "alpha", "beta"], what="the keys")
    for name, truth in {"E": 2.0, "A": 300.0, "B": 500.0, "alpha": 0.3, "beta": 0.25}.items():
        check(law[name], truth, within=0.01 * truth, what=name)


def test_the_best_size_is_the_vertex_in_log_n(student, check):
    """(log10 N - 9)² + 2 is least at N = 1e9."""
    check(student.call("scaling_laws.isoflop_optimum", [1e8, 1e9, 1e11], [3.0, 2.0, 6.0]), 1e9)


def test_a_model_of_seven_billion(student, check):
    """A tenth of Chinchilla's text; 42e9 FLOPs a token and 112 GB for training; 14 GB in bfloat16."""
    check(student.call("scaling_laws.estimate_data_requirements", 7.0), (0.1, 1.4e11), names=("epochs", "tokens"))
    check(student.call("scaling_laws.estimate_compute_requirements", 7.0), (4.2e10, 112.0), names=("FLOPs", "GB"))
    check(student.call("scaling_laws.weight_bytes", 7e9, 16), 1.4e10)


def test_the_cache_of_one_token(student, check):
    """Llama 2 7B: 32 layers, 32 heads of 128 numbers, keys and values, 2 bytes each: half a MiB."""
    check(float(student.call("scaling_laws.kv_cache_bytes", 32, 32, 128, 1)), 524288.0)


@pytest.mark.parametrize("budget", [0.0, -1e20])
def test_a_budget_is_positive(student, budget):
    student.raises(ValueError, "scaling_laws.compute_optimal_scaling", budget, says=("compute_budget", budget))
