"""Model parallelism: a model that is too large for one device, cut into stages of whole layers.

Each device holds the weights of its own layers only. The activations visit one device after the other:

    ids ──► devices[0]             ──x──►  devices[1]   ──x──►  …  ──x──►  devices[-1]           ──► logits
            embeddings, layers             layers                          layers, norm, output

This is the naive form: while one device computes, all others wait. GPipe (Huang et al. 2019, "GPipe: Efficient Training
of Giant Neural Networks using Pipeline Parallelism") has the same stages, and cuts the batch into pieces that follow one
another through them. Cutting inside a layer (tensor parallelism; Shoeybi et al. 2019, "Megatron-LM") is another way.

Letters in the shapes: B batch, T length, H heads, D = d_model, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def partition_layers(num_layers: int, num_stages: int) -> list[range]:
    """Cuts the layers 0..num_layers-1 into num_stages stages of neighbours, as equal as possible (Huang et al. 2019,
    section 2.2, with layers that cost the same).

    Args:
        num_layers: 0 or more.
        num_stages: 1 or more. There may be more stages than layers: some are then empty.

    Returns:
        num_stages ranges with step 1; one after the other they are 0, 1, …, num_layers - 1. Their sizes differ by at most
        one; which of them are the larger ones is up to you.

    Raises:
        ValueError: num_stages is less than 1.
    """
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
    """As in nanoGPT; no mask is kept, so there is no buffer that could be on a wrong device."""

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
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

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
    """A GPT like lesson 2's GPTModel whose layers are spread over devices, in the stages of partition_layers.

    Pre-norm layers with causal attention and a feed-forward of width 4·D, learned positions, at most max_len = 1024 tokens.
    Each device holds the parameters and buffers of its own layers and of no others; the embeddings are on the first device,
    the last norm and the output layer on the last one. A Parameter is on one device: so the output layer has a weight of
    its own, which is not the token embedding's.

    The activations cross each border between two stages once a call: x (B, T, D) moves to the next device and stays there
    for all of that stage's layers. Nothing else moves but the ids to the first device.

    Names in the state_dict do not depend on the stages: the state of an instance can be loaded into any other one with the
    same four sizes, whatever its num_gpus and devices, and both then have equal logits in eval mode. Which names they are,
    and how the weights start, is up to you.

    Build the layers from lesson 1's CausalAttention and LearnedPositionalEmbedding, or write your own. Cutting up lesson 2's
    GPTModel does not work: how its parts are called is not in its contract, and the reference may call them differently.

    Args:
        vocab_size: V.
        d_model: D.
        num_layers: how many layers.
        num_heads: H.
        num_gpus: how many stages: one on each of the GPUs 0..num_gpus-1. If there are fewer GPUs than that, all stages
            are on the CPU.
        devices: one for each stage, as torch.device or str; a device may occur more than once. If given, num_gpus is
            ignored.

    Attributes:
        num_gpus: the number of stages: len(devices) if devices are given.
        devices: a list of num_gpus torch.device, one for each stage.
        max_len: 1024.

    Raises:
        ValueError: D is not divisible by H, num_gpus is less than 1, or devices is empty.
    """

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
        """Starts the weights as GPT-2 does, then moves them to their device."""
        for name, part in module.named_modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=0.02 * (residual if name.endswith("c_proj") else 1.0))
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        return module.to(device)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers on any device -> logits (B, T, V); they may be on any of the devices.

        Raises:
            ValueError: T is more than max_len.
        """
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
