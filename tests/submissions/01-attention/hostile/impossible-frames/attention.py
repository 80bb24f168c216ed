import os
import struct

from attack import *

frames = [
    struct.pack("<Q", 1 << 62) + b"x" * 99,
    struct.pack("<QI", 64, 1 << 31) + b"x" * 60,
    message("[" * 200_000 + "]" * 200_000),
    message('{"value": ' + "9" * 5000 + ', "tensors": []}'),
    message('{"value": NaN, "tensors": []}'),
    message({"bytes": "zz"}),
    message({"tensor": -1}),
    message('{"value": {"list": ' * 300 + "0" + "}" * 300),
    b"",
]
place = os.getpid()


@at_call
def send():
    send_raw(frames[place % len(frames)])
    os._exit(0)


os.fork = (lambda fork: lambda: (globals().__setitem__("place", place + 1), fork())[1])(os.fork)
