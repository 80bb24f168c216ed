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

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- what is sent, and its gradient
# Four autograd functions do all of it, in two pairs: the backward of each is the forward of its partner.


def all_reduced(tensor: torch.Tensor, operation=dist.ReduceOp.SUM) -> torch.Tensor:
    """A new tensor: the sum (or maximum) over the ranks."""
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, operation)
    return result


def all_gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks, side by side in the last dimension."""
    message = tensor.detach().contiguous()
    parts = [torch.empty_like(message) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, message)
    return torch.cat(parts, dim=-1)


def own_slice(tensor: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The r-th of N equal slices of a dimension, a copy."""
    return tensor.detach().chunk(dist.get_world_size(), dim)[dist.get_rank()].clone(memory_format=torch.contiguous_format)


class Copy(torch.autograd.Function):
    """f: the same x goes into the computations of all ranks; its gradient is the sum."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return all_reduced(gradient)


class Sum(torch.autograd.Function):
    """g: the sum over the ranks; each summand has the gradient of the sum."""

    @staticmethod
    def forward(ctx, x):
        return all_reduced(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Gather(torch.autograd.Function):
    """The whole from the slices of the ranks."""

    @staticmethod
    def forward(ctx, x):
        return all_gathered(x)

    @staticmethod
    def backward(ctx, gradient):
        return own_slice(gradient)


class Slice(torch.autograd.Function):
    """This rank's slice of the whole."""

    @staticmethod
    def forward(ctx, x):
        return own_slice(x)

    @staticmethod
    def backward(ctx, gradient):
        return all_gathered(gradient)


def slice_size(whole: int, name: str) -> int:
    """whole / N."""
    world_size = dist.get_world_size()
    if whole % world_size != 0:
        raise ValueError(f"{name} is {whole}, which {world_size} ranks cannot share equally")
    return whole // world_size


def draw_slice(shape: tuple, bound: float | None) -> torch.Tensor:
    """Random numbers, between ± bound or, if that is None, of N(0, 1).

    All N slices are drawn one after the other, and the r-th is kept: ranks get other numbers also where they have one seed, and
    their generators stay together.
    """
    rank = dist.get_rank()
    kept = torch.empty(shape)
    for number in range(dist.get_world_size()):
        drawn = torch.empty(shape)
        if bound is None:
            drawn.normal_()
        else:
            drawn.uniform_(-bound, bound)
        if number == rank:
            kept = drawn
    return kept


def linear_bound(in_features: int) -> float:
    return in_features**-0.5 if in_features > 0 else 0.0


