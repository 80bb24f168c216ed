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
    # student: where each stage starts and ends
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, not {num_stages}")
    borders = [stage * num_layers // num_stages for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(borders, borders[1:], strict=False)]


class _Block(nn.Module):  # solution only
    """A layer of GPT-2: h ← h + Attention(LN(h)), then h ← h + FFN(LN(h)), with h (B, T, D)."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, num_heads)
        self.norm_2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU("tanh"), nn.Linear(4 * d_model, d_model)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(self.norm_1(h))
        h = h + self.dropout(attended)
        return h + self.dropout(self.feed_forward(self.norm_2(h)))


def _chosen(num_gpus: int, devices: Sequence[torch.device | str] | None) -> list[torch.device]:  # solution only
    """One device for each stage."""
    if devices is not None:
        if len(devices) == 0:
            raise ValueError(f"devices must name at least one device, not {devices}")
        return [torch.device(device) for device in devices]
    if num_gpus < 1:
        raise ValueError(f"num_gpus must be at least 1, not {num_gpus}")
    if torch.cuda.device_count() < num_gpus:
        return [torch.device("cpu")] * num_gpus
    return [torch.device("cuda", index) for index in range(num_gpus)]


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
        # student: a list of all layers, whatever the stages; then each layer goes to the device of its stage
        super().__init__()
        self.devices = _chosen(num_gpus, devices)
        self.num_gpus = len(self.devices)
        self.max_len = 1024
        self.stages = partition_layers(num_layers, self.num_gpus)

        self.token = nn.Embedding(vocab_size, d_model)
        self.position = LearnedPositionalEmbedding(d_model, self.max_len)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(
            _Block(d_model, num_heads) for _ in range(num_layers)
        )  # one list: names without stages
        self.norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(_start_small)
        self._spread()

    def _spread(self) -> None:  # solution only
        """Moves each part to its device."""
        first, last = self.devices[0], self.devices[-1]
        for part, device in ((self.token, first), (self.position, first), (self.norm, last), (self.lm_head, last)):
            part.to(device)
        for stage, device in zip(self.stages, self.devices, strict=True):
            for layer in stage:
                self.blocks[layer].to(device)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) integers on any device -> logits (B, T, V); they may be on any of the devices.

        Raises:
            ValueError: T is more than max_len.
        """
        # student: embed on the first device; move x once before each stage
        if input_ids.shape[1] > self.max_len:
            raise ValueError(f"input_ids has {input_ids.shape[1]} positions, more than max_len={self.max_len}")
        x = self.dropout(self.position(self.token(input_ids.to(self.devices[0]))))  # (B, T, D)
        for stage, device in zip(self.stages, self.devices, strict=True):
            x = x.to(device)  # the border; on the same device this does nothing
            for layer in stage:
                x = self.blocks[layer](x)
        return self.lm_head(self.norm(x))


def _start_small(module: nn.Module) -> None:  # solution only
    """N(0, 0.02) for matrices and embeddings, zero for biases, as in GPT-2: the first loss is near ln V."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
