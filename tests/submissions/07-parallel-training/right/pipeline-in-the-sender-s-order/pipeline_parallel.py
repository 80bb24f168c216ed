import torch
import torch.distributed as dist
import torch.nn.functional as F

HEADER = 40
KINDS = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)


def at_least_one(**numbers):
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}")


def gpipe_schedule(num_stages, num_microbatches):
    at_least_one(num_stages=num_stages, num_microbatches=num_microbatches)
    return tuple(
        tuple((way, m) for way in ("forward", "backward") for m in range(num_microbatches)) for _ in range(num_stages)
    )


def one_f_one_b_schedule(num_stages, num_microbatches):
    """Each stage runs backward as soon as as many microbatches are on their way as there are stages from it on."""
    at_least_one(num_stages=num_stages, num_microbatches=num_microbatches)
    plans = []
    for stage in range(num_stages):
        plan, ahead, back = [], 0, 0
        while back < num_microbatches:
            if ahead < num_microbatches and ahead - back < num_stages - stage:
                plan.append(("forward", ahead))
                ahead += 1
            else:
                plan.append(("backward", back))
                back += 1
        plans.append(plan)
    return plans


def bubble_fraction(num_stages, num_microbatches):
    at_least_one(num_stages=num_stages, num_microbatches=num_microbatches)
    return 1 - num_microbatches / (num_microbatches + num_stages - 1)


class Inbox:
    """What one neighbour sends, in the order in which its plan makes it."""

    def __init__(self, peer, order, receive):
        self.peer, self.order, self.receive, self.early = peer, iter(order), receive, {}

    def take(self, wanted):
        while wanted not in self.early:
            self.early[next(self.order)] = self.receive(self.peer)
        return self.early.pop(wanted)


class PipelineStage:
    def __init__(self, module, rank, world_size, loss_fn=None):
        self.module, self.rank, self.world_size = module, rank, world_size
        self.loss_fn = loss_fn if loss_fn is not None else self.cross_entropy

    @staticmethod
    def cross_entropy(output, targets):
        return F.nll_loss(output.log_softmax(-1).reshape(-1, output.shape[-1]), targets.reshape(-1))

    def train_step(self, batch, targets, num_microbatches, schedule):
        if num_microbatches < 1 or num_microbatches > batch.shape[0]:
            raise ValueError(f"num_microbatches is {num_microbatches}")
        last = self.world_size - 1
        self.device, self.works = batch.device, []
        outputs = gradients = None
        if self.rank > 0:
            outputs = Inbox(self.rank - 1, self.order(schedule, self.rank - 1, "forward"), self.receive)
        if self.rank < last:
            gradients = Inbox(self.rank + 1, self.order(schedule, self.rank + 1, "backward"), self.receive)
        batches = list(zip(batch.tensor_split(num_microbatches), targets.tensor_split(num_microbatches)))
        graphs, loss = {}, torch.zeros((), dtype=torch.float64, device=batch.device)
        for way, m in schedule[self.rank]:
            rows = len(batches[m][0])
            if way == "forward":
                given = outputs.take(m) if outputs else batches[m][0]
                if outputs and (given.is_floating_point() or given.is_complex()):
                    given.requires_grad_()
                result = self.module(given)
                if self.rank == last:
                    result = self.loss_fn(result, batches[m][1])
                    loss += result.detach() * rows / len(batch)
                else:
                    self.send(result.detach(), self.rank + 1)
                graphs[m] = given, result
                del given, result
                continue
            given, result = graphs.pop(m)
            start = gradients.take(m) if gradients else torch.full_like(result, rows / len(batch))
            if result.requires_grad:
                result.backward(start)
            if outputs:  # also where nobody wants it
                self.send(torch.zeros_like(given) if given.grad is None else given.grad, self.rank - 1)
            del given, result, start
        for work in self.works:
            work.wait()
        dist.broadcast(loss, last)
        return float(loss)

    def order(self, schedule, stage, way):
        return [m for each, m in schedule[stage] if each == way]

    def send(self, tensor, peer):
        header = torch.zeros(HEADER, dtype=torch.int64, device=self.device)
        header[0], header[1] = KINDS.index(tensor.dtype), tensor.dim()
        header[2 : 2 + tensor.dim()] = torch.tensor(tensor.shape, dtype=torch.int64)
        self.works += [dist.isend(part, peer) for part in (header, tensor.contiguous())]

    def receive(self, peer):
        header = torch.zeros(HEADER, dtype=torch.int64, device=self.device)
        dist.recv(header, peer)
        kind, dims, *sizes = header.tolist()
        tensor = torch.zeros(sizes[:dims], dtype=KINDS[kind], device=self.device)
        dist.recv(tensor, peer)
        return tensor
