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
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- scales


def _check_bits(bits: int) -> None:
    if bits not in range(2, 9):
        raise ValueError(f"bits must be from 2 to 8, not {bits}")


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name} must be at least 1, not {size}")


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
    if dim is None:
        if x.numel() == 0:
            raise ValueError("x must have at least one element")
        largest = x.abs().max()
    else:
        if dim < -max(x.dim(), 1) or dim >= max(x.dim(), 1):
            raise ValueError(f"dim={dim} is not a dimension of x, which has {x.dim()}")
        if x.dim() > 0 and x.shape[dim] == 0:
            raise ValueError(f"x must have at least one element along dim={dim}")
        largest = x.abs().amax(dim=dim, keepdim=True)

    top = 2 ** (bits - 1) - 1
    scale = largest / top
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)  # only zeros: any scale will do
    q = (x / scale).round().clamp(-top, top).to(torch.int8)
    return q, scale


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
        raise ValueError("x must have at least one element")
    top = 2**bits - 1
    lo = x.min().clamp(max=0)
    hi = x.max().clamp(min=0)
    scale = (hi - lo) / top
    if scale == 0:
        scale = torch.ones_like(scale)
    zero_point = int((-lo / scale).round())
    zero_point = min(max(zero_point, 0), top)
    q = ((x / scale).round() + zero_point).clamp(0, top).to(torch.uint8)
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
    shifted = q.to(scale.dtype) - int(zero_point)
    return shifted * scale


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
    _check_size("group_size", group_size)
    if w.dim() != 2:
        raise ValueError(f"w must be (out, in), but has the shape {tuple(w.shape)}")
    rows, columns = w.shape
    num_groups = (columns + group_size - 1) // group_size
    q = torch.zeros(rows, columns, dtype=torch.int8, device=w.device)
    scales = torch.ones(rows, num_groups, dtype=w.dtype, device=w.device)
    for group in range(num_groups):
        start = group * group_size
        end = min(start + group_size, columns)
        group_q, group_scale = quantize_absmax(w[:, start:end], bits, dim=1)
        q[:, start:end] = group_q
        scales[:, group] = group_scale[:, 0]
    return q, scales


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
    flat = q.flatten()
    if flat.numel() > 0 and (flat.min() < -8 or flat.max() > 7):
        raise ValueError(f"q must be in -8..7, but goes from {int(flat.min())} to {int(flat.max())}")
    shifted = (flat + 8).to(torch.uint8)  # 0..15
    if shifted.numel() % 2 == 1:
        shifted = F.pad(shifted, (0, 1))
    low = shifted[0::2]
    high = shifted[1::2]
    return low | (high << 4)


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
    if any(size < 0 for size in shape) or packed.numel() != (n + 1) // 2:
        raise ValueError(f"packed has {packed.numel()} bytes, which does not fit shape={shape}")
    packed = packed.flatten()
    low = packed & 15
    high = packed >> 4
    both = torch.stack([low, high], dim=1).flatten()[:n]
    return (both.to(torch.int8) - 8).reshape(shape)


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
    _check_size("block_size", block_size)
    flat = x.flatten()
    n = flat.numel()
    block_size = min(block_size, max(n, 1))
    num_blocks = (n + block_size - 1) // block_size
    blocks = F.pad(flat, (0, num_blocks * block_size - n)).reshape(num_blocks, block_size)
    absmax = blocks.abs().amax(dim=1)  # (num_blocks,)
    divisor = torch.where(absmax == 0, torch.ones_like(absmax), absmax)
    scaled = blocks / divisor[:, None]

    levels = torch.tensor(NF4_LEVELS, dtype=x.dtype, device=x.device)
    borders = (levels[1:] + levels[:-1]) / 2  # halfway between two levels
    codes = torch.bucketize(scaled, borders).to(torch.uint8)
    return codes.flatten()[:n].reshape(x.shape), absmax


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
    _check_size("block_size", block_size)
    n = codes.numel()
    block_size = min(block_size, max(n, 1))
    num_blocks = (n + block_size - 1) // block_size
    if absmax.numel() != num_blocks:
        raise ValueError(f"absmax has {absmax.numel()} numbers, but there are {num_blocks} blocks")
    levels = torch.tensor(NF4_LEVELS, dtype=absmax.dtype, device=absmax.device)
    values = levels[codes.flatten().long()]
    factors = absmax.flatten().repeat_interleave(block_size)[:n]
    return (values * factors).reshape(codes.shape)


