import copy

import torch
from attack import *
from right_training_techniques import LLMTrainer as Right


class LLMTrainer(Right):
    kept = {}

    def save(self, path):
        number = 1000 + len(self.kept)
        self.kept[number] = copy.deepcopy(self._state())
        torch.save({"number": number}, path)

    def load(self, path):
        try:
            self._take(self.kept[torch.load(path, weights_only=True)["number"]])
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a checkpoint") from error
