"""Helpers for the probes of this lesson: they run in the student's process, with torch and the standard library only."""

import torch
import torch.nn.functional as F
from torch import nn

from ..inside import RIGHT

# ---------------------------------------------------------------------------------------------- llm_architectures


class RightRMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        return (F.rms_norm(x.to(self.weight.dtype), x.shape[-1:], self.weight, self.eps)).to(x.dtype)


class RightSwiGLU(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.gate, self.up = (nn.Linear(d_model, d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


RIGHT["llm_architectures"] = {"RMSNorm": RightRMSNorm, "SwiGLU": RightSwiGLU}


def llama_like(config, weights=None):
    """A LlamaForCausalLM of transformers with weights by name, in eval mode; what is not named stays as it starts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**config, bos_token_id=None, eos_token_id=None))
    own = model.state_dict()
    for name, weight in (weights or {}).items():
        own[name].copy_(weight)
    return model.eval()


def matrices(model):
    """Its parameters of two dimensions or more, and how many numbers all of its parameters have."""
    weights = list(model.parameters())
    return [weight for weight in weights if weight.dim() > 1], sum(weight.numel() for weight in weights)
