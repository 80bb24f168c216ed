import time

from attack import *


@at_call
def drip():
    for byte in message({"bytes": "00" * 100_000}):
        send_raw(bytes([byte]))
        time.sleep(0.3)
