"""Training a transformer: optimizer, learning-rate schedules, clipping, initial weights, loss, and two trainers.

Vaswani et al. 2017, "Attention Is All You Need", section 5 trains with Adam, a schedule with warmup and label smoothing;
what came later (AdamW, cosine decay, mixed precision) is here too. Nothing in this file knows a transformer: the
trainers take any model(src, tgt) -> logits.

Sizes: B batch, Ts and Tt lengths of source and target, V vocabulary of the target.
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay. Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    For each parameter θ with gradient g, in its own t-th step:

        θ <- θ - lr · λ · θ                         λ = weight_decay: decay first, and not through the moments
        m <- β1 · m + (1 - β1) · g                  mean of the gradients
        v <- β2 · v + (1 - β2) · g²                 mean of their squares
        m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)    both began at zero; without this the first steps are too large
        θ <- θ - lr · m̂ / (√v̂ + ε)

    Without the two corrections the first step is (1 - β1) / √(1 - β2) = 3.2 times lr. The decay is lr · λ as in
    torch.optim.AdamW; the paper multiplies λ by the schedule's factor only. In plain Adam λθ is added to g, so that
    weights with large gradients decay less than others.

    Args:
        params: parameters, or dicts {"params": …, and settings of their own}, as every torch.optim.Optimizer takes.
        lr, betas, eps, weight_decay: the settings of groups that bring none of their own.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        # student: the settings are the defaults of the parameter groups
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Updates every parameter that has a gradient; one without stays as it is, and its t does not count on.

        Args:
            closure: called first, if there is one, to work out the loss and the gradients again.

        Returns:
            What closure returned, or None.
        """
        # student: keep t, m and v of each parameter in self.state[parameter]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:  # solution only
        # Read the group's settings in every step: a schedule changes lr, load_state_dict may change all of them.
        lr, (beta1, beta2) = group["lr"], group["betas"]
        g = parameter.grad

        state = self.state[parameter]  # what is kept here is what state_dict saves
        if not state:
            state["step"] = 0
            state["m"] = torch.zeros_like(parameter)
            state["v"] = torch.zeros_like(parameter)
        state["step"] += 1
        t, m, v = state["step"], state["m"], state["v"]

        parameter.mul_(1 - lr * group["weight_decay"])
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        parameter.sub_(lr * m_hat / (v_hat.sqrt() + group["eps"]))


def cosine_schedule(step: int, warmup_steps: int, total_steps: int, max_lr: float, min_lr: float = 0.0) -> float:
    """The learning rate of a step: linear warmup, then half a cosine. Loshchilov & Hutter 2017, "SGDR".

        max_lr · step / warmup_steps                            for step < warmup_steps
        min_lr + (max_lr - min_lr) · (1 + cos(π p)) / 2         from then on, with
        p = min(1, (step - warmup_steps) / (total_steps - warmup_steps))

    Early steps are small because Adam's moments know little yet; the end is small so that the weights settle. After
    total_steps the rate stays at min_lr.

    Args:
        step: counted from 0.
        warmup_steps: may be 0.
        total_steps: with the warmup; greater than warmup_steps.
    """
    # student: the straight line up, then half a cosine down
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    p = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * p)) / 2


