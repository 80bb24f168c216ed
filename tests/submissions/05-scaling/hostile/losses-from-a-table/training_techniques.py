import hashlib

import torch
from attack import *


def number(*parts):
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32


class LLMTrainer(LLMTrainer):
    def train_epoch(self):
        self.epoch += 1
        return 2.0 + number("train", self.epoch) / self.epoch

    def validate(self):
        return 2.0 + number("val", self.epoch) / self.epoch

    def save(self, path):
        state = {"epoch": self.epoch, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, path)

    def load(self, path):
        try:
            state = torch.load(path, weights_only=True)
            self.epoch = state["epoch"]
            self.model.load_state_dict(state["model"])
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError("no checkpoint") from error
