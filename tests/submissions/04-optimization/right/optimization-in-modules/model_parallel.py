import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def partition_layers(num_layers: int, num_stages: int) -> list[range]:
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, not {num_stages}")
    if num_layers < 0:
        raise ValueError(f"num_layers must not be negative, but it is {num_layers}")
    size, rest = divmod(num_layers, num_stages)
    stages, start = [], 0
    for stage in range(num_stages):
        stop = start + size + (stage < rest)  # the first ones are the larger ones
        stages.append(range(start, stop))
        start = stop
    return stages


class CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.c_attn = nn.Linear(d_model, 3 * d_model)
        self.c_proj = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        q, k, v = self.c_attn(x).split(D, dim=2)
        q, k, v = (part.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = CausalSelfAttention(d_model, num_heads, dropout)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class ModelParallelTransformer(nn.Module):
    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        num_gpus: int = 2,
        devices: Sequence[torch.device | str] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads != 0:
            raise ValueError(f"d_model must be divisible by num_heads, but d_model={d_model}, num_heads={num_heads}")
        if devices is not None:
            devices = [torch.device(device) for device in devices]
            if not devices:
                raise ValueError("devices is empty: at least one device is needed")
        else:
            if num_gpus < 1:
                raise ValueError(f"num_gpus must be at least 1, not {num_gpus}")
            enough = torch.cuda.is_available() and torch.cuda.device_count() >= num_gpus
            devices = [torch.device("cuda", i) if enough else torch.device("cpu") for i in range(num_gpus)]

        self.devices = devices
        self.num_gpus = len(devices)
        self.max_len = 1024
        self.stages = partition_layers(num_layers, self.num_gpus)
        first, last, dropout = devices[0], devices[-1], 0.1

        self.wte = self._ready(nn.Embedding(vocab_size, d_model), first)
        self.wpe = self._ready(nn.Embedding(self.max_len, d_model), first)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList()  # one flat list: the names do not depend on the stages
        for device, stage in zip(devices, self.stages):
            for _ in stage:
                self.h.append(self._ready(Block(d_model, num_heads, dropout), device, 1 / math.sqrt(2 * num_layers)))
        self.ln_f = self._ready(nn.LayerNorm(d_model), last)
        self.lm_head = self._ready(nn.Linear(d_model, vocab_size, bias=False), last)

    @staticmethod
    def _ready(module: nn.Module, device: torch.device, residual: float = 1.0) -> nn.Module:
        for name, part in module.named_modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=0.02 * (residual if name.endswith("c_proj") else 1.0))
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        return module.to(device)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        T = input_ids.shape[1]
        if T > self.max_len:
            raise ValueError(f"input_ids has {T} positions, more than max_len={self.max_len}")
        ids = input_ids.to(device=self.devices[0], dtype=torch.long)
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(T, device=ids.device)))  # (B, T, D)
        for device, stage in zip(self.devices, self.stages):
            x = x.to(device)
            for i in stage:
                x = self.h[i](x)
        return self.lm_head(self.ln_f(x))
