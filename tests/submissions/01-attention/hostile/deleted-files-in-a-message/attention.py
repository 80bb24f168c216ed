import os
import socket
import time

from attack import *

ours, theirs = socket.socketpair()
for number in range(10):
    file = os.open(f"file{number}", os.O_RDWR | os.O_CREAT)
    os.unlink(f"file{number}")
    os.posix_fallocate(file, 0, 60 << 20)
    socket.send_fds(ours, [b"x"], [file])
    os.close(file)
time.sleep(0.5)
print("REACHED: 600 MB of files in messages", flush=True)
