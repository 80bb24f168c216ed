import sys

from attack import *


@at_call
def search():
    frame = sys._getframe()
    while frame:
        for name, value in frame.f_locals.items():
            if any(word in name.lower() for word in ("nonce", "token", "secret", "expected", "tolerance", "mistake")):
                print("REACHED:", name, value)
        frame = frame.f_back
