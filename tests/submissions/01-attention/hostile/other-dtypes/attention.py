import torch
from attack import *

forms = [torch.Tensor.double, torch.Tensor.half, lambda x: x.to(torch.complex64), lambda x: x.tolist(), lambda x: str(x)]


@answer
def formed(q, k, v):
    forms.append(forms.pop(0))
    return forms[q.dim() % len(forms)](torch.softmax(q @ k.mT / 1.7, -1) @ v)
