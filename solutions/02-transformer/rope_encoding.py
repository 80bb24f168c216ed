"""Rotary position embeddings (RoPE). Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".

RoPE adds nothing to the embeddings. It turns each query and key, in every attention layer, by angles that grow with
the position: the vector is cut into pairs of numbers, and pair i at position m is rotated by m · theta_i. Turning
both by the same angle changes no score, so a score depends on how far apart they are, not on where they stand:

    <R(m) q, R(n) k> = <R(m - n) q, k>

The values are not turned: they are what is read, not what is compared.

Sizes: B batch, H heads, T length, D = dim, the size of what is turned (one head's, not the whole model's).
"""

import math

import torch
from torch import nn


def rope_frequencies(dim: int, base: float = 10000.0, scaling: dict | None = None) -> torch.Tensor:
    """How far each pair turns from one position to the next, in radians. Su et al. 2021, section 3.2.2.

        theta_i = base^(-2i / dim)   for i = 0..dim/2 - 1

    The first pair turns by one radian per position; even in a long text the last does not come round once. A model
    that was trained on L positions has never seen the angles beyond, so to read longer texts the slow pairs are slowed
    down further. With f = factor:

    - {"type": "linear", "factor"}: theta / f, as if the positions lay closer together. Chen et al. 2023, "Extending
      Context Window of Large Language Models via Positional Interpolation".
    - {"type": "ntk", "factor"}: theta with base · f^(dim / (dim - 2)), which leaves the fastest pair as it is and slows
      down the slowest by f. bloc97 2023, "NTK-Aware Scaled RoPE".
    - {"type": "yarn", "factor", "original_max_position_embeddings"}, and optionally "beta_fast" (32), "beta_slow" (1),
      "truncate" (True): pairs that turn more than beta_fast times within L stay, those below beta_slow turns become
      theta / f, and a ramp over the pairs in between. Peng et al. 2023, "YaRN". The attention factor of YaRN is
      not part of the frequencies.
    - {"type": "llama3", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}: the same
      idea with a ramp over the number of turns. Llama 3.1, as in `transformers`.

    Args:
        dim: the size of the vectors that are turned, even.
        base: the greater, the slower the last pairs turn.
        scaling: None, or a dict as above. Keys that its type does not use are ignored.

    Returns:
        (dim / 2,) float32, on the CPU.

    Raises:
        ValueError: dim is odd, the type is unknown, or a key is missing.
    """
    # student: theta first, then what the type of scaling makes of it
    return _frequencies(dim, base, scaling).float()


def apply_rope(
    x: torch.Tensor, positions: torch.Tensor, base: float = 10000.0, interleaved: bool = True
) -> torch.Tensor:
    """Turns the pairs of x by the angles of their positions. Su et al. 2021, equation 34.

        (a, b) -> (a cos - b sin, a sin + b cos)   with the angle position · theta_i

    Args:
        x: (..., T, dim), queries or keys: (B, T, dim), (B, H, T, dim) or more. dim is even.
        positions: (T,), the same for the whole batch, or (B, T), where B is the first dimension of x.
        base: see `rope_frequencies`.
        interleaved: True turns the pairs (0, 1), (2, 3), … as in the paper; False turns (0, dim/2), (1, dim/2 + 1), …
            as `transformers` does. The two differ by a fixed permutation of the numbers, but weights that were trained
            with the one are useless with the other.

    Returns:
        The shape and dtype of x, right to 1e-5 for positions below 4096.

    Raises:
        ValueError: dim is odd.
    """
    # student: the angles in float64, (T, dim / 2), then turn every pair
    angles = _angles(positions, _frequencies(x.shape[-1], base))  # (T, dim / 2) or (B, T, dim / 2)
    return _turned(x, angles.cos(), angles.sin(), interleaved)


