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

IGNORED = -100  # solution only


def _loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # solution only
    """The sum of the cross-entropies of all targets that count: logits (..., V), targets (...) -> ()."""
    logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def _count(targets: torch.Tensor) -> int:  # solution only
    return int((targets != IGNORED).sum())


def _mean(total: float, count: int) -> float:  # solution only
    """The mean of nothing is not a number, as in torch."""
    return total / count if count else math.nan


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
        # student: keep both, and make the gradient scaler, which does nothing without a GPU
        self.model = model
        self.optimizer = optimizer
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        self.scaler = torch.amp.GradScaler("cuda", enabled=on_gpu)

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
        # student: model and loss under autocast, then backward and step by the scaler
        self.model.train()
        self.optimizer.zero_grad()
        on_gpu = targets.is_cuda
        with torch.autocast(targets.device.type, dtype=torch.float16 if on_gpu else torch.bfloat16):
            logits = self.model(batch)
        total, count = _loss_sum(logits.float(), targets), _count(targets)  # 8 bits are too few for a loss
        if count:
            self.scaler.scale(total / count).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return _mean(total.item(), count)


# ---------------------------------------------------------------------------------------------- gradient checkpointing


class _Block(nn.Module):  # solution only
    """A layer of GPT-2: x ← x + Attention(LN(x)), then x ← x + FFN(LN(x)), with x (B, T, D)."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, num_heads, dropout=0.0)
        self.norm_2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU("tanh"), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(self.norm_1(x))
        x = x + attended
        return x + self.feed_forward(self.norm_2(x))


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
        # student: embeddings, layers, a last norm, an output layer
        super().__init__()
        self.max_len = 1024
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = LearnedPositionalEmbedding(d_model, self.max_len)
        self.blocks = nn.ModuleList(_Block(d_model, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(_start_small)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        # student: hand each layer and its input to torch.utils.checkpoint, or write the recomputation yourself
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        x = self.position(self.token(input_ids))  # (B, T, D)
        for block in self.blocks:
            # The older form, use_reentrant=True, gives no gradients to a layer whose input needs none. Nothing is drawn in a
            # layer, so there is no random state to bring back for the second run.
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
        return self.lm_head(self.norm(x))


def _start_small(module: nn.Module) -> None:  # solution only
    """N(0, 0.02) for matrices and embeddings, zero for biases, as in GPT-2: the first loss is near ln V."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


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
    # student: count the targets of a group first, then divide each batch's summed loss by that
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, not {accumulation_steps}")
    model.train()
    total, counted = 0.0, 0
    for group in _groups(dataloader, accumulation_steps):
        count = sum(_count(targets) for _, targets in group)
        optimizer.zero_grad()
        for inputs, targets in group:
            loss = _loss_sum(model(inputs), targets)
            total += loss.item()
            if count:
                (loss / count).backward()  # adds to what is in .grad, and frees what the batch saved
        if count:
            optimizer.step()
        counted += count
    return _mean(total, counted)


def _groups(items: Iterable, size: int) -> Iterator[list]:  # solution only
    """Lists of `size` items, of which the last may be shorter."""
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


# ---------------------------------------------------------------------------------------------- a whole run

