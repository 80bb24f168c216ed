from attack import *


@at_call
def send():
    send_raw(message({"dict": [[{"str": "value"}, {"tensor": 0}]]}, [["bool", [1 << 23, 0], "cpu"]]))
