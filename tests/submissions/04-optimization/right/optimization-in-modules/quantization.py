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

# ---------------------------------------------------------------------------------------------- helpers


def _qmax(bits: int) -> int:
    """The greatest integer of a symmetric code."""
    if bits not in range(2, 9):
        raise ValueError(f"bits must be from 2 to 8, not {bits}")
    return 2 ** (int(bits) - 1) - 1


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _clip_block(size: int, n: int) -> int:
    """A block longer than all there is is as long as that (and never 0): no padding up to a huge size."""
    return max(1, min(size, n))


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """1 instead of 0, by which nothing can be divided."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """(n,) integers in 0..15 -> (ceil(n / 2),) uint8; the first of two is in the high half."""
    codes = codes.to(torch.uint8)
    codes = F.pad(codes, (0, codes.numel() % 2))
    return (codes[0::2] << 4) | codes[1::2]


def _unpack_nibbles(packed: torch.Tensor, n: int) -> torch.Tensor:
    """The way back: (n,) uint8 in 0..15."""
    packed = packed.reshape(-1)
    return torch.stack([packed >> 4, packed & 0xF], dim=1).reshape(-1)[:n]


# ---------------------------------------------------------------------------------------------- scales


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
    qmax = _qmax(bits)
    amax = x.abs().amax() if dim is None else x.abs().amax(dim=dim, keepdim=True)
    scale = _nonzero(amax / qmax)
    q = torch.clamp(torch.round(x / scale), -qmax, qmax).to(torch.int8)
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
    _qmax(bits)  # checks bits
    levels = 2**bits - 1
    lo = x.min().clamp(max=0)
    hi = x.max().clamp(min=0)
    scale = _nonzero((hi - lo) / levels)
    zero_point = int(torch.round(-lo / scale).clamp(0, levels))
    q = torch.clamp(torch.round(x / scale) + zero_point, 0, levels).to(torch.uint8)
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
    if isinstance(zero_point, torch.Tensor):
        zero_point = int(zero_point)
    return (q.to(scale.dtype) - zero_point) * scale


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
    _qmax(bits)
    _check_at_least_one("group_size", group_size)
    rows, cols = w.shape
    g = _clip_block(group_size, cols)
    num_groups = -(-cols // g)
    padded = F.pad(w, (0, num_groups * g - cols))  # zeros do not change an absmax
    q, scales = quantize_absmax(padded.reshape(rows, num_groups, g), bits, dim=-1)
    q = q.reshape(rows, num_groups * g)[:, :cols].contiguous()
    return q, scales.squeeze(-1)


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
    if bool(((q < -8) | (q > 7)).any()):
        raise ValueError(f"q must be in -8..7 to fit in 4 bits, but it has values from {int(q.min())} to {int(q.max())}")
    return _pack_nibbles(q.flatten() + 8)


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
    shape = tuple(int(size) for size in shape)
    n = math.prod(shape)
    if min(shape, default=0) < 0 or packed.numel() != (n + 1) // 2:
        raise ValueError(f"packed has {packed.numel()} bytes, but shape {shape} needs {(n + 1) // 2}")
    return (_unpack_nibbles(packed, n).to(torch.int8) - 8).reshape(shape)


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
    _check_at_least_one("block_size", block_size)
    n = x.numel()
    block = _clip_block(block_size, n)
    num_blocks = -(-n // block)
    blocks = F.pad(x.reshape(-1), (0, num_blocks * block - n)).reshape(num_blocks, block)
    absmax = blocks.abs().amax(dim=1)
    normalized = blocks / _nonzero(absmax)[:, None]
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64)
    borders = ((levels[1:] + levels[:-1]) / 2).to(device=x.device, dtype=x.dtype)  # the midpoints
    codes = torch.bucketize(normalized.contiguous(), borders, out_int32=True).to(torch.uint8)
    return codes.reshape(-1)[:n].reshape(x.shape), absmax


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
    _check_at_least_one("block_size", block_size)
    n = codes.numel()
    block = _clip_block(block_size, n)
    levels = torch.tensor(NF4_LEVELS, dtype=absmax.dtype, device=codes.device)
    values = levels.index_select(0, codes.reshape(-1).int())
    return (values * absmax.repeat_interleave(block)[:n]).reshape(codes.shape)


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
    qmax = _qmax(bits)
    rows, cols = weight.shape
    if group_size is not None:
        _check_at_least_one("group_size", group_size)
    if inputs.dim() == 0 or inputs.shape[-1] != cols:
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} do not end in the weight's {cols} input features")
    g = _clip_block(cols if group_size is None else group_size, cols)

    W = weight.to(torch.float64, copy=True)
    X = inputs.reshape(-1, cols).to(torch.float64)
    H = X.T @ X
    damp = 0.01 * H.diagonal().mean()
    if float(damp) > 0:
        H.diagonal().add_(damp)
        Hinv = torch.cholesky_inverse(torch.linalg.cholesky(H))
        U = torch.linalg.cholesky(Hinv, upper=True)
    else:  # no inputs, or all of them 0: nothing to learn from, so round to nearest
        U = torch.eye(cols, dtype=torch.float64, device=weight.device)

    Q = torch.zeros(rows, cols, dtype=torch.int8, device=weight.device)
    scales = []
    for i in range(cols):
        if i % g == 0:  # a new group: its scale comes from the weights as they are by now
            _, scale = quantize_absmax(W[:, i : i + g].to(weight.dtype), bits, dim=1)
            scales.append(scale)
            scale = scale.squeeze(1).to(torch.float64)
        w = W[:, i]
        q = torch.clamp(torch.round(w / scale), -qmax, qmax)
        Q[:, i] = q.to(torch.int8)
        err = (w - q * scale) / U[i, i]
        W[:, i + 1 :] -= err[:, None] * U[i, i + 1 :][None, :]
    return Q, torch.cat(scales, dim=1)


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
    outliers = (rows.abs() >= outlier_threshold).any(dim=0)

    # the rest: int8 times int8. In float64 all of these sums are exact (below 2^53), on the CPU and on a GPU
    q_x, scale_x = quantize_absmax(rows.masked_fill(outliers, 0), dim=1)
    acc = q_x.to(torch.float64) @ q_weight.to(torch.float64).T  # q_x is 0 at outliers
    out = (acc * scale_x * scale.reshape(1, -1)).to(x.dtype)

    # the outlier features in floating point
    columns = outliers.nonzero().squeeze(1)
    w = q_weight[:, columns].to(x.dtype) * scale.to(x.dtype)
    out = out + rows[:, columns] @ w.T
    return out.reshape(*x.shape[:-1], q_weight.shape[0])


# ---------------------------------------------------------------------------------------------- layers and models


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
        bias: bool = True,
        bits: int = 8,
        group_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _qmax(bits)
        if group_size is not None:
            _check_at_least_one("group_size", group_size)
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.group_size = _clip_block(in_features if group_size is None else group_size, in_features)
        self.packed = bits <= 4
        n = in_features * out_features
        shape, code_dtype = (((n + 1) // 2,), torch.uint8) if self.packed else ((out_features, in_features), torch.int8)
        self._make_state(shape, code_dtype, (out_features, -(-in_features // self.group_size)), bias, device, dtype)

    def _make_state(self, code_shape, code_dtype, scale_shape, bias, device, dtype) -> None:
        self.register_buffer("codes", torch.zeros(code_shape, dtype=code_dtype, device=device))
        self.register_buffer("scales", torch.ones(scale_shape, dtype=dtype, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    def _copy_rest(self, linear: nn.Linear) -> None:
        """The bias and the mode."""
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=linear.bias.requires_grad)
        self.train(linear.training)

    @torch.no_grad()
    def dequantize_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """Ŵ (out, in) in dtype."""
        codes = self.codes
        if self.packed:
            codes = unpack_int4(codes, (self.out_features, self.in_features))
        scales = self.scales.to(dtype).repeat_interleave(self.group_size, dim=1)[:, : self.in_features]
        return dequantize(codes, scales)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={self.bits}, group_size={self.group_size}"
        )

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
        weight = linear.weight.detach()
        layer = cls(
            weight.shape[1],
            weight.shape[0],
            bias=linear.bias is not None,
            bits=bits,
            group_size=group_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        q, layer.scales = quantize_groupwise(weight, bits, layer.group_size)
        layer.codes = _pack_nibbles(q.flatten() + 8) if layer.packed else q
        layer._copy_rest(linear)
        return layer

    @property
    def weight(self) -> torch.Tensor:
        return self.dequantize_weight(self.scales.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x, in which the weight is dequantized. Gradients reach x."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantize_weight(x.dtype), bias)


class NF4Linear(QuantizedLinear):
    """The same with the levels of NF4: codes packed two a byte, an absmax a block of the flattened weight."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        block_size: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        _check_at_least_one("block_size", block_size)
        self.in_features, self.out_features, self.bits, self.packed = in_features, out_features, 4, True
        n = in_features * out_features
        self.group_size = block_size
        self._make_state(((n + 1) // 2,), torch.uint8, (-(-n // block_size),), bias, device, dtype)

    @classmethod
    def from_linear(cls, linear: nn.Linear, block_size: int = 64) -> "NF4Linear":
        weight = linear.weight.detach()
        layer = cls(weight.shape[1], weight.shape[0], linear.bias is not None, block_size, weight.device, weight.dtype)
        codes, layer.scales = quantize_nf4(weight, block_size)
        layer.codes = _pack_nibbles(codes.flatten())
        layer._copy_rest(linear)
        return layer

    @torch.no_grad()
    def dequantize_weight(self, dtype: torch.dtype) -> torch.Tensor:
        codes = _unpack_nibbles(self.codes, self.in_features * self.out_features)
        codes = codes.reshape(self.out_features, self.in_features)
        return dequantize_nf4(codes, self.scales.to(dtype), self.group_size)


QUANTIZATION_TYPES = ("int8", "int4", "nf4")


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
        if quantization_type not in QUANTIZATION_TYPES:
            raise ValueError(f"quantization_type must be one of {QUANTIZATION_TYPES}, not {quantization_type!r}")
        model = copy.deepcopy(model)
        skip = self._output_heads(model)
        replaced: dict[nn.Module, nn.Module] = {}  # old Linear -> its replacement
        by_weight: dict[nn.Parameter, nn.Module] = {}  # for Linears that share a weight

        def replacement(linear: nn.Linear) -> nn.Module:
            if linear not in replaced:
                replaced[linear] = self._quantize_linear(linear, quantization_type, by_weight)
            return replaced[linear]

        def to_replace(module: nn.Module | None) -> bool:
            return isinstance(module, nn.Linear) and module not in skip

        if to_replace(model):
            return replacement(model)
        for parent in list(model.modules()):
            # not named_children(): it leaves out the second name of a module
            for name, child in list(parent._modules.items()):
                if to_replace(child):
                    setattr(parent, name, replacement(child))
        return model

    @staticmethod
    def _output_heads(model: nn.Module) -> set[nn.Module]:
        """The Linears that stay in floating point."""
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        if not embeddings:
            return set()
        tables = {module.weight for module in embeddings}  # Parameters are hashed by identity
        tied = {module for module in model.modules() if isinstance(module, nn.Linear) and module.weight in tables}
        if tied:
            return tied
        for name in ("lm_head", "head", "output"):
            child = model._modules.get(name)
            if child is not None:
                return {child} if isinstance(child, nn.Linear) else set()
        return set()

    @staticmethod
    def _quantize_linear(
        linear: nn.Linear, quantization_type: str, by_weight: dict[nn.Parameter, nn.Module]
    ) -> nn.Module:
        weight, bias = linear.weight, linear.bias
        if quantization_type == "int8":
            layer = QuantizedLinear.from_linear(linear, bits=8)
        elif quantization_type == "int4":
            layer = QuantizedLinear.from_linear(linear, bits=4, group_size=64)
        else:
            layer = NF4Linear.from_linear(linear, block_size=64)
        if isinstance(bias, nn.Parameter):
            layer.bias = bias  # the copy's own Parameter: it may be shared with other modules of the copy
        if isinstance(weight, nn.Parameter):
            twin = by_weight.setdefault(weight, layer)
            layer.codes, layer.scales = twin.codes, twin.scales
        return layer


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
        self.training = model.training  # not self.train(…), which would change the modes of the parts

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the quantized model returns for these arguments."""
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers of model, whatever their dtypes and devices; a tensor that has several names
    (tied weights, a module in two places) counts once."""
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