DEFAULTS = {"batch_size": 8, "lr": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 0}  # solution only


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
        # student: check the config, fill in what is missing, make the optimizer
        for key in config:
            if key not in DEFAULTS:
                raise ValueError(f"config has an unknown key {key!r}; it may have {', '.join(DEFAULTS)}")
        config = DEFAULTS | config
        if config["batch_size"] < 1:
            raise ValueError(f"batch_size must be at least 1, not {config['batch_size']}")
        self.model = model
        self.train_dataset, self.val_dataset = train_dataset, val_dataset
        self.batch_size, self.max_grad_norm, self.seed = (
            config["batch_size"],
            config["max_grad_norm"],
            config["seed"],
        )
        self.optimizer = AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
        self.epoch = 0

    def train_epoch(self) -> float:
        """Trains on each item of train_dataset once, in a new random order, with the model in train mode.

        An update is made for each batch by the mean loss of its targets that count; a batch without any makes none, and
        gradients from before do not count.

        Returns:
            The mean cross-entropy of all targets that count, each before the update of its batch. NaN if there are none.
        """
        # student: draw the order and train within a random state of the epoch's own, then count the epoch
        total, counted = 0.0, 0
        self.model.train()
        with self._randomness_of_epoch():
            order = torch.randperm(len(self.train_dataset)).tolist()
            for inputs, targets in self._batches(self.train_dataset, order):
                loss, count = _loss_sum(self.model(inputs), targets), _count(targets)
                total, counted = total + loss.item(), counted + count
                if count:
                    self._update(loss / count)
        self.epoch += 1
        return _mean(total, counted)

    @contextlib.contextmanager
    def _randomness_of_epoch(self) -> Iterator[None]:  # solution only
        """Sets torch's random state by seed and epoch, and brings the caller's back afterwards, on all devices."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            # Not seed + epoch: then the second epoch with seed 0 would be the first one with seed 1.
            torch.manual_seed((1_000_003 * self.seed + self.epoch) % 2**63)
            yield

    def _batches(
        self, dataset: Sequence, order: list[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # solution only
        """(inputs (B, T), targets (B, T)) of the items in this order, on the device of the model."""
        # Not torch's DataLoader: it draws a number from torch's generator whenever it starts, even if it does not shuffle.
        device = next(self.model.parameters()).device
        for places in _groups(order, self.batch_size):
            inputs, targets = zip(*(dataset[place] for place in places), strict=True)
            yield torch.stack(inputs).to(device), torch.stack(targets).to(device)

    def _update(self, loss: torch.Tensor) -> None:  # solution only
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def validate(self) -> float:
        """The mean cross-entropy of all targets of val_dataset that count, with the model in eval mode; NaN if there are none.

        Nothing is trained and no gradients are made. Every submodule is afterwards in the mode in which it was, also where the
        data raise an error. An item of which no target counts may be passed over.
        """
        # student: eval mode, no gradients, and each submodule's own mode back, whatever happens
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        total, counted = 0.0, 0
        try:
            with torch.no_grad():
                for inputs, targets in self._batches(self.val_dataset, list(range(len(self.val_dataset)))):
                    total += _loss_sum(self.model(inputs), targets).item()
                    counted += _count(targets)
        finally:
            for module, mode in modes.items():
                module.training = mode  # model.train() would set all of them alike
        return _mean(total, counted)

    def train(self, num_epochs: int) -> list[dict[str, float]]:
        """Trains for num_epochs further epochs, and validates after each of them.

        Returns:
            One dict for each of these epochs: {"train_loss": …, "val_loss": …}, floats.
        """
        # student: one dict an epoch
        return [{"train_loss": self.train_epoch(), "val_loss": self.validate()} for _ in range(num_epochs)]

    def save(self, path: str | Path) -> None:
        """Writes to one file, path, all that `load` needs; what is there is replaced. The trainer goes on as if nothing happened,
        with each submodule in the mode in which it was.

        Only tensors and plain data (dicts, lists, numbers, texts) are written, so that torch.load can read the file with
        weights_only=True.
        """
        # student: the states of model and optimizer, and the epoch
        torch.save(self._state(), path)

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
        # student: read the file, and take over all of it or nothing
        before = copy.deepcopy(self._state())
        try:
            self._take(torch.load(path, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever is wrong with a file that anybody may have written
            self._take(before)  # load_state_dict may have copied some weights before it found one that does not fit
            raise ValueError(f"{path} is not a whole checkpoint of such a trainer: {error}") from error

    def _state(self) -> dict:  # solution only
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch}

    def _take(self, state: dict) -> None:  # solution only
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        model, optimizer, epoch = state["model"], state["optimizer"], state["epoch"]
        if type(epoch) is not int:
            raise TypeError(f"the epoch is {epoch!r}")
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.epoch = epoch
