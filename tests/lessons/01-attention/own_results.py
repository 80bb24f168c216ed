"""What the hidden tests of this lesson share: the student's own results as the truth of another property.

A mistake costs the points of its own tests. So where a test is about a dtype, a layout in memory or another property, and
the student's own result of the plainer thing is wrong already, it is this result that must come again; and where what is
tested is built on another part of the module that is wrong, it may be right on a right one.
"""

import torch

from shared import nearly


def on_right_parts(student, probe, *inputs, fine):
    """What probe(*inputs, right) gives with the student's own parts: right is False; with right ones if only so it is fine.

    The probe is to call `inside.use_of`. What comes with the student's own parts speaks for itself where neither is fine.
    """
    own = student.run(probe, *inputs, False)
    if fine(own):
        return own
    other = student.run(probe, *inputs, True)
    return other if other is not None and fine(other) else own


def like_own(own, truth, within=1e-3):
    """What to compare a result with that should be `own`, in another dtype, layout or mode: the truth where own is right.

    So it is where own has another shape, or is the same number everywhere, as what does nothing gives: then nothing passes
    that would not pass without it.
    """
    return truth if not is_own(own, truth) or nearly(own, truth, within) else own.double()


def each_like_own(own, truth):
    """like_own of several results, of which some may be zeros: that one is missing is for its own test to say, if not all are."""
    some = any(is_own(one, right) for one, right in zip(own, truth, strict=True))
    return [
        torch.zeros_like(right) if some and is_right(one, torch.zeros_like(right)) else like_own(one, right)
        for one, right in zip(own, truth, strict=True)
    ]


def is_right(value, truth):
    """Whether a reply of any kind is nearly a tensor."""
    return isinstance(value, torch.Tensor) and nearly(value, truth, 1e-4)


def is_own(own, truth):
    """Whether a result is wrong or right work, not none: a tensor of the truth's shape, of several numbers."""
    fits = isinstance(own, torch.Tensor) and own.shape == truth.shape and own.is_floating_point()
    return fits and own[own.isfinite()].unique().numel() > max(1, own.numel() // 8)


def along(grads):
    """What `inside.slopes_of` should be for these gradients."""
    return [float((torch.arange(g.numel()).double().cos().view_as(g) * g.double()).sum()) for g in grads]
