"""Public tests of summarization.py: run `pytest` in this folder."""

import torch


def test_two_rows(student, check):
    scaled = student.call("summarization.scale_rows", torch.tensor([[1.0, 3.0], [1.0, 1.0]]))

    check(scaled, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
