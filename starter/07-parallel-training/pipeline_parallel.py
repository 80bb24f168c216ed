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
    # TODO(student): the same list for each stage
    raise NotImplementedError("gpipe_schedule is not implemented yet")


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
    # TODO(student): how many forward passes can stage s run before the first gradient reaches it?
    raise NotImplementedError("one_f_one_b_schedule is not implemented yet")


def bubble_fraction(num_stages: int, num_microbatches: int) -> float:
    """The share of the time in which a stage has nothing to do: (S - 1) / (M + S - 1), for GPipe and for 1F1B.

    Raises:
        ValueError: num_stages or num_microbatches is below 1.
    """
    # TODO(student): the formula
    raise NotImplementedError("bubble_fraction is not implemented yet")


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
        # TODO(student): keep all four
        raise NotImplementedError("PipelineStage.__init__ is not implemented yet")

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
        # TODO(student): go through schedule[rank]; isend to the neighbours, recv from them
        raise NotImplementedError("PipelineStage.train_step is not implemented yet")

    # What the ranks say to each other. The tag is the microbatch: a stage may want them in another order than they come.
