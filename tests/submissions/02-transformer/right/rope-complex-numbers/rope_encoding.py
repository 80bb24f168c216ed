import math

import numpy as np
import torch
import torch.nn as nn

_NEEDED = {
    "linear": ["factor"],
    "ntk": ["factor"],
    "yarn": ["factor", "original_max_position_embeddings"],
    "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
}


def rope_frequencies(dim, base=10000.0, scaling=None):
    if dim % 2 == 1:
        raise ValueError("dim must be even, got %d" % dim)
    inv_freq = 1.0 / base ** (np.arange(0, dim, 2) / dim)
    if scaling is None:
        return torch.from_numpy(inv_freq)

    if scaling.get("type") not in _NEEDED:
        raise ValueError(f"type of scaling must be one of {list(_NEEDED)}, got {scaling.get('type')}")
    for key in _NEEDED[scaling["type"]]:
        if scaling.get(key) is None:
            raise ValueError(f"scaling of type {scaling['type']} needs {key}")
    f = scaling["factor"]

    if scaling["type"] == "linear":
        inv_freq = inv_freq / f
    elif scaling["type"] == "ntk":
        base = base * f ** (dim / (dim - 2))
        inv_freq = 1.0 / base ** (np.arange(0, dim, 2) / dim)
    elif scaling["type"] == "llama3":
        L = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        new = []
        for freq in inv_freq:
            wavelen = 2 * math.pi / freq
            if wavelen < L / high:
                new.append(freq)
            elif wavelen > L / low:
                new.append(freq / f)
            else:
                smooth = (L / wavelen - low) / (high - low)
                new.append((1 - smooth) * freq / f + smooth * freq)
        inv_freq = np.array(new)
    else:
        L = scaling["original_max_position_embeddings"]

        def find_dim(rotations):
            return dim * math.log(L / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low, high = find_dim(scaling.get("beta_fast", 32)), find_dim(scaling.get("beta_slow", 1))
        if scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        keep = 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        inv_freq = inv_freq / f * (1 - keep) + inv_freq * keep
    return torch.from_numpy(inv_freq)


def apply_rope(x, positions, base=10000.0, interleaved=True):
    dim = x.size(-1)
    freqs = rope_frequencies(dim, base).to(x.device)
    angle = torch.einsum("...t,f->...tf", positions.to(torch.float64), freqs)
    rot = torch.polar(torch.ones_like(angle), angle)  # complex128
    if positions.dim() == 2:
        while rot.dim() < x.dim():
            rot = rot.unsqueeze(1)
    wide = x.double()
    if interleaved:
        z = torch.view_as_complex(wide.contiguous().reshape(*x.shape[:-1], dim // 2, 2))
        out = torch.view_as_real(z * rot).reshape(x.shape)
    else:
        z = torch.complex(wide[..., : dim // 2], wide[..., dim // 2 :]) * rot
        out = torch.cat([z.real, z.imag], dim=-1)
    return out.type_as(x)


class RoPEEncoding(nn.Module):
    def __init__(self, d_model, max_len=2048, base=10000.0, interleaved=True):
        super().__init__()
        if d_model % 2 != 0:
            raise ValueError(f"d_model has to be even, not {d_model}")
        self.d_model, self.max_len, self.base, self.interleaved = d_model, max_len, base, interleaved

    def forward(self, x, positions=None):
        seq_len = x.shape[-2]
        if seq_len > self.max_len:
            raise ValueError("sequence of %d is longer than max_len %d" % (seq_len, self.max_len))
        if positions is None:
            positions = torch.arange(seq_len, device=x.device)
        elif positions.min().item() < 0 or positions.max().item() >= self.max_len:
            raise ValueError("positions outside [0, %d)" % self.max_len)
        return apply_rope(x, positions, self.base, self.interleaved)
