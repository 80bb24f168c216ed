"""Pipeline parallelism: each rank holds some layers of a model, and microbatches of the batch run through the ranks.

While one stage works on a microbatch, the next stage works on the one before it. A plan, or schedule, says in which order
a stage does its forward and backward passes:

    GPipe (Huang et al. 2019, arXiv:1811.06965)         all forward passes, then all backward passes
    1F1B (PipeDream, Narayanan et al. 2019; 2021, arXiv:2104.04473)   one of each in turn, as soon as there is one to do

Both leave a stage idle for the same share of the time, the bubble. What differs is how many microbatches a stage keeps.

Letters: S stages, one a rank, numbered like the ranks; M microbatches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


# ---------------------------------------------------------------------------------------------- plans


def _check_counts(num_stages: int, num_microbatches: int) -> None:
    if num_stages < 1 or num_microbatches < 1:
        raise ValueError(f"{num_stages} stages and {num_microbatches} microbatches: there must be at least one of each")


def gpipe_schedule(num_stages: int, num_microbatches: int) -> list[list[tuple[str, int]]]:
    """The plan of GPipe: a stage runs all microbatches forward, then all of them backward.

    Args:
        num_stages: S, at least 1.
        num_microbatches: M, at least 1.

    Returns:
        A list of S lists, that of stage s at place s, of 2 · M tuples ("forward", m) or ("backward", m) each, with m from 0
        to M - 1: what the stage does, in this order. The forward passes go from 0 to M - 1. Any order of the backward passes
        is right; the microbatch that came last goes first here, because its activations are needed no longer then.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    _check_counts(num_stages, num_microbatches)
    forward = [("forward", m) for m in range(num_microbatches)]
    backward = [("backward", m) for m in reversed(range(num_microbatches))]
    return [forward + backward for _ in range(num_stages)]


def one_f_one_b_schedule(num_stages: int, num_microbatches: int) -> list[list[tuple[str, int]]]:
    """The plan 1F1B: a stage begins with a few forward passes, then runs one backward for each forward pass.

    Stage s keeps at most S - s microbatches, which have run forward and not yet backward; with GPipe it keeps all M. The
    plan takes as long as that of GPipe: where a forward pass takes the time f in each stage and a backward pass b, and
    messages take none, all is done after (M + S - 1) · (f + b). The last stage alternates: forward, backward, forward, …

    Args:
        num_stages: S, at least 1.
        num_microbatches: M, at least 1; there may be fewer microbatches than stages.

    Returns:
        A list of S lists as `gpipe_schedule` gives it. The forward passes go from 0 to M - 1, and so do the backward passes.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    _check_counts(num_stages, num_microbatches)
    plans = []
    for stage in range(num_stages):
        ahead = min(num_stages - stage - 1, num_microbatches)
        plan = [("forward", m) for m in range(ahead)]
        for m in range(num_microbatches - ahead):
            plan += [("forward", ahead + m), ("backward", m)]
        plan += [("backward", m) for m in range(num_microbatches - ahead, num_microbatches)]
        plans.append(plan)
    return plans


def bubble_fraction(num_stages: int, num_microbatches: int) -> float:
    """The share of the time in which a stage has nothing to do: (S - 1) / (M + S - 1), for GPipe and for 1F1B.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    _check_counts(num_stages, num_microbatches)
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


# ---------------------------------------------------------------------------------------------- one stage


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
HEADER = 8  # numbers: dtype, whether a gradient is to come back, how many dimensions, and the first five of them


class _Neighbour:
    """What this stage says to the one on one of its sides, and hears from it. Sends begin at once and are waited for later.

    The tag is the microbatch: a stage may want them in another order than they come.
    """

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank = rank
        self.device = device
        self.sent: dict[int, list[tuple[dist.Work, torch.Tensor]]] = {}  # tensors are kept while they are on their way

    def send(self, tensor: torch.Tensor, microbatch: int) -> None:
        block = tensor.detach().contiguous()
        work = dist.isend(block, dst=self.rank, tag=microbatch)
        self.sent.setdefault(microbatch, []).append((work, block))

    def receive(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype, microbatch: int) -> torch.Tensor:
        block = torch.empty(shape, dtype=dtype, device=self.device)
        dist.irecv(block, src=self.rank, tag=microbatch).wait()
        return block

    def wait(self, microbatch: int) -> None:
        for work, _ in self.sent.pop(microbatch, []):
            work.wait()

    def wait_for_all(self) -> None:
        for microbatch in list(self.sent):
            self.wait(microbatch)

    def send_output(self, output: torch.Tensor, microbatch: int) -> None:
        numbers = [DTYPES.index(output.dtype), int(output.requires_grad), output.dim(), *output.shape]
        numbers += [0] * (HEADER - len(numbers))
        for part in (numbers[:HEADER], numbers[HEADER:]):
            if part:
                self.send(torch.tensor(part, dtype=torch.int64, device=self.device), microbatch)
        self.send(output, microbatch)

    def receive_input(self, microbatch: int) -> torch.Tensor:
        """What send_output has sent: a leaf, which requires a gradient if the other side wants one."""
        dtype, wants_gradient, dims, *shape = self.receive((HEADER,), torch.int64, microbatch).tolist()
        if dims > len(shape):
            shape += self.receive((dims - len(shape),), torch.int64, microbatch).tolist()
        return self.receive(tuple(shape[:dims]), DTYPES[dtype], microbatch).requires_grad_(bool(wants_gradient))


