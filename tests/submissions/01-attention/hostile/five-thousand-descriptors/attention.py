import os
import socket

from attack import *

held = []


@at_call
def open_all():
    try:
        for _ in range(5000):
            held.extend(os.pipe())
            held.append(socket.socketpair())
    except OSError as error:
        print("refused:", error)
    if len(held) >= 5000:
        print("REACHED: 5000 descriptors")
