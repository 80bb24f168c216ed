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
import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # a target that does not count


def _count(targets: torch.Tensor) -> int:
    """How many targets count."""
    return int((targets != IGNORED).sum())


def _summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the cross-entropies of logits (..., V) and targets (...), in float32 at least."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets of the shape {tuple(targets.shape)} do not fit logits of the shape {tuple(logits.shape)}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    rows = logits.reshape(-1, logits.shape[-1])
    return F.cross_entropy(rows, targets.reshape(-1).long(), ignore_index=IGNORED, reduction="sum")


def _device_of(model: nn.Module) -> torch.device:
    for weight in model.parameters():
        return weight.device
    return torch.device("cpu")


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
        self.model = model
        self.optimizer = optimizer
        self.device_type = _device_of(model).type
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.device_type == "cuda")

    def train_step(self, batch: torch.Tensor, targets: torch.Tensor) -> float:
        """One update with one batch, the model in train mode; gradients from before do not count.

        Args:
            batch: what the model takes, (B, T) ids or anything else.
            targets: (B, T) or (B,) int64, as long as the logits: targets[b, t] is compared with logits[b, t], nothing is
                shifted. -100 does not count.

        Returns:
            The mean cross-entropy of the targets that count, before the update, worked out in float32. If no target
            counts it is NaN, and there is no update: weights and optimizer stay as they are.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        count = _count(targets)
        if count == 0:
            return math.nan

        device_type = _device_of(self.model).type
        if device_type != self.device_type:  # the model has moved since
            self.device_type = device_type
            self.scaler = torch.amp.GradScaler("cuda", enabled=device_type == "cuda")
        short = torch.float16 if device_type == "cuda" else torch.bfloat16
        with torch.autocast(device_type, dtype=short):
            logits = self.model(batch)
        loss = _summed_loss(logits.float(), targets) / count
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


# ---------------------------------------------------------------------------------------------- gradient checkpointing


def _layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, weight.shape, weight, bias)


def _run_layer(num_heads: int, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """What a layer does, as a function of its input x (B, T, D) and of its weights alone: so it can be done twice."""
    norm1, bias1, to_qkv, to_out, norm2, bias2, to_wide, wide_bias, to_narrow, narrow_bias = weights
    batch, length, d_model = x.shape
    head_dim = d_model // num_heads

    normed = _layer_norm(x, norm1, bias1)
    qkv = F.linear(normed, to_qkv).reshape(batch, length, 3, num_heads, head_dim)
    q = qkv[:, :, 0].transpose(1, 2)  # (B, H, T, Dh)
    k = qkv[:, :, 1].transpose(1, 2)
    v = qkv[:, :, 2].transpose(1, 2)
    scores = (q @ k.transpose(-2, -1)) * head_dim**-0.5
    positions = torch.arange(length, device=x.device)
    future = positions[None, :] > positions[:, None]
    attention = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
    mixed = attention.to(v.dtype) @ v
    mixed = mixed.transpose(1, 2).reshape(batch, length, d_model)
    x = x + F.linear(mixed, to_out)

    normed = _layer_norm(x, norm2, bias2)
    wide = F.gelu(F.linear(normed, to_wide, wide_bias))
    return x + F.linear(wide, to_narrow, narrow_bias)


class _Forgetful(torch.autograd.Function):
    """_run_layer, of which nothing but the input is kept. Weights are arguments too: so gradients arrive where x needs none."""

    @staticmethod
    def forward(ctx, num_heads: int, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        device_type = x.device.type
        ctx.num_heads = num_heads
        ctx.device_type = device_type
        ctx.autocast = torch.is_autocast_enabled(device_type)
        ctx.short = torch.get_autocast_dtype(device_type)
        ctx.save_for_backward(x, *weights)  # the weights are there anyway
        return _run_layer(num_heads, x, list(weights))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: torch.Tensor):
        saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]  # of x and of the weights
        leaves = []
        for tensor, need in zip(saved, needed, strict=True):
            leaf = tensor.detach()
            leaf.requires_grad_(need)
            leaves.append(leaf)

        with torch.enable_grad(), torch.autocast(ctx.device_type, dtype=ctx.short, enabled=ctx.autocast):
            again = _run_layer(ctx.num_heads, leaves[0], leaves[1:])
        sought = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
        found = iter(torch.autograd.grad(again, sought, grad_output))
        gradients = [next(found) if need else None for need in needed]
        return (None, *gradients)


class _ForgetfulLayer(nn.Module):
    """The weights of a layer."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.Parameter(torch.ones(d_model))
        self.bias1 = nn.Parameter(torch.zeros(d_model))
        self.to_qkv = nn.Parameter(torch.randn(3 * d_model, d_model) * d_model**-0.5)
        self.to_out = nn.Parameter(torch.randn(d_model, d_model) * d_model**-0.5)
        self.norm2 = nn.Parameter(torch.ones(d_model))
        self.bias2 = nn.Parameter(torch.zeros(d_model))
        self.to_wide = nn.Parameter(torch.randn(4 * d_model, d_model) * d_model**-0.5)
        self.wide_bias = nn.Parameter(torch.zeros(4 * d_model))
        self.to_narrow = nn.Parameter(torch.randn(d_model, 4 * d_model) * (4 * d_model) ** -0.5)
        self.narrow_bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = [
            self.norm1, self.bias1, self.to_qkv, self.to_out, self.norm2,
            self.bias2, self.to_wide, self.wide_bias, self.to_narrow, self.narrow_bias,
        ]  # fmt: skip
        return _Forgetful.apply(self.num_heads, x, *weights)


