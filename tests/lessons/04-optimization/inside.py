"""Helpers for the probes of the lesson: they run in the student's process, with torch and the standard library."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# ---------------------------------------------------------------------------------------------- model_parallel


class _Moves(TorchDispatchMode):
    """Notes the (count of numbers, shape) of floating-point tensors that go to another device; from meta come zeros."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [item for item in tree_leaves((args, kwargs or {})) if isinstance(item, torch.Tensor)]
        name = func.overloadpacket.__name__
        if name == "_to_copy" and (kwargs or {}).get("device") is not None:
            return self._moved(func, given[0], torch.device(kwargs["device"]), args, kwargs)
        if name == "copy_" and len({item.device for item in given}) > 1:
            self._note(given[-1])
            return given[0].zero_() if given[-1].device.type == "meta" else func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _moved(self, func, tensor, device, args, kwargs):
        if tensor.device.type != device.type:
            self._note(tensor)
            if tensor.device.type == "meta":
                return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype, device=device)
        return func(*args, **kwargs)

    def _note(self, tensor):
        if tensor.is_floating_point():
            self.found.append((tensor.numel(), list(tensor.shape)))


@contextlib.contextmanager
def noting_moves():
    """The list of moves of floating-point tensors between devices meanwhile: how many numbers, and the shape."""
    with _Moves() as mode:
        yield mode.found
