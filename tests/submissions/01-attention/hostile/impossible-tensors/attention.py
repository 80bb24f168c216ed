import os

from attack import *

specs = [
    ["float32", [1 << 30, 1 << 30], "cpu"],
    ["float32", [-4, -4], "cpu"],
    ["float32", [1 << 39] * 16 + [0], "cpu"],
    ["float32", [0] + [1 << 39] * 15, "cpu"],
    ["object", [4], "cpu"],
    ["qint8", [4], "cpu"],
    ["bool", [64], "cuda"],
    ["float32", [True, 16], "cpu"],
    ["float32", [1.0, 16], "disk"],
]
place = 0


@at_call
def send():
    spec = specs[os.getpid() % len(specs)]
    value = {"dict": [[{"str": "value"}, {"tuple": [{"tensor": 0}, {"tensor": 0}]}]]}
    send_raw(message(value, [spec], b"\2" * 64))
    os._exit(0)
