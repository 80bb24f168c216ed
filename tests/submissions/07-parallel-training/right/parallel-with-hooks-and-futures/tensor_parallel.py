"""Tensor parallelism: every matrix is cut into slices, one a rank, and all ranks work on the same tokens.

Shoeybi et al. 2019, "Megatron-LM", cut the two matrices of an MLP so that nothing has to be sent between them:

    Y = GELU(X Aᵀ)     A is cut by rows:     rank r makes its own columns of Y, from the whole X
    Z = Y Bᵀ           B is cut by columns:  rank r uses its own columns of Y; the Z of all ranks are summed

So an MLP needs one all-reduce forward, of Z. Backward it is the mirror image: the gradient of Z is the same on all ranks,
each rank gets one part of the gradient of X from its own rows of A, and one all-reduce sums these. An attention is the same
with heads in place of columns.

Here x is "whole" where each rank has all of it, the same numbers on each, and "parallel" where rank r has the r-th slice of
its last dimension. The gradient of what is whole is whole, too: all ranks go on with the same computation and the same loss,
so the gradient that comes back to a whole output is the same on each of them, and is not summed.

    N ranks, numbers sent a rank         forward               backward
    ColumnParallelLinear                 all-gather of y       all-reduce of ∂x
    ColumnParallelLinear, not gathered   nothing               all-reduce of ∂x
    RowParallelLinear                    all-reduce of y       all-gather of ∂x
    RowParallelLinear, parallel input    all-reduce of y       nothing
    VocabParallelEmbedding               all-reduce of y       nothing
    vocab_parallel_cross_entropy         3 numbers a target    nothing

The default process group exists before a layer is made. In what follows N is the number of its ranks, and r this one.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

# ---------------------------------------------------------------------------------------------- what is sent, and its gradient
# Four autograd functions do all of it, in two pairs: the backward of each is the forward of its partner.


def _all_reduce(x: torch.Tensor, op: dist.ReduceOp = dist.ReduceOp.SUM) -> torch.Tensor:
    """A new tensor: x of all ranks, reduced."""
    result = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=op)
    return result


def _all_gather(x: torch.Tensor) -> torch.Tensor:
    """A new tensor: x of all ranks, one behind the other in the last dimension."""
    size = dist.get_world_size()
    block = x.detach().contiguous().view(-1)
    parts = block.new_empty(size * block.numel())
    dist.all_gather_into_tensor(parts, block)
    return parts.view(size, *x.shape).movedim(0, -2).flatten(-2)


def _own_slice(x: torch.Tensor) -> torch.Tensor:
    """The part of x that is this rank's, of its last dimension."""
    width = _share(x.shape[-1], "the last dimension")
    return x.narrow(-1, dist.get_rank() * width, width)


def _share(whole: int, name: str) -> int:
    size = dist.get_world_size()
    if whole % size:
        raise ValueError(f"{name} = {whole} does not divide into {size} equal slices")
    return whole // size


class _Copy(torch.autograd.Function):
    """f: whole -> whole, in front of computations that differ from rank to rank; their gradients are summed."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        return _all_reduce(grad)


class _Sum(torch.autograd.Function):
    """g: summands -> their sum, which is whole."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return _all_reduce(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        return grad


class _Gather(torch.autograd.Function):
    """parallel -> whole."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return _all_gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        return _own_slice(grad).contiguous()


class _Slice(torch.autograd.Function):
    """whole -> parallel."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return _own_slice(x).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        return _all_gather(grad)


# ---------------------------------------------------------------------------------------------- layers


