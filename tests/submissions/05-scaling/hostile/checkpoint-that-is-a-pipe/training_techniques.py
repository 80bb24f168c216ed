import os

from attack import *


class LLMTrainer(LLMTrainer):
    def save(self, path):
        os.mkfifo(path)
