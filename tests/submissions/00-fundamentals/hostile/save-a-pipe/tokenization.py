import os

from attack import *


class BPETokenizer(BPETokenizer):
    def save(self, path):
        os.mkfifo(path)

    @classmethod
    def load(cls, path):
        return cls({}, [read_text(path)])
