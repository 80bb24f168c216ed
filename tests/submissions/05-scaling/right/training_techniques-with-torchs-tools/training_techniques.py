import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader


class MixedPrecisionTrainer:
    def __init__(self, model, optimizer):
        self.model, self.opt = model, optimizer

    def train_step(self, batch, targets):
        self.model.train()
        for p in self.model.parameters():
            p.grad = None
        if not (targets != -100).any():
            return float("nan")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.model(batch)
            loss = F.cross_entropy(out.reshape(-1, out.size(-1)), targets.reshape(-1))
        loss.backward()
        self.opt.step()
        return float(loss.detach())


class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, *params):
        ctx.run, ctx.n = run, len(params)
        ctx.cast = torch.is_autocast_enabled("cpu")
        ctx.save_for_backward(x, *params)
        return run(x)

    @staticmethod
    def backward(ctx, grad):
        x, *params = ctx.saved_tensors
        need = [p for p in params if p.requires_grad]
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=ctx.cast):
            y = ctx.run(x)
        got = list(torch.autograd.grad(y, [x] + need, grad))
        gx = got.pop(0)
        return None, gx, *[got.pop(0) if p.requires_grad else None for p in params]


class Layer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.n1, self.n2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        y = self.n1(x)
        q, k, v = (f(y).view(b, t, self.h, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        s = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
        s = s.masked_fill(torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1), float("-inf")).softmax(-1)
        x = x + self.o((s @ v).transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.relu(self.up(self.n2(x))))


class MemoryEfficientLLM(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads=16):
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide d_model {d_model}")
        self.max_len = 1024
        self.emb = nn.Embedding(vocab_size, d_model)
        pos = torch.arange(1024)[:, None] / 100 ** (torch.arange(d_model) / d_model)
        self.register_buffer("pos", pos.sin(), persistent=False)
        self.layers = nn.ModuleList([Layer(d_model, num_heads) for _ in range(num_layers)])
        self.out = nn.Linear(d_model, vocab_size)

    def forward(self, input_ids):
        t = input_ids.size(1)
        if t > self.max_len:
            raise ValueError(f"sequence of length {t} exceeds max_len")
        x = self.emb(input_ids) + self.pos[:t]
        size = max(1, math.isqrt(len(self.layers)))  # segments of √L layers, as in the paper
        for start in range(0, len(self.layers), size):
            segment = nn.Sequential(*self.layers[start : start + size])
            x = Recompute.apply(segment, x, *segment.parameters())
        return self.out(x)


def train_with_gradient_accumulation(model, dataloader, optimizer, accumulation_steps=4):
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps={accumulation_steps}")
    model.train()
    total = n = pending = tokens = 0
    optimizer.zero_grad()

    def flush():
        if tokens:
            for p in model.parameters():
                if p.grad is not None:
                    p.grad /= tokens
            optimizer.step()
        optimizer.zero_grad()

    for x, y in dataloader:
        logits = model(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), y.reshape(-1), reduction="sum")
        loss.backward()
        total += loss.item()
        c = (y != -100).sum().item()
        n, tokens, pending = n + c, tokens + c, pending + 1
        if pending == accumulation_steps:
            flush()
            pending = tokens = 0
    if pending:
        flush()
    return total / n if n else float("nan")


class LLMTrainer:
    def __init__(self, model, train_dataset, val_dataset, config):
        cfg = dict(batch_size=8, lr=1e-3, weight_decay=0.01, max_grad_norm=1.0, seed=0)
        if set(config) - set(cfg):
            raise ValueError(f"unknown config keys {set(config) - set(cfg)}")
        cfg.update(config)
        if cfg["batch_size"] < 1:
            raise ValueError(f"batch_size {cfg['batch_size']}")
        self.cfg, self.model, self.tr, self.va = cfg, model, train_dataset, val_dataset
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=cfg["weight_decay"])
        self.epoch = 0
        self.rng = torch.Generator().manual_seed(cfg["seed"]).get_state()

    def _loss(self, x, y):
        out = self.model(x)
        return F.cross_entropy(out.transpose(1, 2), y, reduction="sum"), (y != -100).sum().item()

    def train_epoch(self):
        self.model.train()
        mine = torch.get_rng_state()
        torch.set_rng_state(self.rng)
        s = n = 0
        for x, y in DataLoader(self.tr, self.cfg["batch_size"], shuffle=True):
            loss, c = self._loss(x, y)
            s, n = s + loss.item(), n + c
            if c == 0:
                continue
            self.optimizer.zero_grad()
            (loss / c).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg["max_grad_norm"])
            self.optimizer.step()
        self.rng = torch.get_rng_state()
        torch.set_rng_state(mine)
        self.epoch += 1
        return s / n if n else float("nan")

    @torch.no_grad()
    def validate(self):
        was = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        s = n = 0
        try:
            for x, y in DataLoader(self.va, self.cfg["batch_size"], generator=torch.Generator()):
                if (y == -100).all():
                    continue
                loss, c = self._loss(x, y)
                s, n = s + loss.item(), n + c
        finally:
            for m, t in was:
                m.training = t
        return s / n if n else float("nan")

    def train(self, num_epochs):
        rows = []
        for _ in range(num_epochs):
            loss = self.train_epoch()
            rows.append(dict(train_loss=loss, val_loss=self.validate()))
        return rows

    def save(self, path):
        torch.save({"kind": "LLMTrainer", "m": self.model.state_dict(), "o": self.optimizer.state_dict(), "e": self.epoch, "r": self.rng}, path)

    def load(self, path):
        try:
            ck = torch.load(path, weights_only=True)
            assert ck["kind"] == "LLMTrainer"
            weights, state, epoch, rng = (ck[key] for key in "moer")
            model, optimizer = copy.deepcopy((self.model, self.optimizer))  # tried on copies first
            model.load_state_dict(weights)
            optimizer.load_state_dict(state)
        except FileNotFoundError:
            raise
        except Exception as e:
            raise ValueError(f"bad checkpoint {path}") from e
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        self.epoch, self.rng = epoch, rng
