import math
from functools import partial

import torch
from torch import nn


def _get(scaling, name, *default):
    try:
        return scaling[name]
    except KeyError:
        if default:
            return default[0]
        raise ValueError(f"missing key in scaling: {name}") from None


def _inv(dim, base):
    return torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(base) / dim))


def _linear(dim, base, s):
    return _inv(dim, base).div(_get(s, "factor"))


def _ntk(dim, base, s):
    return _inv(dim, base * math.pow(_get(s, "factor"), dim / (dim - 2)))


def _smooth(dim, base, factor, mask):
    """mask 1: unchanged, 0: divided."""
    inv = _inv(dim, base)
    return torch.lerp(inv / factor, inv, mask)


def _yarn(dim, base, s):
    factor, orig = _get(s, "factor"), _get(s, "original_max_position_embeddings")
    fast, slow = _get(s, "beta_fast", 32), _get(s, "beta_slow", 1)
    ends = [dim / 2 * math.log(orig / (2 * math.pi * r)) / math.log(base) for r in (fast, slow)]
    if _get(s, "truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    lo, hi = max(ends[0], 0), min(ends[1], dim - 1)
    ramp = (torch.arange(dim // 2).double() - lo) / max(hi - lo, 0.001)
    return _smooth(dim, base, factor, 1 - ramp.clamp(0.0, 1.0))


def _llama3(dim, base, s):
    factor, lo, hi = _get(s, "factor"), _get(s, "low_freq_factor"), _get(s, "high_freq_factor")
    turns = _get(s, "original_max_position_embeddings") * _inv(dim, base) / (2 * math.pi)
    return _smooth(dim, base, factor, torch.clamp((turns - lo) / (hi - lo), 0, 1))


def rope_frequencies(dim, base=10000.0, scaling=None):
    if dim & 1:
        raise ValueError(f"odd dim: {dim}")
    rule = _inv
    if scaling is not None:
        rules = {"linear": _linear, "ntk": _ntk, "yarn": _yarn, "llama3": _llama3}
        kind = _get(scaling, "type")
        if kind not in rules:
            raise ValueError(f"unknown scaling type: {kind}")
        rule = partial(rules[kind], s=scaling)
    return rule(dim, base).to(torch.float32)


def rotate_half(x):
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


def _to_halves(dim):
    return torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])


def _rope(x, cos, sin, interleaved):
    if not interleaved:
        return x * cos + rotate_half(x) * sin
    order = _to_halves(x.shape[-1]).to(x.device)
    turned = _rope(x[..., order], cos, sin, False)
    return turned[..., order.argsort()]


def _tables(positions, dim, base, dtype):
    if dim % 2:
        raise ValueError(f"the last dimension of x, dim={dim}, is odd")
    angle = positions.unsqueeze(-1).double() * _inv(dim, base).to(positions.device)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x, positions, base=10000.0, interleaved=True):
    cos, sin = _tables(positions, x.shape[-1], base, x.dtype)
    if positions.ndim == 2 and x.ndim > 3:
        cos, sin = (t.reshape(t.shape[0], *(1,) * (x.ndim - 3), *t.shape[1:]) for t in (cos, sin))
    return _rope(x, cos, sin, interleaved)


class RoPEEncoding(nn.Module):
    def __init__(self, d_model, max_len=2048, base=10000.0, interleaved=True):
        super().__init__()
        if d_model % 2:
            raise ValueError(f"d_model={d_model}")
        self.dim, self.max_len, self.base, self.interleaved = d_model, max_len, base, interleaved
        self._cache = {}

    def _lookup(self, x):
        key = (x.dtype, x.device)
        if key not in self._cache:
            self._cache[key] = _tables(torch.arange(self.max_len, device=x.device), self.dim, self.base, x.dtype)
        return self._cache[key]

    def forward(self, x, positions=None):
        T = x.size(-2)
        if T > self.max_len:
            raise ValueError(f"T={T} > max_len={self.max_len}")
        if positions is None:
            positions = torch.arange(T, device=x.device)
        for p in positions.flatten().tolist():
            if not 0 <= p < self.max_len:
                raise ValueError(f"position {p} is not in 0..{self.max_len - 1}")
        cos, sin = (table[positions] for table in self._lookup(x))
        if positions.dim() == 2 and x.dim() == 4:
            cos, sin = cos[:, None], sin[:, None]
        return _rope(x, cos, sin, self.interleaved)
