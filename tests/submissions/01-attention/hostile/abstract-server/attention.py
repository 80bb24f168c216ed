import socket

from attack import *


def served(opened):
    opened.bind("\0hostile-server")
    opened.listen()
    return opened


reached("a socket", lambda: served(socket.socket(socket.AF_UNIX)))
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    reached("one of a pair", lambda: served(socket.socketpair(socket.AF_UNIX, kind)[0]))
    reached("a pair, bound", lambda: socket.socketpair(socket.AF_UNIX, kind)[0].bind("\0hostile-name"))
    reached("a pair, in a file", lambda: socket.socketpair(socket.AF_UNIX, kind)[0].bind("hostile.sock"))
