"""What the hidden tests of training share."""

import torch


def randn(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def single(tree):
    """The floating-point tensors of a tree in float32: how exactly they are compared, whatever they were worked out in."""
    if isinstance(tree, dict):
        return {key: single(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [single(item) for item in tree]
    return tree.float() if isinstance(tree, torch.Tensor) and tree.is_floating_point() else tree


def judge(check, fact, wrong):
    """Something that is so or not, and what it means if it is not."""
    check(bool(fact), True, mistakes={wrong: False})