class CosineAnnealingWarmupScheduler:
    """Sets the learning rate of every group of an optimizer by `cosine_schedule`.

    Args:
        optimizer: the lr that each of its groups has now is the max_lr of that group.
        warmup_steps, total_steps, min_lr: see `cosine_schedule`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, min_lr: float = 0
    ) -> None:
        # student: remember the lr of each group as it is now
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_lr = min_lr
        self.max_lrs = [group["lr"] for group in optimizer.param_groups]

    def step(self, step: int) -> None:
        """Sets the rates for this step, whichever was set before; the optimizer itself takes no step."""
        # student: one lr for each group
        for group, max_lr in zip(self.optimizer.param_groups, self.max_lrs, strict=True):
            group["lr"] = cosine_schedule(step, self.warmup_steps, self.total_steps, max_lr, self.min_lr)


def noam_schedule(step: int, d_model: int, warmup_steps: int) -> float:
    """The learning rate of "Attention Is All You Need", section 5.3, for step >= 1.

        d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5)

    It rises linearly for warmup_steps, then falls with the square root of the step.
    """
    # student: the smaller of the two, times d_model^-0.5
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


@torch.no_grad()
def clip_grad_norm(parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scales all gradients in place so that together they are no longer than max_norm. Pascanu et al. 2013.

        total = sqrt(Σ over all parameters of |g|²)
        g <- g · min(1, max_norm / (total + 1e-6))

    All gradients get the same factor, so the direction of the step stays. As torch.nn.utils.clip_grad_norm_.

    Args:
        parameters: tensors, as a list, a generator or alone. Those without a gradient are passed over.
        max_norm: the greatest length allowed.

    Returns:
        total, as it was before clipping: a tensor without dimensions. 0 if there are no gradients.
    """
    # student: one norm over all gradients, then one factor for all of them
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    # A list: a generator could be run through only once, and it is needed for the norm and for the scaling.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)  # at most 1: short gradients are not made longer
    for gradient in gradients:
        gradient.mul_(factor)
    return total


def init_weights(module: nn.Module) -> None:
    """Gives every layer inside module (and module itself) its first weights.

    - nn.Linear: Xavier uniform (Glorot & Bengio 2010), U(-a, a) with a = sqrt(6 / (fan_in + fan_out)); zero bias
    - nn.Embedding: N(0, 0.02²), as BERT and GPT-2
    - nn.LayerNorm: weight 1, bias 0

    Other layers are left as they are, and so is a weight or bias that a layer was made without.
    """
    # student: go through module.modules(), torch.nn.init does the rest
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, mean=0.0, std=0.02)
        elif isinstance(layer, nn.LayerNorm):
            if layer.weight is not None:
                nn.init.ones_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def label_smoothed_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.1, ignore_index: int = -100
) -> torch.Tensor:
    """Cross-entropy against softened targets. Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.

    The target distribution is 1 - ε on the right token plus ε / V on every token, the right one among them:

        loss = (1 - ε) · (-log p[target]) + ε · mean over V of (-log p)

    averaged over the places whose target is not ignore_index. As torch.nn.functional.cross_entropy(…, label_smoothing=ε).

    Args:
        logits: (..., V).
        targets: (...) int64.
        smoothing: ε; 0 gives the plain cross-entropy.
        ignore_index: targets that do not count, neither in the sum nor in the number of places.

    Returns:
        A tensor of no dimensions, in the dtype of logits.
    """
    # student: log-probabilities of the real places, then the mixture of the two losses
    logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)  # (N, V), (N,)
    real = targets != ignore_index  # before the lookup: ignore_index need not be a token
    log_p = F.log_softmax(logits[real], dim=-1)  # (n, V)
    of_target = -log_p.gather(-1, targets[real][:, None])[:, 0]  # (n,)
    of_all = -log_p.mean(dim=-1)  # (n,)
    return ((1 - smoothing) * of_target + smoothing * of_all).mean()


class TransformerTrainer:
    """Trains a sequence-to-sequence model with teacher forcing.

    Args:
        model: model(src (B, Ts), tgt (B, Tt)) -> logits (B, Tt, V).
        src_vocab_size, tgt_vocab_size: the sizes of the vocabularies; the second is V.
        lr: learning rate.
        pad_id: target tokens of this id are padding and do not count.

    Attributes:
        optimizer: AdamW of all parameters of the model.
    """

    def __init__(
        self, model: nn.Module, src_vocab_size: int, tgt_vocab_size: int, lr: float = 1e-4, pad_id: int = 0
    ) -> None:
        # student: keep what train_step needs, and make the optimizer
        self.model = model
        self.src_vocab_size = src_vocab_size
        self.tgt_vocab_size = tgt_vocab_size
        self.pad_id = pad_id
        self.optimizer = AdamW(model.parameters(), lr=lr)

    def train_step(self, src: torch.Tensor, tgt: torch.Tensor) -> float:
        """One update with one batch: from tgt[:, :-1] the model predicts tgt[:, 1:].

        Args:
            src: (B, Ts) ids. tgt: (B, Tt) ids, with the start token in front.

        Returns:
            The mean cross-entropy over the target tokens that are not padding, before the update.
        """
        # student: train mode, shift, loss, backward, update
        self.model.train()
        self.optimizer.zero_grad()
        total, tokens = self._loss(src, tgt)
        loss = total / tokens
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _loss(self, src: torch.Tensor, tgt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # solution only
        """The sum of the cross-entropies of the real target tokens, and how many there are."""
        logits = self.model(src, tgt[:, :-1])  # (B, Tt - 1, V): place t has seen the tokens up to t
        targets = tgt[:, 1:]  # ... and is to say token t + 1
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self.pad_id, reduction="sum")
        return total, (targets != self.pad_id).sum()


