from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def partition_layers(num_layers: int, num_stages: int) -> list[range]:
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, not {num_stages}")
    if num_layers < 0:
        raise ValueError(f"num_layers must be at least 0, not {num_layers}")
    cuts = [num_layers * stage // num_stages for stage in range(num_stages + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]


def _normal(*shape: int, std: float = 0.02) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * std)


class _Embed(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, max_len: int) -> None:
        super().__init__()
        self.tokens = _normal(vocab_size, d_model)
        self.positions = _normal(max_len, d_model)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids.long(), self.tokens) + self.positions[: ids.shape[1]]


class _Block(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        width, last = d_model // num_heads, 0.02 / (2 * num_layers) ** 0.5
        self.norm_attention, self.norm_ffn = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = _normal(3, num_heads, width, d_model)
        self.join = _normal(num_heads, width, d_model, std=last)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        for linear, std in ((self.up, 0.02), (self.down, last)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = torch.einsum("btd,chwd->cbhtw", self.norm_attention(x), self.qkv).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D / H)
        x = x + torch.einsum("bhtw,hwd->btd", mixed, self.join)
        return x + self.down(F.gelu(self.up(self.norm_ffn(x)), approximate="tanh"))


class _Unembed(nn.Module):
    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.weight = _normal(vocab_size, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(x), self.weight)


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
            raise ValueError(f"d_model must be divisible by num_heads, but they are {d_model} and {num_heads}")
        if devices is None:
            if num_gpus < 1:
                raise ValueError(f"num_gpus must be at least 1, not {num_gpus}")
            enough = torch.cuda.device_count() >= num_gpus
            devices = [torch.device("cuda", i) if enough else torch.device("cpu") for i in range(num_gpus)]
        if len(devices) == 0:
            raise ValueError("devices is empty; there must be one for each stage")
        self.devices = [torch.device(device) for device in devices]
        self.num_gpus = len(self.devices)
        self.max_len = 1024

        # All weights start on the CPU, in the same order whatever the devices, and go to their place part by part.
        stages = partition_layers(num_layers, self.num_gpus)
        places = [device for device, stage in zip(self.devices, stages, strict=True) for _ in stage]
        self.embed = _Embed(vocab_size, d_model, self.max_len).to(self.devices[0])
        self.blocks = nn.ModuleList(_Block(d_model, num_heads, num_layers).to(place) for place in places)
        self.unembed = _Unembed(vocab_size, d_model).to(self.devices[-1])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        x = input_ids
        for part in (self.embed, *self.blocks, self.unembed):
            x = part(x.to(next(part.parameters()).device))  # does nothing where x is there already
        return x
