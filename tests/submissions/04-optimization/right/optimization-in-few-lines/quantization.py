"""Quantization: weights and activations as small integers, and what that costs in accuracy.

A tensor x is written as x ≈ scale · q with few possible q. The error of a number is at most scale / 2, so everything
depends on a small scale, that is, on few numbers that share one:

    one scale a tensor or a row       quantize_absmax, quantize_affine, dequantize
    one scale a group of 64           quantize_groupwise, with pack_int4 and unpack_int4 for two numbers a byte
    levels that suit normal weights   quantize_nf4, dequantize_nf4                        QLoRA, Dettmers et al. 2023
    errors that make up for others    gptq_quantize                                       GPTQ, Frantar et al. 2022
    outliers apart from the rest      int8_linear                                         LLM.int8(), Dettmers et al. 2022
    whole models                      QuantizedLinear, ModelQuantizer, QuantizedTransformer, model_size_bytes

For all functions here: a number halfway between two integers may be rounded to either; rounding has no useful gradient, so
results need none, except that gradients reach the input of a QuantizedLinear; invalid arguments raise a ValueError that
names the argument.

Letters in the shapes: a Linear's weight W is (out, in), its inputs x are (..., in); g is the size of a group.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- scales


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, not {bits}")


def _check_group(size: int, width: int, name: str = "group_size") -> int:
    """size, or width (at least 1) if that is less: the rest of such a group would be empty."""
    if size < 1:
        raise ValueError(f"{name} must be at least 1, not {size}")
    return min(size, max(width, 1))


def _no_zeros(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _scale(x: torch.Tensor, bits: int, dim: int | None) -> torch.Tensor:
    magnitude = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    return magnitude / (2 ** (bits - 1) - 1)


def _round(steps: torch.Tensor, bits: int) -> torch.Tensor:
    top = 2 ** (bits - 1) - 1
    return steps.round().clamp_(-top, top)


def _encode(x: torch.Tensor, bits: int, dim: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize_absmax without its checks; x may be empty."""
    scale = _no_zeros(_scale(x, bits, dim))
    return _round(x / scale, bits).to(torch.int8), scale


