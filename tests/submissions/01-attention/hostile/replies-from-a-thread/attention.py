import threading

from attack import *
from autograder.box import wire

control = local_of_a_caller("control")


def serve():
    while True:
        command, request, descriptors = wire.receive_command(control, 1)
        for descriptor in descriptors:
            import socket

            test = socket.socket(fileno=descriptor)
            wire.receive(test)
            test.sendall(message({"dict": [[{"str": "value"}, True]]}))


threading.Thread(target=serve, daemon=True).start()
