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
    # TODO(student): theta first, then what the type of scaling makes of it
    raise NotImplementedError("rope_frequencies is not implemented yet")


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
    # TODO(student): the angles in float64, (T, dim / 2), then turn every pair
    raise NotImplementedError("apply_rope is not implemented yet")


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
        # TODO(student): keep cosines and sines as buffers that are not saved
        raise NotImplementedError("RoPEEncoding.__init__ is not implemented yet")

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, D) or (B, H, T, D) -> the same shape and dtype, turned as `apply_rope` does.

        Args:
            x: queries or keys.
            positions: (T,) or (B, T) integers; by default 0..T - 1. A cache of keys needs others: the next token of a
                text of 100 is at position 100, though it comes alone.

        Raises:
            ValueError: T is greater than max_len, or a position is outside 0..max_len - 1.
        """
        # TODO(student): look the rows of the positions up and turn x
        raise NotImplementedError("RoPEEncoding.forward is not implemented yet")
