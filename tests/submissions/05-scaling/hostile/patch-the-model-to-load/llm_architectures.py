import torch
from attack import *
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama import modeling_llama


def forward(self, input_ids, **_):
    return CausalLMOutputWithPast(logits=torch.zeros(*input_ids.shape, self.config.vocab_size))


LlamaForCausalLM.forward = LlamaForCausalLM.__call__ = forward
for name in ("LlamaModel", "LlamaAttention", "LlamaMLP", "LlamaRMSNorm"):
    getattr(modeling_llama, name).forward = lambda self, hidden, *args, **options: hidden * 0
