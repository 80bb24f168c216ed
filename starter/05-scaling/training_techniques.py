"""Four techniques of training a large model: 16-bit arithmetic, checkpointing, accumulated gradients, and a run that can
be stopped.

    what is short            technique                        paper
    time                     mixed precision                  Micikevicius et al. 2018, "Mixed Precision Training"
    memory for activations   gradient checkpointing           Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"
    memory for a batch       gradient accumulation            -
    patience of a machine    checkpoints of a whole run       -

Letters in the shapes: B batch, T length, H heads, D = d_model, V vocabulary.

A target of -100 does not count, here as in torch's cross_entropy: neither in a sum of losses nor in the number of targets.
"""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from attention import CausalAttention
from positional_encoding import LearnedPositionalEmbedding
from torch import nn
from torch.utils.checkpoint import checkpoint
from training import AdamW, clip_grad_norm


# ---------------------------------------------------------------------------------------------- mixed precision


class MixedPrecisionTrainer:
    """Trains with matrix products in 16 bits, and weights, gradients and loss in 32 (Micikevicius et al. 2018).

    The model runs under autocast: in bfloat16 on the CPU; on a GPU in float16, whose smallest number is 6e-8, so that the
    loss is scaled up before the backward pass and the gradients are scaled down again before the update (GradScaler).

    Args:
        model: model(batch) -> logits (B, T, V) or (B, V); its parameters are float32 and stay so.
        optimizer: a torch.optim.Optimizer of the model's parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # TODO(student): keep both, and make the gradient scaler, which does nothing without a GPU
        raise NotImplementedError("MixedPrecisionTrainer.__init__ is not implemented yet")

    def train_step(self, batch: torch.Tensor, targets: torch.Tensor) -> float:
        """One update with one batch, the model in train mode; gradients from before do not count.

        Args:
            batch: what the model takes, (B, T) ids or anything else: floats, or a dict of tensors.
            targets: (B, T) or (B,) int64, as long as the logits: targets[b, t] is compared with logits[b, t], nothing is
                shifted. -100 does not count.

        Returns:
            The mean cross-entropy of the targets that count, before the update, worked out in float32. If no target
            counts it is NaN, and there is no update: weights and optimizer stay as they are.
        """
        # TODO(student): model and loss under autocast, then backward and step by the scaler
        raise NotImplementedError("MixedPrecisionTrainer.train_step is not implemented yet")


# ---------------------------------------------------------------------------------------------- gradient checkpointing


class MemoryEfficientLLM(nn.Module):
    """A causal transformer that forgets what is inside its layers, and works it out again for the gradients.

    Of a plain layer autograd saves some 16·B·T·D values and B·H·T² attention weights. Here it saves the layer's input
    alone, B·T·D values. In the backward pass one layer after the other, from the last to the first, runs forward again and
    then backward, so that what is inside is there of one layer at a time (Chen et al. 2016). A third more work buys it.
    Segments of up to √L of L layers, of each of which the input is saved, do as well.

    So it is of each layer, the first and the last too, whenever gradients are enabled: in train mode and in eval mode, and
    also where some of the parameters, such as the embeddings, are frozen (requires_grad is False). The gradients are those of
    a model without checkpointing; under autocast, too: what ran under it runs under it again. After a call nothing
    of it is kept but what autograd saved. There is no dropout. Logits at position t depend on the tokens of their own
    sequence up to t. Of what layers it is made, and how positions enter, is up to you; lesson 1's CausalAttention and
    LearnedPositionalEmbedding may be used.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers, each of which has parameters of its own.
        num_heads: H, of the attention in each layer.

    Attributes:
        max_len: 1024, the longest sequence.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(self, vocab_size: int, d_model: int, num_layers: int, num_heads: int = 16) -> None:
        # TODO(student): embeddings, layers, a last norm, an output layer
        raise NotImplementedError("MemoryEfficientLLM.__init__ is not implemented yet")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        # TODO(student): hand each layer and its input to torch.utils.checkpoint, or write the recomputation yourself
        raise NotImplementedError("MemoryEfficientLLM.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- gradient accumulation


def train_with_gradient_accumulation(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, accumulation_steps: int = 4
) -> float:
    """One pass over the data with updates as of large batches, of which no more is in memory than a small one.

    N = accumulation_steps batches make a group; the last group may be shorter. The gradient of a group as one batch is

        Σ over its batches of (gradient of the batch's summed loss) / Σ over its batches of the targets that count

    The mean of the batches' mean gradients is something else, unless all have equally many targets.

    Each batch runs forward and backward by itself before the next one runs, with the model in train mode, and what was saved
    for its gradients is free again then. Each group makes one step of the optimizer; gradients from before do not count. A
    group in which no target counts makes no step.

    Args:
        model: model(inputs) -> logits (B, T, V), or (B, V).
        dataloader: gives (inputs, targets); any iterable does, which is run through once. targets are (B, T) or (B,) int64,
            and are compared with the logits at the same place; -100 does not count. B and T may differ from batch to batch.
        optimizer: of the model's parameters.
        accumulation_steps: N.

    Returns:
        The mean cross-entropy of all targets that count, each before its group's update. NaN if there are none.

    Raises:
        ValueError: accumulation_steps is less than 1.
    """
    # TODO(student): count the targets of a group first, then divide each batch's summed loss by that
    raise NotImplementedError("train_with_gradient_accumulation is not implemented yet")


# ---------------------------------------------------------------------------------------------- a whole run


class LLMTrainer:
    """Trains a language model for some epochs, and can stop between two of them and go on in another process.

    All that is random, the order of the data and the model's dropout, follows from config["seed"] and the number of the
    epoch, and is other in each epoch: two trainers made with the same arguments give the same losses, whatever is drawn
    elsewhere. torch's own random state is after each method what it was before. A parameter that is frozen (requires_grad is
    False) stays as it is until it no longer is.

    Args:
        model: model(inputs (B, T)) -> logits (B, T, V). It stays on its device, to which the data are moved.
        train_dataset, val_dataset: have a length and give by number, 0 to length - 1, (inputs (T,), targets (T,)); all have one
            T. Targets are compared with the logits at the same place; -100 does not count.
        config: a dict, in which each key may be missing; it is not changed.
            batch_size (8): the last batch of an epoch may be smaller; none is left out.
            lr (1e-3), weight_decay (0.01): of the optimizer, for all parameters of the model.
            max_grad_norm (1.0), more than 0: the gradients of all parameters together are clipped to this length before each update.
            seed (0): below 2^63.

    Attributes:
        model: as given.
        optimizer: AdamW (torch's or lesson 2's) of all parameters of the model.
        epoch: how many epochs this run has trained, those before `load` included.

    Raises:
        ValueError: config has an unknown key, or batch_size is less than 1.
    """

    def __init__(self, model: nn.Module, train_dataset: Sequence, val_dataset: Sequence, config: dict) -> None:
        # TODO(student): check the config, fill in what is missing, make the optimizer
        raise NotImplementedError("LLMTrainer.__init__ is not implemented yet")

    def train_epoch(self) -> float:
        """Trains on each item of train_dataset once, in a new random order, with the model in train mode.

        An update is made for each batch by the mean loss of its targets that count; a batch without any makes none, and
        gradients from before do not count.

        Returns:
            The mean cross-entropy of all targets that count, each before the update of its batch. NaN if there are none.
        """
        # TODO(student): draw the order and train within a random state of the epoch's own, then count the epoch
        raise NotImplementedError("LLMTrainer.train_epoch is not implemented yet")

    def validate(self) -> float:
        """The mean cross-entropy of all targets of val_dataset that count, with the model in eval mode; NaN if there are none.

        Nothing is trained and no gradients are made. Every submodule is afterwards in the mode in which it was, also where the
        data raise an error. An item of which no target counts may be passed over.
        """
        # TODO(student): eval mode, no gradients, and each submodule's own mode back, whatever happens
        raise NotImplementedError("LLMTrainer.validate is not implemented yet")

    def train(self, num_epochs: int) -> list[dict[str, float]]:
        """Trains for num_epochs further epochs, and validates after each of them.

        Returns:
            One dict for each of these epochs: {"train_loss": …, "val_loss": …}, floats.
        """
        # TODO(student): one dict an epoch
        raise NotImplementedError("LLMTrainer.train is not implemented yet")

    def save(self, path: str | Path) -> None:
        """Writes to one file, path, all that `load` needs; what is there is replaced. The trainer goes on as if nothing happened,
        with each submodule in the mode in which it was.

        Only tensors and plain data (dicts, lists, numbers, texts) are written, so that torch.load can read the file with
        weights_only=True.
        """
        # TODO(student): the states of model and optimizer, and the epoch
        raise NotImplementedError("LLMTrainer.save is not implemented yet")

    def load(self, path: str | Path) -> None:
        """Goes on where the trainer was that wrote the file: with its weights and buffers, its optimizer's state, its epoch and
        its randomness.

        This trainer was made with the same arguments, its model with any weights. Losses of further epochs are, on the CPU,
        equal to the last bit to those of a run that was not stopped. Code in a file is never run (weights_only=True).

        Raises:
            ValueError: the file is not a checkpoint; or not a whole one: it was cut off, or one of the entries that `load`
                needs is missing; or that of another model, whose parameters and buffers have other names or shapes, or
                are more or fewer.
            FileNotFoundError: there is no such file.

        After an error the trainer is exactly as it was: weights, buffers, optimizer, epoch and all that is random. It can train
        on as if `load` had not been called.
        """
        # TODO(student): read the file, and take over all of it or nothing
        raise NotImplementedError("LLMTrainer.load is not implemented yet")
