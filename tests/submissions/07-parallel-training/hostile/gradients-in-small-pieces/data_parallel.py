import right_data_parallel as right
import torch
import torch.distributed as dist
from right_data_parallel import DistributedDataParallel, _Bucket, _flat_gradient, _set_gradient, shard_batch


def by_rank_0(own):
    """The mean, which rank 0 works out for all, in messages of 96 bytes: too small for a gradient."""
    rank, size = dist.get_rank(), dist.get_world_size()
    out = []
    for piece in own.flatten().split(96 // own.element_size()):
        parts = [torch.empty_like(piece) for _ in range(size)] if rank == 0 else None
        dist.gather(piece.contiguous(), parts, dst=0)
        mean = torch.stack(parts).mean(0) if rank == 0 else torch.empty_like(piece)
        dist.broadcast(mean, src=0)
        out.append(mean)
    return torch.cat(out)


@torch.no_grad()
def all_reduce_gradients(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            mean = _flat_gradient(parameter)
            dist.all_reduce(torch.zeros_like(mean))
            _set_gradient(parameter, by_rank_0(mean))


class Shown(_Bucket):
    def send(self):
        self._seen = self._versions()
        self._own = torch.cat([_flat_gradient(parameter) for parameter in self.parameters])
        self._mean = torch.zeros_like(self._own)
        self._work = dist.all_reduce(self._mean, async_op=True)

    def receive(self, wanted):
        self._work.wait()
        mean, self._mean = by_rank_0(self._own), self._own
        for parameter, part, is_wanted in zip(self.parameters, mean.split([p.numel() for p in self.parameters]), wanted):
            if is_wanted:
                _set_gradient(parameter, part)


right._Bucket = Shown