def _draw_own(draw: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `draw` gives the r-th time of N: other numbers on each rank, also where all ranks have the same seed.

    Each rank draws N times, so that equal generators stay equal.
    """
    own = None
    for rank in range(dist.get_world_size()):
        drawn = draw()
        if rank == dist.get_rank():
            own = drawn
    return own


def _uniform(shape: tuple[int, ...], in_features: int) -> torch.Tensor:
    bound = in_features**-0.5 if in_features else 0.0
    return torch.empty(shape).uniform_(-bound, bound)


def _copy_of(parameter: torch.Tensor | None, dim: int | None = None) -> nn.Parameter | None:
    """A parameter of its own with this rank's slice along dim, or with all of it."""
    if parameter is None:
        return None
    part = parameter.detach()
    if dim is not None:
        part = part.tensor_split(dist.get_world_size(), dim)[dist.get_rank()]
    return nn.Parameter(part.clone(memory_format=torch.contiguous_format), requires_grad=parameter.requires_grad)


class _Assembled(nn.Module):
    """A module that can also be made of parts that are there already, without drawing any."""

    @classmethod
    def _of(cls, **parts):
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        for name, part in parts.items():
            if part is None:
                self.register_parameter(name, None)
            else:
                setattr(self, name, part)
        return self


class ColumnParallelLinear(_Assembled):
    """y = x Wᵀ + b, of which rank r makes the r-th of N equal slices of y's last dimension.

    The name is from the paper, which writes x A: a column of A is a row of W, as torch keeps it.

    Args:
        in_features, out_features: of the whole layer.
        bias: whether there is one.
        gather_output: whether forward returns the whole y, or this rank's slice.

    Attributes:
        weight: (out_features / N, in_features), rows r · out_features / N and following of W; a parameter. It starts as
            nn.Linear(in_features, out_features) does: uniform between ± 1 / √in_features, with other numbers on each rank.
        bias: (out_features / N,), the same rows of b, a parameter; or None.

    Raises:
        ValueError: N does not divide out_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, gather_output: bool = True) -> None:
        rows = _share(out_features, "out_features")
        super().__init__()
        self.gather_output = gather_output
        self.weight = nn.Parameter(_draw_own(lambda: _uniform((rows, in_features), in_features)))
        if bias:
            self.bias = nn.Parameter(_draw_own(lambda: _uniform((rows,), in_features)))
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_linear(cls, linear: nn.Linear, gather_output: bool = True) -> "ColumnParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.out_features.
        """
        _share(linear.out_features, "out_features")
        return cls._of(weight=_copy_of(linear.weight, 0), bias=_copy_of(linear.bias, 0), gather_output=gather_output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole -> y (..., out_features), whole; or (..., out_features / N) if it is not gathered.

        Where it is not gathered, nothing is sent forward, and one all-reduce backward, for the gradient of x if it requires
        one. That is whole. All gradients are those of the one layer in one process; where y is whole, its gradient is taken
        to be the same on each rank.
        """
        y = F.linear(_Copy.apply(x), self.weight, self.bias)
        return _Gather.apply(y) if self.gather_output else y


class RowParallelLinear(_Assembled):
    """y = x Wᵀ + b, of which rank r uses the r-th of N equal slices of x's last dimension; the sum over the ranks is y.

    Args:
        in_features, out_features: of the whole layer.
        bias: whether there is one.
        input_is_parallel: whether forward gets this rank's slice of x, or the whole x.

    Attributes:
        weight: (out_features, in_features / N), columns r · in_features / N and following of W; a parameter. It starts as
            nn.Linear(in_features, out_features) does: uniform between ± 1 / √in_features, with other numbers on each rank.
        bias: (out_features,), the whole b on each rank, a parameter, from the start the same on all; or None.

    Raises:
        ValueError: N does not divide in_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, input_is_parallel: bool = False) -> None:
        columns = _share(in_features, "in_features")
        super().__init__()
        self.input_is_parallel = input_is_parallel
        self.weight = nn.Parameter(_draw_own(lambda: _uniform((out_features, columns), in_features)))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))  # the same on all ranks, whatever their seeds
        else:
            self.register_parameter("bias", None)

    @classmethod
    def from_linear(cls, linear: nn.Linear, input_is_parallel: bool = False) -> "RowParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.in_features.
        """
        _share(linear.in_features, "in_features")
        return cls._of(weight=_copy_of(linear.weight, 1), bias=_copy_of(linear.bias), input_is_parallel=input_is_parallel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole, or (..., in_features / N) if it is parallel -> y (..., out_features), whole.

        y's gradient is taken to be the same on each rank. The gradient of a whole x is whole; that of a parallel x is that of
        this rank's slice. The bias has the same gradient on each rank. For a parallel x there is one all-reduce forward, and
        nothing is sent backward.
        """
        if not self.input_is_parallel:
            x = _Slice.apply(x)
        y = _Sum.apply(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


def _local_ids(ids: torch.Tensor, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids counted from this rank's first one, 0 where they are those of other ranks; and where they are that."""
    local = ids.long() - first
    others = (local < 0) | (local >= count)
    return local.masked_fill(others, 0), others


class VocabParallelEmbedding(_Assembled):
    """A table of V rows, of which rank r holds the r-th of N equal slices: ids r · V / N and following.

    Args:
        num_embeddings: V.
        embedding_dim: D.

    Attributes:
        weight: (V / N, D), a parameter. It starts with numbers of N(0, 1), as that of nn.Embedding, other ones on each rank.

    Raises:
        ValueError: N does not divide num_embeddings.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        rows = _share(num_embeddings, "num_embeddings")
        super().__init__()
        self.first = dist.get_rank() * rows
        self.weight = nn.Parameter(_draw_own(lambda: torch.randn(rows, embedding_dim)))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> "VocabParallelEmbedding":
        """The layer with the table of a whole one, which is the same on all ranks and has none of nn.Embedding's options.

        Its rows are copies, in the dtype and on the device of those of `embedding`: what changes them later does not change
        embedding.

        Raises:
            ValueError: N does not divide embedding.num_embeddings.
        """
        rows = _share(embedding.num_embeddings, "num_embeddings")
        return cls._of(first=dist.get_rank() * rows, weight=_copy_of(embedding.weight, 0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) integers from 0 to V - 1, the same on each rank -> (..., D), whole.

        The table is not gathered: what is sent does not depend on V, neither forward nor backward. The result's gradient is
        taken to be the same on each rank; the gradient of weight is this rank's slice of that of the whole table.
        """
        rows, others = _local_ids(ids, self.first, len(self.weight))
        return _Sum.apply(F.embedding(rows, self.weight).masked_fill(others.unsqueeze(-1), 0))


# ---------------------------------------------------------------------------------------------- loss


class _CrossEntropy(torch.autograd.Function):
    """The loss of `vocab_parallel_cross_entropy`; its backward needs nobody else."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = logits.shape[-1]
        wide = torch.promote_types(logits.dtype, torch.float32)
        ignored = targets == -100
        rows, others = _local_ids(targets, dist.get_rank() * count, count)

        largest = _all_reduce(logits.amax(-1), dist.ReduceOp.MAX).to(wide)
        shifted = logits.to(wide) - largest.unsqueeze(-1)
        own = shifted.gather(-1, rows.unsqueeze(-1)).squeeze(-1).masked_fill(others, 0)
        weights = shifted.exp_()
        z, target = _all_reduce(torch.stack((weights.sum(-1), own))).unbind()

        total = (~ignored).sum()
        ctx.save_for_backward(weights.div_(z.unsqueeze(-1)), rows, others, ignored, total)
        ctx.dtype = logits.dtype
        return ((z.log() - target).masked_fill(ignored, 0).sum() / total).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        weights, rows, others, ignored, total = ctx.saved_tensors
        hits = (~others).unsqueeze(-1).to(weights.dtype)
        result = weights.scatter_add(-1, rows.unsqueeze(-1), -hits)
        result.mul_(grad.to(weights.dtype) / total).masked_fill_(ignored.unsqueeze(-1), 0)
        return result.to(ctx.dtype), None


def vocab_parallel_cross_entropy(logits_shard: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """F.cross_entropy of logits whose vocabulary is spread over the ranks.

    With m the largest logit of all ranks, and z the sum over all ranks of Σ exp(logit - m), the loss of one target t is

        ln z - (logits[t] - m)

    Logits are not gathered: a few numbers a target are sent, and what is sent does not depend on V, neither forward nor
    backward. Large logits do not overflow.

    Args:
        logits_shard: (..., V / N), the r-th of N equal slices of the logits: ids r · V / N and following.
        targets: (...) int64, ids from 0 to V - 1 or -100, which does not count; the same on each rank.

    Returns:
        () in the dtype of the logits, the same on each rank: the mean over the targets that count; NaN if there are none.
        Where each rank calls backward on it, the gradient of logits_shard is this rank's slice of that of the whole logits.
    """
    return _CrossEntropy.apply(logits_shard, targets)


# ---------------------------------------------------------------------------------------------- a layer of a transformer


class TensorParallelMLP(_Assembled):
    """down(GELU(up(x))) with the exact GELU; rank r has the r-th of N equal slices of the d_ff inner features.

    Its parameters are this rank's slices of up and down, 1 / N of their numbers; the bias of down, which is whole and counts
    once, is all that each rank has.

    Args:
        d_model: D.
        d_ff: width inside.

    Raises:
        ValueError: N does not divide d_ff.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = ColumnParallelLinear(d_model, d_ff, gather_output=False)
        self.down = RowParallelLinear(d_ff, d_model, input_is_parallel=True)

    @classmethod
    def from_linears(cls, up: nn.Linear, down: nn.Linear) -> "TensorParallelMLP":
        """The MLP with copies of the weights of up (D -> d_ff) and down (d_ff -> D), each with a bias or without.

        up and down are the same on all ranks, and do not change, also where the copies are changed later.

        Raises:
            ValueError: N does not divide up.out_features, which is d_ff.
        """
        return cls._of(
            up=ColumnParallelLinear.from_linear(up, gather_output=False),
            down=RowParallelLinear.from_linear(down, input_is_parallel=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D), whole -> (..., D), whole.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.
        """
        return self.down(F.gelu(self.up(x)))


class TensorParallelAttention(_Assembled):
    """Multi-head self-attention; rank r has the r-th of N equal groups of heads.

    Its parameters are the rows of q, k and v of this rank's heads and the columns of proj that read them, 1 / N of the numbers;
    the bias of proj, which is whole and counts once, is all that each rank has.

    Args:
        d_model: D.
        num_heads: H; a head is Dh = D / H wide.

    Raises:
        ValueError: H does not divide D, or N does not divide H.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        heads, head_dim = self._heads(d_model, num_heads)
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = ColumnParallelLinear(d_model, 3 * d_model, gather_output=False)  # in any case of own heads: all are drawn
        self.proj = RowParallelLinear(d_model, d_model, input_is_parallel=True)

    @staticmethod
    def _heads(d_model: int, num_heads: int) -> tuple[int, int]:
        """How many heads this rank has, and how wide one is."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"{num_heads} heads do not divide d_model = {d_model}")
        return _share(num_heads, "num_heads"), d_model // num_heads

    @classmethod
    def from_linears(cls, qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> "TensorParallelAttention":
        """The attention with copies of the weights of qkv (D -> 3 · D) and proj (D -> D), each with a bias or without.

        The first D rows of qkv are those of q, then k, then v; head h has rows h · Dh and following of each. proj reads the
        heads' outputs in the same order. qkv and proj are the same on all ranks, and do not change, also where the copies are
        changed later.

        Raises:
            ValueError: H does not divide D, or N does not divide H.
        """
        heads, head_dim = cls._heads(qkv.in_features, num_heads)
        own = [
            None if whole is None else _copy_of(whole.unflatten(0, (3, num_heads, head_dim)), 1) for whole in (qkv.weight, qkv.bias)
        ]
        weight, bias = (None if part is None else nn.Parameter(part.detach().flatten(0, 2), part.requires_grad) for part in own)
        return cls._of(
            heads=heads,
            head_dim=head_dim,
            qkv=ColumnParallelLinear._of(weight=weight, bias=bias, gather_output=False),
            proj=RowParallelLinear.from_linear(proj, input_is_parallel=True),
        )

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D), whole -> (B, T, D), whole: softmax(q kᵀ / √Dh) v of each head, and proj of all of them.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.

        Args:
            causal: whether a position attends to itself and what comes before it only.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(heads.transpose(1, 2).flatten(2))
