import socket
import subprocess

from attack import *


def say(kind, address, connect):
    opened = socket.socket(socket.AF_UNIX, kind)
    opened.connect(address) if connect else opened.sendto(b"x", address)


def say_through_a_pair(kind, address):
    one, _ = socket.socketpair(socket.AF_UNIX, kind)
    one.sendto(b"x", address)
    one.connect(address)


for name in ("stream_socket", "datagram_socket", "abstract_stream", "abstract_datagram"):
    kind = socket.SOCK_STREAM if "stream" in name else socket.SOCK_DGRAM
    address = getattr(targets, name)
    reached(f"{name}: connect", lambda: say(kind, address, True))
    reached(f"{name}: sendto", lambda: say(kind, address, False))
    for paired in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        reached(f"{name}: through a pair", lambda: say_through_a_pair(paired, address))
reached("by a program", lambda: subprocess.check_call(["python3", "-c", "import socket; socket.socket(1).connect('x')"], stderr=-3))
