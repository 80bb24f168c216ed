from contextlib import nullcontext
from math import cos, pi, sqrt

import torch
from torch import nn


class AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        defaults = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "t" not in self.state[p]:
                    self.state[p].update(t=0, mean=None, square=None)
                s = self.state[p]
                s["t"] += 1
                b1, b2 = group["betas"]
                g = p.grad.detach()
                s["mean"] = (1 - b1) * g if s["mean"] is None else b1 * s["mean"] + (1 - b1) * g
                s["square"] = (1 - b2) * g.square() if s["square"] is None else b2 * s["square"] + (1 - b2) * g.square()
                fix1, fix2 = 1 - b1 ** s["t"], 1 - b2 ** s["t"]
                update = (s["mean"] / fix1) / ((s["square"] / fix2) ** 0.5 + group["eps"])
                update = update + group["weight_decay"] * p.detach()
                p.data = p.data - group["lr"] * update
        return loss


def cosine_schedule(step, warmup_steps, total_steps, max_lr, min_lr=0.0):
    if warmup_steps and step < warmup_steps:
        return max_lr / warmup_steps * step
    progress = min(step - warmup_steps, total_steps - warmup_steps) / (total_steps - warmup_steps)
    weight = (cos(pi * progress) + 1) / 2
    return weight * max_lr + (1 - weight) * min_lr


class CosineAnnealingWarmupScheduler:
    def __init__(self, optimizer, warmup_steps, total_steps, min_lr=0):
        self.pairs = [(group, group["lr"]) for group in optimizer.param_groups]
        self.settings = (warmup_steps, total_steps)
        self.min_lr = min_lr

    def step(self, step):
        rates = []
        for group, top in self.pairs:
            group["lr"] = cosine_schedule(step, *self.settings, top, self.min_lr)
            rates.append(group["lr"])
        return rates


def noam_schedule(step, d_model, warmup_steps):
    if step < warmup_steps:
        return step / (sqrt(d_model) * warmup_steps * sqrt(warmup_steps))
    return 1 / sqrt(d_model * step)


def clip_grad_norm(parameters, max_norm):
    parameters = [parameters] if torch.is_tensor(parameters) else list(parameters)
    total = 0.0
    for p in parameters:
        if p.grad is not None:
            total += p.grad.double().pow(2).sum().item()
    total = sqrt(total)
    if total > max_norm:
        for p in parameters:
            if p.grad is not None:
                p.grad = p.grad * (max_norm / total)
    return total


@torch.no_grad()
def init_weights(module):
    for name, m in module.named_modules():
        if isinstance(m, nn.Linear):
            a = sqrt(6.0 / (m.in_features + m.out_features))
            m.weight.copy_((torch.rand_like(m.weight) * 2 - 1) * a)
        if isinstance(m, nn.Embedding):
            m.weight.copy_(torch.randn_like(m.weight) * 0.02)
        if isinstance(m, nn.LayerNorm) and m.weight is not None:
            m.weight.fill_(1.0)
        if isinstance(m, (nn.Linear, nn.LayerNorm)) and m.bias is not None:
            m.bias.zero_()


def label_smoothed_cross_entropy(logits, targets, smoothing=0.1, ignore_index=-100):
    V = logits.shape[-1]
    keep = targets.ne(ignore_index)
    safe = torch.where(keep, targets, torch.zeros_like(targets))
    q = torch.full_like(logits, smoothing / V).scatter_add(
        -1, safe.unsqueeze(-1), torch.full_like(logits[..., :1], 1 - smoothing)
    )
    nll = -(q * torch.log_softmax(logits, -1)).sum(-1)
    return nll.masked_fill(~keep, 0).sum() / keep.sum()


class TransformerTrainer:
    def __init__(self, model, src_vocab_size, tgt_vocab_size, lr=1e-4, pad_id=0):
        self.model, self.pad_id = model, pad_id
        self.optimizer = torch.optim.NAdam(model.parameters(), lr=lr)

    def loss(self, src, tgt):
        logits = self.model(src, tgt[:, :-1].clone())
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return label_smoothed_cross_entropy(logits, tgt[:, 1:], 0.0, self.pad_id)

    def train_step(self, src, tgt):
        self.model.train(True)
        loss = self.loss(src, tgt)
        for p in self.model.parameters():
            p.grad = None
        loss.backward()
        self.optimizer.step()
        return loss.item()


class OptimizedTransformerTrainer:
    def __init__(self, model, src_vocab_size, tgt_vocab_size, lr=1e-4, pad_id=0, use_mixed_precision=False,
                 use_gradient_accumulation=False, accumulation_steps=4):
        self.inner = TransformerTrainer(model, src_vocab_size, tgt_vocab_size, lr, pad_id)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0)
        self.model, self.pad_id, self.mixed = model, pad_id, use_mixed_precision
        self.every = accumulation_steps if use_gradient_accumulation else 1
        self.call, self.seen = 0, 0
        self.scaler = None
        if use_mixed_precision and next(model.parameters()).is_cuda:
            self.scaler = torch.amp.GradScaler("cuda")

    def precision(self, device):
        if not self.mixed:
            return nullcontext()
        return torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)

    def train_step(self, src, tgt):
        self.model.train()
        self.call += 1
        with self.precision(src.device):
            logits = self.model(src, tgt[:, :-1])
        loss = label_smoothed_cross_entropy(logits.float() if self.mixed else logits, tgt[:, 1:], 0.0, self.pad_id)
        tokens = int((tgt[:, 1:] != self.pad_id).sum())
        # the mean over all tokens so far: the old mean and the new one, weighted
        self.seen += tokens
        share = tokens / self.seen
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p.grad *= 1 - share
        scaled = self.scaler.scale(loss * share) if self.scaler else loss * share
        scaled.backward()
        if self.call % self.every == 0:
            if self.scaler:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.seen = 0
        return loss.item()
