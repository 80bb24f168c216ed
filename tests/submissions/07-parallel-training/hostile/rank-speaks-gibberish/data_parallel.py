import os
import struct

from attack import *

FRAMES = [
    struct.pack("<Q", 1 << 62), struct.pack("<QI", 100, 1 << 31) + b"x" * 96, message("[" * 200_000), message('{"value": 1e999999, "tensors": []}'),
    message({"dict": [[{"str": "post"}, {"str": "barrier"}]] * 40_000}), b"\0" * 4096, message({"list": []}), message({"dict": [[{"str": "wait"}, 0]]}),
    message({"dict": [[{"str": "post"}, {"tensor": 0}]]}, [["float32", [1 << 39, 0], "cpu"]]), os.urandom(1 << 16),
]


@at_call
def speak():
    link().sendall(FRAMES[os.urandom(1)[0] % len(FRAMES)])
