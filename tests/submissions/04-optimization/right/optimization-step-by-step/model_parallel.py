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

import torch
from attention import CausalAttention
from positional_encoding import LearnedPositionalEmbedding
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
    size, larger = divmod(num_layers, num_stages)  # the first `larger` stages have a layer more
    stages = []
    start = 0
    for stage in range(num_stages):
        end = start + size + (1 if stage < larger else 0)
        stages.append(range(start, end))
        start = end
    return stages


class _Layer(nn.Module):
    """x + Attention(LN(x)), then x + FFN(LN(x))."""

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
        """input_ids (B, T) integers on any device -> logits (B, T, V); they may be on any of the devices.

        Raises:
            ValueError: T is more than max_len.
        """
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} tokens, more than max_len={self.max_len}")
        ids = input_ids.to(self.devices[0])
        x = self.dropout(self.position(self.token(ids)))  # (B, T, D)
        for stage, device in zip(self.stages, self.devices):
            x = x.to(device)
            for i in stage:
                x = self.layers[i](x)
        return self.output(self.norm(x))
