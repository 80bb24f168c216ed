"""The same, row by row."""

import torch


def scale_rows(x):
    if x.dim() == 0:
        raise ValueError("x needs a dimension")
    rows = [row / row.sum() for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)
