"""Four techniques of training a large model: 16-bit arithmetic, checkpointing, accumulated gradients, and a run that can
be stopped.

Letters in the shapes: B batch, T length, H heads, D = d_model, V vocabulary.
A target of -100 does not count: neither in a sum of losses nor in the number of targets.
"""

import contextlib
import copy
import io
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

IGNORED = -100


def _summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of the targets that count, in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    return F.cross_entropy(wide, targets.flatten().to(logits.device, torch.long), ignore_index=IGNORED, reduction="sum")


def _count(targets: torch.Tensor) -> int:
    return int((targets != IGNORED).sum())


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


# ---------------------------------------------------------------------------------------------- mixed precision


class MixedPrecisionTrainer:
    """Trains under autocast, in bfloat16 on the CPU and in float16 with a GradScaler on a GPU (Micikevicius et al. 2018)."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.scaler = torch.amp.GradScaler("cuda", enabled=self._on_gpu())

    def _on_gpu(self) -> bool:
        return any(weight.is_cuda for weight in self.model.parameters())

    def train_step(self, batch: torch.Tensor, targets: torch.Tensor) -> float:
        """One update by the mean cross-entropy of the targets that count, which is returned; NaN and no update without any."""
        self.model.train()
        count, gpu = _count(targets), self._on_gpu()
        if not count:
            return math.nan
        if gpu != self.scaler.is_enabled():  # the model has moved
            self.scaler = torch.amp.GradScaler("cuda", enabled=gpu)
        self.optimizer.zero_grad()
        with torch.autocast("cuda" if gpu else "cpu", torch.float16 if gpu else torch.bfloat16):
            logits = self.model(batch)
        loss = _summed_loss(logits, targets) / count
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


# ---------------------------------------------------------------------------------------------- gradient checkpointing


class _Layer(nn.Module):
    """Pre-norm causal attention and feed-forward, 4·D wide, without dropout."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.qkv, self.out = nn.LayerNorm(d_model), nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class MemoryEfficientLLM(nn.Module):
    """A causal transformer that forgets what is inside its layers, and works it out again for the gradients.

    ValueError: D is not divisible by H.
    """

    def __init__(self, vocab_size: int, d_model: int, num_layers: int, num_heads: int = 16) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) is not divisible by num_heads ({num_heads})")
        self.max_len = 1024
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList(_Layer(d_model, num_heads) for _ in range(num_layers))
        self.output = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V). ValueError: T is more than max_len."""
        length = input_ids.shape[1]
        if length > self.max_len:
            raise ValueError(f"input_ids has a length of {length}, more than max_len ({self.max_len})")
        x = self.tokens(input_ids.long()) + self.positions.weight[:length]
        for layer in self.layers:  # nothing is drawn in a layer: there is no random state to keep
            x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else layer(x)
        return self.output(x)


# ---------------------------------------------------------------------------------------------- gradient accumulation


def train_with_gradient_accumulation(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, accumulation_steps: int = 4
) -> float:
    """One pass over the data; accumulation_steps batches count as one, and so does what is left at the end.

    Returns the mean cross-entropy of all targets that count, each before its group's update; NaN if there are none.
    ValueError: accumulation_steps is less than 1.
    """
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps ({accumulation_steps}) is less than 1")
    model.train()
    batches, total, counted = iter(dataloader), 0.0, 0
    while group := list(islice(batches, accumulation_steps)):
        count = sum(_count(targets) for _, targets in group)
        if not count:
            continue
        optimizer.zero_grad()
        for inputs, targets in group:
            loss = _summed_loss(model(inputs), targets)
            (loss / count).backward()
            total += loss.item()
        optimizer.step()
        counted += count
    return _mean(total, counted)


# ---------------------------------------------------------------------------------------------- a whole run


class LLMTrainer:
    """Trains a language model for some epochs, and can stop between two of them and go on in another process.

    All that is random in an epoch follows from config["seed"] and the epoch's number. config may have batch_size (8), lr (1e-3),
    weight_decay (0.01), max_grad_norm (1.0) and seed (0). Attributes: model, optimizer, epoch.

    ValueError: config has an unknown key, or batch_size is less than 1.
    """

    DEFAULTS = {"batch_size": 8, "lr": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 0}

    def __init__(self, model: nn.Module, train_dataset, val_dataset, config: dict) -> None:
        if unknown := [key for key in config if key not in self.DEFAULTS]:
            raise ValueError(f"config has unknown keys: {unknown}; known are {list(self.DEFAULTS)}")
        config = {**self.DEFAULTS, **config}
        self.batch_size, self.max_grad_norm, self.seed = config["batch_size"], config["max_grad_norm"], int(config["seed"])
        if self.batch_size < 1:
            raise ValueError(f"batch_size ({self.batch_size}) is less than 1")
        self.model, self.train_dataset, self.val_dataset, self.epoch = model, train_dataset, val_dataset, 0
        # floats of Python: they are written by save
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=float(config["lr"]), weight_decay=float(config["weight_decay"])
        )

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """torch's random state is that of this seed and epoch within, and afterwards what it was before."""
        seed = (self.seed * 1_000_003 + self.epoch) % 2**63
        gpus = sorted({weight.device.index for weight in self.model.parameters() if weight.is_cuda})
        with torch.random.fork_rng(devices=gpus):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all GPUs, too
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(seed)
            yield

    def _batches(self, dataset, order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = next((weight.device for weight in self.model.parameters()), None)
        for inputs, targets in DataLoader(dataset, batch_size=self.batch_size, sampler=order):
            yield inputs.to(device), targets.to(device)

    def train_epoch(self) -> float:
        """Trains on each item once, in an order of the epoch's own; the mean loss of all targets that count, or NaN."""
        total, counted = 0.0, 0
        self.model.train()
        with self._own_randomness():
            for inputs, targets in self._batches(self.train_dataset, torch.randperm(len(self.train_dataset)).tolist()):
                if not (count := _count(targets)):
                    continue
                self.optimizer.zero_grad()
                loss = _summed_loss(self.model(inputs), targets)
                (loss / count).backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
                self.optimizer.step()
                total, counted = total + loss.item(), counted + count
        self.epoch += 1
        return _mean(total, counted)

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss of all targets of val_dataset that count, in eval mode; each submodule's mode is given back."""
        total, counted = 0.0, 0
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            with self._own_randomness():
                for inputs, targets in self._batches(self.val_dataset, list(range(len(self.val_dataset)))):
                    if count := _count(targets):
                        total, counted = total + _summed_loss(self.model(inputs), targets).item(), counted + count
        finally:
            for module, mode in modes:
                module.training = mode
        return _mean(total, counted)

    def train(self, num_epochs: int) -> list[dict[str, float]]:
        """Trains for num_epochs further epochs: one {"train_loss", "val_loss"} for each."""
        if num_epochs < 0:
            raise ValueError(f"num_epochs ({num_epochs}) is negative")
        return [{"train_loss": self.train_epoch(), "val_loss": self.validate()} for _ in range(num_epochs)]

    def save(self, path: str | Path) -> None:
        """Writes all that `load` needs to one file, of tensors and plain data; the old file stays until the new one is whole."""
        path, file, optimizer = Path(path), io.BytesIO(), self.optimizer.state_dict()
        torch.save(
            {
                "model": dict(self.model.state_dict()),
                "optimizer": optimizer,
                "moments": sorted(optimizer["state"]),  # of which parameters: so that none can be missing
                "epoch": self.epoch,
                "seed": self.seed,
            },
            file,
        )
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(file.getvalue())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Goes on where the trainer was that wrote the file.

        ValueError: the file is not a whole checkpoint of this model; nothing has changed then. FileNotFoundError: there is none.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._check(state)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever torch.load says of what is no checkpoint
            raise ValueError(f"the file at path {path} is not a whole checkpoint of this model: {error}") from error
        before = copy.deepcopy(self.model.state_dict())
        try:
            self.model.load_state_dict(state["model"])
        except Exception as error:
            self.model.load_state_dict(before)
            raise ValueError(f"the file at path {path} is a checkpoint of another model: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.seed = state["epoch"], state["seed"]

    def _check(self, state) -> None:
        """Raises something if state is not what `save` writes of this model. Changes nothing."""

        def kinds(tensors):
            return {name: (x.shape, x.dtype) if isinstance(x, torch.Tensor) else type(x) for name, x in tensors.items()}

        def require(fine, what):
            if not fine:
                raise ValueError(what)

        require(isinstance(state, dict) and state.keys() == {"model", "optimizer", "moments", "epoch", "seed"}, "its keys")
        require(all(type(state[key]) is int for key in ("epoch", "seed")) and state["epoch"] >= 0, "its epoch or seed")
        require(kinds(state["model"]) == kinds(self.model.state_dict()), "names, shapes or dtypes of its weights")
        require(state["moments"] == sorted(state["optimizer"]["state"]), "its optimizer lacks moments")
        trial = torch.optim.AdamW(self.model.parameters())
        trial.load_state_dict(copy.deepcopy(state["optimizer"]))
        for mine, theirs in zip(self.optimizer.param_groups, trial.param_groups, strict=True):
            require(mine.keys() == theirs.keys(), "its optimizer's settings")
        for weight, moments in trial.state.items():
            require(moments.keys() == {"step", "exp_avg", "exp_avg_sq"}, "its optimizer's state")
            require(moments["step"].numel() == 1, "its optimizer's step")
            require(moments["exp_avg"].shape == moments["exp_avg_sq"].shape == weight.shape, "its optimizer's moments")
