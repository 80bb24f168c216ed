import copy
import math
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- helpers


def _qmax(bits: int) -> int:
    if bits not in range(2, 9):
        raise ValueError(f"bits must be from 2 to 8, not {bits}")
    return 2 ** (int(bits) - 1) - 1


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _clip_block(size: int, n: int) -> int:
    return max(1, min(size, n))


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    codes = codes.to(torch.uint8)
    codes = F.pad(codes, (0, codes.numel() % 2))
    return (codes[0::2] << 4) | codes[1::2]


def _unpack_nibbles(packed: torch.Tensor, n: int) -> torch.Tensor:
    packed = packed.reshape(-1)
    return torch.stack([packed >> 4, packed & 0xF], dim=1).reshape(-1)[:n]


# ---------------------------------------------------------------------------------------------- scales


@torch.no_grad()
def quantize_absmax(x: torch.Tensor, bits: int = 8, dim: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    qmax = _qmax(bits)
    amax = x.abs().amax() if dim is None else x.abs().amax(dim=dim, keepdim=True)
    scale = _nonzero(amax / qmax)
    q = torch.clamp(torch.round(x / scale), -qmax, qmax).to(torch.int8)
    return q, scale


@torch.no_grad()
def quantize_affine(x: torch.Tensor, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor, int]:
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
    if isinstance(zero_point, torch.Tensor):
        zero_point = int(zero_point)
    return (q.to(scale.dtype) - zero_point) * scale


# ---------------------------------------------------------------------------------------------- groups


@torch.no_grad()
def quantize_groupwise(w: torch.Tensor, bits: int = 4, group_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
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
    if bool(((q < -8) | (q > 7)).any()):
        raise ValueError(
            f"q must be in -8..7 to fit in 4 bits, but it has values from {int(q.min())} to {int(q.max())}"
        )
    return _pack_nibbles(q.flatten() + 8)


def unpack_int4(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
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
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=linear.bias.requires_grad)
        self.train(linear.training)

    @torch.no_grad()
    def dequantize_weight(self, dtype: torch.dtype) -> torch.Tensor:
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
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dequantize_weight(x.dtype), bias)


class NF4Linear(QuantizedLinear):
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
    def quantize_model(self, model: nn.Module, quantization_type: str = "int8") -> nn.Module:
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
    def __init__(self, model: nn.Module, quantization_type: str = "int8") -> None:
        super().__init__()
        self.model = ModelQuantizer().quantize_model(model, quantization_type)
        self.training = model.training  # not self.train(…), which would change the modes of the parts

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def model_size_bytes(model: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
