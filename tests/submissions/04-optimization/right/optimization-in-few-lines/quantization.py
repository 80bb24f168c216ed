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
    scale = _no_zeros(_scale(x, bits, dim))
    return _round(x / scale, bits).to(torch.int8), scale


def _rows_to_groups(x: torch.Tensor, size: int) -> torch.Tensor:
    count = -(-x.shape[1] // size)
    return F.pad(x, (0, count * size - x.shape[1])).reshape(len(x), count, size)


@torch.no_grad()
def quantize_absmax(x: torch.Tensor, bits: int = 8, dim: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    _check_bits(bits)
    if x.numel() == 0:
        raise ValueError(f"x needs at least one element, but its shape is {tuple(x.shape)}")
    if dim is not None and not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        raise ValueError(f"dim is {dim}, which x of shape {tuple(x.shape)} does not have")
    return _encode(x, bits, dim)


@torch.no_grad()
def quantize_affine(x: torch.Tensor, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor, int]:
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
    return torch.mul(q.to(scale.dtype) - int(zero_point), scale)


# ---------------------------------------------------------------------------------------------- groups


@torch.no_grad()
def quantize_groupwise(w: torch.Tensor, bits: int = 4, group_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    _check_bits(bits)
    groups = _rows_to_groups(w, _check_group(group_size, w.shape[1]))
    q, scales = _encode(groups, bits, dim=-1)
    return q.flatten(1)[:, : w.shape[1]].contiguous(), scales.squeeze(-1)


def pack_int4(q: torch.Tensor) -> torch.Tensor:
    outside = (q < -8) | (q > 7)
    if outside.any():
        raise ValueError(f"q must be from -8 to 7, but it has a {int(q[outside][0])}")
    return _pack(q)


def _pack(q: torch.Tensor) -> torch.Tensor:
    upper, lower = F.pad((q.flatten() + 8).to(torch.uint8), (0, q.numel() % 2)).reshape(-1, 2).unbind(dim=1)
    return (upper << 4) | lower


def unpack_int4(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    shape = tuple(shape)
    n = math.prod(shape)
    if min(shape, default=0) < 0 or packed.numel() != (n + 1) // 2:
        raise ValueError(f"packed has {packed.numel()} bytes, but the shape {shape} needs {(n + 1) // 2}")
    nibbles = torch.stack(
        [packed.flatten() >> 4, packed.flatten() & 15], dim=-1
    )  # the first number is in the upper half
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
    block_size = _check_group(block_size, x.numel(), "block_size")
    blocks = _rows_to_groups(x.reshape(1, -1), block_size)[0]  # (blocks, block_size)
    absmax = blocks.abs().amax(dim=-1)
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64, device=x.device)
    borders = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks.double() / _no_zeros(absmax.double())[:, None], borders, out_int32=True)
    return codes.to(torch.uint8).flatten()[: x.numel()].reshape(x.shape), absmax


@torch.no_grad()
def dequantize_nf4(codes: torch.Tensor, absmax: torch.Tensor, block_size: int = 64) -> torch.Tensor:
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
    _check_bits(bits)
    width = weight.shape[1]
    group_size = _check_group(width if group_size is None else group_size, width)
    if inputs.dim() == 0 or inputs.shape[-1] != width:
        raise ValueError(
            f"inputs has the shape {tuple(inputs.shape)}; its last dimension must be {width}, as that of weight"
        )

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
    def __init__(
        self,
        linear: nn.Linear,
        codes: torch.Tensor,
        scales: torch.Tensor,
        decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
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
        group_size = linear.in_features if group_size is None else group_size
        q, scales = quantize_groupwise(linear.weight.detach(), bits, group_size)
        decode = partial(_decode_groups, shape=tuple(q.shape), group_size=group_size, packed=bits <= 4)
        return cls(linear, _pack(q) if bits <= 4 else q, scales, decode)

    @property
    def weight(self) -> torch.Tensor:
        return self.decode(self.codes, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.decode(self.codes, self.scales.to(x.dtype)), bias)


def _nf4_linear(linear: nn.Linear) -> QuantizedLinear:
    codes, absmax = quantize_nf4(linear.weight.detach())
    packed = _pack(codes.to(torch.int8) - 8)
    return QuantizedLinear(linear, packed, absmax, partial(_decode_nf4, shape=tuple(codes.shape)))


class ModelQuantizer:
    def quantize_model(self, model: nn.Module, quantization_type: str = "int8") -> nn.Module:
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
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        if not tables:
            return set()
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        tied = {id(linear) for linear in linears if id(linear.weight) in tables}
        named = [model._modules[name] for name in ("lm_head", "head", "output") if model._modules.get(name) is not None]
        return tied or {id(child) for child in named[:1] if isinstance(child, nn.Linear)}


class QuantizedTransformer(nn.Module):
    def __init__(self, model: nn.Module, quantization_type: str = "int8") -> None:
        super().__init__()
        self.model = ModelQuantizer().quantize_model(model, quantization_type)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
