"""What the hidden tests of quantization share: inputs that can be rounded in one way only, and the formulas in float64.

Mistakes are the formulas with a step replaced. Where a function builds on another of the module that is wrong, it may be
right on a right one (`worked_out`): so a mistake costs the tests that are about it.
"""

from dataclasses import dataclass

import torch

from shared import nearly, on_right_parts

NOTHING = "quantized layers give the same for all inputs: is their weight zero?"

# ---------------------------------------------------------------------------------------------- inputs


def on_a_grid(rng, *shape, bits=8, scale=0.01, dtype=torch.float32):
    """Numbers that are far from halfway between two integers, times scale, and in each row one that is the greatest integer
    or its negative: no rounding error decides about a code. scale: a number, or a tensor (…, 1).
    """
    greatest = 2 ** (bits - 1) - 1
    steps = torch.randint(-greatest, greatest + 1, shape, generator=rng) + 0.8 * torch.rand(shape, generator=rng) - 0.4
    steps = steps.clamp(-greatest + 0.3, greatest - 0.3).flatten(0, -2)
    for row, numbers in enumerate(steps):
        numbers[int(torch.randint(shape[-1], (), generator=rng))] = -greatest if row % 2 == 0 else greatest
    return (steps.view(shape).double() * scale).to(dtype)


def scales_of_rows(rng, rows):
    """(rows, 1): between 0.002 and 0.2, and no two alike."""
    return 0.002 * 10 ** (2 * (torch.randperm(rows, generator=rng) + 0.5) / rows).double().unsqueeze(1)


# ---------------------------------------------------------------------------------------------- formulas


@dataclass(frozen=True)
class Absmax:
    """q int8 and scale of x in the dtype of x, worked out in float64; over: the dimensions that the maximum runs over."""

    largest: object = lambda x, over: x.abs().amax(over, keepdim=True)
    greatest: object = lambda bits: 2 ** (bits - 1) - 1
    whole: object = torch.round
    limit: object = lambda bits: 2 ** (bits - 1) - 1

    def __call__(self, x, bits=8, dim=None):
        over = tuple(range(x.dim())) if dim is None else dim
        scale = self.largest(x.double(), over) / self.greatest(bits)
        q = self.whole(x.double() / scale.masked_fill(scale == 0, 1))
        q = q.clamp(-self.limit(bits), self.limit(bits)).to(torch.int8)
        return q, (scale.reshape(()) if dim is None else scale).to(x.dtype)


@dataclass(frozen=True)
class Groups:
    """quantize_groupwise, worked out in float64, as Absmax of the groups that `cut` makes of a row's places."""

    cut: object = lambda places, size: places.split(size)
    absmax: object = Absmax()
    joined: object = lambda scales: torch.cat(scales, dim=1)

    def __call__(self, w, bits=4, size=64):
        q, scales = torch.empty_like(w, dtype=torch.int8), []
        for places in self.cut(torch.arange(w.shape[1]), size):
            q[:, places], scale = self.absmax(w[:, places], bits, 1)
            scales.append(scale)
        return q, self.joined(scales)


def from_codes(q, scales, size):
    """Ŵ in float64 of what quantize_groupwise gives."""
    return q.double() * scales.double().repeat_interleave(size, dim=1)[:, : q.shape[1]]


def rounded(weight, bits=8, size=None):
    """Ŵ in float64 of a weight with groups of this size."""
    size = size or weight.shape[1]
    return from_codes(*Groups()(weight, bits, size), size)


def nf4_levels():
    """The levels by their definition: quantiles of a normal distribution, 8 below and 9 above 0, of which 0 is one."""
    offset = 0.9677083
    above, below = (torch.special.ndtri(torch.linspace(offset, 0.5, n, dtype=torch.float64))[:-1] for n in (9, 8))
    return torch.cat([-below, above, torch.zeros(1, dtype=torch.float64)]).sort().values / above.max()


LEVELS = nf4_levels()


def in_groups(rng, rows, width, size, bits=4, dtype=torch.float32):
    """(rows, width) with another scale in each group, and no number near halfway between two integers."""
    per_row = -(-width // size)
    scales = scales_of_rows(rng, rows * per_row).view(rows, per_row, 1)
    parts = [
        on_a_grid(rng, rows, min(size, width - at * size), bits=bits, scale=scales[:, at], dtype=dtype)
        for at in range(per_row)
    ]
    return torch.cat(parts, dim=1)


def near_levels(rng, *shape, block=64, dtype=torch.float32):
    """(x, codes, absmax): blocks of x.flatten() around NF4 levels, not near the middle between two, and one at ±1 in each."""
    count = torch.Size(shape).numel()
    codes = torch.randint(0, 16, (count,), generator=rng)
    below = torch.cat([torch.zeros(1), LEVELS.diff()])[codes]
    above = torch.cat([LEVELS.diff(), torch.zeros(1)])[codes]
    off = torch.rand(count, generator=rng) * 2 - 1
    x = LEVELS[codes] + 0.42 * torch.where(off < 0, off * below, off * above)
    for at, start in enumerate(range(0, count, block)):
        place = start + int(torch.randint(min(block, count - start), (), generator=rng))
        x[place], codes[place] = (-1.0, 0) if at % 2 == 0 else (1.0, 15)
    blocks = -(-count // block)
    absmax = scales_of_rows(rng, blocks).squeeze(1).to(dtype)
    scale = absmax.double().repeat_interleave(block)[:count]
    return (x * scale).to(dtype).view(shape), codes.to(torch.uint8).view(shape), absmax


# ---------------------------------------------------------------------------------------------- what comes back


def agree(found, truth):
    """Whether results, a list of tensors or of pairs of tensors, are nearly the truth, whatever their dtypes."""
    return len(found) == len(truth) and all(
        (not isinstance(right, tuple) or len(one) == len(right)) and nearly(one, right, 1e-4)
        for one, right in zip(found, truth, strict=True)
    )


def worked_out(student, name, calls, truth):
    """What the function of this name gives for each call's arguments; with right parts where it is the truth only so."""

    def probe(name, calls, right):
        import quantization

        return inside.use_of(
            lambda: [getattr(quantization, name)(*call) for call in calls], "quantization", name, right
        )

    return on_right_parts(student, probe, name, calls, fine=lambda found: agree(found, truth))


def conduct_of(student, name, *arguments, **options):
    """For `check`: whether tensors come back unchanged, and what the call did besides."""

    def probe(name, arguments, options):
        import quantization

        function, plain = getattr(quantization, name), inside.copies(arguments)
        _, after, rude = inside.manners(function, *arguments, **options)
        function(*plain, **options)  # tensors that lie as they come: of strided ones a flattened one is a copy
        pairs = [pair for kept in (after, plain) for pair in zip(arguments, kept, strict=True)]
        return all(torch.equal(*pair) for pair in pairs if isinstance(pair[0], torch.Tensor)), rude

    return student.run(probe, name, arguments, options)