class MemoryEfficientLLM(nn.Module):
    """A causal transformer that forgets what is inside its layers, and works it out again for the gradients.

    Of a plain layer autograd saves some 16·B·T·D values and B·H·T² attention weights. Here it saves the layer's input
    alone, B·T·D values. In the backward pass one layer after the other, from the last to the first, runs forward again and
    then backward, so that what is inside is there of one layer at a time (Chen et al. 2016). A third more work buys it.

    So it is whenever gradients are enabled, in train mode and in eval mode. The gradients are those of a model without
    checkpointing, also where some of the parameters, such as the embeddings, are frozen (requires_grad is False). There is
    no dropout. Logits at position t depend on the tokens up to t. Of what layers it is made, and how positions enter, is
    up to you; lesson 1's CausalAttention and LearnedPositionalEmbedding may be used.

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
        super().__init__()
        if num_heads < 1 or d_model % num_heads != 0:
            raise ValueError(f"d_model {d_model} is not divisible by num_heads {num_heads}")
        self.max_len = 1024
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(self.max_len, d_model)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_ForgetfulLayer(d_model, num_heads))
        self.last_norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers -> logits (B, T, V).

        Raises:
            ValueError: T is more than max_len.
        """
        length = input_ids.shape[1]
        if length > self.max_len:
            raise ValueError(f"input_ids has {length} tokens, more than max_len {self.max_len}")
        places = torch.arange(length, device=input_ids.device)
        x = self.tokens(input_ids) + self.positions(places)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.last_norm(x))


# ---------------------------------------------------------------------------------------------- gradient accumulation


def train_with_gradient_accumulation(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, accumulation_steps: int = 4
) -> float:
    """One pass over the data with updates as of large batches, of which no more is in memory than a small one.

    N = accumulation_steps batches make a group; the last group may be shorter. The gradient of a group as one batch is

        Σ over its batches of (gradient of the batch's summed loss) / Σ over its batches of the targets that count

    The mean of the batches' mean gradients is something else, unless all have equally many targets.

    Each batch runs forward and backward by itself before the next one runs, with the model in train mode. Each group makes
    one step of the optimizer; gradients from before do not count. A group in which no target counts makes no step.

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
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, not {accumulation_steps}")
    model.train()
    all_losses = 0.0
    all_targets = 0
    for group in _groups(dataloader, accumulation_steps):
        group_targets = 0
        for _, targets in group:
            group_targets = group_targets + _count(targets)
        if group_targets == 0:
            continue

        optimizer.zero_grad(set_to_none=True)
        for inputs, targets in group:
            logits = model(inputs)
            summed = _summed_loss(logits, targets)
            share = summed / group_targets
            share.backward()
            all_losses = all_losses + summed.item()
            del logits, summed, share  # nothing of this batch is there while the next one runs
        optimizer.step()
        all_targets = all_targets + group_targets

    if all_targets == 0:
        return math.nan
    return all_losses / all_targets


def _groups(batches: Iterable, size: int) -> Iterator[list]:
    """Lists of size batches each, the last one perhaps shorter; none is fetched before it is needed."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