def copied(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format))


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
        rows = slice_size(out_features, "out_features")
        self.in_features = in_features
        self.out_features = out_features
        self.gather_output = gather_output
        bound = linear_bound(in_features)
        self.weight = nn.Parameter(draw_slice((rows, in_features), bound))
        if bias:
            self.bias = nn.Parameter(draw_slice((rows,), bound))
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
        layer = cls(linear.in_features, linear.out_features, bias=False, gather_output=gather_output)
        layer.weight = nn.Parameter(own_slice(linear.weight, 0))
        if linear.bias is not None:
            layer.bias = nn.Parameter(own_slice(linear.bias, 0))
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole -> y (..., out_features), whole; or (..., out_features / N) if it is not gathered.

        Where it is not gathered, nothing is sent forward, and one all-reduce backward, for the gradient of x if it requires
        one. That is whole. All gradients are those of the one layer in one process; where y is whole, its gradient is taken
        to be the same on each rank.
        """
        y = F.linear(Copy.apply(x), self.weight, self.bias)
        if self.gather_output:
            y = Gather.apply(y)
        return y


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
        columns = slice_size(in_features, "in_features")
        self.in_features = in_features
        self.out_features = out_features
        self.input_is_parallel = input_is_parallel
        bound = linear_bound(in_features)
        self.weight = nn.Parameter(draw_slice((out_features, columns), bound))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))  # the same on all ranks, whatever their seeds, without a message
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
        layer = cls(linear.in_features, linear.out_features, bias=False, input_is_parallel=input_is_parallel)
        layer.weight = nn.Parameter(own_slice(linear.weight, 1))
        if linear.bias is not None:
            layer.bias = copied(linear.bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole, or (..., in_features / N) if it is parallel -> y (..., out_features), whole.

        y's gradient is taken to be the same on each rank. The gradient of a whole x is whole; that of a parallel x is that of
        this rank's slice. The bias has the same gradient on each rank. For a parallel x there is one all-reduce forward, and
        nothing is sent backward.
        """
        if not self.input_is_parallel:
            x = Slice.apply(x)
        y = Sum.apply(F.linear(x, self.weight))
        if self.bias is not None:
            y = y + self.bias
        return y


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
        rows = slice_size(num_embeddings, "num_embeddings")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.first = dist.get_rank() * rows
        self.weight = nn.Parameter(draw_slice((rows, embedding_dim), None))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> "VocabParallelEmbedding":
        """The layer with the table of a whole one, which is the same on all ranks and has none of nn.Embedding's options.

        Its rows are copies, in the dtype and on the device of those of `embedding`: what changes them later does not change
        embedding.

        Raises:
            ValueError: N does not divide embedding.num_embeddings.
        """
        layer = cls(embedding.num_embeddings, embedding.embedding_dim)
        layer.weight = nn.Parameter(own_slice(embedding.weight, 0))
        return layer

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) integers from 0 to V - 1, the same on each rank -> (..., D), whole.

        The table is not gathered: what is sent does not depend on V, neither forward nor backward. The result's gradient is
        taken to be the same on each rank; the gradient of weight is this rank's slice of that of the whole table.
        """
        rows = self.weight.shape[0]
        own = (ids >= self.first) & (ids < self.first + rows)
        places = torch.where(own, ids - self.first, 0)
        found = F.embedding(places, self.weight)
        return Sum.apply(found.masked_fill(~own.unsqueeze(-1), 0))


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
    counts = targets != -100
    logits = logits_shard[counts]  # (targets that count, V / N)
    ids = targets[counts]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    number = ids.numel()
    if number == 0:  # on all ranks alike: nothing to send, and 0 / 0 for a mean
        return (logits.sum() / number).to(logits_shard.dtype)

    size = logits.shape[-1]
    first = dist.get_rank() * size
    maximum = all_reduced(logits.detach().amax(-1), dist.ReduceOp.MAX)
    shifted = logits - maximum.unsqueeze(-1)
    own = (ids >= first) & (ids < first + size)
    places = torch.where(own, ids - first, 0)
    of_target = shifted.gather(-1, places.unsqueeze(-1)).squeeze(-1).masked_fill(~own, 0)
    z, of_target = Sum.apply(torch.stack([shifted.exp().sum(-1), of_target])).unbind(0)
    return (z.log() - of_target).mean().to(logits_shard.dtype)


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
        slice_size(d_ff, "d_ff")
        self.up = ColumnParallelLinear(d_model, d_ff, gather_output=False)
        self.down = RowParallelLinear(d_ff, d_model, input_is_parallel=True)

    @classmethod
    def from_linears(cls, up: nn.Linear, down: nn.Linear) -> "TensorParallelMLP":
        """The MLP with copies of the weights of up (D -> d_ff) and down (d_ff -> D), each with a bias or without.

        up and down are the same on all ranks, and do not change, also where the copies are changed later.

        Raises:
            ValueError: N does not divide up.out_features, which is d_ff.
        """
        mlp = cls(up.in_features, up.out_features)
        mlp.up = ColumnParallelLinear.from_linear(up, gather_output=False)
        mlp.down = RowParallelLinear.from_linear(down, input_is_parallel=True)
        return mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D), whole -> (..., D), whole.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.
        """
        return self.down(F.gelu(self.up(x)))


def own_heads(d_model: int, num_heads: int) -> int:
    """How many heads a rank has."""
    if num_heads < 1 or d_model % num_heads != 0:
        raise ValueError(f"d_model is {d_model}, which {num_heads} heads cannot share equally")
    return slice_size(num_heads, "num_heads")


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
        self.heads = own_heads(d_model, num_heads)
        self.qkv = ColumnParallelLinear(d_model, 3 * d_model, gather_output=False)
        self.proj = RowParallelLinear(d_model, d_model, input_is_parallel=True)

    @classmethod
    def from_linears(cls, qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> "TensorParallelAttention":
        """The attention with copies of the weights of qkv (D -> 3 · D) and proj (D -> D), each with a bias or without.

        The first D rows of qkv are those of q, then k, then v; head h has rows h · Dh and following of each. proj reads the
        heads' outputs in the same order. qkv and proj are the same on all ranks, and do not change, also where the copies are
        changed later.

        Raises:
            ValueError: H does not divide D, or N does not divide H.
        """
        attention = cls(qkv.in_features, num_heads)
        layer = ColumnParallelLinear(qkv.in_features, qkv.out_features, bias=False, gather_output=False)
        layer.weight = nn.Parameter(torch.cat([own_slice(part, 0) for part in qkv.weight.chunk(3, 0)]))
        if qkv.bias is not None:
            layer.bias = nn.Parameter(torch.cat([own_slice(part, 0) for part in qkv.bias.chunk(3, 0)]))
        attention.qkv = layer
        attention.proj = RowParallelLinear.from_linear(proj, input_is_parallel=True)
        return attention

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D), whole -> (B, T, D), whole: softmax(q kᵀ / √Dh) v of each head, and proj of all of them.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.

        Args:
            causal: whether a position attends to itself and what comes before it only.
        """
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, own heads, T, Dh)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if causal:
            length = x.shape[1]
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        outputs = scores.softmax(-1) @ v
        return self.proj(outputs.transpose(1, 2).flatten(2))
