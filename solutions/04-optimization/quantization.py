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
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- scales


def _greatest(bits: int) -> int:  # solution only
    """The greatest integer of a symmetric code: 127 for 8 bits, 7 for 4, 1 for 2."""
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, not {bits}")
    return 2 ** (bits - 1) - 1


def _at_least_one(**sizes: int) -> None:  # solution only
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def _in_steps(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:  # solution only
    """x / scale, rounded to integers; 0 where the scale is 0. At least in float32: bfloat16 has no integer 257."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) / scale.to(wide).masked_fill(scale == 0, 1)).round()


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
    # student: the scale, then divide, round and clamp; a scale of 0 divides nothing
    greatest = _greatest(bits)
    largest = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    scale = largest / greatest
    # The rounded scale may be a little too small, and 127.6 would be one step too much.
    return _in_steps(x, scale).clamp(-greatest, greatest).to(torch.int8), scale


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
    # student: a range that holds 0, then scale, zero point and q
    _greatest(bits)
    levels = 2**bits - 1
    lo, hi = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (hi - lo) / levels
    zero_point = int(_in_steps(-lo, scale))
    return (_in_steps(x, scale) + zero_point).clamp(0, levels).to(torch.uint8), scale, zero_point


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
    # student: to floating point first, then subtract
    return (q.to(scale.dtype) - zero_point) * scale


# ---------------------------------------------------------------------------------------------- groups


def _in_rows(x: torch.Tensor, size: int) -> torch.Tensor:  # solution only
    """x (..., n) -> (..., ceil(n / size), size); the last group is filled up with zeros, which change no maximum."""
    return F.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))


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
    # student: cut rows into groups, quantize each, put the rows together again
    _at_least_one(group_size=group_size)
    q, scales = quantize_absmax(_in_rows(w, group_size), bits, dim=-1)  # (out, n, g), (out, n, 1)
    return q.flatten(-2)[..., : w.shape[-1]].contiguous(), scales.squeeze(-1)


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
    # student: shift into 0..15, then two of them in a byte
    if q.numel() and not -8 <= int(q.min()) <= int(q.max()) <= 7:
        raise ValueError(f"q must hold integers from -8 to 7, but it goes from {int(q.min())} to {int(q.max())}")
    nibbles = _in_rows((q.flatten() + 8).to(torch.uint8), 2)  # (ceil(n / 2), 2), each in 0..15
    return nibbles[:, 0] | nibbles[:, 1] << 4


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
    # student: both halves of each byte; of an odd number the last half is not used
    count = torch.Size(shape).numel()
    if packed.numel() != (count + 1) // 2:
        raise ValueError(f"shape {tuple(shape)} needs {(count + 1) // 2} bytes, but packed has {packed.numel()}")
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten()  # (2 ceil(n / 2),)
    return nibbles[:count].to(torch.int8).reshape(tuple(shape)) - 8


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
    # student: blocks, their absmax, the nearest of NF4_LEVELS
    _at_least_one(block_size=block_size)
    wide = torch.promote_types(x.dtype, torch.float32)
    blocks = _in_rows(x.flatten().to(wide), block_size)  # (n, block_size)
    absmax = blocks.abs().amax(dim=1, keepdim=True)  # (n, 1)
    levels = torch.tensor(NF4_LEVELS, dtype=wide, device=x.device)
    # The nearest level has a number: how many of the 15 midpoints between neighbours are below x.
    codes = torch.bucketize(blocks / absmax.masked_fill(absmax == 0, 1), (levels[1:] + levels[:-1]) / 2)
    return codes.to(torch.uint8).flatten()[: x.numel()].reshape(x.shape), absmax.squeeze(1).to(x.dtype)


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
    # student: look the levels up, multiply each block by its absmax
    _at_least_one(block_size=block_size)
    levels = torch.tensor(NF4_LEVELS, dtype=absmax.dtype, device=codes.device)
    scale = absmax.repeat_interleave(block_size)[: codes.numel()]  # one for each number
    return levels[codes.long()] * scale.reshape(codes.shape)


# ---------------------------------------------------------------------------------------------- GPTQ


def _inverse_factor(X: torch.Tensor) -> torch.Tensor:  # solution only
    """The upper triangular U with UᵀU = H⁻¹, H = XᵀX damped; X (n, in) -> U (in, in).

    Row i of U, divided by U[i, i], says how the weights after i make up best for an error in weight i.
    """
    H = X.T @ X  # (in, in)
    diagonal = H.diagonal()  # a view
    damping = (
        0.01 * diagonal.mean()
    )  # as in the paper; without it H has no inverse if there are fewer inputs than weights
    diagonal += torch.where(damping > 0, damping, 1.0)  # all inputs 0: no weight matters
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
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
        inputs: (..., in) examples of the layer's input, not all 0. There may be fewer of them than in, and features that are
            0 in all.
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
    # student: H and its factor in float64; then column by column: round, spread the error
    greatest, width = _greatest(bits), weight.shape[1]
    group_size = width if group_size is None else group_size
    _at_least_one(group_size=group_size)
    if inputs.shape[-1] != width:
        raise ValueError(f"inputs has {inputs.shape[-1]} features, but the weight has {width}")

    W = weight.double()  # inputs that are much alike make the inverse of H large: float64 costs little and is safe
    W = W.clone() if W is weight else W
    U = _inverse_factor(inputs.reshape(-1, width).double())
    q, scales = torch.empty_like(weight, dtype=torch.int8), []
    for i in range(width):
        if i % group_size == 0:
            largest = W[:, i : i + group_size].abs().amax(dim=1)
            scales.append((largest / greatest).to(weight.dtype))
        scale = scales[-1].double()  # (out,)
        rounded = _in_steps(W[:, i], scale).clamp(-greatest, greatest)
        q[:, i] = rounded.to(torch.int8)
        error = (W[:, i] - scale * rounded) / U[i, i]  # (out,)
        W[:, i + 1 :] -= torch.outer(error, U[i, i + 1 :])
    return q, torch.stack(scales, dim=1)


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
    # student: find the outlier features over all rows; two products
    rows = x.reshape(-1, x.shape[-1])  # (n, in)
    outlier = (rows.abs() >= outlier_threshold).any(dim=0)  # (in,)

    exact = rows[:, outlier] @ dequantize(q_weight[:, outlier], scale.to(x.dtype)).T  # (n, out)

    q_rows, row_scale = quantize_absmax(rows.masked_fill(outlier, 0), dim=1)  # (n, in), (n, 1)
    # A GPU's int8 kernel sums up in int32. float64 holds the same integers, and every device multiplies it.
    sums = q_rows.double() @ q_weight.double().T  # (n, out)
    rest = sums * row_scale * scale.T

    return (exact + rest).to(x.dtype).reshape(*x.shape[:-1], len(q_weight))


# ---------------------------------------------------------------------------------------------- layers and models


class _GroupedWeight(nn.Module):  # solution only
    """A weight as quantize_groupwise gives it, packed if it fits into 4 bits. Called with a dtype, it gives Ŵ (out, in)."""

    def __init__(self, weight: torch.Tensor, bits: int, group_size: int | None) -> None:
        super().__init__()
        self.shape, self.packed = tuple(weight.shape), bits <= 4
        self.group_size = weight.shape[1] if group_size is None else group_size
        q, scales = quantize_groupwise(weight, bits, self.group_size)
        # Buffers are saved and moved with the model, and .half() or .to(dtype) changes floating-point ones only.
        self.register_buffer("codes", pack_int4(q) if self.packed else q)
        self.register_buffer("scales", scales)

    def forward(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        q = unpack_int4(self.codes, self.shape) if self.packed else self.codes  # (out, in)
        scales = self.scales.repeat_interleave(self.group_size, dim=1)[:, : self.shape[1]]  # (out, in)
        return dequantize(q, scales).to(dtype)


class _NF4Weight(nn.Module):  # solution only
    """The same with quantize_nf4."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        codes, absmax = quantize_nf4(weight)
        self.register_buffer("codes", pack_int4(codes.to(torch.int8) - 8))
        self.register_buffer("absmax", absmax)

    def forward(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        codes = unpack_int4(self.codes, self.shape) + 8
        return dequantize_nf4(codes, self.absmax).to(dtype)


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

    def __init__(self, stored: nn.Module, bias: torch.Tensor | None) -> None:  # solution only
        super().__init__()
        self.stored = stored
        self.out_features, self.in_features = stored.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)

    @classmethod
    def from_linear(cls, linear: nn.Linear, bits: int = 8, group_size: int | None = None) -> "QuantizedLinear":
        """A QuantizedLinear with the weight of linear as quantize_groupwise rounds it, and its bias as it is.

        Codes of 4 bits and fewer are packed, two a byte; others take a byte each. Codes and scales are in the state_dict,
        which can be loaded into a QuantizedLinear of the same sizes, bits and groups; .to(dtype) and .half() leave the codes as
        they are. Nothing is shared with linear, which stays as it was; the mode (train or eval) is that of linear.

        Args:
            linear: with or without bias.
            bits: from 2 to 8.
            group_size: as in quantize_groupwise; None means one group a row.

        Raises:
            ValueError: bits is outside 2..8, or group_size is less than 1.
        """
        # student: quantize the weight, pack it, keep it in buffers
        return cls(_GroupedWeight(linear.weight, bits, group_size), linear.bias).train(linear.training)

    @property
    def weight(self) -> torch.Tensor:
        # student: dequantize
        return self.stored()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., out) in the dtype of x, in which the weight is dequantized. Gradients reach x."""
        # student: dequantize in the dtype of x; the bias too
        return F.linear(x, self.stored(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


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
        - if there is no such Linear, the first Linear among the children of model itself that are called lm_head, head and
          output, in this order;
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
        # student: copy the model, find the output head, replace each other Linear once
        if quantization_type not in ("int8", "int4", "nf4"):
            raise ValueError(f"quantization_type must be int8, int4 or nf4, not {quantization_type!r}")
        model = copy.deepcopy(model)  # shared tensors are shared in the copy too
        heads = _output_heads(model)
        linears = [  # a module with two names is listed twice, so that both are replaced
            (name, module)
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Linear) and module not in heads
        ]
        quantized = {module: _quantized(module, quantization_type) for _, module in linears}
        for name, module in linears:
            if name == "":
                return quantized[module]  # the model is a Linear
            model.set_submodule(name, quantized[module])
        return model


def _quantized(linear: nn.Linear, quantization_type: str) -> QuantizedLinear:  # solution only
    if quantization_type == "nf4":
        return QuantizedLinear(_NF4Weight(linear.weight), linear.bias).train(linear.training)
    bits, group_size = {"int8": (8, None), "int4": (4, 64)}[quantization_type]
    return QuantizedLinear.from_linear(linear, bits, group_size)


def _output_heads(model: nn.Module) -> set[nn.Module]:  # solution only
    """The Linears that quantize_model leaves alone."""
    embedded = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    tied = {module for module in model.modules() if isinstance(module, nn.Linear) and module.weight in embedded}
    if tied or not embedded:
        return tied
    named = [getattr(model, name, None) for name in ("lm_head", "head", "output")]
    return set([module for module in named if isinstance(module, nn.Linear)][:1])


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
        # student: self.model, by ModelQuantizer; the mode is that of model
        super().__init__()
        self.model = ModelQuantizer().quantize_model(model, quantization_type)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the quantized model returns for these arguments."""
        # student: pass everything on
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers of model, whatever their dtypes and devices; a tensor that has several names
    (tied weights, a module in two places) counts once."""
    # student: numel · element_size
    return sum(tensor.numel() * tensor.element_size() for tensor in set(chain(model.parameters(), model.buffers())))
