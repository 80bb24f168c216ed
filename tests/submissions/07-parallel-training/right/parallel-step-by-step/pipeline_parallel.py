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

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


# ---------------------------------------------------------------------------------------------- plans


def check_sizes(num_stages: int, num_microbatches: int) -> None:
    if num_stages < 1:
        raise ValueError(f"num_stages is {num_stages}, below 1")
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches is {num_microbatches}, below 1")


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
    check_sizes(num_stages, num_microbatches)
    plan = []
    for _ in range(num_stages):
        steps = []
        for m in range(num_microbatches):
            steps.append(("forward", m))
        for m in reversed(range(num_microbatches)):
            steps.append(("backward", m))
        plan.append(steps)
    return plan


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
    check_sizes(num_stages, num_microbatches)
    plan = []
    for stage in range(num_stages):
        ahead = min(num_stages - stage - 1, num_microbatches)
        steps = []
        for m in range(ahead):
            steps.append(("forward", m))
        for m in range(ahead, num_microbatches):
            steps.append(("forward", m))
            steps.append(("backward", m - ahead))
        for m in range(num_microbatches - ahead, num_microbatches):
            steps.append(("backward", m))
        plan.append(steps)
    return plan


def bubble_fraction(num_stages: int, num_microbatches: int) -> float:
    """The share of the time in which a stage has nothing to do: (S - 1) / (M + S - 1), for GPipe and for 1F1B.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    check_sizes(num_stages, num_microbatches)
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


# ---------------------------------------------------------------------------------------------- one stage

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


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
        self.loss_fn = cross_entropy if loss_fn is None else loss_fn

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
        if num_microbatches < 1 or num_microbatches > len(batch):
            raise ValueError(f"num_microbatches is {num_microbatches}, but the batch has {len(batch)} rows")
        inputs = batch.detach().tensor_split(num_microbatches)
        aims = targets.tensor_split(num_microbatches)
        kept = {}  # microbatch -> (input, output or loss), from forward to backward
        pending = {}  # (direction, microbatch) -> messages that may still be on their way
        total = 0.0
        for direction, m in schedule[self.rank]:
            if direction == "forward":
                total += self._forward(m, inputs[m], aims[m], len(batch), kept, pending)
            else:
                self._backward(m, kept, pending)
            self._forget_what_has_arrived(pending)
        for messages in pending.values():
            for handle, _ in messages:
                handle.wait()
        if self.rank == self.world_size - 1:
            return total
        return math.nan

    def _forward(self, m: int, rows: torch.Tensor, aims: torch.Tensor, batch_size: int, kept: dict, pending: dict) -> float:
        """One forward pass; what it adds to the mean loss."""
        if self.rank == 0:
            received = rows
        else:
            received = self._receive_output(m, rows.device)
        # the module gets a copy: it may work in place, which neither the batch nor a leaf would bear
        output = self.module(received.clone())
        share = 0.0
        if self.rank == self.world_size - 1:
            loss = self.loss_fn(output, aims) * (len(rows) / batch_size)
            share = loss.item()
            kept[m] = (received, loss)
        else:
            kept[m] = (received, output)
            self._send_output(m, output, rows.device, pending)
        return share

    def _backward(self, m: int, kept: dict, pending: dict) -> None:
        received, output = kept.pop(m)
        if self.rank == self.world_size - 1:
            if output.requires_grad:
                output.backward()
        elif output.requires_grad:
            gradient = torch.empty(output.shape, dtype=output.dtype, device=output.device)
            if gradient.numel() > 0:
                dist.recv(gradient, self.rank + 1, tag=m)
            for handle, _ in pending.pop(("forward", m), []):  # the next stage has it: its gradient is here
                handle.wait()
            output.backward(gradient)
        if self.rank > 0 and received.requires_grad:
            gradient = received.grad
            if gradient is None:
                gradient = torch.zeros_like(received)
            gradient = gradient.contiguous()
            if gradient.numel() > 0:
                handle = dist.isend(gradient, self.rank - 1, tag=m)
                pending["backward", m] = [(handle, gradient)]

    # What the ranks say to each other. The tag is the microbatch: a stage may want them in another order than they come.

    def _send_output(self, m: int, output: torch.Tensor, device: torch.device, pending: dict) -> None:
        """Three messages: dtype, whether a gradient is wanted, number of dimensions; the shape; the numbers."""
        data = output.detach().contiguous()
        header = torch.tensor([DTYPES.index(data.dtype), int(output.requires_grad), data.dim()], device=device)
        messages = [header]
        if data.dim() > 0:
            messages.append(torch.tensor(list(data.shape), device=device))
        if data.numel() > 0:
            messages.append(data)
        pending["forward", m] = [(dist.isend(message, self.rank + 1, tag=m), message) for message in messages]

    def _receive_output(self, m: int, device: torch.device) -> torch.Tensor:
        """What the stage before has sent; a leaf, which requires a gradient if that stage wants one."""
        header = torch.empty(3, dtype=torch.int64, device=device)
        dist.recv(header, self.rank - 1, tag=m)
        dtype, wants_gradient, dimensions = header.tolist()
        shape = torch.empty(dimensions, dtype=torch.int64, device=device)
        if dimensions > 0:
            dist.recv(shape, self.rank - 1, tag=m)
        data = torch.empty(shape.tolist(), dtype=DTYPES[dtype], device=device)
        if data.numel() > 0:
            dist.recv(data, self.rank - 1, tag=m)
        if wants_gradient:
            data.requires_grad_()
        return data

    def _forget_what_has_arrived(self, pending: dict) -> None:
        for key in list(pending):
            if all(handle.is_completed() for handle, _ in pending[key]):
                for handle, _ in pending.pop(key):
                    handle.wait()
