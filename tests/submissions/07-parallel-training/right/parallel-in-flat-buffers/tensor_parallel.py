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

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- what is sent, and its gradient
# Four autograd functions do all of it, in two pairs: the backward of each is the forward of its partner.


def _all_reduce(x: torch.Tensor, op=dist.ReduceOp.SUM) -> torch.Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, op)
    return total


def _all_gather(x: torch.Tensor) -> torch.Tensor:
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts, -1)


def _own(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """This rank's slice, a copy."""
    return x.detach().chunk(dist.get_world_size(), dim)[dist.get_rank()].clone(memory_format=torch.contiguous_format)


def _operator(name: str, forward: Callable, partner: Callable[[], type]) -> Callable:
    """The autograd function that does `forward`, and backward what its partner does."""
    methods = {
        "forward": staticmethod(lambda ctx, x: forward(x)),
        "backward": staticmethod(lambda ctx, gradient: partner()(gradient)),
    }
    return type(name, (torch.autograd.Function,), methods).apply


_copy = _operator("Copy", lambda x: x.view_as(x), lambda: _sum)  # f: whole, into as many computations as there are ranks
_sum = _operator("Sum", _all_reduce, lambda: _copy)  # g: summands -> whole
_gather = _operator("Gather", _all_gather, lambda: _cut)  # parallel -> whole
_cut = _operator("Cut", _own, lambda: _gather)  # whole -> parallel


# What is cut, and drawn.


def _share(number: int, what: str) -> int:
    """number / N."""
    share, rest = divmod(number, dist.get_world_size())
    if rest:
        raise ValueError(f"{what} is {number}, which {dist.get_world_size()} ranks do not divide")
    return share


def _draw(size: tuple[int, ...], draw: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The r-th of N drawings: other numbers on each rank whether the ranks have the same seed or not, and never the whole."""
    for rank in range(dist.get_world_size()):
        numbers = draw(torch.empty(size))
        if rank == dist.get_rank():
            mine = numbers
    return mine


def _uniform(in_features: int) -> Callable[[torch.Tensor], torch.Tensor]:
    bound = 1 / math.sqrt(in_features) if in_features else 0.0
    return lambda numbers: numbers.uniform_(-bound, bound)


def _module(cls: type, weight: torch.Tensor, bias: torch.Tensor | None = None, **attributes) -> nn.Module:
    """A cls that has these parameters, without a call of its __init__."""
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    return _fill(layer, weight, bias, **attributes)


def _fill(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None, **attributes) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


# ---------------------------------------------------------------------------------------------- layers


class ColumnParallelLinear(nn.Module):
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
        super().__init__()
        rows, draw = _share(out_features, "out_features"), _uniform(in_features)
        _fill(self, _draw((rows, in_features), draw), _draw((rows,), draw) if bias else None, gather_output=gather_output)

    @classmethod
    def from_linear(cls, linear: nn.Linear, gather_output: bool = True) -> "ColumnParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.out_features.
        """
        _share(linear.out_features, "out_features")
        bias = None if linear.bias is None else _own(linear.bias, 0)
        return _module(cls, _own(linear.weight, 0), bias, gather_output=gather_output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole -> y (..., out_features), whole; or (..., out_features / N) if it is not gathered.

        Where it is not gathered, nothing is sent forward, and one all-reduce backward, for the gradient of x if it requires
        one. That is whole. All gradients are those of the one layer in one process; where y is whole, its gradient is taken
        to be the same on each rank.
        """
        y = F.linear(_copy(x), self.weight, self.bias)
        return _gather(y) if self.gather_output else y


class RowParallelLinear(nn.Module):
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
        super().__init__()
        columns, draw = _share(in_features, "in_features"), _uniform(in_features)
        weight = _draw((out_features, columns), draw)
        _fill(self, weight, torch.zeros(out_features) if bias else None, input_is_parallel=input_is_parallel)  # zeros are the same on all

    @classmethod
    def from_linear(cls, linear: nn.Linear, input_is_parallel: bool = False) -> "RowParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.in_features.
        """
        _share(linear.in_features, "in_features")
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return _module(cls, _own(linear.weight, 1), bias, input_is_parallel=input_is_parallel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole, or (..., in_features / N) if it is parallel -> y (..., out_features), whole.

        y's gradient is taken to be the same on each rank. The gradient of a whole x is whole; that of a parallel x is that of
        this rank's slice. The bias has the same gradient on each rank. For a parallel x there is one all-reduce forward, and
        nothing is sent backward.
        """
        y = _sum(F.linear(x if self.input_is_parallel else _cut(x), self.weight))
        return y if self.bias is None else y + self.bias


class VocabParallelEmbedding(nn.Module):
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
        super().__init__()
        rows = _share(num_embeddings, "num_embeddings")
        self.weight = nn.Parameter(_draw((rows, embedding_dim), torch.Tensor.normal_))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> "VocabParallelEmbedding":
        """The layer with the table of a whole one, which is the same on all ranks and has none of nn.Embedding's options.

        Its rows are copies, in the dtype and on the device of those of `embedding`: what changes them later does not change
        embedding.

        Raises:
            ValueError: N does not divide embedding.num_embeddings.
        """
        _share(embedding.num_embeddings, "num_embeddings")
        return _module(cls, _own(embedding.weight, 0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) integers from 0 to V - 1, the same on each rank -> (..., D), whole.

        The table is not gathered: what is sent does not depend on V, neither forward nor backward. The result's gradient is
        taken to be the same on each rank; the gradient of weight is this rank's slice of that of the whole table.
        """
        row, mine = _local(ids, len(self.weight))
        return _sum(F.embedding(row, self.weight).masked_fill(~mine[..., None], 0))


def _local(ids: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Their places in this rank's slice of the vocabulary, 0 for those that are not in it; and which are."""
    place = ids - dist.get_rank() * size
    mine = (place >= 0) & (place < size)
    return place.masked_fill(~mine, 0), mine


# ---------------------------------------------------------------------------------------------- loss


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
    logits = logits_shard.to(torch.promote_types(logits_shard.dtype, torch.float32))
    logits = logits - _all_reduce(logits.amax(-1), dist.ReduceOp.MAX)[..., None]
    place, mine = _local(targets, logits.shape[-1])
    own = logits.gather(-1, place[..., None]).squeeze(-1).masked_fill(~mine, 0)
    z, target = _sum(torch.stack([logits.exp().sum(-1), own]))
    counts = targets != -100
    return ((z.log() - target).masked_fill(~counts, 0).sum() / counts.sum()).to(logits_shard.dtype)


# ---------------------------------------------------------------------------------------------- a layer of a transformer


class TensorParallelMLP(nn.Module):
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
        mlp = cls.__new__(cls)
        nn.Module.__init__(mlp)
        mlp.up = ColumnParallelLinear.from_linear(up, gather_output=False)
        mlp.down = RowParallelLinear.from_linear(down, input_is_parallel=True)
        return mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D), whole -> (..., D), whole.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.
        """
        return self.down(F.gelu(self.up(x)))


class TensorParallelAttention(nn.Module):
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
        super().__init__()
        self.heads = self._heads(d_model, num_heads)
        self.qkv = ColumnParallelLinear(d_model, 3 * d_model, gather_output=False)  # all rows are drawn alike: any 3 D / N will do
        self.proj = RowParallelLinear(d_model, d_model, input_is_parallel=True)

    @staticmethod
    def _heads(d_model: int, num_heads: int) -> int:
        """How many heads a rank has."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"{num_heads} heads do not divide d_model = {d_model}")
        return _share(num_heads, "num_heads")

    @classmethod
    def from_linears(cls, qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> "TensorParallelAttention":
        """The attention with copies of the weights of qkv (D -> 3 · D) and proj (D -> D), each with a bias or without.

        The first D rows of qkv are those of q, then k, then v; head h has rows h · Dh and following of each. proj reads the
        heads' outputs in the same order. qkv and proj are the same on all ranks, and do not change, also where the copies are
        changed later.

        Raises:
            ValueError: H does not divide D, or N does not divide H.
        """
        attention = cls.__new__(cls)
        nn.Module.__init__(attention)
        attention.heads = cls._heads(proj.in_features, num_heads)

        def rows(whole: torch.Tensor) -> torch.Tensor:
            return _own(whole.unflatten(0, (3, -1)), 1).flatten(0, 1)

        bias = None if qkv.bias is None else rows(qkv.bias)
        attention.qkv = _module(ColumnParallelLinear, rows(qkv.weight), bias, gather_output=False)
        attention.proj = RowParallelLinear.from_linear(proj, input_is_parallel=True)
        return attention

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D), whole -> (B, T, D), whole: softmax(q kᵀ / √Dh) v of each head, and proj of all of them.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.

        Args:
            causal: whether a position attends to itself and what comes before it only.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # (B, T, H / N, Dh) each
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -math.inf)
        return self.proj(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(-2))
