"""Matrices in parallel, known as tensor parallelism: every matrix is cut into slices, one a rank, and all ranks work on the same tokens.

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

The default process group exists before a layer is made, and making a layer sends nothing. A rank keeps its slices alone: a
whole weight is not kept beside them, nor alive by a slice that is not copied (torch keeps all of a tensor for a part of it).
In what follows N is the number of its ranks, and r this one.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------- what is sent, and its gradient
# Four autograd functions do all of it, in two pairs: the backward of each is the forward of its partner.


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
        # TODO(student): check out_features, then make this rank's rows of the weight and the bias
        raise NotImplementedError("ColumnParallelLinear.__init__ is not implemented yet")

    @classmethod
    def from_linear(cls, linear: nn.Linear, gather_output: bool = True) -> "ColumnParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.out_features.
        """
        # TODO(student): make the layer, then copy this rank's rows
        raise NotImplementedError("ColumnParallelLinear.from_linear is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole -> y (..., out_features), whole; or (..., out_features / N) if it is not gathered.

        Where it is not gathered, nothing is sent forward, and one all-reduce backward, for the gradient of x if it requires
        one. That is whole. All gradients are those of the one layer in one process; where y is whole, its gradient is taken
        to be the same on each rank.
        """
        # TODO(student): this rank's rows, from an x whose gradients are summed over the ranks; then gather what they give
        raise NotImplementedError("ColumnParallelLinear.forward is not implemented yet")


class RowParallelLinear(nn.Module):
    """y = x Wᵀ + b, of which rank r uses the r-th of N equal slices of x's last dimension; the sum over the ranks is y.

    Args:
        in_features, out_features: of the whole layer.
        bias: whether there is one.
        input_is_parallel: whether forward gets this rank's slice of x, or the whole x.

    Attributes:
        weight: (out_features, in_features / N), columns r · in_features / N and following of W; a parameter. It starts as
            nn.Linear(in_features, out_features) does: uniform between ± 1 / √in_features, with other numbers on each rank.
        bias: (out_features,), the whole b on each rank, a parameter, which starts the same on all ranks, without a message
            (with zeros, for example); or None.

    Raises:
        ValueError: N does not divide in_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, input_is_parallel: bool = False) -> None:
        # TODO(student): check in_features, then make this rank's columns of the weight, and the whole bias
        raise NotImplementedError("RowParallelLinear.__init__ is not implemented yet")

    @classmethod
    def from_linear(cls, linear: nn.Linear, input_is_parallel: bool = False) -> "RowParallelLinear":
        """The layer with the weights of a whole one, which is the same on all ranks, with a bias or without.

        Its weights are copies, in the dtype and on the device of those of `linear`: what changes them later does not change
        linear.

        Raises:
            ValueError: N does not divide linear.in_features.
        """
        # TODO(student): make the layer, then copy this rank's columns and the bias
        raise NotImplementedError("RowParallelLinear.from_linear is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features), whole, or (..., in_features / N) if it is parallel -> y (..., out_features), whole.

        y's gradient is taken to be the same on each rank. The gradient of a whole x is whole; that of a parallel x is that of
        this rank's slice. The bias has the same gradient on each rank. For a parallel x there is one all-reduce forward, and
        nothing is sent backward.
        """
        # TODO(student): sum the ranks' products, then add the bias once
        raise NotImplementedError("RowParallelLinear.forward is not implemented yet")


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
        # TODO(student): check num_embeddings, then make this rank's rows, and keep which id is the first
        raise NotImplementedError("VocabParallelEmbedding.__init__ is not implemented yet")

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> "VocabParallelEmbedding":
        """The layer with the table of a whole one, which is the same on all ranks and has none of nn.Embedding's options.

        Its rows are copies, in the dtype and on the device of those of `embedding`: what changes them later does not change
        embedding.

        Raises:
            ValueError: N does not divide embedding.num_embeddings.
        """
        # TODO(student): make the layer, then copy this rank's rows
        raise NotImplementedError("VocabParallelEmbedding.from_embedding is not implemented yet")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) integers from 0 to V - 1, the same on each rank -> (..., D), whole.

        The table is not gathered: what is sent does not depend on V, neither forward nor backward. The result's gradient is
        taken to be the same on each rank; the gradient of weight is this rank's slice of that of the whole table.
        """
        # TODO(student): zeros for ids of other ranks, then sum over the ranks
        raise NotImplementedError("VocabParallelEmbedding.forward is not implemented yet")


# ---------------------------------------------------------------------------------------------- loss


def vocab_parallel_cross_entropy(logits_shard: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """F.cross_entropy of logits whose vocabulary is spread over the ranks.

    With m the largest logit of all ranks, and z the sum over all ranks of Σ exp(logit - m), the loss of one target t is

        ln z - (logits[t] - m)

    Logits are not gathered: a few numbers a target are sent, and what is sent does not depend on V, neither forward nor
    backward. Large logits do not overflow. A logit may be -inf, which has the probability 0 and the gradient 0, also where
    all of one rank's are, as where V is filled up to a multiple of N; each target's logit is finite.

    Args:
        logits_shard: (..., V / N), the r-th of N equal slices of the logits: ids r · V / N and following.
        targets: (...) int64, ids from 0 to V - 1 or -100, which does not count; the same on each rank.

    Returns:
        () in the dtype of the logits, the same on each rank: the mean over the targets that count; NaN if there are none.
        Where each rank calls backward on it, the gradient of logits_shard is this rank's slice of that of the whole logits.
    """
    # TODO(student): the maximum of all ranks, then z and the target's logit, each summed over the ranks, and the mean
    raise NotImplementedError("vocab_parallel_cross_entropy is not implemented yet")


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
        # TODO(student): a column-parallel layer, whose output stays parallel, and a row-parallel one
        raise NotImplementedError("TensorParallelMLP.__init__ is not implemented yet")

    @classmethod
    def from_linears(cls, up: nn.Linear, down: nn.Linear) -> "TensorParallelMLP":
        """The MLP with copies of the weights of up (D -> d_ff) and down (d_ff -> D), each with a bias or without.

        up and down are the same on all ranks, and do not change, also where the copies are changed later.

        Raises:
            ValueError: N does not divide up.out_features, which is d_ff.
        """
        # TODO(student): both layers from linears
        raise NotImplementedError("TensorParallelMLP.from_linears is not implemented yet")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D), whole -> (..., D), whole.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.
        """
        # TODO(student): up, GELU, down
        raise NotImplementedError("TensorParallelMLP.forward is not implemented yet")


class TensorParallelAttention(nn.Module):
    """Multi-head self-attention; rank r has the r-th of N equal groups of heads.

    Its parameters are the rows of q, k and v of this rank's heads and the columns of proj that read them, 1 / N of the numbers;
    the bias of proj, which is whole and counts once, is all that each rank has. torch's F.scaled_dot_product_attention may be used.

    Args:
        d_model: D.
        num_heads: H; a head is Dh = D / H wide.

    Raises:
        ValueError: H does not divide D, or N does not divide H.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        # TODO(student): check both sizes; a column-parallel layer for q, k and v of this rank's heads, a row-parallel one behind them
        raise NotImplementedError("TensorParallelAttention.__init__ is not implemented yet")

    @classmethod
    def from_linears(cls, qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> "TensorParallelAttention":
        """The attention with copies of the weights of qkv (D -> 3 · D) and proj (D -> D), each with a bias or without.

        The first D rows of qkv are those of q, then k, then v; head h has rows h · Dh and following of each. proj reads the
        heads' outputs in the same order. qkv and proj are the same on all ranks, and do not change, also where the copies are
        changed later.

        Raises:
            ValueError: H does not divide D, or N does not divide H.
        """
        # TODO(student): this rank's rows of q, of k and of v, which are not a slice of qkv
        raise NotImplementedError("TensorParallelAttention.from_linears is not implemented yet")

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """x (B, T, D), whole -> (B, T, D), whole: softmax(q kᵀ / √Dh) v of each head, and proj of all of them.

        One all-reduce of as many numbers as x has, and one more backward, for the gradient of x if it requires one; nothing
        else is sent. The output's gradient is taken to be the same on each rank.

        Args:
            causal: whether a position attends to itself and what comes before it only.
        """
        # TODO(student): attention of this rank's heads alone, then proj
        raise NotImplementedError("TensorParallelAttention.forward is not implemented yet")
