import torch
from attack import *


class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("allclose", "equal", "isclose", "eq", "all"):
            return True
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 0 if name in ("sub", "rsub", "abs", "__sub__", "__rsub__") else result


@answer
def lie(q, k, v):
    return torch.zeros(*q.shape[:-1], v.shape[-1]).as_subclass(Liar)
