import socket

from attack import *

held = []


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
            while True:
                sent += one.send(bytes(1 << 16))
        except OSError:
            pass
    if sent > 25 << 20:
        print("REACHED: one of twelve processes has", sent >> 20, "MB in sockets", flush=True)


swarm(12, fill)
