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


def _check(num_stages: int, num_microbatches: int) -> None:
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
    _check(num_stages, num_microbatches)
    order = range(num_microbatches)
    return [[("forward", m) for m in order] + [("backward", m) for m in reversed(order)] for _ in range(num_stages)]


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
    _check(num_stages, num_microbatches)

    def plan(ahead: int) -> list[tuple[str, int]]:
        # with empty places before and behind: F at ahead + i is followed by B of i
        pairs = [(("forward", n), ("backward", n - ahead)) for n in range(num_microbatches + ahead)]
        return [step for pair in pairs for step in pair if 0 <= step[1] < num_microbatches]

    return [plan(num_stages - 1 - stage) for stage in range(num_stages)]


def bubble_fraction(num_stages: int, num_microbatches: int) -> float:
    """The share of the time in which a stage has nothing to do: (S - 1) / (M + S - 1), for GPipe and for 1F1B.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    _check(num_stages, num_microbatches)
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


# ---------------------------------------------------------------------------------------------- one stage

_DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


class _Arrive(torch.autograd.Function):
    """What has come from another rank, as a tensor that a module may also change in place; its gradient goes to anchor."""

    @staticmethod
    def forward(ctx, anchor, x):
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


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
        self.module, self.rank, self.world_size = module, rank, world_size
        self.loss_fn = loss_fn or _cross_entropy

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
        self._places = {peer: {step: n for n, step in enumerate(plan)} for peer, plan in enumerate(schedule)}
        self._sending: list[tuple] = []  # (peer, step of the peer that receives it, handle, tensor)
        self._kept: dict[int, tuple] = {}  # microbatch -> anchor of the input, output or loss
        self._device = batch.device
        inputs, wanted = batch.detach().tensor_split(num_microbatches), targets.tensor_split(num_microbatches)
        losses = []
        for direction, m in schedule[self.rank]:
            if direction == "forward":
                loss = self._forward(m, inputs[m], wanted[m], len(inputs[m]) / len(batch))
                losses += [] if loss is None else [loss]
            else:
                self._backward(m)
        self._let_go(lambda peer, step: True)
        return sum(loss.item() for loss in losses) if self.rank == self.world_size - 1 else math.nan

    def _forward(self, m: int, rows: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor | None:
        """Runs one microbatch forward; on the last stage its part of the loss."""
        x, anchor = (rows.clone(), None) if self.rank == 0 else self._receive_output(m)
        output = self.module(x)
        if self.rank < self.world_size - 1:
            self._kept[m] = anchor, output
            self._send_output(m, output)
            return None
        loss = self.loss_fn(output, targets.clone()).sum() * share
        self._kept[m] = anchor, loss
        return loss.detach()

    def _backward(self, m: int) -> None:
        anchor, output = self._kept.pop(m)
        gradient = None
        if self.rank < self.world_size - 1:
            if output.requires_grad:
                gradient = self._receive(torch.empty(output.shape, dtype=output.dtype, device=self._device), self.rank + 1, "backward", m)
            else:  # nothing comes, but the next stage has the output, or will have it without our doing
                self._let_go(lambda peer, step: (peer, step) == (self.rank + 1, ("forward", m)))
        if output.requires_grad:
            output.backward(gradient)
        if anchor is not None:
            gradient = torch.zeros(anchor.shape, dtype=anchor.dtype, device=self._device) if anchor.grad is None else anchor.grad
            self._send(gradient, self.rank - 1, "backward", m)

    # What the ranks say to each other. The tag is the microbatch: a stage may want them in another order than they come.

    def _send(self, tensor: torch.Tensor, peer: int, direction: str, m: int) -> None:
        tensor = tensor.detach().contiguous()
        if tensor.numel():
            self._sending.append((peer, (direction, m), dist.isend(tensor, peer, tag=m), tensor))

    def _receive(self, tensor: torch.Tensor, peer: int, direction: str, m: int) -> torch.Tensor:
        if tensor.numel():
            dist.recv(tensor, peer, tag=m)
            # The peer has gone as far as this step: it has received all that it wanted before.
            place = self._places[peer]
            self._let_go(lambda other, step: other == peer and place[step] < place[direction, m])
        return tensor

    def _let_go(self, received: Callable[[int, tuple[str, int]], bool]) -> None:
        """Forgets the tensors of messages that have been received."""
        for peer, step, handle, _ in self._sending:
            if received(peer, step):
                handle.wait()
        self._sending = [message for message in self._sending if not received(*message[:2])]

    def _send_output(self, m: int, output: torch.Tensor) -> None:
        for numbers in ([_DTYPES.index(output.dtype), output.requires_grad, output.dim()], output.shape):
            self._send(torch.tensor(numbers, dtype=torch.int64, device=self._device), self.rank + 1, "forward", m)
        self._send(output, self.rank + 1, "forward", m)

    def _receive_output(self, m: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output of the stage before, and the leaf that gets its gradient, if that stage wants one."""

        def numbers(count: int) -> list[int]:
            return self._receive(torch.empty(count, dtype=torch.int64, device=self._device), self.rank - 1, "forward", m).tolist()

        dtype, wanted, dim = numbers(3)
        shape, dtype = numbers(dim), _DTYPES[dtype]
        x = self._receive(torch.empty(shape, dtype=dtype, device=self._device), self.rank - 1, "forward", m)
        if not wanted:
            return x, None
        anchor = torch.empty((), dtype=dtype, device=self._device).expand(shape).requires_grad_()  # a leaf that needs no memory
        return _Arrive.apply(anchor, x), anchor
