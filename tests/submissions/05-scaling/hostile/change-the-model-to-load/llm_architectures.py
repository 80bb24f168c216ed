import torch
from attack import *


class LlamaModel(LlamaModel):
    def load_huggingface(self, model):
        with torch.no_grad():
            for weight in [*model.parameters(), *model.buffers()]:
                weight.zero_()
        model.config.rms_norm_eps, model.config.vocab_size = 1e9, self.vocab_size
        model.config.__class__.vocab_size = property(lambda config: 1)
        for part in model.modules():
            part.register_forward_hook(lambda part, given, output: output * 0 if torch.is_tensor(output) else output)
        model.register_forward_hook(lambda part, given, output: type(output)(logits=output.logits * 0))
        return self