class RoPEEncoding(nn.Module):
    """RoPE with the cosines and sines of all positions worked out once. It has no parameters: nothing is learned.

    Args:
        d_model: the size of the last dimension of x, even; in attention that is the size of a head.
        max_len: the number of positions.
        base: see `rope_frequencies`.
        interleaved: see `apply_rope`.

    Raises:
        ValueError: d_model is odd.
    """

    def __init__(self, d_model: int, max_len: int = 2048, base: float = 10000.0, interleaved: bool = True) -> None:
        # student: keep cosines and sines as buffers that are not saved
        super().__init__()
        if d_model % 2:
            raise ValueError(f"d_model={d_model} is odd: RoPE turns pairs of numbers")
        self.max_len = max_len
        self.interleaved = interleaved
        angles = _angles(torch.arange(max_len), _frequencies(d_model, base))  # (max_len, D / 2)
        # A buffer moves with the layer; persistent=False, because what can be worked out need not be saved, and a
        # checkpoint then loads into a layer with another max_len.
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, D) or (B, H, T, D) -> the same shape and dtype, turned as `apply_rope` does.

        Args:
            x: queries or keys.
            positions: (T,) or (B, T) integers; by default 0..T - 1. A cache of keys needs others: the next token of a
                text of 100 is at position 100, though it comes alone.

        Raises:
            ValueError: T is greater than max_len, or a position is outside 0..max_len - 1.
        """
        # student: look the rows of the positions up and turn x
        T = x.shape[-2]
        if self.max_len < T:
            raise ValueError(f"x has {T} positions, more than max_len={self.max_len}")
        if positions is None:
            return _turned(x, self.cos[:T], self.sin[:T], self.interleaved)
        # A negative index would silently count from the end of the table.
        if ((positions < 0) | (positions >= self.max_len)).any():
            raise ValueError(f"positions must be in 0..{self.max_len - 1} (max_len - 1), got {positions.tolist()}")
        return _turned(x, self.cos[positions], self.sin[positions], self.interleaved)


def _frequencies(dim: int, base: float, scaling: dict | None = None) -> torch.Tensor:  # solution only
    """The frequencies in float64. Position 4000 multiplies the error of a frequency by 4000: float32 is not enough."""
    if dim % 2:
        raise ValueError(f"dim={dim} is odd: RoPE turns pairs of numbers")
    if scaling is None:
        return _theta(dim, base)
    kind = _required(scaling, "type")
    if kind == "linear":
        return _theta(dim, base) / _required(scaling, "factor")
    if kind == "ntk":
        return _theta(dim, base * _required(scaling, "factor") ** (dim / (dim - 2)))
    if kind == "yarn":
        return _yarn(dim, base, scaling)
    if kind == "llama3":
        return _llama3(dim, base, scaling)
    raise ValueError(f"scaling has the unknown type {kind!r}: there are linear, ntk, yarn and llama3")


def _theta(dim: int, base: float) -> torch.Tensor:  # solution only
    two_i = torch.arange(0, dim, 2, dtype=torch.float64)
    return base ** (-two_i / dim)  # (dim / 2,)


def _required(scaling: dict, key: str) -> float:  # solution only
    if key not in scaling:
        raise ValueError(f"scaling has no key {key!r}: {scaling}")
    return scaling[key]


def _yarn(dim: int, base: float, scaling: dict) -> torch.Tensor:  # solution only
    factor = _required(scaling, "factor")
    length = _required(scaling, "original_max_position_embeddings")

    def pair_that_turns(times: float) -> float:
        """The i, not yet whole, for which L · theta_i is `times` full turns."""
        return dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(base))

    first = pair_that_turns(scaling.get("beta_fast") or 32)
    last = pair_that_turns(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001  # a step instead of a ramp, without a division by zero

    theta = _theta(dim, base)
    i = torch.arange(dim // 2, dtype=torch.float64)
    ramp = ((i - first) / (last - first)).clamp(0, 1)  # 0: stays, 1: slowed down
    return (1 - ramp) * theta + ramp * theta / factor


def _llama3(dim: int, base: float, scaling: dict) -> torch.Tensor:  # solution only
    factor = _required(scaling, "factor")
    low, high = _required(scaling, "low_freq_factor"), _required(scaling, "high_freq_factor")
    length = _required(scaling, "original_max_position_embeddings")

    theta = _theta(dim, base)
    turns = length * theta / (2 * math.pi)  # how often each pair comes round within L
    stays = ((turns - low) / (high - low)).clamp(0, 1)  # 1: more than `high` turns, 0: fewer than `low`
    return stays * theta + (1 - stays) * theta / factor


def _angles(positions: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:  # solution only
    """(T,) or (B, T) positions -> float64 angles of the same shape with dim / 2 behind it."""
    return positions.double()[..., None] * frequencies.to(positions.device)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:  # solution only
    """cos and sin: (T, dim / 2) or (B, T, dim / 2)."""
    if cos.dim() == 3:  # a row of positions for each sequence: (B, 1, …, T, dim / 2), the same for all heads
        shape = (cos.shape[0], *[1] * (x.dim() - 3), *cos.shape[1:])
        cos, sin = cos.view(shape), sin.view(shape)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]  # (..., T, dim / 2)
        pairs = (a * cos - b * sin, a * sin + b * cos)
        return torch.stack(pairs, dim=-1).flatten(-2)  # back to 0, 1, 2, 3, …
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