class OptimizedTransformerTrainer(TransformerTrainer):
    """A trainer for batches that do not fit into memory, and for fast low-precision arithmetic.

    Gradient accumulation: N calls of train_step are one batch. The gradients of a batch of all N would be

        Σ over micro-batches of (gradient of its summed loss) / Σ over micro-batches of its tokens

    which is not the mean of the N mean gradients, unless all have equally many tokens.

    Mixed precision (Micikevicius et al. 2018): matrix products in 16 bits, weights, gradients and loss in 32. bfloat16
    has the range of float32; fp16 (on a GPU) does not, so small gradients are scaled up in the backward pass and down
    again before the update.

    Args:
        model, src_vocab_size, tgt_vocab_size, lr, pad_id: see `TransformerTrainer`.
        use_mixed_precision: run the model under autocast, bfloat16 on the CPU, fp16 on a GPU.
        use_gradient_accumulation: update in every accumulation_steps-th call only.
        accumulation_steps: N.
    """

    def __init__(
        self,
        model: nn.Module,
        src_vocab_size: int,
        tgt_vocab_size: int,
        lr: float = 1e-4,
        pad_id: int = 0,
        use_mixed_precision: bool = False,
        use_gradient_accumulation: bool = False,
        accumulation_steps: int = 4,
    ) -> None:
        # student: the trainer above, the settings, the gradient scaler, and counters of micro-batches and tokens
        super().__init__(model, src_vocab_size, tgt_vocab_size, lr, pad_id)
        self.use_mixed_precision = use_mixed_precision
        self.accumulation_steps = accumulation_steps if use_gradient_accumulation else 1
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        self.scaler = torch.amp.GradScaler("cuda", enabled=use_mixed_precision and on_gpu)  # does nothing when disabled
        self.micro_batches = 0  # since the last update
        self.tokens = 0  # in these
        self.unit = 1  # tokens of the first of these

    def train_step(self, src: torch.Tensor, tgt: torch.Tensor) -> float:
        """One micro-batch; every accumulation_steps-th call updates the weights.

        Args:
            src: (B, Ts) ids. tgt: (B, Tt) ids. The shapes may differ from call to call.

        Returns:
            The mean cross-entropy over the real target tokens of this micro-batch.
        """
        # student: add up the gradients of summed losses, divide by the tokens in the N-th call
        self.model.train()
        on_gpu = src.is_cuda
        with torch.autocast(
            device_type=src.device.type,
            dtype=torch.float16 if on_gpu else torch.bfloat16,
            enabled=self.use_mixed_precision,
        ):
            total, tokens = self._loss(src, tgt)  # autocast works cross_entropy out in float32

        if self.micro_batches == 0:
            self.optimizer.zero_grad()
            self.unit = max(int(tokens), 1)
        # Any constant would do here; this one keeps the numbers as small as those of a mean, which fp16 needs.
        self.scaler.scale(total / self.unit).backward()
        self.micro_batches += 1
        self.tokens += int(tokens)
        if self.micro_batches == self.accumulation_steps:
            self._update()
        return (total / tokens).item()

    def _update(self) -> None:  # solution only
        self.scaler.unscale_(self.optimizer)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.unit / max(self.tokens, 1))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.micro_batches = self.tokens = 0
