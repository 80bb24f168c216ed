import torch
import torch.distributed as dist
from torch import nn


def shard_batch(batch, rank, world_size):
    if rank < 0 or rank >= world_size:
        raise ValueError(f"there is no rank {rank} of {world_size}")
    if len(batch) % world_size:
        raise ValueError(f"batch: {len(batch)} rows for {world_size} ranks")
    return batch[rank::world_size]


def averaged(tensors):
    """The means over the ranks of tensors of one dtype: a list."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat = flat / dist.get_world_size()
    means, start = [], 0
    for tensor in tensors:
        means.append(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
    return means


def grad_or_zeros(parameter):
    return torch.zeros_like(parameter.data) if parameter.grad is None else parameter.grad.detach().clone()


def all_reduce_gradients(model):
    by_dtype = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for parameters in by_dtype.values():
        for parameter, mean in zip(parameters, averaged([grad_or_zeros(p) for p in parameters])):
            parameter.grad = mean.clone()


class DistributedDataParallel(nn.Module):
    def __init__(self, module, bucket_size_mb=25):
        super().__init__()
        self.module = module
        for tensor in list(module.parameters()) + list(module.buffers()):
            with torch.no_grad():
                copy = tensor.data.contiguous()
                dist.broadcast(copy, 0)
                tensor.data.copy_(copy)
        self.groups = []  # lists of parameters
        filled = {}  # dtype -> (its open bucket, its bytes)
        for parameter in list(module.parameters())[::-1]:
            if not parameter.requires_grad:
                continue
            parameter.register_post_accumulate_grad_hook(self.arrived)
            size = parameter.numel() * parameter.element_size()
            bucket, so_far = filled.get(parameter.dtype, (None, 0))
            if bucket is None or so_far + size > bucket_size_mb * 1024 * 1024:
                bucket, so_far = [], 0
                self.groups.append(bucket)
            bucket.append(parameter)
            filled[parameter.dtype] = bucket, so_far + size
        self.begin()

    def begin(self):
        self.ready = set()
        self.sent = []  # for each bucket that has left: its gradients then, and their means

    def arrived(self, parameter):
        self.ready.add(parameter)
        while len(self.sent) < len(self.groups) and self.ready.issuperset(self.groups[len(self.sent)]):
            self.leave()

    def leave(self):
        grads = [grad_or_zeros(parameter) for parameter in self.groups[len(self.sent)]]
        self.sent.append((grads, averaged(grads)))

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def finish_gradient_synchronization(self):
        while len(self.sent) < len(self.groups):
            self.leave()
        later = []
        for group, (grads, _) in zip(self.groups, self.sent):
            later.append([grad_or_zeros(parameter) - grad for parameter, grad in zip(group, grads)])
        flags = torch.tensor([float(any(bool(d.any()) for d in each)) for each in later], device=self.device())
        if len(flags):
            dist.all_reduce(flags)
        for group, (_, means), deltas, flag in zip(self.groups, self.sent, later, flags):
            if flag > 0:
                means = [mean + delta for mean, delta in zip(means, averaged(deltas))]
            for parameter, mean in zip(group, means):
                parameter.grad = mean.clone()
        self.begin()

    def device(self):
        return self.groups[0][0].device if self.groups else "cpu"
