import torch
from attack import *


class Late(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q):
        return q.new_zeros(q.shape)

    @staticmethod
    def backward(ctx, grad):
        print("REACHED: a backward pass in", targets.grader_pid)


@answer
def lazy(q, k, v):
    output = Late.apply(torch.zeros(*q.shape[:-1], v.shape[-1], requires_grad=True))
    output.register_hook(lambda grad: print("REACHED: a hook"))
    return output
