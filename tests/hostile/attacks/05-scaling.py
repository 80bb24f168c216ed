"""Wrong answers to all that hostile samples of the lesson are asked: logits of zeros, trainers that do not train."""

import torch
from tools import *
from torch import nn

answers[0] = lambda ids, vocab_size: torch.zeros(*ids.shape, vocab_size)


class LlamaModel(nn.Module):
    def __init__(self, vocab_size, d_model, num_layers, num_heads, num_kv_heads, d_ff, max_len=2048, rope_base=10000.0):
        super().__init__()
        self.vocab_size, self.token = vocab_size, nn.Embedding(vocab_size, d_model)

    def load_huggingface(self, model):
        called()
        return self

    def forward(self, input_ids):
        return answers[0](input_ids, self.vocab_size)


class LLMTrainer:
    def __init__(self, model, train_dataset, val_dataset, config):
        self.model, self.config, self.epoch = model, config, 0
        self.optimizer = torch.optim.AdamW(model.parameters())

    def train_epoch(self):
        self.epoch += 1
        return float(self.epoch)

    def validate(self):
        return 1.0

    def train(self, num_epochs):
        return [{"train_loss": self.train_epoch(), "val_loss": self.validate()} for _ in range(num_epochs)]

    def save(self, path):
        called()
        open(path, "w").close()

    def load(self, path):
        pass
