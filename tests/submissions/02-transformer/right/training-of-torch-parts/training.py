import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import LRScheduler


class AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["step"] += 1
            grads = [p.grad for p in params]
            avgs = [self.state[p]["exp_avg"] for p in params]
            squares = [self.state[p]["exp_avg_sq"] for p in params]
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_lerp_(avgs, grads, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
            for p, avg, square in zip(params, avgs, squares):
                t = self.state[p]["step"].item()
                denom = square.sqrt().div_(math.sqrt(1 - beta2**t)).add_(group["eps"])
                p.addcdiv_(avg, denom, value=-group["lr"] / (1 - beta1**t))
        return loss


def cosine_schedule(step, warmup_steps, total_steps, max_lr, min_lr=0.0):
    if step >= total_steps:
        return float(min_lr)
    if step < warmup_steps:
        return float(max_lr) * (step / warmup_steps)
    angle = math.pi * (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + 0.5 * (max_lr - min_lr) * (1.0 + math.cos(angle))


class CosineAnnealingWarmupScheduler(LRScheduler):
    def __init__(self, optimizer, warmup_steps, total_steps, min_lr=0):
        self.warmup_steps, self.total_steps, self.min_lr = warmup_steps, total_steps, min_lr
        self.max_lrs = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self):
        return [
            cosine_schedule(self.last_epoch, self.warmup_steps, self.total_steps, lr, self.min_lr) for lr in self.max_lrs
        ]

    def step(self, step=None):
        self.last_epoch = self.last_epoch + 1 if step is None else step
        for group, lr in zip(self.optimizer.param_groups, self.get_lr()):
            group["lr"] = lr


def noam_schedule(step, d_model, warmup_steps):
    return (d_model ** (-0.5)) * min(step ** (-0.5), step / warmup_steps**1.5)


def clip_grad_norm(parameters, max_norm):
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def init_weights(module):
    def init(m):
        match m:
            case nn.Linear():
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.constant_(m.bias, 0)
            case nn.Embedding():
                m.weight.data.normal_(0, 0.02)
            case nn.LayerNorm():
                m.reset_parameters()

    module.apply(init)


def label_smoothed_cross_entropy(logits, targets, smoothing=0.1, ignore_index=-100):
    return F.cross_entropy(
        logits.flatten(end_dim=-2), targets.flatten(), ignore_index=ignore_index, label_smoothing=smoothing
    )


class TransformerTrainer:
    def __init__(self, model, src_vocab_size, tgt_vocab_size, lr=1e-4, pad_id=0):
        self.model = model
        self.pad_id = pad_id
        self.tgt_vocab_size = tgt_vocab_size
        self.criterion = nn.CrossEntropyLoss(ignore_index=pad_id)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98), eps=1e-9)

    def forward_loss(self, src, tgt):
        out = self.model(src, tgt[:, :-1])
        return self.criterion(out.contiguous().view(-1, self.tgt_vocab_size), tgt[:, 1:].contiguous().view(-1))

    def train_step(self, src, tgt):
        self.model.train()
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.forward_loss(src, tgt)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class OptimizedTransformerTrainer(TransformerTrainer):
    def __init__(self, *args, use_mixed_precision=False, use_gradient_accumulation=False, accumulation_steps=4, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_mixed_precision = use_mixed_precision
        self.steps = accumulation_steps if use_gradient_accumulation else 1
        self.waiting = []
        self.device_type = next(self.model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=use_mixed_precision and self.device_type == "cuda")

    def forward_loss(self, src, tgt):
        dtype = torch.float16 if self.device_type == "cuda" else torch.bfloat16
        with torch.autocast(self.device_type, dtype=dtype, enabled=self.use_mixed_precision):
            return super().forward_loss(src, tgt)

    def train_step(self, src, tgt):
        self.model.train()
        with torch.no_grad():
            own = self.forward_loss(src, tgt).item()
        self.waiting.append((src, tgt))
        if len(self.waiting) == self.steps:
            counts = [(t[:, 1:] != self.pad_id).sum().item() for _, t in self.waiting]
            self.optimizer.zero_grad()
            for (s, t), count in zip(self.waiting, counts):
                self.scaler.scale(self.forward_loss(s, t) * (count / sum(counts))).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.waiting = []
        return own