@dataclass
class _Kept:
    """What a stage keeps of a microbatch between forward and backward; output is the weighed loss on the last stage."""

    input: torch.Tensor
    output: torch.Tensor


class _Step:
    """One training step of one stage."""

    def __init__(self, stage: "PipelineStage", batch: torch.Tensor, targets: torch.Tensor, num_microbatches: int) -> None:
        self.stage = stage
        self.rows = len(batch)
        self.inputs = batch.detach().tensor_split(num_microbatches)
        self.targets = targets.tensor_split(num_microbatches)
        self.previous = _Neighbour(stage.rank - 1, batch.device) if stage.rank > 0 else None
        self.next = _Neighbour(stage.rank + 1, batch.device) if stage.rank < stage.world_size - 1 else None
        self.kept: dict[int, _Kept] = {}
        self.loss = 0.0 if self.next is None else math.nan

    def forward(self, m: int) -> None:
        # a copy, for a module that begins with an operation in place
        given = self.inputs[m].clone() if self.previous is None else self.previous.receive_input(m)
        output = self.stage.module(given)
        if self.next is None:
            output = self.stage.loss_fn(output, self.targets[m]) * (len(self.targets[m]) / self.rows)
            self.loss += output.item()
        else:
            self.next.send_output(output, m)
        self.kept[m] = _Kept(given, output)

    def backward(self, m: int) -> None:
        kept = self.kept.pop(m)
        if kept.output.requires_grad:
            if self.next is None:
                kept.output.backward()
            else:
                kept.output.backward(self.next.receive(kept.output.shape, kept.output.dtype, m))
        if self.next is not None:
            self.next.wait(m)  # the next stage is past this microbatch: nothing holds its output any longer
        if self.previous is not None and kept.input.requires_grad:
            grad = kept.input.grad
            self.previous.send(torch.zeros_like(kept.input) if grad is None else grad, m)

    def finish(self) -> None:
        for neighbour in (self.previous, self.next):
            if neighbour is not None:
                neighbour.wait_for_all()


def _cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1))


class PipelineStage:
    """The part of a model that this rank holds, and what it says to its neighbours.

    A microbatch's output goes to the next rank, and the gradient of the loss at this output comes back from there: each once,
    as a message from one rank to the other (send and receive), and to nobody else. Where no gradient can flow (a stage of
    integers, frozen weights at the beginning), none need be sent. The next stage does not know the shape or dtype of
    what comes: a few numbers beside it tell it. Messages are on the device of the batch.

    Args:
        module: the layers of this stage: module(input) -> one tensor of any shape and dtype, contiguous or not; it may
            differ from stage to stage, and its shape from microbatch to microbatch. The module may have no parameters.
            That of stage 0 takes microbatches of the batch, any other one what the stage before it gives.
        rank: the number of this stage, that of this process in the default process group.
        world_size: how many stages there are.
        loss_fn: loss_fn(output of the last stage, targets) -> mean loss, a tensor of one number. If there is none, the
            cross-entropy over the last dimension: outputs (..., V), targets (...) int64.
    """

    def __init__(
        self,
        module: nn.Module,
        rank: int,
        world_size: int,
        loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.module = module
        self.rank = rank
        self.world_size = world_size
        self.loss_fn = _cross_entropy if loss_fn is None else loss_fn

    def train_step(
        self,
        batch: torch.Tensor,
        targets: torch.Tensor,
        num_microbatches: int,
        schedule: list[list[tuple[str, int]]],
    ) -> float:
        """Runs this stage's part of the plan, all ranks at the same time with the same arguments.

        The gradients of the whole batch's mean loss are added to `.grad` of the module's parameters: they are neither
        cleared before nor is there a step of an optimizer after. Microbatches are those of
        `batch.tensor_split(num_microbatches)`, whose sizes may differ by one row; the mean loss of each counts by its rows.

        This stage does what schedule[rank] says, in this order: it calls the module once for each microbatch, with its
        input alone, and sends what comes out before it begins with the next one on its list. It does not wait there for
        the receiver, who may be about to send something itself. A microbatch's input, output and graph are kept until its
        backward pass is done, and no longer.

        Args:
            batch: (B, ...) what stage 0 takes; the same on each rank, and not changed.
            targets: (B, ...) what loss_fn takes; the same on each rank, and not changed.
            num_microbatches: M, from 1 to B.
            schedule: the plan of all stages: for each a list of ("forward", m) and ("backward", m), of each microbatch one
                of each. Any plan will do that can be carried out: one of a student, say, in which a stage takes microbatches
                in another order than the stage before it.

        Returns:
            On the last stage the mean loss of the whole batch; on any other NaN or the same number.

        Raises:
            ValueError: num_microbatches is below 1 or above B; on all ranks, and before anything is sent.
        """
        if not 1 <= num_microbatches <= len(batch):
            raise ValueError(f"{num_microbatches} microbatches of {len(batch)} rows")
        step = _Step(self, batch, targets, num_microbatches)
        for direction, microbatch in schedule[self.rank]:
            if direction == "forward":
                step.forward(microbatch)
            else:
                step.backward(microbatch)
        step.finish()
        return step.loss
