"""What the hidden tests of llm_architectures share: the formulas of the parts that several models have, in float64."""

import torch.nn.functional as F


def rms(x, weight=1.0, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def gated(x, gate, up, down, act=F.silu):
    """down(act(gate(x)) · up(x)), with the weights of three Linears."""
    return (act(x @ gate.double().T) * (x @ up.double().T)) @ down.double().T


def agreeing(value, truth, styles, near):
    """The first of the styles, sentence -> its changes, whose truth(changes) is near the value; {} if it is none.

    With it a test can ask for its own subject alone: what is wrong in the plainest result already costs nothing there.
    """
    if near(value, truth({})):
        return {}
    return next((changes for changes in styles.values() if near(value, truth(changes))), {})
