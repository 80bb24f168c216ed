from collections.abc import Sequence

import torch
from attention import CausalAttention
from positional_encoding import LearnedPositionalEmbedding
from torch import nn


def partition_layers(num_layers: int, num_stages: int) -> list[range]:
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, not {num_stages}")
    if num_layers < 0:
        raise ValueError(f"num_layers must be at least 0, not {num_layers}")
    size, larger = divmod(num_layers, num_stages)  # the first `larger` stages have a layer more
    stages = []
    start = 0
    for stage in range(num_stages):
        end = start + size + (1 if stage < larger else 0)
        stages.append(range(start, end))
        start = end
    return stages


class _Layer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, num_heads, dropout)
        self.norm_2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU("tanh"), nn.Linear(4 * d_model, d_model)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(self.norm_1(x))
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm_2(x)))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


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
            raise ValueError(f"d_model={d_model} is not divisible by num_heads={num_heads}")
        if devices is None:
            if num_gpus < 1:
                raise ValueError(f"num_gpus must be at least 1, not {num_gpus}")
            if torch.cuda.device_count() >= num_gpus:
                devices = [f"cuda:{i}" for i in range(num_gpus)]
            else:
                devices = ["cpu"] * num_gpus
        elif len(devices) == 0:
            raise ValueError("devices must not be empty")
        self.devices = [torch.device(device) for device in devices]
        self.num_gpus = len(self.devices)
        self.max_len = 1024
        self.stages = partition_layers(num_layers, self.num_gpus)

        self.token = nn.Embedding(vocab_size, d_model)
        self.position = LearnedPositionalEmbedding(d_model, self.max_len)
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.ModuleList([_Layer(d_model, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(_init_weights)

        self.token.to(self.devices[0])
        self.position.to(self.devices[0])
        for stage, device in zip(self.stages, self.devices):
            for i in stage:
                self.layers[i].to(device)
        self.norm.to(self.devices[-1])
        self.output.to(self.devices[-1])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} tokens, more than max_len={self.max_len}")
        ids = input_ids.to(self.devices[0])
        x = self.dropout(self.position(self.token(ids)))  # (B, T, D)
        for stage, device in zip(self.stages, self.devices):
            x = x.to(device)
            for i in stage:
                x = self.layers[i](x)
        return self.output(self.norm(x))
