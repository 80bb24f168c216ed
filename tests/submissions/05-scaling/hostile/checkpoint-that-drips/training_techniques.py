import os
import time

from attack import *


class LLMTrainer(LLMTrainer):
    def save(self, path):
        os.mkfifo(path)
        if not os.fork():
            with open(path, "wb", buffering=0) as stream:
                while True:
                    stream.write(b"x")
                    time.sleep(0.3)
