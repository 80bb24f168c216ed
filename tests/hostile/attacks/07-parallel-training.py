"""Wrong answers to all that hostile samples of the lesson are asked, and the sockets on which a rank talks to the others."""

import sys

import torch.distributed as dist
from tools import *
from torch import nn


def rank():
    return dist.get_rank()


def link():
    """The connection to the broker, under everything that torch.distributed checks."""
    return dist.distributed_c10d._get_default_group()._link._connection


def post(**changes):
    """A message that begins an operation, as the worker's own group sends it, with some of its fields changed."""
    fields = {
        "id": 1 << 40,
        "post": "barrier",
        "group": "0",
        "ranks": list(range(dist.get_world_size())),
        "tensors": [],
    }
    fields |= {"root": None, "reduction": None, "peer": None, "tag": 0}
    sys.modules[type(dist.distributed_c10d._get_default_group()).__module__].wire.send(link(), fields | changes)


def shard_batch(batch, rank, world_size):
    return batch[:0]


def all_reduce_gradients(model):
    called()


class DistributedDataParallel(nn.Module):
    def __init__(self, module, bucket_size_mb=25):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        called()
        return self.module(*inputs)

    def finish_gradient_synchronization(self):
        pass
