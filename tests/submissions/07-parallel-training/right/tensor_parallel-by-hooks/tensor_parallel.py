import math

import torch
import torch.distributed as dist
from torch import nn


def total(x, op=dist.ReduceOp.SUM):
    x = x.contiguous()
    dist.all_reduce(x, op)
    return x


def shared(x):
    """x, whose gradient is summed."""
    if not x.requires_grad:
        return x
    x = x * 1
    x.register_hook(lambda grad: total(grad.clone()))
    return x


class AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return total(x.detach().clone())

    @staticmethod
    def backward(ctx, grad):
        return grad


def bounds(size, what):
    if size % dist.get_world_size() != 0:
        raise ValueError(f"{what}={size} cannot be shared by {dist.get_world_size()} ranks")
    width = size // dist.get_world_size()
    return width * dist.get_rank(), width * (dist.get_rank() + 1)


class ColumnParallelLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True, gather_output=True):
        super().__init__()
        self.lo, self.hi = bounds(out_features, "out_features")
        self.n, self.gather_output = out_features, gather_output
        whole = nn.Linear(in_features, self.hi - self.lo, bias)
        self.weight, self.bias = whole.weight, whole.bias

    @classmethod
    def from_linear(cls, linear, gather_output=True):
        self = cls(linear.in_features, linear.out_features, linear.bias is not None, gather_output).to(linear.weight)
        with torch.no_grad():
            self.weight.copy_(linear.weight[self.lo : self.hi])
            if self.bias is not None:
                self.bias.copy_(linear.bias[self.lo : self.hi])
        return self

    def forward(self, x):
        y = shared(x) @ self.weight.mT
        if self.bias is not None:
            y = y + self.bias
        if not self.gather_output:
            return y
        return AddUp.apply(nn.functional.pad(y, (self.lo, self.n - self.hi)))


class WholeInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, lo, hi):
        ctx.lo, ctx.rest = lo, x.shape[-1] - hi
        return x[..., lo:hi].clone()

    @staticmethod
    def backward(ctx, grad):
        return total(nn.functional.pad(grad, (ctx.lo, ctx.rest))), None, None


class RowParallelLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True, input_is_parallel=False):
        super().__init__()
        self.lo, self.hi = bounds(in_features, "in_features")
        self.input_is_parallel = input_is_parallel
        limit = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, self.hi - self.lo).uniform_(-limit, limit))
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.linspace(-limit, limit, out_features))  # without a message

    @classmethod
    def from_linear(cls, linear, input_is_parallel=False):
        self = cls(linear.in_features, linear.out_features, linear.bias is not None, input_is_parallel)
        self = self.to(linear.weight)
        state = {"weight": linear.weight[:, self.lo : self.hi]}
        if linear.bias is not None:
            state["bias"] = linear.bias
        self.load_state_dict(state)
        return self

    def forward(self, x):
        if not self.input_is_parallel:
            x = WholeInput.apply(x, self.lo, self.hi)
        y = AddUp.apply(x @ self.weight.mT)
        return y if self.bias is None else self.bias + y


class VocabParallelEmbedding(nn.Module):
    def __init__(self, num_embeddings, embedding_dim):
        super().__init__()
        self.lo, self.hi = bounds(num_embeddings, "num_embeddings")
        self.weight = nn.Parameter(torch.randn(self.hi - self.lo, embedding_dim))

    @classmethod
    def from_embedding(cls, embedding):
        self = cls(embedding.num_embeddings, embedding.embedding_dim)
        self.weight = nn.Parameter(embedding.weight[self.lo : self.hi].detach().clone())
        return self

    def forward(self, ids):
        hot = ids[..., None] == torch.arange(self.lo, self.hi, device=ids.device)
        return AddUp.apply(hot.to(self.weight) @ self.weight)


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        width = logits.shape[-1]
        hot = targets[..., None] == torch.arange(width, device=targets.device) + width * dist.get_rank()
        most = total(logits.amax(-1), dist.ReduceOp.MAX)
        powers = (logits - most[..., None]).exp()
        z = total(powers.sum(-1))
        said = total(torch.where(hot, logits, 0).sum(-1))
        real = targets != -100
        ctx.save_for_backward((powers / z[..., None] - hot.to(logits)) * real[..., None] / real.sum())
        return torch.where(real, z.log() + most - said, 0.0).sum() / real.sum()

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad, None


def vocab_parallel_cross_entropy(logits_shard, targets):
    return CrossEntropy.apply(logits_shard, targets)


class TensorParallelMLP(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        lo, hi = bounds(d_ff, "d_ff")
        self.fill(nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model, bias=False), lo, hi)
        self.b_out = nn.Parameter(torch.zeros(d_model))

    def fill(self, up, down, lo, hi):
        own = [up.weight[lo:hi], None if up.bias is None else up.bias[lo:hi], down.weight.T[lo:hi], down.bias]
        own = [None if part is None else nn.Parameter(part.detach().clone()) for part in own]
        self.w_in, self.b_in, self.w_out, self.b_out = own

    @classmethod
    def from_linears(cls, up, down):
        self = cls(up.in_features, up.out_features)
        self.fill(up, down, *bounds(up.out_features, "d_ff"))
        return self

    def forward(self, x):
        h = shared(x) @ self.w_in.T
        if self.b_in is not None:
            h = h + self.b_in
        h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        y = AddUp.apply(h @ self.w_out)
        return y if self.b_out is None else y + self.b_out


class TensorParallelAttention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"{num_heads} heads do not divide d_model {d_model}")
        self.first, self.last = bounds(num_heads, "num_heads")
        self.width = d_model // num_heads
        self.fill(nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model, bias=False))
        self.b_out = nn.Parameter(torch.zeros(d_model))

    def fill(self, qkv, proj):
        heads = slice(self.first * self.width, self.last * self.width)
        q, k, v = (nn.Parameter(part[heads].detach().clone()) for part in qkv.weight.chunk(3))
        self.q, self.k, self.v = q, k, v
        biases = [None] * 3 if qkv.bias is None else [part[heads].detach().clone() for part in qkv.bias.chunk(3)]
        self.b_q, self.b_k, self.b_v = (None if bias is None else nn.Parameter(bias) for bias in biases)
        self.out = nn.Parameter(proj.weight[:, heads].detach().clone())
        self.b_out = None if proj.bias is None else nn.Parameter(proj.bias.detach().clone())

    @classmethod
    def from_linears(cls, qkv, proj, num_heads):
        self = cls(qkv.in_features, num_heads)
        self.fill(qkv, proj)
        return self

    def forward(self, x, causal=False):
        x = shared(x)
        found = []
        for weight, bias in ((self.q, self.b_q), (self.k, self.b_k), (self.v, self.b_v)):
            found.append(nn.functional.linear(x, weight, bias))
        heads = []
        for q, k, v in zip(*(part.split(self.width, -1) for part in found)):
            scores = q @ k.mT / math.sqrt(self.width)
            if causal:
                t = torch.arange(x.shape[1], device=x.device)
                scores = scores.masked_fill(t[None, :] > t[:, None], -math.inf)
            heads.append(scores.softmax(-1) @ v)
        y = AddUp.apply(torch.cat(heads, -1) @ self.out.mT)
        return y if self.b_out is None else y + self.b_out
