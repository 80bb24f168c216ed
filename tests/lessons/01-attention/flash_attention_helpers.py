"""What the hidden tests of flash attention share: attention in float64, and the online softmax with its slips."""

import math

import torch

from shared import each, randn

# (B, H, Tq, Tk, Dh, block_size): tiles that fit, that leave a rest, that are larger than the sequence, of one element
SIZES = [
    (2, 3, 8, 8, 4, 4),
    (1, 2, 7, 8, 6, 3),
    (2, 1, 5, 9, 3, 4),
    (2, 2, 6, 11, 5, 1),
    (3, 2, 9, 4, 1, 64),
    (1, 1, 1, 1, 4, 8),
]
CAUSAL_SIZES = [(2, 3, 7, 7, 4, 3), (1, 2, 5, 9, 6, 4), (2, 1, 9, 5, 3, 2), (2, 2, 6, 6, 5, 64)]


def qkv(rng, B, H, Tq, Tk, Dh, dtype=torch.float32):
    """q, k, v and a gradient of the output; the scores are large enough for the running maximum to move."""
    q, g = 2 * randn(rng, 2, B, H, Tq, Dh, dtype=dtype)
    k, v = 1.5 * randn(rng, 2, B, H, Tk, Dh, dtype=dtype)
    return q, k, v, g / 2


def gentle(rng, block):
    """q, k, v on which neither the scale nor rescaling nor a rest matters: Dh is 1, the first key's scores are the largest,
    and the tiles fit."""
    q, k, v = randn(rng, 3, 2, 3, 2 * block, 1)
    k = k.clamp(-2, 2)
    k[:, :, 0] = 2.5
    return q.abs() + 0.2, k, v


def visible(q, k, causal):
    """(Tq, Tk) bool: which keys a query sees, both counted from the first."""
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    return seen.tril() if causal else seen


def plain(q, k, v, causal=False, *, scale=None, seen=None, over=-1, low=-math.inf):
    """softmax(q kᵀ / sqrt(Dh)) v and the logsumexp, in float64."""
    s = q.double() @ k.double().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    s = s.masked_fill(~(visible(q, k, causal) if seen is None else seen), low)
    return s.softmax(over) @ v.double(), s.logsumexp(-1)


def online(q, k, v, block, slip, causal=False, start=-math.inf, low=-math.inf):
    """The loop over tiles, in the dtype of q, with a slip: (output, logsumexp)."""
    outputs, sums = [], []
    s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible(q, k, causal), low)
    for i in range(0, q.shape[2], block):
        m = torch.full_like(s[:, :, i : i + block, :1], start)
        total, o = torch.zeros_like(m), 0
        for j in range(0, k.shape[2], block):
            tile, v_j = s[:, :, i : i + block, j : j + block], v[:, :, j : j + block]
            if causal and j > i + block - 1:
                break
            m_new = tile.amax((-2, -1) if slip == "tile's maximum" else -1, keepdim=True)
            m_new = m_new if slip == "newest" else torch.maximum(m, m_new)
            p = (tile - m_new).exp() if slip != "no maximum" else tile.exp()
            m_new = torch.zeros_like(m) if slip == "no maximum" else m_new
            fix = (m_new - m).exp() if slip == "upside down" else (m - m_new).exp()
            total = total * (1 if slip in ("sum", "both") else fix) + p.sum(-1, keepdim=True)
            o = o * (1 if slip in ("output", "both") else fix) + p @ v_j
            o = o / total if slip == "each" else o
            m = m_new
        outputs.append(o if slip in ("unnormalised", "each") else o / total)
        sums.append((m + total.log()).squeeze(-1))
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


def tiles(q, k, v, block, part=slice(None)):
    """The outputs of attention over each tile of keys alone."""
    starts = list(range(0, k.shape[2], block))[part]
    return [plain(q, k[:, :, j : j + block], v[:, :, j : j + block])[0] for j in starts]


def forward_mistakes(q, k, v, block):
    """What students make of the output and of the logsumexp: sentence -> a function that gives both."""
    Dh, full = q.shape[-1], k.shape[2] // block * block
    wide = q.double(), k.double(), v.double(), block
    return {
        "the scores are not divided by sqrt(Dh)": lambda: plain(q, k, v, scale=1.0),
        "the scores are divided by Dh; they should be divided by sqrt(Dh)": lambda: plain(q, k, v, scale=1 / Dh),
        "the scores are multiplied by sqrt(Dh); they should be divided by it": lambda: plain(q, k, v, scale=Dh**0.5),
        "the keys after the last full tile are left out": lambda: plain(q, k[:, :, :full], v[:, :, :full]),
        "the running sum is not rescaled when the maximum grows": lambda: online(*wide, "sum"),
        "the running output is not rescaled when the maximum grows": lambda: online(*wide, "output"),
        "neither the running sum nor the output is rescaled when the maximum grows": lambda: online(*wide, "both"),
        "the correction is upside down; it should be exp(old maximum - new maximum)": lambda: online(
            *wide, "upside down"
        ),
        "the output is not divided by the running sum": lambda: online(*wide, "unnormalised"),
        "the output is divided by the running sum in every tile; it should be divided once, at the end": lambda: online(
            *wide, "each"
        ),
        "the softmax runs over the queries; it should run over the keys": lambda: plain(q, k, v, over=-2),
        "each tile of keys has its own softmax, and the results are added": lambda: (sum(tiles(*wide)), None),
        "each tile of keys has its own softmax, and the results are averaged": lambda: (
            torch.stack(tiles(*wide)).mean(0),
            None,
        ),
        "only the last tile of keys counts": lambda: (tiles(*wide)[-1], None),
        "only the first tile of keys counts": lambda: (tiles(*wide)[0], None),
    }


def causal_mistakes(q, k, v, block):
    """What students make of the causal mask: the places that a query sees."""
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    same_tile = i // block == j // block
    seen = {
        "causal has no effect": j >= 0 * i,
        "the causal mask is aligned with the last key; queries and keys should both be counted from the first": j
        <= i + len(j) - len(i),
        "the causal mask is transposed, so that it shows the future": j >= i,
        "within a tile the future is seen; the tiles on the diagonal should be masked too": j // block <= i // block,
        "the causal mask counts keys from the start of the tile: add where the tile starts": j % block <= i % block,
        "the causal mask counts queries and keys from the start of the tile: add where the tiles start": (
            (j // block <= i // block) & (j % block <= i % block)
        ),
        "only the tiles on the diagonal are seen": same_tile & (j <= i),
        "the tiles on the diagonal are left out": (j // block < i // block),
        "a query does not see itself": j < i,
    }
    return {sentence: (lambda seen=seen: plain(q, k, v, seen=seen)) for sentence, seen in seen.items()}


def part(mistakes, index):
    """Of mistakes that give (output, logsumexp), one of both."""
    return each(mistakes, lambda both: both[index])
