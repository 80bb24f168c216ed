"""Public tests of data_parallel.py: run `pytest` in this folder."""

import torch


def test_two_rows(student, check):
    x = torch.tensor([[1.0, 3.0], [1.0, 1.0]])

    scaled = student.call("data_parallel.scale_rows", x)

    check(scaled, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
