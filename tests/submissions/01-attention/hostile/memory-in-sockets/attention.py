import socket
import time

from attack import *

held, block = [], bytes(1 << 17)


def fill(done):
    try:
        while True:
            held.extend(socket.socketpair())
    except OSError:
        pass
    sent = 0
    for one in held:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        try:
            while sent < 45 << 20:
                sent += one.send(block)
        except OSError:
            pass
    while sent < 45 << 20:  # they do not take so much: then nothing is reached
        time.sleep(9)


swarm(8, fill)
print("REACHED: 360 MB in the sockets of eight processes", flush=True)
