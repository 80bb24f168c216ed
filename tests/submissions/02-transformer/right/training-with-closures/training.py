# foreach, in terms of torch pieces; hook-made mixed precision; keeps the micro-batches and computes all at the N-th
import numpy as np
import torch
from torch import nn


class AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            ps = [p for p in group["params"] if p.grad is not None]
            if not ps:
                continue
            for p in ps:
                if p not in self.state:
                    self.state[p] = {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p]["step"] += 1
            b1, b2 = group["betas"]
            gs = [p.grad for p in ps]
            ms, vs = ([self.state[p][k] for p in ps] for k in ("exp_avg", "exp_avg_sq"))
            torch._foreach_mul_(ps, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_lerp_(ms, gs, 1 - b1)
            torch._foreach_mul_(vs, b2)
            torch._foreach_addcmul_(vs, gs, gs, 1 - b2)
            for p, m, v in zip(ps, ms, vs, strict=False):
                t = self.state[p]["step"]
                p.addcdiv_(m, v.div(1 - b2**t).sqrt_().add_(group["eps"]), value=-group["lr"] / (1 - b1**t))
        return loss


def cosine_schedule(step, warmup_steps, total_steps, max_lr, min_lr=0.0):
    if step < warmup_steps:
        return float(np.interp(step, [0, warmup_steps], [0.0, max_lr]))
    p = min(1.0, (step - warmup_steps) / max(total_steps - warmup_steps, 1e-12))
    return float(min_lr + (max_lr - min_lr) * (1 + np.cos(np.pi * p)) / 2)


class CosineAnnealingWarmupScheduler(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer, warmup_steps, total_steps, min_lr=0):
        self.opt, self.a = optimizer, (warmup_steps, total_steps)
        self.max = [float(g["lr"]) for g in optimizer.param_groups]
        self.min = min_lr

    def step(self, step):
        for g, m in zip(self.opt.param_groups, self.max, strict=False):
            g["lr"] = cosine_schedule(step, *self.a, m, self.min)


def noam_schedule(step, d_model, warmup_steps):
    return float(np.exp(-0.5 * np.log(d_model) + min(-0.5 * np.log(step), np.log(step) - 1.5 * np.log(warmup_steps))))


def clip_grad_norm(parameters, max_norm):
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    parameters = [p for p in parameters if p.grad is not None]
    if not parameters:
        return torch.tensor(0.0)
    total = torch.stack([p.grad.detach().square().sum() for p in parameters]).sum().sqrt()
    if total + 1e-6 > max_norm:
        for p in parameters:
            p.grad = p.grad * (max_norm / (total + 1e-6))
    return total


@torch.no_grad()
def init_weights(module):
    for m in module.modules():
        if isinstance(m, nn.Linear):
            torch.nn.init.xavier_uniform_(m.weight)
        elif isinstance(m, nn.Embedding):
            m.weight.copy_(torch.randn_like(m.weight) * 0.02)
        elif isinstance(m, nn.LayerNorm) and m.weight is not None:
            m.weight.fill_(1)
        if isinstance(m, (nn.Linear, nn.LayerNorm)) and m.bias is not None:
            m.bias.zero_()
    return module


def label_smoothed_cross_entropy(logits, targets, smoothing=0.1, ignore_index=-100):
    V = logits.shape[-1]
    logits, targets = logits.reshape(-1, V), targets.reshape(-1)
    keep = (targets != ignore_index).to(logits.dtype)
    q = (
        torch.nn.functional.one_hot(torch.where(keep > 0, targets, 0), V).to(logits.dtype) * (1 - smoothing)
        + smoothing / V
    )
    losses = torch.logsumexp(logits, -1) - (logits * q).sum(-1)
    return (losses * keep).sum() / keep.sum()


class TransformerTrainer:
    def __init__(self, model, src_vocab_size, tgt_vocab_size, lr=1e-4, pad_id=0):
        self.model, self.pad_id, self.V = model, pad_id, tgt_vocab_size
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), eps=1e-9)
        self.criterion = nn.CrossEntropyLoss(ignore_index=pad_id)

    def train_step(self, src, tgt):
        self.model.train(True)

        def closure():
            self.optimizer.zero_grad(set_to_none=False)
            loss = self.criterion(self.model(src, tgt[:, :-1]).transpose(1, 2), tgt[:, 1:])
            loss.backward()
            return loss

        return self.optimizer.step(closure).item()


class OptimizedTransformerTrainer(TransformerTrainer):
    def __init__(self, *args, use_mixed_precision=False, use_gradient_accumulation=False, accumulation_steps=4, **kw):
        super().__init__(*args, **kw)
        self.amp, self.n = use_mixed_precision, accumulation_steps if use_gradient_accumulation else 1
        self.waiting = 0
        self.count = torch.zeros((), dtype=torch.long)

    def train_step(self, src, tgt):
        self.model.train()
        if self.waiting == 0:
            self.optimizer.zero_grad()
            self.count.zero_()
        kind = src.device.type
        ctx = (
            torch.autocast(kind, dtype=torch.bfloat16 if kind == "cpu" else torch.float16)
            if self.amp
            else torch.enable_grad()
        )
        with ctx:
            loss = self.criterion(self.model(src, tgt[:, :-1]).permute(0, 2, 1), tgt[:, 1:])
        k = tgt[:, 1:].ne(self.pad_id).sum().item()
        (loss * k).backward()
        self.count += k
        self.waiting += 1
        if self.waiting == self.n:
            for p in self.model.parameters():
                if p.grad is not None:
                    p.grad /= self.count
            self.optimizer.step()
            self.waiting = 0
        return loss.detach().float().item() if self.amp else loss.item()
