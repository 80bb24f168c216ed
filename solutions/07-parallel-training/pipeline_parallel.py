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

_FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # solution only
_WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]  # solution only
_DTYPES = [*_FLOATS, *_WHOLE, torch.complex64, torch.complex128]  # solution only


def _check_sizes(num_stages: int, num_microbatches: int) -> None:  # solution only
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, not {num_stages}")
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches must be at least 1, not {num_microbatches}")


# ---------------------------------------------------------------------------------------------- plans


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
    # student: the same list for each stage
    _check_sizes(num_stages, num_microbatches)
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
    # student: how many forward passes can stage s run before the first gradient reaches it?
    _check_sizes(num_stages, num_microbatches)
    plan = []
    for stage in range(num_stages):
        ahead = min(num_stages - stage - 1, num_microbatches)  # while microbatch 0 goes down to the last stage and back
        steps = [("forward", m) for m in range(ahead)]
        for m in range(num_microbatches):
            if m + ahead < num_microbatches:
                steps.append(("forward", m + ahead))
            steps.append(("backward", m))
        plan.append(steps)
    return plan


def bubble_fraction(num_stages: int, num_microbatches: int) -> float:
    """The share of the time in which a stage has nothing to do: (S - 1) / (M + S - 1), for GPipe and for 1F1B.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    # student: the formula
    _check_sizes(num_stages, num_microbatches)
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


# ---------------------------------------------------------------------------------------------- one stage


class PipelineStage:
    """The part of a model that this rank holds, and what it says to its neighbours.

    A microbatch's output goes to the next rank, and the gradient of the loss at this output comes back from there: each once,
    as a message from one rank to the other (send and receive), and to nobody else. Where no gradient can flow (a stage of
    integers, frozen weights at the beginning), none need be sent. The next stage does not know the shape or dtype of
    what comes: a few numbers beside it tell it. Messages are on the device of the batch.

    Args:
        module: the layers of this stage: module(input) -> one tensor of any shape and dtype, contiguous or not; it may
            differ from stage to stage, and its shape from microbatch to microbatch. The module may have no parameters,
            and does not change its input.
            That of stage 0 takes microbatches of the batch, any other one what the stage before it gives.
        rank: the number of this stage, that of this process in the default process group.
        world_size: how many stages there are.
        loss_fn: loss_fn(output of the last stage, targets) -> mean loss, a tensor without a dimension. If there is none, the
            cross-entropy over the last dimension: outputs (..., V), targets (...) int64.
    """

    def __init__(
        self,
        module: nn.Module,
        rank: int,
        world_size: int,
        loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        # student: keep all four
        self.module = module
        self.rank = rank
        self.world_size = world_size
        self.loss_fn = loss_fn or _cross_entropy
        self._sending: dict[int, list[dist.Work]] = {}  # microbatch -> what was sent of it and may not have arrived

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
            batch: (B, ...) what stage 0 takes; the same on each rank, not changed, and requiring no gradient.
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
        # student: go through schedule[rank]; isend to the neighbours, recv from them
        if not 1 <= num_microbatches <= len(batch):
            raise ValueError(f"num_microbatches must be from 1 to {len(batch)}, the rows, not {num_microbatches}")
        inputs, labels = batch.tensor_split(num_microbatches), targets.tensor_split(num_microbatches)
        kept = {}  # microbatch -> its input and output, until its backward pass
        total = 0.0
        for direction, m in schedule[self.rank]:
            if direction == "forward":
                x = inputs[m] if self.rank == 0 else self._receive_input(m, batch.device)
                y = self.module(x)
                if self._is_last():
                    y = self.loss_fn(y, labels[m]) * (len(inputs[m]) / len(batch))  # a share of the batch's mean
                    total += y.item()
                else:
                    self._send_output(y, m)
                kept[m] = x, y
            else:
                self._wait_for_sent(m)  # the next stage has been through with it: nothing keeps the output now but y
                x, y = kept.pop(m)
                self._backward(x, y, m)
            del x, y  # else the last ones are kept until the next pass
        for m in list(self._sending):
            self._wait_for_sent(m)
        return total if self._is_last() else math.nan

    def _is_last(self) -> bool:  # solution only
        return self.rank == self.world_size - 1

    def _backward(self, x: torch.Tensor, y: torch.Tensor, m: int) -> None:  # solution only
        """From the loss, or the gradient at the output y that the next stage sends, to the gradient at the input x."""
        if y.requires_grad:
            y.backward(None if self._is_last() else self._receive_gradient(y, m))
        if self.rank > 0 and x.requires_grad:
            grad = torch.zeros_like(x) if x.grad is None else x.grad  # None: the output does not depend on it
            self._send(grad, self.rank - 1, m)

    # What the ranks say to each other. The tag is the microbatch: a stage may want them in another order than they come.

    def _send(self, tensor: torch.Tensor, to: int, m: int) -> None:  # solution only
        """Begins to send. Two neighbours that waited here for each other's receive would wait for ever."""
        work = dist.isend(tensor.detach().contiguous(), to, tag=m)
        assert work is not None
        self._sending.setdefault(m, []).append(work)

    def _wait_for_sent(self, m: int) -> None:  # solution only
        for work in self._sending.pop(m, []):
            work.wait()

    def _send_output(self, y: torch.Tensor, m: int) -> None:  # solution only
        """Three messages: the dtype, as its place in the list above, and what else it is; its sizes; its values."""
        head = [_DTYPES.index(y.dtype), int(y.requires_grad), y.dim()]
        self._send(torch.tensor(head, device=y.device), self.rank + 1, m)
        if y.dim():
            self._send(torch.tensor(y.shape, device=y.device), self.rank + 1, m)
        self._send(y, self.rank + 1, m)

    def _receive_input(self, m: int, device: torch.device) -> torch.Tensor:  # solution only
        """The output of the stage before this one: a leaf, at which backward leaves the gradient that goes back."""
        head = torch.empty(3, dtype=torch.int64, device=device)
        dist.recv(head, self.rank - 1, tag=m)
        dtype, requires_grad, dim = head.tolist()
        shape = torch.empty(dim, dtype=torch.int64, device=device)
        if dim:
            dist.recv(shape, self.rank - 1, tag=m)
        x = torch.empty(shape.tolist(), dtype=_DTYPES[dtype], device=device)
        dist.recv(x, self.rank - 1, tag=m)
        return x.requires_grad_(bool(requires_grad))

    def _receive_gradient(self, y: torch.Tensor, m: int) -> torch.Tensor:  # solution only
        grad = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        dist.recv(grad, self.rank + 1, tag=m)
        return grad


def _cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # solution only
    """output (..., V), targets (...) -> ()."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1))
