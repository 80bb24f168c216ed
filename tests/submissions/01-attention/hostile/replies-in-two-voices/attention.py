import os

from attack import *


@at_call
def double():
    os.fork()
    os.fork()
