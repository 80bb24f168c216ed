"""Model parallelism: a model that is too large for one device, cut into stages of whole layers.

Each device holds the weights of its own layers only. The activations visit one device after the other:

    ids ──► devices[0]             ──x──►  devices[1]   ──x──►  …  ──x──►  devices[-1]           ──► logits
            embeddings, layers             layers                          layers, norm, output

This is the naive form: while one device computes, all others wait. GPipe (Huang et al. 2019, "GPipe: Efficient Training
of Giant Neural Networks using Pipeline Parallelism") has the same stages, and cuts the batch into pieces that follow one
another through them. Cutting inside a layer (tensor parallelism; Shoeybi et al. 2019, "Megatron-LM") is another way.

Letters in the shapes: B batch, T length, H heads, D = d_model, V vocabulary.
"""

from collections.abc import Sequence
from itertools import pairwise

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
        raise ValueError(f"num_layers must be at least 0, not {num_layers}")
    cuts = [num_layers * stage // num_stages for stage in range(num_stages + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]


def _normal(*shape: int, std: float = 0.02) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * std)


class _Embed(nn.Module):
    """ids (B, T) -> token + position (B, T, D)."""

    def __init__(self, vocab_size: int, d_model: int, max_len: int) -> None:
        super().__init__()
        self.tokens = _normal(vocab_size, d_model)
        self.positions = _normal(max_len, d_model)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids.long(), self.tokens) + self.positions[: ids.shape[1]]


class _Block(nn.Module):
    """x ← x + Attention(LN(x)), then x ← x + FFN(LN(x)); the heads have a dimension of their own in the weights."""

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
    """x (B, T, D) -> logits (B, T, V)."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.weight = _normal(vocab_size, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(x), self.weight)


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
        """input_ids (B, T) integers on any device -> logits (B, T, V); they may be on any of the devices.

        Raises:
            ValueError: T is more than max_len.
        """
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        x = input_ids
        for part in (self.embed, *self.blocks, self.unembed):
            x = part(x.to(next(part.parameters()).device))  # does nothing where x is there already
        return x