# ---------------------------------------------------------------------------------------------- a whole run


DEFAULTS = {"batch_size": 8, "lr": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 0}
FORMAT = "LLMTrainer 1"  # the first entry of a checkpoint


def _seed_of(seed: int, epoch: int, what: str) -> int:
    """A number of 63 bits that belongs to these three, in each process the same."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{what}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextlib.contextmanager
def _own_randomness(seed: int, model: nn.Module) -> Iterator[None]:
    """Inside, torch draws what follows from seed; outside, as if nothing had been drawn inside."""
    gpus = set()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cuda":
            gpus.add(tensor.device)
    cpu_state = torch.default_generator.get_state()
    gpu_states = {gpu: torch.cuda.get_rng_state(gpu) for gpu in gpus}
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch all GPUs
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(cpu_state)
        for gpu, state in gpu_states.items():
            torch.cuda.set_rng_state(state, gpu)


def _clip(weights: Iterable[nn.Parameter], max_norm: float) -> None:
    """Shortens all gradients together to the length max_norm, if they are longer."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    square = 0.0
    for gradient in gradients:
        length = torch.linalg.vector_norm(gradient.detach()).item()
        square = square + length * length
    norm = math.sqrt(square)
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)


def _plain(value):
    """Tuples become lists, and numbers of numpy Python's: what any reader of the file understands."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return float(value)
    return value


def _same_kind(ours, theirs) -> bool:
    """Whether theirs could stand where ours is: a number for a number, a list as long for a list, else the same type."""
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return isinstance(ours, bool) and isinstance(theirs, bool)
    if isinstance(ours, (int, float)):
        return isinstance(theirs, (int, float))
    if isinstance(ours, (list, tuple)):
        return isinstance(theirs, (list, tuple)) and len(ours) == len(theirs)
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return type(ours) is type(theirs)


class LLMTrainer:
    """Trains a language model for some epochs, and can stop between two of them and go on in another process.

    All that is random, the order of the data and the model's dropout, follows from config["seed"] and the number of the
    epoch: two trainers made with the same arguments give the same losses, whatever is drawn elsewhere. torch's own
    random state is after each method what it was before.

    Args:
        model: model(inputs (B, T)) -> logits (B, T, V).
        train_dataset, val_dataset: have a length and give by number (inputs (T,), targets (T,)); all have one T. Targets are
            compared with the logits at the same place; -100 does not count.
        config: a dict, in which each key may be missing; it is not changed.
            batch_size (8): the last batch of an epoch may be smaller; none is left out.
            lr (1e-3), weight_decay (0.01): of the optimizer, for all parameters of the model.
            max_grad_norm (1.0): the gradients of all parameters together are clipped to this length before each update.
            seed (0).

    Attributes:
        model: as given.
        optimizer: AdamW (torch's or lesson 2's) of all parameters of the model.
        epoch: how many epochs this run has trained, those before `load` included.

    Raises:
        ValueError: config has an unknown key, or batch_size is less than 1.
    """

    def __init__(self, model: nn.Module, train_dataset, val_dataset, config: dict) -> None:
        for key in config:
            if key not in DEFAULTS:
                raise ValueError(f"config has an unknown key: {key!r}")
        settings = dict(DEFAULTS)
        settings.update(config)
        if settings["batch_size"] < 1:
            raise ValueError(f"batch_size must be at least 1, not {settings['batch_size']}")
        self.model = model
        self.train_dataset = train_dataset
        self.val_dataset = val_dataset
        self.batch_size = settings["batch_size"]
        self.max_grad_norm = settings["max_grad_norm"]
        self.seed = int(settings["seed"])
        lr = float(settings["lr"])
        weight_decay = float(settings["weight_decay"])
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
        self.epoch = 0

    def _batches(self, dataset, order: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The items of dataset in this order, batch by batch, on the model's device."""
        device = _device_of(self.model)
        for start in range(0, len(order), self.batch_size):
            inputs, targets = [], []
            for number in order[start : start + self.batch_size]:
                item_inputs, item_targets = dataset[number]
                inputs.append(torch.as_tensor(item_inputs))
                targets.append(torch.as_tensor(item_targets))
            yield torch.stack(inputs).to(device), torch.stack(targets).to(device)

    def train_epoch(self) -> float:
        """Trains on each item of train_dataset once, in a new random order, with the model in train mode.

        An update is made for each batch by the mean loss of its targets that count; a batch without any makes none.

        Returns:
            The mean cross-entropy of all targets that count, each before the update of its batch. NaN if there are none.
        """
        all_losses = 0.0
        all_targets = 0
        self.model.train()
        with _own_randomness(_seed_of(self.seed, self.epoch, "train"), self.model), torch.enable_grad():
            order = torch.randperm(len(self.train_dataset), device="cpu").tolist()
            for inputs, targets in self._batches(self.train_dataset, order):
                count = _count(targets)
                if count == 0:
                    continue
                self.optimizer.zero_grad(set_to_none=True)
                summed = _summed_loss(self.model(inputs), targets)
                mean = summed / count
                mean.backward()
                _clip(self.model.parameters(), self.max_grad_norm)
                self.optimizer.step()
                all_losses = all_losses + summed.item()
                all_targets = all_targets + count
        self.epoch = self.epoch + 1
        if all_targets == 0:
            return math.nan
        return all_losses / all_targets

    def validate(self) -> float:
        """The mean cross-entropy of all targets of val_dataset that count, with the model in eval mode; NaN if there are none.

        Nothing is trained and no gradients are made. Every submodule is afterwards in the mode in which it was.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        all_losses = 0.0
        all_targets = 0
        try:
            self.model.eval()
            with _own_randomness(_seed_of(self.seed, self.epoch, "validate"), self.model), torch.no_grad():
                order = list(range(len(self.val_dataset)))
                for inputs, targets in self._batches(self.val_dataset, order):
                    count = _count(targets)
                    if count == 0:
                        continue
                    summed = _summed_loss(self.model(inputs), targets)
                    all_losses = all_losses + summed.item()
                    all_targets = all_targets + count
        finally:
            for module, mode in modes:
                module.training = mode
        if all_targets == 0:
            return math.nan
        return all_losses / all_targets

    def train(self, num_epochs: int) -> list[dict[str, float]]:
        """Trains for num_epochs further epochs, and validates after each of them.

        Returns:
            One dict for each of these epochs: {"train_loss": …, "val_loss": …}, floats.
        """
        history = []
        for _ in range(num_epochs):
            train_loss = self.train_epoch()
            val_loss = self.validate()
            history.append({"train_loss": train_loss, "val_loss": val_loss})
        return history

    def save(self, path: str | Path) -> None:
        """Writes to one file, path, all that `load` needs; what is there is replaced. The trainer goes on as if nothing happened.

        Only tensors and plain data (dicts, lists, numbers, texts) are written, so that torch.load can read the file with
        weights_only=True.
        """
        state = self.optimizer.state_dict()
        number_of_weights = sum(len(group["params"]) for group in state["param_groups"])
        moments = []  # one entry for each weight, None where no update has been made yet
        for number in range(number_of_weights):
            moments.append(_plain(state["state"].get(number)))
        content = {
            "format": FORMAT,
            "model": dict(self.model.state_dict()),
            "groups": _plain(state["param_groups"]),
            "moments": moments,
            "epoch": self.epoch,
            "seed": self.seed,
        }
        # A full disk must not cost the checkpoint that is there: a new file first, which then takes the name.
        path = Path(path)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
        try:
            torch.save(content, unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Goes on where the trainer was that wrote the file: with its weights, its optimizer's state, its epoch and its randomness.

        This trainer was made with the same arguments, its model with any weights. Losses of further epochs are, on the CPU,
        equal to the last bit to those of a run that was not stopped. Code in a file is never run (weights_only=True).

        Raises:
            ValueError: the file is not a checkpoint, or not a whole one, or that of another model. The trainer is
                then as it was, and can train on as if `load` had not been called.
            FileNotFoundError: there is no such file.
        """
        path = Path(path)
        try:
            written = path.read_bytes()
        except IsADirectoryError as error:
            raise ValueError(f"path {path} is a folder, not a checkpoint") from error
        try:
            content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"path {path} is not a checkpoint, or not a whole one") from error
        del written
        optimizer_state = self._checked(content, path)

        weights_before = copy.deepcopy(dict(self.model.state_dict()))
        optimizer_before = copy.deepcopy(self.optimizer.state_dict())
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(optimizer_state)
        except Exception as error:
            self.model.load_state_dict(weights_before)
            self.optimizer.load_state_dict(optimizer_before)
            raise ValueError(f"path {path} is not a checkpoint of this model: {error}") from error
        self.epoch = content["epoch"]
        self.seed = content["seed"]

    def _checked(self, content, path: Path) -> dict:
        """The optimizer's state in torch's form, if all of a file's content is what `save` writes for this model."""

        def demand(fits: bool, what: str) -> None:
            if not fits:
                raise ValueError(f"path {path} is not a whole checkpoint of this model: {what}")

        demand(isinstance(content, dict), "it has no entries")
        demand(content.get("format") == FORMAT, "the format is another")
        demand(set(content) == {"format", "model", "groups", "moments", "epoch", "seed"}, "entries are missing")
        for name in ("epoch", "seed"):
            demand(isinstance(content[name], int) and not isinstance(content[name], bool), f"{name} is no number")
        demand(content["epoch"] >= 0, "epoch is negative")

        ours = self.model.state_dict()
        theirs = content["model"]
        demand(isinstance(theirs, dict) and set(theirs) == set(ours), "the names of the weights differ")
        for name, value in ours.items():
            demand(_same_kind(value, theirs[name]), f"{name} is of another shape or dtype")

        our_groups = self.optimizer.state_dict()["param_groups"]
        groups = content["groups"]
        demand(isinstance(groups, list) and len(groups) == len(our_groups), "the optimizer's groups differ")
        new_groups = []
        for our_group, group in zip(our_groups, groups, strict=True):
            demand(isinstance(group, dict) and set(group) == set(our_group), "the optimizer's settings differ")
            for key, value in our_group.items():
                demand(_same_kind(value, group[key]), f"the optimizer's {key} is of another kind")
            demand(group["params"] == our_group["params"], "the optimizer's weights differ")
            new_group = dict(group)
            new_group["betas"] = tuple(group["betas"])
            new_groups.append(new_group)

        weights = []
        for group in self.optimizer.param_groups:
            weights.extend(group["params"])
        moments = content["moments"]
        demand(isinstance(moments, list) and len(moments) == len(weights), "the optimizer's moments are missing")
        new_state = {}
        for number, (weight, entry) in enumerate(zip(weights, moments, strict=True)):
            if entry is None:
                continue
            demand(isinstance(entry, dict) and {"step", "exp_avg", "exp_avg_sq"} <= set(entry), "a moment is missing")
            for key, value in entry.items():
                demand(isinstance(value, torch.Tensor), f"the optimizer's {key} is no tensor")
                shape = torch.Size() if key == "step" else weight.shape
                demand(value.shape == shape, f"the optimizer's {key} is of another shape")
                demand(key == "step" or value.dtype == weight.dtype, f"the optimizer's {key} is of another dtype")
            new_state[number] = dict(entry)
        return {"state": new_state, "param_groups": new_groups}