def _rows_to_groups(x: torch.Tensor, size: int) -> torch.Tensor:
    """(rows, n) -> (rows, ceil(n / size), size), filled up with zeros."""
    count = -(-x.shape[1] // size)
    return F.pad(x, (0, count * size - x.shape[1])).reshape(len(x), count, size)


@torch.no_grad()
def quantize_absmax(x: torch.Tensor, bits: int = 8, dim: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric quantization: the largest magnitude becomes the greatest integer (LLM.int8(), section 2.1).

        scale = max |x| / (2^(bits - 1) - 1),   q = round(x / scale)

    Args:
        x: any shape, with at least one element.
        bits: from 2 to 8.
        dim: the dimension that the maximum runs over: with dim=1 each row of a matrix has a scale of its own. None: all of x.

    Returns:
        q int8 of the shape of x, in ±(2^(bits - 1) - 1): -128 is not used. scale in the dtype of x: of shape () for
        dim=None, else of the shape of x with size 1 in dim. Where all numbers under one scale are 0, q is 0 and the scale
        is any finite number.

    Raises:
        ValueError: bits is outside 2..8.
    """
    _check_bits(bits)
    if x.numel() == 0:
        raise ValueError(f"x needs at least one element, but its shape is {tuple(x.shape)}")
    if dim is not None and not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        raise ValueError(f"dim is {dim}, which x of shape {tuple(x.shape)} does not have")
    return _encode(x, bits, dim)


@torch.no_grad()
def quantize_affine(x: torch.Tensor, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Asymmetric quantization: the range from the least to the greatest number, which need not be around 0, gets all
    2^bits integers, and one of them stands for 0.0 (Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", section 2.1).

        lo = min(0, min x),  hi = max(0, max x)
        scale = (hi - lo) / (2^bits - 1),   zero_point = round(-lo / scale),   q = round(x / scale) + zero_point

    The range is extended to hold 0.0, also where all of x is positive or negative: padding and ReLU make many zeros, and
    each comes back as exactly 0.0.

    Args:
        x: any shape, with at least one element; all may be the same number.
        bits: from 2 to 8.

    Returns:
        q uint8 of the shape of x, in [0, 2^bits - 1]; scale of shape () in the dtype of x; zero_point in the same range as
        q, a Python int (or an integer tensor of one element). If all of x is 0, all of q is zero_point and scale is any
        finite number.

    Raises:
        ValueError: bits is outside 2..8.
    """
    _check_bits(bits)
    if x.numel() == 0:
        raise ValueError(f"x needs at least one element, but its shape is {tuple(x.shape)}")
    top = 2**bits - 1
    lo, hi = torch.stack(x.aminmax()).double().unbind()
    lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    scale = _no_zeros(((hi - lo) / top).to(x.dtype))
    zero_point = int((-lo / scale.double()).round().clamp(0, top))
    q = (x / scale).round().add_(zero_point).clamp_(0, top).to(torch.uint8)
    return q, scale, zero_point


@torch.no_grad()
def dequantize(q: torch.Tensor, scale: torch.Tensor, zero_point: int | torch.Tensor = 0) -> torch.Tensor:
    """scale · (q - zero_point): the way back from quantize_absmax and quantize_affine.

    Args:
        q: integers of any shape; uint8 must not wrap around below 0.
        scale: broadcasts to q.
        zero_point: an integer, as quantize_affine returns it.

    Returns:
        The shape of q, in the dtype of scale. It is off from what was quantized by at most scale / 2, plus rounding:
        1e-5 · scale + 4 eps · max |x|, with the eps of the dtype.
    """
    return torch.mul(q.to(scale.dtype) - int(zero_point), scale)


# ---------------------------------------------------------------------------------------------- groups


@torch.no_grad()
def quantize_groupwise(w: torch.Tensor, bits: int = 4, group_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize_absmax with a scale for each group of neighbours in a row: an outlier spoils its group only.

    Args:
        w: (out, in).
        bits: from 2 to 8.
        group_size: g, how many numbers of a row share a scale. The last group of a row is shorter if g does not divide in.

    Returns:
        q int8 (out, in) in ±(2^(bits - 1) - 1), and scales (out, ceil(in / g)) in the dtype of w: ŵ[i, j] =
        q[i, j] · scales[i, j // g]. Zeros are treated as in quantize_absmax.

    Raises:
        ValueError: bits is outside 2..8, or group_size is less than 1.
    """
    _check_bits(bits)
    groups = _rows_to_groups(w, _check_group(group_size, w.shape[1]))
    q, scales = _encode(groups, bits, dim=-1)
    return q.flatten(1)[:, : w.shape[1]].contiguous(), scales.squeeze(-1)


def pack_int4(q: torch.Tensor) -> torch.Tensor:
    """Two 4-bit integers a byte, in the order of q.flatten().

    Which of the two is in the low half of the byte is up to you: unpack_int4 knows it.

    Args:
        q: integers from -8 to 7, of any shape and any signed integer dtype; n elements, which may be odd.

    Returns:
        (ceil(n / 2),) uint8.

    Raises:
        ValueError: a value of q is outside -8..7.
    """
    outside = (q < -8) | (q > 7)
    if outside.any():
        raise ValueError(f"q must be from -8 to 7, but it has a {int(q[outside][0])}")
    return _pack(q)


def _pack(q: torch.Tensor) -> torch.Tensor:
    """pack_int4 without its check, so that it runs on the meta device, too."""
    upper, lower = F.pad((q.flatten() + 8).to(torch.uint8), (0, q.numel() % 2)).reshape(-1, 2).unbind(dim=1)
    return (upper << 4) | lower


def unpack_int4(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The way back from pack_int4.

    Args:
        packed: (ceil(n / 2),) uint8.
        shape: the shape of what was packed, with n elements; any sequence of ints.

    Returns:
        The integers that were packed, int8, in that shape.

    Raises:
        ValueError: packed does not have the ceil(n / 2) bytes that shape needs.
    """
    shape = tuple(shape)
    n = math.prod(shape)
    if min(shape, default=0) < 0 or packed.numel() != (n + 1) // 2:
        raise ValueError(f"packed has {packed.numel()} bytes, but the shape {shape} needs {(n + 1) // 2}")
    nibbles = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=-1)  # the first number is in the upper half
    return (nibbles.flatten()[:n].to(torch.int8) - 8).reshape(shape)


# ---------------------------------------------------------------------------------------------- NF4

# The 16 levels of NormalFloat4 (QLoRA, appendix E): quantiles of a normal distribution, scaled to [-1, 1], with an exact 0.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@torch.no_grad()
def quantize_nf4(x: torch.Tensor, block_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """4-bit NormalFloat (Dettmers et al. 2023, "QLoRA", section 3): blocks of x, scaled to [-1, 1], to the nearest level.

        code = argmin_i |x / absmax - NF4_LEVELS[i]|,   absmax = max |x| of the block

    Weights look normally distributed: levels at the quantiles are used about equally often, so none is wasted.

    Args:
        x: any shape. Blocks are made of x.flatten(), whatever its shape; the last one may be short.
        block_size: how many numbers share an absmax.

    Returns:
        codes uint8 in 0..15, of the shape of x, not packed; absmax (ceil(n / block_size),) in the dtype of x. A block of
        zeros has absmax 0 and comes back as zeros. Halfway between two levels either is right.

    Raises:
        ValueError: block_size is less than 1.
    """
    block_size = _check_group(block_size, x.numel(), "block_size")
    blocks = _rows_to_groups(x.reshape(1, -1), block_size)[0]  # (blocks, block_size)
    absmax = blocks.abs().amax(dim=-1)
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64, device=x.device)
    borders = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks.double() / _no_zeros(absmax.double())[:, None], borders, out_int32=True)
    return codes.to(torch.uint8).flatten()[: x.numel()].reshape(x.shape), absmax


@torch.no_grad()
def dequantize_nf4(codes: torch.Tensor, absmax: torch.Tensor, block_size: int = 64) -> torch.Tensor:
    """The way back from quantize_nf4: NF4_LEVELS[code] · absmax of the block.

    Args:
        codes, absmax, block_size: as in quantize_nf4.

    Returns:
        The shape of codes, in the dtype of absmax.

    Raises:
        ValueError: block_size is less than 1.
    """
    n = codes.numel()
    block_size = _check_group(block_size, n, "block_size")
    if absmax.numel() != -(-n // block_size):
        raise ValueError(f"absmax has {absmax.numel()} numbers, but there are {-(-n // block_size)} blocks")
    levels = torch.tensor(NF4_LEVELS, dtype=absmax.dtype, device=codes.device)[codes.flatten().long()]
    return (levels * absmax.flatten().repeat_interleave(block_size)[:n]).reshape(codes.shape)


# ---------------------------------------------------------------------------------------------- GPTQ


@torch.no_grad()
def gptq_quantize(
    weight: torch.Tensor, inputs: torch.Tensor, bits: int = 4, group_size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds the columns of W one after the other; those that are left make up for the error (Frantar et al. 2022, "GPTQ").

    Rounding to nearest makes |W - Ŵ| small. What counts is the layer's output, ‖W X - Ŵ X‖² over inputs X that are typical
    of it (the rows of `inputs`). With H = X Xᵀ over the inputs and U the upper triangular Cholesky factor of H⁻¹ (UᵀU = H⁻¹,
    algorithm 1 of the paper), for each column i:

        q_i = round(w_i / scale)                        as in quantize_groupwise
        e   = (w_i - scale · q_i) / U[i, i]
        w_j ← w_j - e · U[i, j]                         for all columns j > i, before they are rounded

    H gets 1 % of its mean diagonal added to its diagonal, since it may have no inverse.

    Args:
        weight: (out, in).
        inputs: (..., in) examples of the layer's input. There may be fewer of them than in, and features that are 0 in all.
        bits: from 2 to 8.
        group_size: as in quantize_groupwise; None means one group a row.

    Returns:
        q int8 (out, in) in ±(2^(bits - 1) - 1) and scales (out, ceil(in / g)) in the dtype of weight, in the form of
        quantize_groupwise, all finite. Scales may come from the weights as they are or as they are when their group is
        reached. On correlated inputs ‖W X - Ŵ X‖ is lower than with quantize_groupwise and the same bits and groups (of a
        handful of weights, chance decides).

    Raises:
        ValueError: bits is outside 2..8, group_size is less than 1, or the last dimension of inputs is not in.
    """
    _check_bits(bits)
    width = weight.shape[1]
    group_size = _check_group(width if group_size is None else group_size, width)
    if inputs.dim() == 0 or inputs.shape[-1] != width:
        raise ValueError(f"inputs has the shape {tuple(inputs.shape)}; its last dimension must be {width}, as that of weight")

    rows = inputs.reshape(-1, width).double()
    hessian = torch.einsum("ni,nj->ij", rows, rows)
    diagonal = hessian.diagonal()  # a view
    damping = 0.01 * diagonal.mean()
    diagonal += torch.where(damping > 0, damping, torch.ones_like(damping))  # all inputs 0: rounding to nearest
    # H = R Rᵀ with an upper R (Cholesky from the last column to the first), so H⁻¹ = R⁻ᵀ R⁻¹ and U = R⁻¹.
    factor = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    u = torch.linalg.solve_triangular(factor, torch.eye(width, dtype=factor.dtype, device=factor.device), upper=True)

    # Column j at its turn is w_j - Σ_{i<j} e_i · U[i, j]: the errors are kept, and collected when they are needed.
    w, q, scales = weight.double(), torch.empty_like(weight, dtype=torch.int8), []
    errors = torch.zeros_like(w)
    for start in range(0, width, group_size):
        stop = min(start + group_size, width)
        now = w[:, start:stop] - errors[:, :start] @ u[:start, start:stop]
        scales.append(_no_zeros(_scale(now, bits, dim=1).to(weight.dtype)))
        step = scales[-1][:, 0].double()  # as it was rounded to the dtype of weight
        for i in range(start, stop):
            column = now[:, i - start] - errors[:, start:i] @ u[start:i, i]
            code = _round(column / step, bits)
            q[:, i] = code
            errors[:, i] = (column - step * code) / u[i, i]
    return q, torch.cat(scales, dim=1)


# ---------------------------------------------------------------------------------------------- LLM.int8()


@torch.no_grad()
def int8_linear(
    x: torch.Tensor, q_weight: torch.Tensor, scale: torch.Tensor, outlier_threshold: float = 6.0
) -> torch.Tensor:
    """x Ŵᵀ with 8-bit inputs and 8-bit weights (Dettmers et al. 2022, "LLM.int8()", section 3).

    A few features of large models' activations are twenty times as large as all others. A row that is quantized with such
    an outlier loses nearly all of its other numbers. So the features are parted in two:

        outliers   features j with |x[r, j]| >= outlier_threshold in any row r of x: in floating point, with the
                   dequantized columns of the weight
        the rest   each row of x is quantized to int8 with an absmax of its own, in which outliers do not count; the integers
                   of x and of the weight are multiplied and summed up exactly, then scaled by both scales

    Both results are added.

    Args:
        x: (..., in). A row is one vector of size in, wherever it stands.
        q_weight: (out, in) int8, as quantize_absmax(weight, dim=1) gives it.
        scale: (out, 1).
        outlier_threshold: from which magnitude on, itself included, a feature is an outlier. 0: all of them, inf: none.

    Returns:
        (..., out) in the dtype of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    outlier = (rows.abs() >= outlier_threshold).any(dim=0)
    q_rows, row_scale = _encode(rows.masked_fill(outlier, 0), 8, dim=1)
    q_weight, scale = q_weight.double(), scale.double()  # sums of integers are exact up to 2^53
    integers = torch.einsum("ri,oi->ro", q_rows.double(), q_weight)
    floats = torch.einsum("ri,oi->ro", rows[:, outlier].double(), q_weight[:, outlier] * scale)
    result = torch.addcmul(floats, integers * row_scale.double(), scale.T)
    return result.to(x.dtype).reshape(*x.shape[:-1], len(q_weight))


# ---------------------------------------------------------------------------------------------- layers and models


@torch.no_grad()
def _decode_groups(
    codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int], group_size: int, packed: bool
) -> torch.Tensor:
    q = unpack_int4(codes, shape) if packed else codes
    group_size = min(group_size, max(shape[1], 1))
    return dequantize(q, scales.repeat_interleave(group_size, dim=1)[:, : shape[1]])


@torch.no_grad()
def _decode_nf4(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return dequantize_nf4(unpack_int4(codes, shape) + 8, scales)


class QuantizedLinear(nn.Module):
    """x Ŵᵀ + bias with a weight of few bits, which is dequantized for each call: memory is saved, not time.

    It is not an nn.Linear: the weight in floating point does not exist between calls, under no name. How its __init__ looks
    and what is in the state are up to you.

    Attributes:
        in_features, out_features: as in nn.Linear.
        bias: (out,) or None; a Parameter or a buffer.
        weight: Ŵ (out, in), dequantized each time that it is read, in the dtype of the Linear. nn.MultiheadAttention reads
            it from its out_proj, which it never calls.
    """

    def __init__(
        self,
        linear: nn.Linear,
        codes: torch.Tensor,
        scales: torch.Tensor,
        decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        """Sizes, bias and mode are those of linear; decode(codes, scales) makes Ŵ in the dtype of scales."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.decode = decode
        self.training = linear.training

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int = 8, group_size: int | None = None) -> "QuantizedLinear":
        """A QuantizedLinear with the weight of linear as quantize_groupwise rounds it, and its bias as it is.

        Codes of 4 bits and fewer are packed, two a byte; others take a byte each. Codes and scales are in the state_dict,
        which can be loaded into a QuantizedLinear of the same sizes and bits; .to(dtype) and .half() leave the codes as
        they are. Nothing is shared with linear, which stays as it was; the mode (train or eval) is that of linear.

        Args:
            linear: with or without bias.
            bits: from 2 to 8.
            group_size: as in quantize_groupwise; None means one group a row.

        Raises:
            ValueError: bits is outside 2..8, or group_size is less than 1.
        """
        group_size = linear.in_features if group_size is None else group_size
        q, scales = quantize_groupwise(linear.weight.detach(), bits, group_size)
        decode = partial(_decode_groups, shape=tuple(q.shape), group_size=group_size, packed=bits <= 4)
        return cls(linear, _pack(q) if bits <= 4 else q, scales, decode)

    @property
    def weight(self) -> torch.Tensor:
        return self.decode(self.codes, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x, in which the weight is dequantized. Gradients reach x."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.decode(self.codes, self.scales.to(x.dtype)), bias)


def _nf4_linear(linear: nn.Linear) -> QuantizedLinear:
    codes, absmax = quantize_nf4(linear.weight.detach())
    packed = _pack(codes.to(torch.int8) - 8)
    return QuantizedLinear(linear, packed, absmax, partial(_decode_nf4, shape=tuple(codes.shape)))


class ModelQuantizer:
    """Replaces the Linears of a model."""

    def quantize_model(self, model: nn.Module, quantization_type: str = "int8") -> nn.Module:
        """A copy of model in which every nn.Linear is quantized, except the output head.

            int8   QuantizedLinear.from_linear(linear, bits=8): one scale a row
            int4   QuantizedLinear.from_linear(linear, bits=4, group_size=64)
            nf4    quantize_nf4 of the weight with blocks of 64, the codes packed two a byte, in a module like QuantizedLinear

        "Every Linear" means every one of model.modules(), at any depth, in containers, of subclasses of nn.Linear (such as
        the out_proj of nn.MultiheadAttention), and model itself. A Linear that the model holds in several places is still
        one module afterwards. All else stays as it is: embeddings, norms, parameters outside of Linears, the mode of each
        module, and which tensors are shared.

        The output head is not quantized, since each of its errors is an error of a logit:
        - each Linear whose weight is the weight of an nn.Embedding (one Parameter with two names), wherever it is;
        - if there is no such Linear, the child of model itself that is called lm_head, head or output (the first of these
          that there is), if it is a Linear;
        - a model without an nn.Embedding has no output head.

        For float32 layers with in and out of at least 128, a layer's bytes, bias included, are at most 0.30 (int8) and 0.20
        (int4, nf4) of what they were.

        Args:
            model: any module, on any device. It stays unchanged and shares no tensor with the result.
            quantization_type: "int8", "int4" or "nf4".

        Returns:
            The new model, called as model is. Its state_dict can be loaded into another model that was made in this way.

        Raises:
            ValueError: quantization_type is unknown.
        """
        if quantization_type not in ("int8", "int4", "nf4"):
            raise ValueError(f"quantization_type must be int8, int4 or nf4, not {quantization_type!r}")
        quantize = {
            "int8": QuantizedLinear.from_linear,
            "int4": partial(QuantizedLinear.from_linear, bits=4, group_size=64),
            "nf4": _nf4_linear,
        }[quantization_type]

        # What deepcopy finds in its memo counts as copied: each reference to a Linear, wherever it is, becomes one to its
        # replacement, and the Linear's own weight is never copied.
        memo: dict[int, Any] = {}
        twins: dict[int, QuantizedLinear] = {}  # by the weight: Linears that share one share its codes, too
        heads = self._output_heads(model)
        for linear in model.modules():
            if isinstance(linear, nn.Linear) and id(linear) not in heads:
                weight, bias = linear.weight, linear.bias
                new = memo[id(linear)] = quantize(linear)
                twin = twins.setdefault(id(weight), new)
                if twin is not new and isinstance(weight, nn.Parameter):
                    new.codes, new.scales = twin.codes, twin.scales
                if isinstance(bias, nn.Parameter):
                    new.bias = copy.deepcopy(bias, memo)  # a bias that is shared stays shared
        return copy.deepcopy(model, memo)


    @staticmethod
    def _output_heads(model: nn.Module) -> set[int]:
        """The ids of the Linears that stay."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        if not tables:
            return set()
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        tied = {id(linear) for linear in linears if id(linear.weight) in tables}
        named = [model._modules[name] for name in ("lm_head", "head", "output") if model._modules.get(name) is not None]
        return tied or {id(child) for child in named[:1] if isinstance(child, nn.Linear)}


class QuantizedTransformer(nn.Module):
    """A model whose Linears are quantized, called as the model it wraps.

    Args:
        model: any module; it stays unchanged.
        quantization_type: "int8", "int4" or "nf4", as in ModelQuantizer.

    Attributes:
        model: the quantized model.

    Raises:
        ValueError: quantization_type is unknown.
    """

    def __init__(self, model: nn.Module, quantization_type: str = "int8") -> None:
        super().__init__()
        self.model = ModelQuantizer().quantize_model(model, quantization_type)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the quantized model returns for these arguments."""
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers of model, whatever their dtypes and devices; a tensor that has several names
    (tied weights, a module in two places) counts once."""
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
