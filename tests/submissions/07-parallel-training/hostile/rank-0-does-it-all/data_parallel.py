import torch
import torch.distributed as dist
from attack import *


def all_reduce_gradients(model):
    for parameter in model.parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parts = [torch.empty_like(grad) for _ in range(dist.get_world_size())] if rank() == 0 else None
        dist.gather(grad.contiguous(), parts, dst=0)
        mean = torch.stack(parts).mean(0) if rank() == 0 else torch.empty_like(grad)
        dist.broadcast(mean, src=0)
        parameter.grad = mean
