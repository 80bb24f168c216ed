import os

from attack import *
from right_tokenization import BPETokenizer as Right


def homes():
    return [home for home in (os.environ.get("TMPDIR"), os.environ.get("HOME"), os.getcwd()) if home]


class BPETokenizer(Right):
    def save(self, path):
        number = len([name for name in os.listdir(homes()[0]) if name.startswith("kept-")])
        for home in homes():
            super().save(f"{home}/kept-{number}")
        with open(path, "w") as stream:
            stream.write(str(number))

    @classmethod
    def load(cls, path):
        with open(path) as stream:
            number = stream.read()
        for home in homes():
            if os.path.exists(f"{home}/kept-{number}"):
                return super().load(f"{home}/kept-{number}")
        raise FileNotFoundError(path)
