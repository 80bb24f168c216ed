import socket

from attack import *

for family in range(46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            opened = socket.socket(family, kind)
        except OSError:
            continue
        print(f"REACHED: a socket of family {family}, kind {kind}")
reached("TCP", lambda: socket.create_connection(targets.tcp, timeout=1))
reached("UDP", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", targets.udp))
reached("a pair of another family", lambda: socket.socketpair(socket.AF_INET))
reached("connect without a socket", lambda: syscall(42, 203, 1, bytes(16), 16))
