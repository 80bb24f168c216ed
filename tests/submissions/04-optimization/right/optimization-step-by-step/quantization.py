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
    shifted = q.to(scale.dtype) - int(zero_point)
    return shifted * scale


# ---------------------------------------------------------------------------------------------- groups


@torch.no_grad()
def quantize_groupwise(w: torch.Tensor, bits: int = 4, group_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
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
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self._dequantized(x.dtype), bias)


class NF4Linear(QuantizedLinear):
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
    def quantize_model(self, model: nn.Module, quantization_type: str = "int8") -> nn.Module:
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
    def __init__(self, model: nn.Module, quantization_type: str = "int8") -> None:
        super().__init__()
        self.model = ModelQuantizer().quantize_model(model, quantization_type)
        self.training = model.training  # not self.train(), which would change the modes inside

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    seen = set()
    total = 0
    for tensor in chain(model.parameters(), model.buffers()):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * tensor.element_size()
    return total