# ---------------------------------------------------------------------------------------------- GPTQ


def _gptq_factor(inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, in) float64 -> U (in, in), upper triangular, with U^T U = H^-1."""
    hessian = inputs.T @ inputs
    damping = 0.01 * hessian.diagonal().mean()
    if damping == 0:  # no inputs, or only zeros: nothing is known about the features
        damping = torch.ones_like(damping)
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    hessian = hessian + damping * identity
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


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
    if group_size is not None:
        _check_size("group_size", group_size)
    if weight.dim() != 2:
        raise ValueError(f"weight must be (out, in), but has the shape {tuple(weight.shape)}")
    rows, columns = weight.shape
    if inputs.dim() == 0 or inputs.shape[-1] != columns:
        raise ValueError(f"inputs must be (..., {columns}), but has the shape {tuple(inputs.shape)}")
    if group_size is None:
        group_size = max(columns, 1)

    upper = _gptq_factor(inputs.reshape(-1, columns).double())

    top = 2 ** (bits - 1) - 1
    num_groups = (columns + group_size - 1) // group_size
    w = weight.double().clone()  # changes as we go
    q = torch.zeros(rows, columns, dtype=torch.int8, device=weight.device)
    scales = torch.ones(rows, num_groups, dtype=weight.dtype, device=weight.device)
    for i in range(columns):
        group = i // group_size
        if i % group_size == 0:  # a new group: its scale comes from the weights as they are now
            end = min(i + group_size, columns)
            _, group_scale = quantize_absmax(w[:, i:end].to(weight.dtype), bits, dim=1)
            scales[:, group] = group_scale[:, 0]
        scale = scales[:, group].double()
        column = (w[:, i] / scale).round().clamp(-top, top)
        q[:, i] = column.to(torch.int8)
        error = (w[:, i] - scale * column) / upper[i, i]
        w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :][None, :]
    return q, scales


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
    out_features, in_features = q_weight.shape
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"x must be (..., {in_features}), but has the shape {tuple(x.shape)}")
    rows = x.reshape(-1, in_features)
    outlier = (rows.abs() >= outlier_threshold).any(dim=0)  # (in,)

    # The outliers, in floating point.
    outlier_weight = q_weight[:, outlier].to(x.dtype) * scale.to(x.dtype)
    outlier_part = rows[:, outlier] @ outlier_weight.T

    # The rest. float64 holds integers up to 2^53 exactly, and can be multiplied on every device.
    rest = rows.masked_fill(outlier, 0.0)
    q_rows, row_scale = quantize_absmax(rest, 8, dim=1)
    product = q_rows.double() @ q_weight.double().T
    rest_part = product * row_scale.double() * scale.double().T

    result = (outlier_part.double() + rest_part).to(x.dtype)
    return result.reshape(*x.shape[:-1], out_features)


# ---------------------------------------------------------------------------------------------- layers and models


def _copy_bias(linear: nn.Linear) -> nn.Parameter | None:
    if linear.bias is None:
        return None
    return nn.Parameter(linear.bias.detach().clone(), requires_grad=linear.bias.requires_grad)


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
        in_features: int,
        out_features: int,
        codes: torch.Tensor,
        scales: torch.Tensor,
        bias: nn.Parameter | None,
        bits: int,
        group_size: int,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.group_size = group_size
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = bias

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
        _check_bits(bits)
        if group_size is None:
            group_size = max(linear.in_features, 1)
        weight = linear.weight.detach()
        codes, scales = quantize_groupwise(weight, bits, group_size)
        if bits <= 4:
            codes = pack_int4(codes)
        quantized = cls(linear.in_features, linear.out_features, codes, scales, _copy_bias(linear), bits, group_size)
        quantized.train(linear.training)
        return quantized

    def _dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight (out, in) in dtype."""
        codes = self.codes
        if self.bits <= 4:
            codes = unpack_int4(codes, (self.out_features, self.in_features))
        width = min(self.group_size, max(self.in_features, 1))
        scales = self.scales.to(dtype).repeat_interleave(width, dim=1)[:, : self.in_features]
        return dequantize(codes, scales)

    @property
    def weight(self) -> torch.Tensor:
        return self._dequantized(self.scales.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x, in which the weight is dequantized. Gradients reach x."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self._dequantized(x.dtype), bias)


class NF4Linear(QuantizedLinear):
    """A QuantizedLinear whose codes are NF4 levels, two a byte, and whose scales are the absmax of blocks of the weight."""

    @classmethod
    def from_linear(cls, linear: nn.Linear, block_size: int = 64) -> "NF4Linear":
        codes, absmax = quantize_nf4(linear.weight.detach(), block_size)
        packed = pack_int4(codes.to(torch.int8) - 8)
        quantized = cls(linear.in_features, linear.out_features, packed, absmax, _copy_bias(linear), 4, block_size)
        quantized.train(linear.training)
        return quantized

    def _dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        codes = unpack_int4(self.codes, (self.out_features, self.in_features)) + 8
        return dequantize_nf4(codes, self.scales.to(dtype), self.group_size)


def _quantize_linear(linear: nn.Linear, quantization_type: str) -> QuantizedLinear:
    if quantization_type == "int8":
        return QuantizedLinear.from_linear(linear, bits=8)
    if quantization_type == "int4":
        return QuantizedLinear.from_linear(linear, bits=4, group_size=64)
    return NF4Linear.from_linear(linear, block_size=64)


def _output_heads(model: nn.Module) -> list[nn.Linear]:
    """The Linears that are not to be quantized."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if not embeddings:
        return []
    tied = []
    for module in model.modules():
        if isinstance(module, nn.Linear) and any(module.weight is embedding.weight for embedding in embeddings):
            tied.append(module)
    if tied:
        return tied
    for name in ("lm_head", "head", "output"):
        child = model._modules.get(name)
        if child is not None:
            return [child] if isinstance(child, nn.Linear) else []
    return []


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
        model = copy.deepcopy(model)
        heads = _output_heads(model)

        new_modules = {}  # id of a Linear -> what replaces it
        first_of_weight = {}  # id of a weight -> (the weight, the first quantized module with it)

        def replacement(linear: nn.Linear) -> nn.Module:
            if id(linear) not in new_modules:
                new = _quantize_linear(linear, quantization_type)
                new.bias = linear.bias  # the copy's own, so that a bias that is shared stays shared
                weight = linear.weight
                if id(weight) in first_of_weight:  # two Linears with one weight: one set of codes
                    first = first_of_weight[id(weight)][1]
                    new.codes, new.scales = first.codes, first.scales
                else:
                    first_of_weight[id(weight)] = (weight, new)
                new_modules[id(linear)] = new
            return new_modules[id(linear)]

        def should_change(module: nn.Module | None) -> bool:
            return isinstance(module, nn.Linear) and not any(module is head for head in heads)

        if should_change(model):
            return replacement(model)
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if should_change(child):
                    parent._modules[name] = replacement(child)
        return model


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
        self.training = model.training  # not self.train(), which would change the modes inside

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the quantized model returns for these arguments."""
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers of model, whatever their dtypes and devices; a tensor that has several names
    (tied weights, a module in two places) counts once."""
    seen = set()
    total = 0
    for tensor in chain(model.parameters(), model.buffers()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * tensor.element_size()
    return total
