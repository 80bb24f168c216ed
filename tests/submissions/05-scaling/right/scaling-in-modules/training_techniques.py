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

import copy
import hashlib
import io
import math
import operator
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Sampler

IGNORED = -100  # a target that does not count


# ---------------------------------------------------------------------------------------------- losses


def count_targets(targets: torch.Tensor) -> int:
    return int((targets != IGNORED).sum())


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logits (..., V), targets (...) -> the sum of the cross-entropies that count, in float32 or more."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets {tuple(targets.shape)} do not match logits {tuple(logits.shape)}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    flat = logits.reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, targets.reshape(-1).long(), ignore_index=IGNORED, reduction="sum")


def device_of(model: nn.Module) -> torch.device:
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


@dataclass
class Mean:
    """The mean of losses that come as sums."""

    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        self.total += total
        self.count += count

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


# ---------------------------------------------------------------------------------------------- mixed precision


class MixedPrecisionTrainer:
    """Trains with matrix products in 16 bits, and weights, gradients and loss in 32 (Micikevicius et al. 2018).

    The model runs under autocast: in bfloat16 on the CPU; on a GPU in float16, with a GradScaler.

    Args:
        model: model(batch) -> logits (B, T, V) or (B, V); its parameters are float32 and stay so.
        optimizer: a torch.optim.Optimizer of the model's parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self._scaler(device_of(model).type)

    def _scaler(self, kind: str) -> torch.amp.GradScaler:
        """That of the kind of device on which the model is, which may have been moved since."""
        if kind not in self.scalers:
            self.scalers[kind] = torch.amp.GradScaler(kind, enabled=kind != "cpu")
        return self.scalers[kind]

    def train_step(self, batch: torch.Tensor, targets: torch.Tensor) -> float:
        """One update with one batch, the model in train mode; gradients from before do not count.

        Args:
            batch: what the model takes, (B, T) ids or anything else.
            targets: (B, T) or (B,) int64, as long as the logits. -100 does not count.

        Returns:
            The mean cross-entropy of the targets that count, before the update, worked out in float32. If no target
            counts it is NaN, and there is no update: weights and optimizer stay as they are.
        """
        self.model.train()
        count = count_targets(targets)
        if count == 0:
            return math.nan
        kind = device_of(self.model).type
        scaler = self._scaler(kind)
        self.optimizer.zero_grad()
        with torch.autocast(kind, dtype=torch.bfloat16 if kind == "cpu" else torch.float16):
            loss = summed_loss(self.model(batch), targets) / count
        scaler.scale(loss).backward()
        scaler.step(self.optimizer)
        scaler.update()
        return loss.item()


# ---------------------------------------------------------------------------------------------- gradient checkpointing


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))


class CausalLayer(nn.Module):
    """A pre-norm layer without dropout."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(d_model), CausalSelfAttention(d_model, num_heads))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class Recomputed(nn.Module):
    """A module of which autograd saves the input alone; the rest is worked out again in the backward pass."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return self.inside(x)
        return checkpoint(self.inside, x, use_reentrant=False, preserve_rng_state=False)  # nothing inside is random


class MemoryEfficientLLM(nn.Module):
    """A causal transformer that forgets what is inside its layers, and works it out again for the gradients.

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
        for name, size in (("vocab_size", vocab_size), ("d_model", d_model), ("num_heads", num_heads)):
            if not size > 0:
                raise ValueError(f"{name} must be positive, not {size}")
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) is not divisible by num_heads ({num_heads})")
        super().__init__()
        self.max_len = 1024
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.places = nn.Embedding(self.max_len, d_model)
        self.layers = nn.Sequential(*(Recomputed(CausalLayer(d_model, num_heads)) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        length = input_ids.shape[-1]
        if length > self.max_len:
            raise ValueError(f"input_ids has {length} tokens, more than max_len ({self.max_len})")
        x = self.tokens(input_ids.long()) + self.places(torch.arange(length, device=input_ids.device))
        return self.output(self.norm(self.layers(x)))


# ---------------------------------------------------------------------------------------------- gradient accumulation


@dataclass(frozen=True)
class Group:
    """Batches that count as one."""

    batches: list
    count: int  # of the targets that count

    @classmethod
    def all_of(cls, batches: Iterable, size: int) -> "Iterator[Group]":
        rest = iter(batches)
        while group := list(islice(rest, size)):
            yield cls(group, sum(count_targets(targets) for _, targets in group))

    def backward(self, model: nn.Module) -> float:
        """Adds the gradients of the group's mean loss, batch by batch -> the summed loss."""
        return sum(self._one(model, inputs, targets) for inputs, targets in self.batches)

    def _one(self, model: nn.Module, inputs, targets: torch.Tensor) -> float:
        loss = summed_loss(model(inputs), targets)  # the graph is gone when this returns
        (loss / self.count).backward()
        return loss.item()


def train_with_gradient_accumulation(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, accumulation_steps: int = 4
) -> float:
    """One pass over the data with updates as of large batches, of which no more is in memory than a small one.

    Args:
        model: model(inputs) -> logits (B, T, V), or (B, V).
        dataloader: gives (inputs, targets); any iterable does, which is run through once.
        optimizer: of the model's parameters.
        accumulation_steps: N batches make a group; the last group may be shorter.

    Returns:
        The mean cross-entropy of all targets that count, each before its group's update. NaN if there are none.

    Raises:
        ValueError: accumulation_steps is less than 1.
    """
    if not accumulation_steps >= 1:
        raise ValueError(f"accumulation_steps must be 1 or more, not {accumulation_steps}")
    model.train()
    mean = Mean()
    for group in Group.all_of(dataloader, accumulation_steps):
        if group.count:
            optimizer.zero_grad()
            mean.add(group.backward(model), group.count)
            optimizer.step()
    return mean.value


# ---------------------------------------------------------------------------------------------- a whole run


@dataclass(frozen=True)
class TrainingConfig:
    """What a run is made with."""

    batch_size: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, config: dict) -> "TrainingConfig":
        known = {field.name: type(field.default) for field in fields(cls)}
        unknown = [key for key in config if key not in known]
        if unknown:
            raise ValueError(f"config has an unknown key: {unknown[0]!r}")
        return cls(**{name: cls._plain(name, value, known[name]) for name, value in config.items()})

    @staticmethod
    def _plain(name: str, value, kind: type):
        """Python's own number, which a checkpoint may hold."""
        try:
            return operator.index(value) if kind is int else float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be {kind.__name__}, not {value!r}") from error

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {self.batch_size}")
        for name in ("lr", "weight_decay", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")


class RandomScope:
    """Inside, torch's generators begin at a seed; afterwards they are what they were."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> "RandomScope":
        self.cpu = torch.random.default_generator.get_state()
        self.gpus = torch.cuda.get_rng_state_all() if self._has_gpus() else None
        torch.random.default_generator.manual_seed(self.seed)
        if self.gpus is not None:
            torch.cuda.manual_seed_all(self.seed)
        return self

    def __exit__(self, *_) -> None:
        torch.random.default_generator.set_state(self.cpu)
        if self.gpus is not None:
            torch.cuda.set_rng_state_all(self.gpus)

    @staticmethod
    def _has_gpus() -> bool:
        return torch.cuda.is_available() and torch.cuda.is_initialized()


@dataclass
class Randomness:
    """All that is random in a run follows from its seed: a seed for each purpose in each epoch."""

    seed: int

    def of(self, purpose: str, epoch: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{epoch}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1  # 63 bits

    def scope(self, purpose: str, epoch: int) -> RandomScope:
        return RandomScope(self.of(purpose, epoch))

    def order(self, length: int, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.of("order", epoch))
        return torch.randperm(length, generator=generator, device="cpu").tolist()


class ListSampler(Sampler):
    """Gives the numbers of a list."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class Batches:
    """Items of a dataset in a given order, as batches on the model's device."""

    def __init__(self, dataset, order: list[int], batch_size: int, device: torch.device) -> None:
        self.loader = DataLoader(dataset, batch_size=batch_size, sampler=ListSampler(order), collate_fn=self._stack)
        self.device = device

    @staticmethod
    def _stack(items: list) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = zip(*items, strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, targets in self.loader:
            yield inputs.to(self.device), targets.to(self.device)


class EvalMode:
    """Inside, a model is in eval mode and makes no gradients; afterwards each submodule has its own mode again."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.no_grad = model, torch.no_grad()

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.no_grad.__enter__()
        try:
            self.model.eval()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, *error) -> None:
        self.no_grad.__exit__(*error)
        for module, mode in self.modes:
            module.training = mode


@dataclass
class RunState:
    """What a checkpoint holds. `manifest` names its tensors: so a file of which a part is missing is told from a whole one."""

    model: dict
    optimizer: dict
    epoch: int
    seed: int

    FORMAT = "LLMTrainer checkpoint 1"

    def write(self, path: Path) -> None:
        """Into a file beside it first: a disk that is full does not cost the file that is there."""
        content = {"format": self.FORMAT, **vars(self), "manifest": self._manifest()}
        target = Path(os.path.realpath(path))
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with open(beside, "wb") as file:
                torch.save(content, file)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "RunState":
        """Raises ValueError for anything that `write` has not written, FileNotFoundError where nothing is."""
        try:
            written = path.read_bytes()
        except IsADirectoryError as error:
            raise ValueError(f"path {path} is no checkpoint, but a folder") from error
        try:
            content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"path {path} is no checkpoint, or not a whole one: {error}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or content.get("format") != cls.FORMAT:
            raise ValueError(f"path {path} is no checkpoint of an LLMTrainer")
        if set(content) != names | {"format", "manifest"}:
            raise ValueError(f"path {path} is not a whole checkpoint: it has {sorted(map(str, content))}")
        state = cls(**{name: content[name] for name in names})
        for name, number in (("epoch", state.epoch), ("seed", state.seed)):
            if type(number) is not int:
                raise ValueError(f"path {path} is no checkpoint: its {name} is {number!r}")
        if state.epoch < 0 or content["manifest"] != state._manifest():
            raise ValueError(f"path {path} is not a whole checkpoint")
        return state

    def _manifest(self) -> list[str]:
        return sorted([*self._leaves("model", self.model), *self._leaves("optimizer", self.optimizer)])

    @classmethod
    def _leaves(cls, name: str, value) -> Iterator[str]:
        if isinstance(value, dict):
            yield f"{name}: {len(value)}"
            for key, inside in value.items():
                yield from cls._leaves(f"{name}/{key}", inside)
        elif isinstance(value, (list, tuple)):
            yield f"{name}: {len(value)}"
            for number, inside in enumerate(value):
                yield from cls._leaves(f"{name}/{number}", inside)
        elif isinstance(value, torch.Tensor):
            yield f"{name}: {value.dtype} {tuple(value.shape)}"
        else:
            yield f"{name}: {type(value).__name__}"

    def require_same_model(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError unless this is the state of such a model and of such an optimizer of it."""
        self._require(isinstance(self.model, dict) and isinstance(self.optimizer, dict), "its states are no dicts")
        own = model.state_dict()
        self._require(self.model.keys() == own.keys(), "its weights have other names")
        for name, value in own.items():
            self._require(self._alike(self.model[name], value), f"{name} differs in shape or type")

        own = optimizer.state_dict()
        self._require(self.optimizer.keys() == own.keys(), "its optimizer is another one")
        groups, state = self.optimizer["param_groups"], self.optimizer["state"]
        self._require(isinstance(groups, list) and isinstance(state, dict), "its optimizer is another one")
        self._require(len(groups) == len(own["param_groups"]), "its optimizer is another one")
        for theirs, ours in zip(groups, own["param_groups"], strict=True):
            self._require(isinstance(theirs, dict) and theirs.keys() == ours.keys(), "its optimizer is another one")
            self._require(theirs["params"] == ours["params"], "its optimizer has other parameters")
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for number, moments in state.items():
            self._require(type(number) is int and 0 <= number < len(weights), "its optimizer has other parameters")
            self._require(isinstance(moments, dict) and moments.keys() == {"step", "exp_avg", "exp_avg_sq"}, "no AdamW")
            self._require(torch.is_tensor(moments["step"]) and moments["step"].dim() == 0, "a step is no number")
            for name in ("exp_avg", "exp_avg_sq"):
                self._require(self._alike(moments[name], weights[number]), f"{name} of weight {number} differs")

    @staticmethod
    def _alike(one, other) -> bool:
        if not isinstance(other, torch.Tensor):
            return type(one) is type(other)
        return isinstance(one, torch.Tensor) and one.shape == other.shape and one.dtype == other.dtype

    @staticmethod
    def _require(holds: bool, otherwise: str) -> None:
        if not holds:
            raise ValueError(f"the checkpoint is that of another model: {otherwise}")


class LLMTrainer:
    """Trains a language model for some epochs, and can stop between two of them and go on in another process.

    All that is random, the order of the data and the model's dropout, follows from config["seed"] and the number of the
    epoch. torch's own random state is after each method what it was before.

    Args:
        model: model(inputs (B, T)) -> logits (B, T, V).
        train_dataset, val_dataset: have a length and give by number (inputs (T,), targets (T,)); all have one T.
        config: a dict, in which each key may be missing; it is not changed.
            batch_size (8), lr (1e-3), weight_decay (0.01), max_grad_norm (1.0), seed (0).

    Attributes:
        model: as given.
        optimizer: torch's AdamW of all parameters of the model.
        epoch: how many epochs this run has trained, those before `load` included.

    Raises:
        ValueError: config has an unknown key, or batch_size is less than 1.
    """

    def __init__(self, model: nn.Module, train_dataset, val_dataset, config: dict) -> None:
        self.config = TrainingConfig.of(config)
        self.model, self.train_dataset, self.val_dataset = model, train_dataset, val_dataset
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        self.randomness = Randomness(self.config.seed)
        self.epoch = 0

    def train_epoch(self) -> float:
        """Trains on each item of train_dataset once, in a new random order, with the model in train mode.

        Returns:
            The mean cross-entropy of all targets that count, each before the update of its batch. NaN if there are none.
        """
        mean = Mean()
        with self.randomness.scope("training", self.epoch):
            self.model.train()
            order = self.randomness.order(len(self.train_dataset), self.epoch)
            for inputs, targets in self._batches(self.train_dataset, order):
                count = count_targets(targets)
                if count:
                    mean.add(self._update(inputs, targets, count), count)
        self.epoch += 1
        return mean.value

    def _batches(self, dataset, order: list[int]) -> Batches:
        return Batches(dataset, order, self.config.batch_size, device_of(self.model))

    def _update(self, inputs: torch.Tensor, targets: torch.Tensor, count: int) -> float:
        self.optimizer.zero_grad()
        loss = summed_loss(self.model(inputs), targets)
        (loss / count).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return loss.item()

    def validate(self) -> float:
        """The mean cross-entropy of all targets of val_dataset that count, with the model in eval mode; NaN if there are none.

        Nothing is trained and no gradients are made. Every submodule is afterwards in the mode in which it was.
        """
        mean = Mean()
        with self.randomness.scope("validation", self.epoch), EvalMode(self.model):
            for inputs, targets in self._batches(self.val_dataset, list(range(len(self.val_dataset)))):
                count = count_targets(targets)
                if count:
                    mean.add(summed_loss(self.model(inputs), targets).item(), count)
        return mean.value

    def train(self, num_epochs: int) -> list[dict[str, float]]:
        """Trains for num_epochs further epochs, and validates after each of them.

        Returns:
            One dict for each of these epochs: {"train_loss": …, "val_loss": …}, floats.
        """
        if num_epochs < 0:
            raise ValueError(f"num_epochs must not be negative: {num_epochs}")
        return [{"train_loss": self.train_epoch(), "val_loss": self.validate()} for _ in range(num_epochs)]

    def save(self, path: str | Path) -> None:
        """Writes to one file, path, all that `load` needs; what is there is replaced. The trainer goes on as if nothing happened.

        Only tensors and plain data are written, so that torch.load can read the file with weights_only=True.
        """
        self._state().write(Path(path))

    def load(self, path: str | Path) -> None:
        """Goes on where the trainer was that wrote the file: with its weights, its optimizer's state, its epoch and its randomness.

        Raises:
            ValueError: the file is not a checkpoint, or not a whole one, or that of another model. The trainer is
                then as it was, and can train on as if `load` had not been called.
            FileNotFoundError: there is no such file.
        """
        state = RunState.read(Path(path))
        state.require_same_model(self.model, self.optimizer)
        before = copy.deepcopy(self._state())
        try:
            self._take(state)
        except Exception as error:
            self._take(before)
            raise ValueError(f"path {path} is the checkpoint of another model: {error}") from error

    def _state(self) -> RunState:
        return RunState(self.model.state_dict(), self.optimizer.state_dict(), self.epoch, self.randomness.seed)

    def _take(self, state: RunState) -> None:
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.epoch, self.randomness = state.epoch, Randomness(state.seed)
