import os
import socket

from attack import *

control = os.dup(local_of_a_caller("control").fileno())


@at_call
def swap():
    connection = local_of_a_caller("connection").fileno()
    kept = os.dup(connection)
    os.dup2(control, connection)
    os.dup2(kept, control)
    socket.socket(fileno=os.dup(kept)).shutdown(socket.SHUT_RD)
