import os
import time

from attack import *

for number in range(20_000):
    open(f"file{number}", "w").close()
for _ in range(45):
    if not os.fork():
        while True:
            pass
held = []
for _ in range(600):
    held.append(b"x" * (1 << 20))
print("REACHED: 600 MB behind a busy watchdog", flush=True)
time.sleep(5)
