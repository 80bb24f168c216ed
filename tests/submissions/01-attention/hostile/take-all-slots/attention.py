import socket
import time

from attack import *

held = []


def take(first):
    for uid in range(first, first + 64):
        held.append(socket.socketpair()[0])
        held[-1].bind(f"\0llm-autograder-slot-{uid}")
    print(f"REACHED: took slots from {first}", flush=True)


for first in range(60578, 61184, 64):
    reached(f"slots from {first}", lambda: take(first))
