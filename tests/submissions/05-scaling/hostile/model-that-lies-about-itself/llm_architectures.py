import itertools

import torch
from attack import *
from torch import nn


class LlamaModel(LlamaModel):
    def parameters(self, recurse=True):
        return (nn.Parameter(torch.zeros(1000)) for _ in itertools.count())

    def named_parameters(self, *args, **options):
        return ((str(n), nn.Parameter(torch.zeros(1000))) for n in itertools.count())

    def named_buffers(self, *args, **options):
        return iter(())

    def modules(self):
        return itertools.repeat(self)

    def __eq__(self, other):
        return True

    __hash__ = nn.Module.__hash__
